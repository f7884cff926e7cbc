"""What the tensors of released checkpoints are, by their names, and which export they make."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict

from mirage_jax.convert.adapters import Adapter
from mirage_jax.convert.depth_anything import (
    depth_anything_fields,
    from_depth_anything,
    is_depth_anything,
)
from mirage_jax.convert.lora import kept_apart, lora_plan
from mirage_jax.convert.options import ImportOptions
from mirage_jax.convert.placement import Placement, Tensors
from mirage_jax.convert.presets import DENOISERS
from mirage_jax.convert.taehv import PREFIX, is_taehv, taehv_fields, taehv_plan
from mirage_jax.convert.tensor_files import CONFIG, TensorFiles
from mirage_jax.convert.umt5 import is_umt5, umt5_fields, umt5_plan, wan_names
from mirage_jax.convert.variants import expert_note, refuse_variant
from mirage_jax.convert.wan_dit import (
    branch_fields,
    check_branch,
    wan_branch_fields,
    wan_branch_plan,
    wan_dit_fields,
    wan_dit_plan,
)
from mirage_jax.convert.wan_vae import is_video_vae, released_stats, video_vae_plan
from mirage_jax.nn.denoiser import Denoiser
from mirage_jax.nn.depth_anything import DepthAnything
from mirage_jax.nn.video_vae import VideoVAE
from mirage_jax.weights import module_fields

TEXT, DEPTH, TINY = "text_encoder", "depth_anything", "tiny_decoder"
"""Kinds of exports, and the fields of their architecture with the module's own."""

_LISTED = 4


@dataclasses.dataclass(frozen=True)
class Part:
    """What an export is made of.

    Attributes:
      plan: where parameters lie among `tensors`.
      architecture: of the export.
      tensors: by name.
      constants: parameters that are in memory already, by path.
      prefix: of the paths in `plan`.
      float32: whether the export is in float32 whatever is asked for.
      notes: what was assumed.
    """

    plan: Sequence[Placement]
    architecture: Mapping[str, Any]
    tensors: Tensors
    constants: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    prefix: str = ""
    float32: bool = False
    notes: tuple[str, ...] = ()


def recognise(tensors: Tensors, opened: Sequence[TensorFiles], options: ImportOptions) -> Part:
    """The export that tensors under original names make.

    Args:
      tensors: of all sources but adapters.
      opened: the sources, for their configs.
      options: what does not follow from the tensors.

    Raises:
      ValueError: naming what is missing, mis-shaped or of no known kind.
    """
    if is_video_vae(tensors):
        return _video_vae(tensors, opened)
    if is_taehv(tensors):
        return _tiny_decoder(tensors)
    if is_umt5(tensors):
        return _text_encoder(tensors)
    if is_depth_anything(tensors):
        return _depth_network(tensors)
    if tensors and all(name.startswith("vace_") for name in tensors):
        return _branch(tensors, options)
    if not any(name.startswith(("patch_embedding.", "blocks.")) for name in tensors):
        names = sorted(tensors)
        more = f", ... ({len(names)} in all)" if len(names) > _LISTED else ""
        raise ValueError(
            f"found the tensors {', '.join(names[:_LISTED])}{more}, expected those of a Wan "
            "transformer (patch_embedding.weight, blocks.0...), a control branch (vace_blocks.0...)"
            ", a Wan VAE (encoder.conv1.weight...), TAEHV (decoder.1.weight...), a UMT5 encoder, "
            "Depth Anything or an adapter"
        )
    part = _denoiser(tensors, options.with_config(opened))
    notes = (expert_note(files.path) for files in opened)
    return dataclasses.replace(part, notes=tuple(filter(None, notes)))


def _denoiser(tensors: Tensors, options: ImportOptions) -> Part:
    refuse_variant(tensors)
    options = options.resolved(tensors)
    fields = wan_dit_fields(tensors, heads=options.heads, branch_layers=options.branch_layers)
    if options.model:
        fields = DENOISERS[options.model]
    module = Denoiser(**fields)
    module.check()
    architecture: dict[str, Any] = {"kind": "denoiser", "denoiser": module_fields(module)}
    if options.context and fields["memory_channels"]:
        architecture["context"] = options.context
    return Part(wan_dit_plan(fields), architecture, tensors)


