"""Released checkpoints to exports of ours, tensor by tensor.

The names of its tensors say what a checkpoint is: a diffusion transformer with or without a
control branch, a branch alone, a low-rank adapter, or a video VAE. Names and shapes are compared
with those of the module before a value is read, so that a refusal costs no time and leaves no file.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mirage_jax.convert.lora import fused, is_lora, lora_fields, lora_names, lora_plan
from mirage_jax.convert.placement import Placement, Tensors, check
from mirage_jax.convert.presets import DENOISERS, SCORE
from mirage_jax.convert.tensor_files import (
    CONFIG,
    Pieces,
    Spec,
    Specs,
    TensorFiles,
    open_tensors,
    write_tensors,
)
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
from mirage_jax.nn.denoiser import Denoiser
from mirage_jax.nn.lora import STACK, LoRA
from mirage_jax.nn.video_vae import VideoVAE
from mirage_jax.weights import export_with, module_fields

Notify = Callable[[str], None]
Update = Callable[[Iterator[np.ndarray]], Iterator[np.ndarray]]
Save = Callable[[Path, Specs, Pieces, Mapping[str, Any]], None]
"""Writes parameters to a path: their specs and pieces (see `write_tensors`), the architecture."""


@dataclasses.dataclass(frozen=True)
class ImportOptions:
    """Sizes that do not follow from the tensors of a diffusion transformer or branch.

    Attributes:
      model: key of `presets.DENOISERS`, which fixes the next two; "" for none.
      heads: attention heads; 0 if unknown.
      branch_layers: blocks that the hints of a branch belong to.
      alpha: of a low-rank adapter; None if unknown.
      context: kind of conditioner (`world.conditioners.KINDS`) of a branch; "" if unknown.
    """

    model: str = ""
    heads: int = 0
    branch_layers: tuple[int, ...] = ()
    alpha: float | None = None
    context: str = ""


@dataclasses.dataclass(frozen=True)
class _Part:
    """Parameters that an export is made of: where they lie and what they are."""

    plan: Sequence[Placement]
    architecture: Mapping[str, Any]
    tensors: Tensors
    constants: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    prefix: str = ""
    updates: Mapping[str, Update] = dataclasses.field(default_factory=dict)

    def layers(self, placement: Placement) -> Iterator[np.ndarray]:
        """A parameter layer by layer, with the update of a low-rank adapter if it has one."""
        layers = placement.layers(self.tensors)
        update = self.updates.get(placement.path)
        return layers if update is None else update(layers)


def import_checkpoint(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    options: ImportOptions | None = None,
    dtype: np.dtype | None = None,
    notify: Notify = lambda name: None,
    save: Save | None = None,
) -> str:
    """Writes an export (see `weights`) of a released checkpoint.

    Args:
      sources: safetensors files or folders of them, in original or diffusers naming; a base, a
        branch and a low-rank adapter, which is merged, may be given as three.
      out: folder of the export, replaced in one step.
      options: what does not follow from the tensors.
      dtype: of the export; None keeps what each tensor has. Video VAEs become float32.
      notify: called with the path of each parameter before it is read.
      save: how to write, `save_export` by default; `orbax_folder.save_orbax` is another.

    Returns:
      The kind of export: "denoiser", "memory_branch", "lora" or "latent_encoder".

    Raises:
      FileNotFoundError: if a file is missing.
      ValueError: naming the file and the tensor that is missing, unknown, mis-shaped, truncated or
        not finite, with what was expected.
    """
    opened = [open_tensors(source) for source in sources]
    where = ", ".join(str(files.path) for files in opened)
    with _named(where):
        part = _part(opened, options or ImportOptions())
        check(part.plan, part.tensors, where)
    if part.architecture["kind"] == "latent_encoder":
        dtype = np.dtype(np.float32)
    paths = {part.prefix + placement.path: placement for placement in part.plan}
    specs: dict[str, Spec] = {
        path: (dtype or _common_dtype(placement, part.tensors), placement.full_shape)
        for path, placement in paths.items()
    }
    specs.update({path: (array.dtype, array.shape) for path, array in part.constants.items()})

    def pieces(path: str) -> Iterator[np.ndarray]:
        if path in part.constants:
            yield part.constants[path]
        else:
            notify(path)
            with _named(where):
                yield from part.layers(paths[path])

    (save or save_export)(Path(out), specs, pieces, part.architecture)
    return str(part.architecture["kind"])


@contextlib.contextmanager
def _named(where: str) -> Iterator[None]:
    """Errors of what checkpoints hold say which they are."""
    try:
        yield
    except ValueError as error:
        if where in str(error):
            raise
        raise ValueError(f"{where}: {error}") from error


def save_export(out: Path, specs: Specs, pieces: Pieces, architecture: Mapping[str, Any]) -> None:
    """Writes an export, replaced in one step."""

    def write(file: Path, header: dict[str, str]) -> None:
        write_tensors(file, specs, pieces, header)

    export_with(out, write, architecture)


def _part(opened: Sequence[TensorFiles], options: ImportOptions) -> _Part:
    adapters = [files for files in opened if is_lora(files.tensors)]
    tensors = _merge([files for files in opened if not is_lora(files.tensors)])
    if len(adapters) > 1:
        raise ValueError(f"{adapters[1].path}: found a second low-rank adapter, expected one")
    if not tensors and adapters:
        return _lora(adapters[0], options)
    if is_video_vae(tensors):
        part = _video_vae(tensors, opened)
    elif tensors and all(name.startswith("vace_") for name in tensors):
        part = _branch(tensors, options)
    else:
        part = _denoiser(tensors, _with_config(options, opened))
    return _merged(part, adapters[0], options) if adapters else part


def _merge(opened: Sequence[TensorFiles]) -> dict[str, Any]:
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
    dtypes = {tensors[name].dtype for name in placement.names}
    return dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float32)


def _with_config(options: ImportOptions, opened: Sequence[TensorFiles]) -> ImportOptions:
    """The number of heads from a config.json beside the tensors, unless `options` has it."""
    for files in opened:
        for field in ("num_attention_heads", "num_heads"):
            if not options.heads and field in files.config:
                heads = files.config[field]
                if type(heads) is not int or heads < 1:
                    raise ValueError(
                        f"{files.path / CONFIG}: {field}: found {heads!r}, expected a number"
                    )
                options = dataclasses.replace(options, heads=heads)
    return options


def _resolve(options: ImportOptions) -> ImportOptions:
    if options.model:
        if options.model not in DENOISERS:
            raise ValueError(
                f"model: found {options.model!r}, expected one of {', '.join(DENOISERS)}"
            )
        preset = DENOISERS[options.model]
        for name in ("heads", "branch_layers"):
            given = getattr(options, name)
            if given and given != preset[name]:
                raise ValueError(
                    f"{name}: found {given}, expected {preset[name]}, which {options.model} has"
                )
        layers = preset["branch_layers"]
        context = options.context or (SCORE if layers else "")
        return dataclasses.replace(
            options, heads=preset["heads"], branch_layers=layers, context=context
        )
    if not options.heads:
        raise ValueError("heads: found no number in the tensors; give it or a model")
    return options


def _denoiser(tensors: Tensors, options: ImportOptions) -> _Part:
    options = _resolve(options)
    fields = wan_dit_fields(tensors, heads=options.heads, branch_layers=options.branch_layers)
    if options.model:
        fields = DENOISERS[options.model]
    module = Denoiser(**fields)
    module.check()
    architecture: dict[str, Any] = {"kind": "denoiser", "denoiser": module_fields(module)}
    if options.context and fields["memory_channels"]:
        architecture["context"] = options.context
    return _Part(wan_dit_plan(fields), architecture, tensors)


def _branch(tensors: Tensors, options: ImportOptions) -> _Part:
    options = _resolve(options)
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
    return _Part(wan_branch_plan(fields, patch), architecture, tensors)


def _adapter(
    files: TensorFiles, options: ImportOptions
) -> tuple[LoRA, dict[str, int], dict[str, Any]]:
    alpha = options.alpha
    if alpha is None and "alpha" in files.metadata:
        try:
            alpha = float(files.metadata["alpha"])
        except ValueError as error:
            raise ValueError(f"{files.path}: metadata alpha: {error}") from error
    if alpha is not None and not math.isfinite(alpha):
        raise ValueError(f"{files.path}: alpha: found {alpha}, expected a finite number")
    tensors = lora_names(files.tensors)
    try:
        return *lora_fields(tensors, alpha), tensors
    except ValueError as error:
        raise ValueError(f"{files.path}: {error}") from error


def _lora(files: TensorFiles, options: ImportOptions) -> _Part:
    lora, sizes, tensors = _adapter(files, options)
    architecture = {"kind": "lora", "lora": dataclasses.asdict(lora), **sizes}
    return _Part(lora_plan(lora, sizes), architecture, tensors)


def _merged(part: _Part, files: TensorFiles, options: ImportOptions) -> _Part:
    """A denoiser with an adapter's updates in its kernels."""
    if part.architecture["kind"] != "denoiser":
        raise ValueError(
            f"{files.path}: a low-rank adapter beside a {part.architecture['kind']}, expected a "
            "denoiser to merge it into, or the adapter alone"
        )
    lora, _, tensors = _adapter(files, options)
    plan = lora_plan(lora, part.architecture["denoiser"])
    check(plan, tensors, str(files.path))
    updates: dict[str, Update] = {
        f"{STACK}/{target}/kernel": functools.partial(fused, pair=pair, tensors=tensors, lora=lora)
        for target, pair in zip(lora.targets, zip(plan[::2], plan[1::2], strict=True), strict=True)
    }
    return dataclasses.replace(part, updates=updates)


def _video_vae(tensors: Tensors, opened: Sequence[TensorFiles]) -> _Part:
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
    return _Part(plan, architecture, tensors, constants, "vae/")


def _numbers(config: Mapping[str, Any], name: str, count: int) -> np.ndarray:
    """A list of so many finite numbers in a config.json."""
    found = config.get(name)
    numbers = isinstance(found, list) and all(type(value) in (int, float) for value in found)
    if not isinstance(found, list) or not numbers or len(found) != count:
        raise ValueError(f"{CONFIG}: {name}: found {found!r}, expected {count} numbers")
    with np.errstate(over="ignore"):
        values = np.asarray([float(value) for value in found], np.float32)
    if not np.isfinite(values).all():
        raise ValueError(f"{CONFIG}: {name}: found {found!r}, expected {count} float32 numbers")
    return values
