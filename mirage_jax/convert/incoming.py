"""Released checkpoints to exports of ours, tensor by tensor.

The names of its tensors say what a checkpoint is: a diffusion transformer with or without a
control branch, a branch alone, an adapter, a video VAE, a tiny decoder, a text encoder or a depth
network. Names and shapes are compared with those of the module before a value is read, so that a
refusal costs no time and leaves no file.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mirage_jax.convert.adapters import Adapter, is_adapter, read_adapter
from mirage_jax.convert.all_in_one import select
from mirage_jax.convert.lora import assumed_names, merged
from mirage_jax.convert.options import ImportOptions
from mirage_jax.convert.placement import Placement, Tensors, check
from mirage_jax.convert.recognition import Part, adapter_alone, recognise
from mirage_jax.convert.tensor_files import (
    Pieces,
    Spec,
    Specs,
    TensorFiles,
    narrowed,
    open_tensors,
    write_tensors,
)
from mirage_jax.convert.wan_dit import original_names
from mirage_jax.weights import export_with

Notify = Callable[[str], None]
Save = Callable[[Path, Specs, Pieces, Mapping[str, Any]], None]
"""Writes parameters to a path: their specs and pieces (see `write_tensors`), the architecture."""

_LISTED = 4


def import_checkpoint(
    sources: Sequence[str | Path],
    out: str | Path,
    *,
    options: ImportOptions | None = None,
    dtype: np.dtype | None = None,
    notify: Notify = lambda name: None,
    report: Notify = lambda line: None,
    save: Save | None = None,
) -> str:
    """Writes an export (see `weights`) of a released checkpoint.

    Args:
      sources: safetensors files or folders of them, in original or diffusers naming; a base, a
        branch and adapters, which are merged, may be given together.
      out: folder of the export, replaced in one step.
      options: what does not follow from the tensors.
      dtype: of the export; None keeps what each tensor has. Video VAEs and depth networks become
        float32.
      notify: called with the path of each parameter before it is read.
      report: called with a line for whatever is not used, and what each adapter does.
      save: how to write, `save_export` by default; `orbax_folder.save_orbax` is another.

    Returns:
      The kind of export: "denoiser", "memory_branch", "lora", "latent_encoder", "tiny_decoder",
      "text_encoder" or "depth_anything".

    Raises:
      FileNotFoundError: if a file is missing.
      ValueError: naming the file and the tensor that is missing, unknown, mis-shaped, truncated,
        not finite or beyond what `dtype` holds, with what was expected.
    """
    options = options or ImportOptions()
    selected = [select(open_tensors(source), options.part) for source in sources]
    opened = [files for files, _ in selected]
    what = ", ".join(str(files.path) for files in opened)
    if options.part and not any(left for _, left in selected):
        raise ValueError(
            f"{what}: found one network in a file, expected several, as --part={options.part} "
            "takes one out"
        )
    with _named(what):
        part, adapters = _part(opened, what, options, dtype)
        _check_floats(part, opened)
        check(part.plan, part.tensors, what)
    if part.float32:
        dtype = np.dtype(np.float32)
    for files, left in selected:
        if left:
            parts = ", ".join(f"{name} ({count} tensors)" for name, count in left.items())
            report(f"{files.path}: not read, see --part: {parts}")
        _report_unused(files, adapters, report)
    for line in (*(adapter.summary() for adapter in adapters), *part.notes):
        report(line)
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
            with _named(what):
                for layer in paths[path].layers(part.tensors):
                    yield narrowed(path, layer, specs[path][0])

    (save or save_export)(Path(out), specs, pieces, part.architecture)
    return str(part.architecture["kind"])


@contextlib.contextmanager
def _named(what: str) -> Iterator[None]:
    """Errors of what checkpoints hold say which they are."""
    try:
        yield
    except ValueError as error:
        if any(path in str(error) for path in what.split(", ")):
            raise
        raise ValueError(f"{what}: {error}") from error


def save_export(out: Path, specs: Specs, pieces: Pieces, architecture: Mapping[str, Any]) -> None:
    """Writes an export, replaced in one step."""

    def write(file: Path, header: dict[str, str]) -> None:
        write_tensors(file, specs, pieces, header)

    export_with(out, write, architecture)


def _check_floats(part: Part, opened: Sequence[TensorFiles]) -> None:
    """Refuses a parameter whose tensor is there, but of integers."""
    unused = {name: why for files in opened for name, why in files.unused.items()}
    missing = [n for p in part.plan for n in p.names if n not in part.tensors] if unused else []
    for name in missing:
        found = next((n for n in unused if n == name or n.endswith(f".{name}")), None)
        if found is not None:
            raise ValueError(
                f"tensor {found!r}: found {unused[found]}, expected floating-point numbers"
            )


def _report_unused(files: TensorFiles, adapters: Sequence[Adapter], report: Notify) -> None:
    unused = next((a.unused for a in adapters if a.path == files.path), files.unused)
    by_reason: dict[str, list[str]] = {}
    for name, why in unused.items():
        by_reason.setdefault(why, []).append(name)
    for why, names in by_reason.items():
        more = f", ... ({len(names)} in all)" if len(names) > _LISTED else ""
        report(f"{files.path}: not used: {', '.join(names[:_LISTED])}{more}: {why}")


def _part(
    opened: Sequence[TensorFiles], what: str, options: ImportOptions, dtype: np.dtype | None
) -> tuple[Part, list[Adapter]]:
    """What the sources make together, and the adapters among them."""
    files = [found for found in opened if is_adapter(found.tensors)]
    others = [found for found in opened if not is_adapter(found.tensors)]
    strengths = options.strengths_of(len(files))
    if options.strengths and not files:
        raise ValueError(f"strengths: found {options.strengths}, but no adapter among {what}")
    if files and not others:
        return _alone(files, options)
    tensors = _merge(others)
    part = recognise(tensors, opened, options)
    kind = part.architecture["kind"]
    if files and kind not in ("denoiser", "memory_branch"):
        raise ValueError(
            f"{files[0].path}: a low-rank adapter beside a {kind}, expected a denoiser to merge "
            "it into, or the adapter alone"
        )
    adapters = [
        read_adapter(found, part.tensors, options.alpha, strength)
        for found, strength in zip(files, strengths, strict=True)
    ]
    _check_alpha(adapters, options)
    return dataclasses.replace(part, tensors=merged(part.tensors, adapters, dtype)), adapters


def _alone(files: Sequence[TensorFiles], options: ImportOptions) -> tuple[Part, list[Adapter]]:
    if len(files) > 1:
        raise ValueError(
            f"{files[1].path}: found a second low-rank adapter, expected one, or a base among the "
            "sources to merge them into"
        )
    if options.strengths:
        raise ValueError(
            f"{files[0].path}: found a strength for an adapter that is kept apart, expected a base "
            "among the sources to merge it into"
        )
    depth = options.depth
    adapter = read_adapter(files[0], assumed_names(files[0].tensors, depth), options.alpha)
    _check_alpha([adapter], options)
    return adapter_alone(adapter, depth), [adapter]


def _check_alpha(adapters: Sequence[Adapter], options: ImportOptions) -> None:
    """Refuses an alpha that would change nothing, as every adapter stores another."""
    if options.alpha is None or not adapters or any("given" in a.alphas for a in adapters):
        return
    stored = sorted({alpha for a in adapters for alphas in a.alphas.values() for alpha in alphas})
    if stored != [options.alpha]:
        raise ValueError(
            f"alpha: found {options.alpha:g}, but {adapters[0].path} stores "
            f"{' and '.join(f'{alpha:g}' for alpha in stored) or 'no pair that it scales'}; "
            "expected none (--lora_strength multiplies an update)"
        )


def _merge(opened: Sequence[TensorFiles]) -> dict[str, Any]:
    """All tensors under original names; ValueError if two checkpoints have the same one."""
    merged_tensors: dict[str, Any] = {}
    for files in opened:
        tensors = original_names(files.tensors)
        twice = merged_tensors.keys() & tensors.keys()
        if twice:
            raise ValueError(f"{files.path}: tensor {min(twice)!r} came with a source before it")
        merged_tensors.update(tensors)
    return merged_tensors


def _common_dtype(placement: Placement, tensors: Tensors) -> np.dtype:
    dtypes = {tensors[name].dtype for name in placement.names}
    return dtypes.pop() if len(dtypes) == 1 else np.dtype(np.float32)
