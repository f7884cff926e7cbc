"""Texts, JSON and arrays of camera files, with errors that name the file and the line.

No pickle is run: of torch files tensors alone are read. A byte order mark, Windows line ends and
comments are all right.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from mirage_jax.io.numpy_files import ArrayFile, read_array
from mirage_jax.io.torch_files import Tensor, load
from mirage_jax.origin import check_positions

TORCH_SUFFIXES = (".pt", ".pth")
_NUMBER_SPLIT = re.compile(r"[\s,;]+")


def read_text(path: Path) -> str:
    """A text file, UTF-8 with or without a byte order mark; ValueError if it is not that."""
    try:
        return path.read_bytes().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: found byte {error.object[error.start]:#04x} at {error.start}, expected text "
            "in UTF-8"
        ) from error


def lines_of(text: str) -> list[tuple[int, str]]:
    """(number from 1, content) of the lines that are neither empty nor comments (#)."""
    lines = ((i, line.strip()) for i, line in enumerate(text.splitlines(), 1))
    return [(i, line) for i, line in lines if line and not line.startswith("#")]


def numbers(path: Path, line: int, text: str, counts: Sequence[int], expected: str) -> list[float]:
    """The numbers of a line; ValueError unless there are as many as one of `counts`."""
    words = _NUMBER_SPLIT.split(text.strip(" \t,;"))
    try:
        values = [float(word) for word in words]
    except ValueError as error:
        raise ValueError(
            f"{path}: line {line}: found {_short(text)!r}, expected {expected}"
        ) from error
    if len(values) not in counts:
        raise ValueError(
            f"{path}: line {line}: found {len(values)} numbers, expected "
            f"{' or '.join(map(str, counts))}: {expected}"
        )
    return values


def _short(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:37]}..."


def read_json(path: Path) -> Any:
    """The content of a JSON file; ValueError if it is none."""
    text = read_text(path)
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path}: not a readable .json file ({error})") from error


def read_arrays(path: Path) -> dict[str, np.ndarray]:
    """Arrays of an .npz by name, of an .npy by ""; ValueError if damaged or holding objects.

    Of a torch file (.pt, .pth): its only tensor, or those of a dict; plain values are passed over.
    """
    suffix = path.suffix.lower()
    if suffix == ".npy":
        return {"": read_array(path)}
    if suffix in TORCH_SUFFIXES:
        return _tensors(path)
    with ArrayFile(path) as arrays:
        return {name: arrays.read(name) for name in arrays.names}


def _tensors(path: Path) -> dict[str, np.ndarray]:
    content = load(path)
    named = {"": content} if isinstance(content, Tensor) else content
    if not isinstance(named, dict) or not all(isinstance(name, str) for name in named):
        raise ValueError(
            f"{path}: found a {type(content).__name__}, expected a tensor or a dict of tensors"
        )
    return {name: value.read() for name, value in named.items() if isinstance(value, Tensor)}


def as_floats(path: Path, value: Any, where: str = "poses") -> np.ndarray:
    """A float64 array of nested lists or an array; ValueError if it is ragged or no numbers."""
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise ValueError(f"{path}: {where}: found lists of unequal lengths") from error
    if array.dtype.kind not in "fiu":
        raise ValueError(f"{path}: {where}: found {array.dtype}, expected numbers")
    return array.astype(np.float64)


def as_size(path: Path, height: Any, width: Any, where: str = "size") -> tuple[int, int]:
    """(H, W) of two numbers; ValueError unless they are whole and positive."""
    sides = as_floats(path, [height, width], where)
    if sides.shape != (2,) or not all(side >= 1 and side.is_integer() for side in sides.tolist()):
        raise ValueError(
            f"{path}: {where}: found height {height!r} and width {width!r}, expected whole pixels"
        )
    return int(sides[0]), int(sides[1])


