"""Exports of ours to safetensors that other tools read, or to another of our formats."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mirage_jax.convert.depth_anything import depth_anything_shapes, to_depth_anything
from mirage_jax.convert.diffusers_config import transformer_config, vae_config
from mirage_jax.convert.incoming import Notify, Save
from mirage_jax.convert.lazy_tensors import LazyTensor
from mirage_jax.convert.lora import RELEASED_PREFIX, lora_plan
from mirage_jax.convert.orbax_folder import by_layer, is_orbax, open_orbax
from mirage_jax.convert.placement import Placement, check_params
from mirage_jax.convert.recognition import DEPTH, TEXT, TINY
from mirage_jax.convert.taehv import taehv_plan
from mirage_jax.convert.tensor_files import (
    Spec,
    TensorFiles,
    narrowed,
    open_tensors,
    write_shards,
    write_tensors,
)
from mirage_jax.convert.umt5 import hf_name, umt5_plan
from mirage_jax.convert.wan_dit import diffusers_name, wan_branch_plan, wan_dit_plan
from mirage_jax.convert.wan_vae import released_stats, wan_vae_plan
from mirage_jax.io.atomic import read_unchanged, replacing
from mirage_jax.io.exports import READABLE, check_export
from mirage_jax.io.outputs import FileKind, check_replaceable, safetensors_metadata
from mirage_jax.nn.denoiser import Denoiser
from mirage_jax.nn.depth_anything import DepthAnything
from mirage_jax.nn.lora import LoRA
from mirage_jax.nn.tiny_decoder import TinyDecoder
from mirage_jax.nn.video_vae import LatentStats, VideoVAE
from mirage_jax.weights import (
    WEIGHTS,
    as_fields,
    compare_tensors,
    module_fields,
    unflatten,
)

WRITER = {"writer": "mirage_jax"}
"""In the header of what is written, by which it is told from the files of others."""

TENSORS = FileKind(
    "safetensors file", lambda path: WRITER.items() <= safetensors_metadata(path).items()
)

NAMINGS = ("original", "diffusers")
PARTS = ("all", "base", "branch")


def is_export(path: str | Path) -> bool:
    """Whether a path is an export of ours (see `weights`), or the weights file in it."""
    file = _weights(path)
    if file.suffix.lower() != ".safetensors" or not file.is_file():
        return False
    return open_tensors(file).metadata.get("format") in READABLE


def is_ours(path: str | Path) -> bool:
    """Whether `open_ours` is for this path: an export or an Orbax checkpoint."""
    return is_export(path) or is_orbax(path)


def open_ours(path: str | Path) -> TensorFiles:
    """Opens an export or an Orbax checkpoint; its metadata hold the architecture as JSON.

    Raises:
      ValueError: if it is neither, damaged, or an Orbax checkpoint without an architecture.
    """
    if is_export(path):
        file = _weights(path)
        return read_unchanged(file, lambda: _open_checked(file))
    if is_orbax(path):
        return open_orbax(path)
    raise ValueError(
        f"{path}: not an export of ours, expected a folder with {WEIGHTS} or an Orbax checkpoint"
    )


def _open_checked(file: Path) -> TensorFiles:
    opened = open_tensors(file)
    check_export(file, opened.metadata)
    return opened


def _weights(path: str | Path) -> Path:
    return Path(path) / WEIGHTS if Path(path).is_dir() else Path(path)


def copy_export(
    source: str | Path,
    out: str | Path,
    *,
    save: Save,
    dtype: np.dtype | None = None,
    notify: Notify = lambda name: None,
) -> int:
    """Writes an export or Orbax checkpoint in the format of `save`, names and values as they are.

    Args:
      source: folder of the export or checkpoint.
      out: what to write.
      save: `incoming.save_export` or `orbax_folder.save_orbax`, whose errors are passed on.
      dtype: of the parameters; None keeps what each has. Video VAEs stay float32.
      notify: called with the name of each parameter before it is read.

    Returns:
      How many parameters were written.

    Raises:
      ValueError: as `open_ours`, or naming a damaged tensor.
    """
    opened = open_ours(source)
    architecture = json.loads(opened.metadata["architecture"])
    if architecture.get("kind") == "latent_encoder":
        dtype = None
    specs: dict[str, Spec] = {
        name: (dtype or tensor.dtype, tensor.shape) for name, tensor in opened.tensors.items()
    }

    def pieces(name: str) -> Iterator[np.ndarray]:
        notify(name)
        tensor = opened.tensors[name]
        if by_layer((tensor.dtype, tensor.shape)):
            for layer in range(tensor.shape[0]):
                yield narrowed(name, tensor[layer], specs[name][0])
        else:
            yield narrowed(name, np.asarray(tensor), specs[name][0])

    save(Path(out), specs, pieces, architecture)
    return len(specs)


def export_checkpoint(
    source: str | Path,
    out: str | Path,
    *,
    naming: str = "original",
    part: str = "all",
    dtype: np.dtype | None = None,
    shard_bytes: int = 5 * 10**9,
    notify: Notify = lambda name: None,
) -> int:
    """Writes safetensors of an export of whatever `import_checkpoint` makes.

    Args:
      source: folder of the export, or of an Orbax checkpoint.
      out: a file `*.safetensors`, replaced in one step, or a folder to make, with shards, their
        index and, in diffusers naming, the config.json that diffusers reads.
      naming: "original" (of the release) or "diffusers" (that of diffusers or, for text encoders
        and depth networks, of transformers).
      part: of a denoiser, "base", "branch" or "all".
      dtype: of the tensors; None keeps what each parameter has.
      shard_bytes: about the size of a shard.
      notify: called with the name of each tensor before it is read.

    Returns:
      How many tensors were written.

    Raises:
      FileExistsError: if `out` is a folder that exists.
      ValueError: if `out` is a file that this function did not write; or naming parameters that
        have no counterpart in Wan, or that are not those of the export's architecture.
    """
    for name, value, known in (("naming", naming, NAMINGS), ("part", part, PARTS)):
        if value not in known:
            raise ValueError(f"{name}: found {value!r}, expected one of {', '.join(known)}")
    out, opened = Path(out), open_ours(source)
    architecture = json.loads(opened.metadata["architecture"])
    _check_file(architecture, out)
    model = _describe(architecture, opened.tensors, naming == "diffusers", part)
    flat: dict[str, Any] = {
        path.removeprefix(model.prefix): tensor
        for path, tensor in opened.tensors.items()
        if path.startswith(model.prefix)
    }
    if architecture["kind"] == DEPTH:
        released = _depth_tensors(source, architecture, flat, naming)
        model = _Model([_as_it_is(name, tensor) for name, tensor in released.items()])
        flat = dict(released)
    check_params(model.plan, flat, str(source))
    places = {
        model.rename(name): (placement, layer)
        for placement in model.plan
        for layer, name in enumerate(placement.names)
        if part == "all" or name.startswith("vace_") == (part == "branch")
    }
    if not places:
        raise ValueError(f"{source}: has no {part} to write")
    specs: dict[str, Spec] = {
        name: (dtype or flat[placement.path].dtype, placement.tensor_shape)
        for name, (placement, _) in places.items()
    }

    def pieces(name: str) -> Iterator[np.ndarray]:
        notify(name)
        placement, layer = places[name]
        stored = flat[placement.path]
        tensor = placement.to_tensor(stored[layer] if placement.stacked else stored)
        yield narrowed(name, tensor, specs[name][0])

    if out.suffix.lower() == ".safetensors":
        check_replaceable(str(out), out, TENSORS)
        out.parent.mkdir(parents=True, exist_ok=True)
        with replacing(out) as partial:
            write_tensors(partial, specs, pieces, {"format": "pt", **WRITER, **model.metadata})
        return len(specs)
    if out.exists():
        raise FileExistsError(f"{out}: is there already; expected a new folder")
    out.parent.mkdir(parents=True, exist_ok=True)
    with replacing(out) as partial:
        write_shards(partial, specs, pieces, shard_bytes)
        if model.config:
            text = json.dumps(model.config, indent=2) + "\n"
            (partial / "config.json").write_text(text, encoding="utf-8")
    return len(specs)


@dataclasses.dataclass(frozen=True)
class _Model:
    """Where an export's parameters under `prefix` go, and what diffusers calls them and wants."""

    plan: list[Placement]
    rename: Callable[[str], str] = str
    prefix: str = ""
    config: dict[str, Any] = dataclasses.field(default_factory=dict)
    metadata: dict[str, str] = dataclasses.field(default_factory=dict)


