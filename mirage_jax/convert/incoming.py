"""Released checkpoints to exports of ours, tensor by tensor.

What a checkpoint is, is told by the names of its tensors: a diffusion transformer with or without a
control branch, a branch alone, or a video VAE. Names and shapes are compared with those of the
module before a value is read, so that a refusal costs no time and leaves no file.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from mirage_jax.convert.placement import Placement, Tensors, check, check_params
from mirage_jax.convert.presets import DENOISERS
from mirage_jax.convert.tensor_files import Spec, TensorFiles, open_tensors, write_tensors
from mirage_jax.convert.wan_dit import (
    branch_fields,
    check_branch,
    original_names,
    wan_branch_fields,
    wan_branch_plan,
    wan_dit_fields,
    wan_dit_plan,
)
from mirage_jax.convert.wan_vae import is_video_vae, released_stats, video_vae_plan
from mirage_jax.latent_encoder import module_fields
from mirage_jax.nn.denoiser import Denoiser
from mirage_jax.nn.video_vae import VideoVAE
from mirage_jax.training.export import export_with

Notify = Callable[[str], None]


@dataclasses.dataclass(frozen=True)
class Asked:
    """What the tensors of a diffusion transformer or branch cannot tell.

    Attributes:
      model: key of `presets.DENOISERS`, which tells the other two; "" if they are given.
      heads: attention heads; 0 if unknown.
      branch_layers: blocks that the hints of a branch belong to.
    """

    model: str = ""
    heads: int = 0
    branch_layers: tuple[int, ...] = ()


@dataclasses.dataclass(frozen=True)
class Part:
    """Parameters that an export is made of: where they lie and what they are."""

    plan: Sequence[Placement]
    architecture: Mapping[str, Any]
    constants: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    prefix: str = ""


def import_checkpoint(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    asked: Asked | None = None,
    dtype: np.dtype | None = None,
    notify: Notify = lambda name: None,
) -> str:
    """Writes an export (see `training.export`) of a released checkpoint.

    Args:
      sources: safetensors files or folders of them, in original or diffusers naming; a base and a
        branch may come as two.
      out: folder of the export, replaced in one step.
      asked: what the tensors do not tell.
      dtype: of the export; None keeps what each tensor has. Video VAEs become float32.
      notify: called with the path of each parameter before it is read.

    Returns:
      The kind of export: "denoiser", "memory_branch" or "latent_encoder".

    Raises:
      FileNotFoundError: if a file is missing.
      ValueError: naming the file and the tensor that is missing, unknown, mis-shaped, truncated or
        not finite, with what was expected.
    """
    opened = [open_tensors(source) for source in sources]
    what = ", ".join(str(files.path) for files in opened)
    tensors = merge(opened)
    if is_video_vae(tensors):
        part, dtype = _video_vae(tensors), np.dtype(np.float32)
    elif tensors and all(name.startswith("vace_") for name in tensors):
        part = _branch(tensors, asked or Asked())
    else:
        part = _denoiser(tensors, _with_config(asked or Asked(), opened))
    check(part.plan, tensors, what)
    paths = {part.prefix + placement.path: placement for placement in part.plan}
    specs: dict[str, Spec] = {
        path: (dtype or _common_dtype(placement, tensors), placement.full_shape)
        for path, placement in paths.items()
    }
    specs.update({path: (array.dtype, array.shape) for path, array in part.constants.items()})

    def pieces(path: str) -> Iterator[np.ndarray]:
        if path in part.constants:
            yield part.constants[path]
        else:
            notify(path)
            yield from paths[path].layers(tensors)

    def write(file: Path, header: dict[str, str]) -> None:
        write_tensors(file, specs, pieces, header)

    export_with(out, write, part.architecture)
    return str(part.architecture["kind"])


def merge(opened: Sequence[TensorFiles]) -> dict[str, Any]:
    """All tensors under original names; ValueError if two checkpoints have the same one."""
    merged: dict[str, Any] = {}
    for files in opened:
        tensors = original_names(files.tensors)
        twice = merged.keys() & tensors.keys()
        if twice:
            raise ValueError(f"{files.path}: tensor {min(twice)!r} came with a source before it")
        merged.update(tensors)
    return merged


def _common_dtype(placement: Placement, tensors: Tensors) -> np.dtype:
    return np.result_type(*{tensors[name].dtype for name in placement.names})


def _with_config(asked: Asked, opened: Sequence[TensorFiles]) -> Asked:
    """The number of heads as a config.json beside the tensors says, unless it was asked for."""
    for files in opened:
        for field in ("num_attention_heads", "num_heads"):
            if not asked.heads and field in files.config:
                asked = dataclasses.replace(asked, heads=int(files.config[field]))
    return asked


def _resolve(asked: Asked) -> Asked:
    if asked.model:
        if asked.model not in DENOISERS:
            raise ValueError(
                f"model: found {asked.model!r}, expected one of {', '.join(DENOISERS)}"
            )
        preset = DENOISERS[asked.model]
        return Asked(asked.model, preset["heads"], preset["branch_layers"])
    if not asked.heads:
        raise ValueError("heads: the tensors do not tell how many; give the number or a model")
    return asked


def _denoiser(tensors: Tensors, asked: Asked) -> Part:
    asked = _resolve(asked)
    fields = wan_dit_fields(tensors, heads=asked.heads, branch_layers=asked.branch_layers)
    if asked.model:
        fields = DENOISERS[asked.model]
    plan, module = wan_dit_plan(fields), Denoiser(**fields)
    side = fields["patch"]
    latents = jnp.zeros((1, *side, fields["in_channels"]))
    made = jax.eval_shape(module.init, jax.random.key(0), latents, jnp.zeros((1, side[0])))
    check_params(plan, flatten_dict(nn.unbox(made)["params"], sep="/"), "Denoiser")
    return Part(plan, {"kind": "denoiser", "denoiser": module_fields(module)})


def _branch(tensors: Tensors, asked: Asked) -> Part:
    asked = _resolve(asked)
    check_branch(tensors, asked.branch_layers)
    fields = wan_branch_fields(tensors, heads=asked.heads)
    patch = tuple(tensors["vace_patch_embedding.weight"].shape[2:])
    if asked.model:
        preset = DENOISERS[asked.model]
        fields, patch = branch_fields(preset), preset["patch"]
    architecture = {
        "kind": "memory_branch",
        "branch": fields,
        "patch": patch,
        "branch_layers": asked.branch_layers,
    }
    return Part(wan_branch_plan(fields, patch), architecture)


def _video_vae(tensors: Tensors) -> Part:
    fields, plan = video_vae_plan(tensors)
    stats = released_stats(fields["latent_channels"])
    architecture = {
        "kind": "latent_encoder",
        "vae": module_fields(VideoVAE(**fields)),
        "spread": [],
    }
    constants = {"stats/mean": np.asarray(stats.mean), "stats/std": np.asarray(stats.std)}
    return Part(plan, architecture, constants, "vae/")