def as_matrices(path: Path, value: Any, where: str = "poses") -> np.ndarray:
    """[F, 4, 4] of 4x4, 3x4, or 16 or 12 numbers in rows; one matrix becomes one frame.

    Raises:
      ValueError: naming the file and `where`, for any other shape, or matrices that are transposed.
    """
    array = as_floats(path, value, where)
    if array.shape in ((4, 4), (3, 4)):
        array = array[None]
    if array.ndim == 2 and array.shape[1] in (12, 16):
        array = array.reshape(len(array), array.shape[1] // 4, 4)
    if array.ndim == 3 and array.shape[1:] == (3, 4):
        row = np.broadcast_to([0.0, 0, 0, 1], (len(array), 1, 4))
        array = np.concatenate([array, row], axis=1)
    if array.ndim != 3 or array.shape[1:] != (4, 4):
        raise ValueError(
            f"{path}: {where}: found shape {array.shape}, expected [F, 4, 4] or [F, 3, 4]"
        )
    if getattr(value, "dtype", None) == np.float32:
        check_positions(array[:, :3, 3], f"{path}: {where}")
    bottom = np.array([0.0, 0, 0, 1])
    if len(array) and np.isfinite(array).all() and (np.abs(array[:, 3] - bottom) > 1e-6).any():
        if (np.abs(array[:, :, 3] - bottom) < 1e-6).all():
            raise ValueError(
                f"{path}: {where}: found transposed matrices (0 0 0 1 in the last column), "
                "expected it in the last row"
            )
        first = int(np.argmax((np.abs(array[:, 3] - bottom) > 1e-6).any(1)))
        raise ValueError(
            f"{path}: {where}[{first}]: found last row {array[first, 3].tolist()}, expected 0 0 0 1"
        )
    return array


def as_intrinsics(path: Path, value: Any, count: int, where: str = "intrinsics") -> np.ndarray:
    """[F, 4] of fx, fy, cx, cy, from those or from 3x3 matrices, of each frame or of all.

    Raises:
      ValueError: naming the file and `where`, for any other shape or number, or a skewed lens.
    """
    array = as_floats(path, value, where)
    if array.shape in ((4,), (3, 3), (1, 4), (1, 3, 3)):
        one = array.reshape(array.shape[-2:] if array.shape[-1] == 3 else 4)
        array = np.broadcast_to(one, (count, *one.shape))
    if array.shape == (count, 3, 3):
        plain = array.copy()
        plain[:, (0, 1, 0, 1), (0, 1, 2, 2)] = 0.0
        plain[:, 2, 2] -= 1.0
        wrong = (np.abs(plain) > 1e-6).any((1, 2))
        if wrong.any():
            first = int(np.argmax(wrong))
            raise ValueError(
                f"{path}: {where}[{first}]: found {array[first].tolist()}, expected "
                "[[fx, 0, cx], [0, fy, cy], [0, 0, 1]]"
            )
        array = array[:, (0, 1, 0, 1), (0, 1, 2, 2)]
    if array.shape != (count, 4):
        raise ValueError(
            f"{path}: {where}: found shape {array.shape}, expected [{count}, 4] or [{count}, 3, 3]"
        )
    return array


def matrices_of_quaternions(path: Path, quaternions: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """[F, 4, 4] of quaternions x y z w and translations.

    Raises:
      ValueError: naming the file and the frame, for a quaternion that is not of length 1.
    """
    length = np.linalg.norm(quaternions, axis=1)
    wrong = ~(np.abs(length - 1) < 0.01)
    if wrong.any():
        first = int(np.argmax(wrong))
        raise ValueError(
            f"{path}: frame[{first}]: found a quaternion {quaternions[first].tolist()} of length "
            f"{length[first]:.3g}, expected 1 ({int(wrong.sum())} of {len(wrong)} are wrong)"
        )
    matrices = np.tile(np.eye(4), (len(centres), 1, 1))
    if len(centres):
        matrices[:, :3, :3] = Rotation.from_quat(quaternions).as_matrix()
    matrices[:, :3, 3] = centres
    return matrices


def natural_key(name: str) -> tuple[Any, ...]:
    """Sorts names by the numbers in them: frame 2 before frame 10."""
    parts = re.split(r"(\d+)", name)
    return tuple((0, int(p), "") if p.isdigit() else (1, 0, p) for p in parts)


def frame_order(names: Sequence[str]) -> tuple[list[int], tuple[str, ...]]:
    """The order of frames by their names, and a note if that changes it."""
    order = sorted(range(len(names)), key=lambda i: natural_key(names[i]))
    moved = sum(i != j for i, j in enumerate(order))
    return order, (f"order: {moved} frames were moved to sort them by name",) if moved else ()


def beside(path: Path, name: str, read: Callable[[Path], Any]) -> Any:
    """What `read` gives for the file of that name beside `path`, None without such a file."""
    other = path.with_name(name)
    return read(other) if other.is_file() else None