def _describe(
    architecture: Mapping[str, Any], tensors: Mapping[str, LazyTensor], diffusers: bool, part: str
) -> _Model:
    kind = architecture["kind"]
    rename = diffusers_name if diffusers else str
    if kind == "denoiser":
        fields = module_fields(Denoiser(**as_fields(architecture["denoiser"])))
        base = {**fields, "branch_layers": ()} if part == "base" else fields
        config = transformer_config(base) if diffusers and part != "branch" else {}
        return _Model(wan_dit_plan(fields), rename, config=config)
    if kind == "memory_branch":
        plan = wan_branch_plan(architecture["branch"], tuple(architecture["patch"]))
        return _Model(plan, rename)
    if kind == "lora":
        if diffusers:
            raise ValueError("naming: found 'diffusers', expected 'original' for a LoRA")
        lora = LoRA(**as_fields(architecture["lora"]))
        metadata = {"alpha": str(lora.alpha), "rank": str(lora.rank)}
        plan = lora_plan(lora, architecture)
        return _Model(plan, lambda name: RELEASED_PREFIX + name, metadata=metadata)
    if kind == TEXT:
        return _Model(umt5_plan(architecture[TEXT]), hf_name if diffusers else str)
    if kind == TINY:
        if diffusers:
            raise ValueError(f"naming: found 'diffusers', expected 'original' for a {TINY}")
        return _Model(taehv_plan(module_fields(TinyDecoder(**as_fields(architecture[TINY])))))
    if kind == DEPTH:
        return _Model([])
    if kind == "latent_encoder":
        fields = module_fields(VideoVAE(**as_fields(architecture["vae"])))
        stats = LatentStats(*(np.asarray(tensors[f"stats/{name}"]) for name in ("mean", "std")))
        plan = wan_vae_plan(fields, diffusers=diffusers)
        if diffusers:
            return _Model(plan, prefix="vae/", config=vae_config(fields, stats))
        known = released_stats(fields["latent_channels"])
        if not (np.array_equal(stats.mean, known.mean) and np.array_equal(stats.std, known.std)):
            raise ValueError(
                "stats: found other latent statistics than Wan's, which original naming has no "
                "place for; expected naming 'diffusers', whose config.json has"
            )
        return _Model(plan, prefix="vae/")
    raise ValueError(
        f"kind: found an export of {kind!r}, expected denoiser, memory_branch, lora, "
        f"latent_encoder, {TINY}, {TEXT} or {DEPTH}"
    )


def _check_file(architecture: Mapping[str, Any], out: Path) -> None:
    """Folders are written as diffusers reads them, which has no place for these networks."""
    kind = architecture["kind"]
    if kind in (TEXT, DEPTH, TINY) and out.suffix.lower() != ".safetensors":
        raise ValueError(f"{out}: expected a .safetensors file for a {kind}, not a folder")


def _depth_tensors(
    source: str | Path, architecture: Mapping[str, Any], flat: Mapping[str, Any], naming: str
) -> dict[str, np.ndarray]:
    """Tensors of a depth network, all in memory: originals hold three of its matrices in one."""
    module = DepthAnything(**as_fields(architecture[DEPTH]))
    expected = depth_anything_shapes(module)
    found = {path: np.asarray(tensor) for path, tensor in flat.items()}
    compare_tensors(
        str(source),
        found,
        {path: jax.ShapeDtypeStruct(shape, np.float32) for path, shape in expected.items()},
    )
    theirs = "original" if naming == "original" else "transformers_4"
    return to_depth_anything(unflatten(found), theirs)


def _as_it_is(name: str, tensor: np.ndarray) -> Placement:
    return Placement(name, (name,), tensor.shape, tensor.shape, tuple(range(tensor.ndim)))
