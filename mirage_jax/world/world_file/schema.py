"""Which tensors a world file holds: the parts of "mirage-world-2", and their check.

docs/formats/world-2.md has the same tables, with the meaning and unit of every tensor.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

import numpy as np


@dataclasses.dataclass(frozen=True)
class TensorSpec:
    """What a tensor must be.

    Attributes:
      dtypes: names of dtypes, one of which it has.
      shape: lengths, or letters for lengths that are the same wherever the letter stands.
      required: whether it is there in every file that has its part.
      alternative: what it may be instead.
      since: version of the part that it came with; files of older ones lack it.
    """

    dtypes: tuple[str, ...]
    shape: tuple[str | int, ...]
    required: bool = True
    alternative: TensorSpec | None = None
    since: int = 1


@dataclasses.dataclass(frozen=True)
class Part:
    """Tensors that belong together, and whose names in the file begin with `<name of the part>/`.

    Attributes:
      tensors: by the rest of the name.
      version: raised by every change of what is there already.
      required: whether a reader that does not know the part must refuse the file.
      everywhere: whether every file has it.
    """

    tensors: Mapping[str, TensorSpec]
    version: int = 1
    required: bool = False
    everywhere: bool = False


_FLOATS = ("float32", "bfloat16", "float16")


def _f32(*shape: str | int) -> TensorSpec:
    return TensorSpec(("float32",), shape)


def _f64(*shape: str | int) -> TensorSpec:
    return TensorSpec(("float64",), shape)


def _i32(*shape: str | int) -> TensorSpec:
    return TensorSpec(("int32",), shape)


def _bool(*shape: str | int) -> TensorSpec:
    return TensorSpec(("bool",), shape)


def _tokens(*shape: str | int) -> TensorSpec:
    return TensorSpec(_FLOATS, shape)


def _since(version: int, spec: TensorSpec) -> TensorSpec:
    return dataclasses.replace(spec, since=version)


PARTS: Mapping[str, Part] = {
    "origin": Part(
        {
            "space": _f64(3),
            "time": _f64(),
            "frame_seconds": dataclasses.replace(_f64(), required=False),
        },
        required=True,
        everywhere=True,
    ),
    "rollout": Part(
        {
            "latent": _f32("h", "w", "C"),
            "cam2world": _f32(4, 4),
            "intrinsics": _f32(4),
            "frames": _i32(),
        },
        required=True,
        everywhere=True,
    ),
    "static": Part(
        {
            "xyz": _f32("N", 3),
            "tokens": dataclasses.replace(
                _tokens("N", "C"), alternative=TensorSpec(("uint8",), ("N", 3))
            ),
            "valid": _bool("N"),
            "confidence": _f32("N"),
            "frame": _i32("N"),
            "time": _f32("N"),
            "origin": _f32("N", 3),
            "size": _since(2, _f32("N")),
            "tangents": dataclasses.replace(
                _since(3, _f32("N", 2, 3)), alternative=TensorSpec(("float32",), ("N", 0, 3))
            ),
            "seen": _since(2, _i32("N")),
            "missed": _since(2, _i32("N")),
            "pinned": _since(2, _bool("N")),
            "count": _i32(),
            "frames": _i32(),
            "dropped": _i32(),
            "evicted": _since(2, _i32()),
        },
        version=3,
        required=True,
        everywhere=True,
    ),
    "context_frames": Part(
        {
            "keyframes/depth": _f32("Q", "h", "w"),
            "keyframes/intrinsics": _f32("Q", 4),
            "keyframes/cam2world": _f32("Q", 4, 4),
            "keyframes/frame": _i32("Q"),
            "keyframes/count": _i32(),
            "keyframes/dropped": _i32(),
            "latents": _f32("Q", "h", "w", "C"),
            "elements": _i32("Q"),
            "recent": _f32("P", "h", "w", "C"),
            "context": _f32("P", "h", "w", "M"),
        },
        required=True,
    ),
    "entities": Part(
        {
            "up": _f32(3),
            "id": _i32("K"),
            "status": TensorSpec(("uint8",), ("K",)),
            "position": _f32("K", 3),
            "velocity": _f32("K", 3),
            "heading": _f32("K", 3),
            "turn_rate": _f32("K"),
            "extent": _f32("K", 3),
            "covariance": _f32("K", 6, 6),
            "last_seen": _f32("K"),
            "view_valid": _bool("K", "V"),
            "view_tokens": _tokens("K", "V", "a", "b", "C"),
            "view_alpha": _f32("K", "V", "a", "b"),
            "view_direction": _f32("K", "V", 3),
            "view_size": _f32("K", "V", 2),
            "view_time": _f32("K", "V"),
            "next_id": _i32(),
            "evicted": _i32(),
            "track_id": _i32("T"),
            "track_time": _f64("T"),
            "track_position": _f32("T", 3),
        }
    ),
    "movers": Part(
        {
            "floor": _f32(),
            "floor_weight": _f32(),
            "time": _f32(),
            "turn_covariance": _f32("K", 7),
            "oriented": _bool("K"),
            "last_seen": _f32("K"),
            "hits": _i32("K"),
            "misses": _i32("K"),
            "overlooked": _since(2, _i32("K")),
            "view_pixels": _f32("K", "V"),
            "view_time": _f32("K", "V"),
        },
        version=2,
    ),
    "camera_path": Part(
        {
            "cam2world": _f64("F", 4, 4),
            "intrinsics": _f32("F", 4),
            "times": _f64("F"),
            "size": _i32(2),
        }
    ),
    "branches": Part({}),
}
"""All parts this version knows. The tensors of branches are those of other parts."""

MAY_BE_ZERO = ("P", "M", "T")
"""Lengths that may be 0; all others are at least 1."""

BRANCHED = ("rollout", "static", "context_frames", "entities", "movers", "camera_path")
"""Parts that a branch may have of its own."""


def check_part(
    name: str,
    found: Mapping[str, np.ndarray],
    sizes: dict[str, int],
    source: str,
    stored: Callable[[str], str] = str,
    version: int = 1,
) -> dict[str, np.ndarray]:
    """Picks the tensors of a known part, and checks each.

    Args:
      name: of the part.
      found: tensors of the file, by full name.
      sizes: lengths that letters stand for so far; those of this part are added.
      source: what errors begin with.
      stored: the name a tensor has in the file, for errors.
      version: of the part in the file.

    Returns:
      The tensors by the rest of their names.

    Raises:
      ValueError: naming part and tensor, if one is missing, not finite, or of another dtype or
        shape.
    """
    picked = {}
    for rest, spec in PARTS[name].tensors.items():
        tensor = found.get(f"{name}/{rest}")
        if tensor is None and (not spec.required or spec.since > version):
            continue
        where = f"{source}: part {name}, tensor {stored(f'{name}/{rest}')!r}"
        if tensor is None or not _fits(tensor, spec, sizes):
            has = "none" if tensor is None else f"{tensor.dtype} {tensor.shape}"
            raise ValueError(f"{where}: found {has}, expected {_in_words(spec, sizes)}")
        if tensor.dtype == bool:
            if (tensor.reshape(-1).view(np.uint8) > 1).any():
                raise ValueError(f"{where}: found bytes above 1, expected truth values")
        elif not np.isfinite(tensor).all():
            raise ValueError(f"{where}: found NaN or infinity, expected finite numbers")
        picked[rest] = tensor
    return picked


def _fits(tensor: np.ndarray, spec: TensorSpec, sizes: dict[str, int]) -> bool:
    if spec.alternative is not None:
        first = dataclasses.replace(spec, alternative=None)
        chosen = first if _fits(tensor, first, dict(sizes)) else spec.alternative
        return _fits(tensor, chosen, sizes)
    if str(tensor.dtype) not in spec.dtypes or tensor.ndim != len(spec.shape):
        return False
    for length, wanted in zip(tensor.shape, spec.shape, strict=True):
        if isinstance(wanted, str):
            if length == 0 and wanted not in MAY_BE_ZERO:
                return False
            wanted = sizes.setdefault(wanted, length)
        if length != wanted:
            return False
    return True


def _in_words(spec: TensorSpec, sizes: Mapping[str, int]) -> str:
    lengths = [f"{n} = {sizes[n]}" if n in sizes else str(n) for n in map(str, spec.shape)]
    words = f"{' or '.join(spec.dtypes)} ({', '.join(lengths)})"
    if spec.alternative is not None:
        words += f", or {_in_words(spec.alternative, sizes)}"
    return words