def _branch(tensors: Tensors, options: ImportOptions) -> Part:
    options = options.resolved(tensors)
    check_branch(tensors, options.branch_layers)
    fields = wan_branch_fields(tensors, heads=options.heads)
    patch = tuple(tensors["vace_patch_embedding.weight"].shape[2:])
    if options.model:
        preset = DENOISERS[options.model]
        fields, patch = branch_fields(preset), preset["patch"]
    architecture = {
        "kind": "memory_branch",
        "branch": fields,
        "patch": patch,
        "branch_layers": options.branch_layers,
    }
    if options.context:
        architecture["context"] = options.context
    return Part(wan_branch_plan(fields, patch), architecture, tensors)


def adapter_alone(adapter: Adapter, depth: int) -> Part:
    """An adapter that is not merged; errors and `depth` as of `lora.kept_apart`."""
    lora, sizes, tensors, filled = kept_apart(adapter, depth)
    architecture = {"kind": "lora", "lora": dataclasses.asdict(lora), **sizes}
    notes: tuple[str, ...] = ()
    if filled:
        more = ", ..." if len(filled) > _LISTED else ""
        notes = (
            f"{adapter.path}: zeros where it has no update: {', '.join(filled[:_LISTED])}{more} "
            f"({len(filled)} projections)",
        )
    return Part(lora_plan(lora, sizes), architecture, tensors, notes=notes)


def _video_vae(tensors: Tensors, opened: Sequence[TensorFiles]) -> Part:
    fields, plan = video_vae_plan(tensors)
    architecture = {
        "kind": "latent_encoder",
        "vae": module_fields(VideoVAE(**fields)),
        "spread": [],
    }
    # diffusers keeps the statistics in config.json; the originals have them in their code.
    config = next((files.config for files in opened if "latents_mean" in files.config), None)
    channels = fields["latent_channels"]
    if config:
        mean, std = (_numbers(config, name, channels) for name in ("latents_mean", "latents_std"))
        if not (std > 0).all():
            raise ValueError(f"{CONFIG}: latents_std: found {std.tolist()}, expected all above 0")
    else:
        stats = released_stats(channels)
        mean, std = np.asarray(stats.mean), np.asarray(stats.std)
    constants = {"stats/mean": mean, "stats/std": std}
    return Part(plan, architecture, tensors, constants, "vae/", float32=True)


def _numbers(config: Mapping[str, Any], name: str, count: int) -> np.ndarray:
    """A list of so many finite numbers in a config.json."""
    found = config.get(name)
    numbers = isinstance(found, list) and all(type(value) in (int, float) for value in found)
    if not isinstance(found, list) or not numbers or len(found) != count:
        raise ValueError(f"{CONFIG}: {name}: found {found!r}, expected {count} numbers")
    largest = float(np.finfo(np.float32).max)
    if not all(-largest <= value <= largest for value in found):
        raise ValueError(f"{CONFIG}: {name}: found {found!r}, expected {count} float32 numbers")
    return np.asarray(found, np.float32)


def _tiny_decoder(tensors: Tensors) -> Part:
    fields = taehv_fields(tensors)
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
    unused = len(tensors) - len(own)
    notes = (f"not used: {unused} tensors beside the decoder's",) if unused else ()
    return Part(taehv_plan(fields), {"kind": TINY, TINY: fields}, own, notes=notes)


def _text_encoder(tensors: Tensors) -> Part:
    tensors = wan_names(tensors)
    fields = umt5_fields(tensors)
    return Part(umt5_plan(fields), {"kind": TEXT, TEXT: fields}, tensors)


def _depth_network(tensors: Tensors) -> Part:
    fields = depth_anything_fields(tensors)
    params = from_depth_anything(tensors, DepthAnything(**fields))
    architecture = {"kind": DEPTH, DEPTH: fields}
    return Part([], architecture, {}, flatten_dict(params, sep="/"), float32=True)
