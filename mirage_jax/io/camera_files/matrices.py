"""Plain files of 4x4 or 3x4 matrices: .json, .npy, .npz, .pt, .csv, .txt, and folders of them.

Such files rarely say which way their matrices map and which axes they have; the name of an array or
key is taken at its word (`cam2world`, `w2c`, ...), everything else must be told.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from mirage_jax.io.atomic import write_atomically
from mirage_jax.io.camera_files.conventions import FileCameras, Told
from mirage_jax.io.camera_files.parsing import (
    TORCH_SUFFIXES,
    as_floats,
    as_intrinsics,
    as_matrices,
    as_size,
    frame_order,
    lines_of,
    numbers,
    read_arrays,
    read_json,
    read_text,
)
from mirage_jax.io.camera_files.record import CameraRecord
from mirage_jax.io.camera_files.saving import join, npy, npz

OURS = ("cam2world", "poses_c2w")
"""Names of arrays that have this project's conventions."""

_DIRECTION = {
    "c2w": re.compile(r"c2w|cam(era)?_?(2|to)_?world|camera_pose|transform_matrix", re.I),
    "w2c": re.compile(r"w2c|world_?(2|to)_?cam(era)?|extrinsic", re.I),
}
_PLAIN = ("poses", "pose", "matrices", "trajectory", "data", "camera", "cameras")
_LENS = ("intrinsics", "intrinsic", "K", "Ks")
_TIMES = ("timestamps", "times")


def read_matrices(path: Path, told: Told) -> FileCameras:
    """A file of matrices, by its suffix; a folder of text files with one each."""
    if path.is_dir():
        return _read_folder(path)
    suffix = path.suffix.lower()
    if suffix == ".json":
        content = read_json(path)
        return named_arrays(path, content if isinstance(content, dict) else {"": content})
    if suffix in (".npy", ".npz", *TORCH_SUFFIXES):
        return named_arrays(path, read_arrays(path))
    return _read_rows(path)


def named_arrays(path: Path, content: dict[str, Any]) -> FileCameras:
    """Cameras of arrays by name; "" is the name of the only one."""
    name = _pose_name(path, content)
    matrices = as_matrices(path, content[name], name or "frame")
    direction = _direction_of(name) or (None if name else _direction_of(path.stem))
    ours = name in OURS
    why = f"as its array is called {name!r}" if name else "one array without a name"
    if direction and not name:
        why = f"as the file is called {path.name!r}"
    lens = _first(content, _LENS)
    times, size = _first(content, _TIMES), _first(content, ("size",))
    if times is not None:
        times = as_floats(path, times, "timestamps").reshape(-1)
    return FileCameras(
        matrices,
        direction,
        "opencv" if ours else None,
        "m" if ours else None,
        why,
        intrinsics=None if lens is None else as_intrinsics(path, lens, len(matrices)),
        size=None if size is None else _size(path, size),
        timestamps=times,
        names=_names(path, content.get("names")),
    )


def _names(path: Path, value: Any) -> tuple[str, ...] | None:
    if value is None:
        return None
    names = value.tolist() if isinstance(value, np.ndarray) else value
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"{path}: names: found {str(value)[:40]}, expected a list of texts")
    return tuple(names)


def _first(content: dict[str, Any], names: tuple[str, ...]) -> Any:
    return next((content[name] for name in names if content.get(name) is not None), None)


def _size(path: Path, value: Any) -> tuple[int, int]:
    sides = as_floats(path, value, "size").reshape(-1).tolist()
    if len(sides) != 2:
        raise ValueError(f"{path}: size: found {sides}, expected height and width")
    return as_size(path, *sides)


def _pose_name(path: Path, content: dict[str, Any]) -> str:
    if len(content) == 1 and "" in content:
        return ""
    for name in OURS:
        if name in content:
            return name
    said = [name for name in content if _direction_of(name)]
    said = said or [name for name in content if name in _PLAIN]
    if len(said) == 1:
        return said[0]
    expected = f"{', '.join(OURS)}, c2w or w2c"
    shown = ", ".join(map(repr, sorted(content)[:8]))
    raise ValueError(f"{path}: found arrays {shown}, expected one of poses, called {expected}")


def _direction_of(name: str) -> str | None:
    found = [value for value, pattern in _DIRECTION.items() if pattern.search(name)]
    return found[0] if len(found) == 1 else None


def _read_rows(path: Path) -> FileCameras:
    """Text of 16 or 12 numbers per line, or of 4 (3) lines of 4 numbers for each matrix."""
    lines = lines_of(read_text(path))
    expected = "a matrix of 16 or 12 numbers, or a row of 4"
    if path.suffix.lower() == ".csv" and lines and re.search(r"[a-df-z]", lines[0][1], re.I):
        lines = lines[1:]  # names of columns; an e may be an exponent's
    rows = [numbers(path, i, line, (16, 12, 4), expected) for i, line in lines]
    widths = sorted({len(row) for row in rows})
    if len(widths) > 1:
        raise ValueError(f"{path}: found lines of {widths} numbers, expected all of one length")
    if widths == [4]:
        per = _rows_each(rows)
        if len(rows) % per:
            raise ValueError(
                f"{path}: found {len(rows)} rows of 4, expected a multiple of {per}, the rows of a "
                "matrix"
            )
        rows = np.array(rows).reshape(-1, 4 * per).tolist()
    matrices = as_matrices(path, rows, "frame") if rows else np.zeros((0, 4, 4))
    direction = _direction_of(path.stem)
    why = f"as the file is called {path.name!r}" if direction else "rows of numbers"
    return FileCameras(matrices, direction, None, None, why)


def _rows_each(rows: list[list[float]]) -> int:
    """4 for whole matrices, 3 for those without 0 0 0 1."""
    return 4 if len(rows) > 3 and rows[3] == [0.0, 0.0, 0.0, 1.0] else 3


def folder_files(path: Path) -> list[Path]:
    """Files of a folder that may be one matrix each, by frame: *.pose.txt, or else all *.txt."""
    texts = [p for p in path.iterdir() if p.suffix.lower() == ".txt" and p.is_file()]
    poses = [p for p in texts if p.name.lower().endswith("pose.txt")]
    if not poses:
        poses = [p for p in texts if re.fullmatch(r"\D*\d+", p.stem)]
    order, _ = frame_order([p.name for p in poses])
    return [poses[i] for i in order]


def _read_folder(path: Path) -> FileCameras:
    files = folder_files(path)
    found = [_read_rows(file) for file in files]
    for file, one in zip(files, found, strict=True):
        if len(one.matrices) != 1:
            raise ValueError(f"{file}: found {len(one.matrices)} matrices, expected one")
        if not np.isfinite(one.matrices).all():
            raise ValueError(f"{file}: found NaN or infinity, expected a pose; it was not tracked")
    seven = bool(files) and files[0].name.lower().endswith(".pose.txt")
    return FileCameras(
        np.concatenate([one.matrices for one in found]) if found else np.zeros((0, 4, 4)),
        "c2w" if seven else None,
        "opencv" if seven else None,
        "m" if seven else None,
        "of 7-Scenes' *.pose.txt" if seven else f"a folder of {len(files)} matrices",
        names=tuple(re.sub(r"[._]pose$", "", file.stem) for file in files),
    )


def write_matrices(path: Path, record: CameraRecord) -> None:
    """Writes cam2world, by the suffix; .npz and .json hold everything else that is known, too."""
    suffix = path.suffix.lower()
    arrays: dict[str, Any] = {"cam2world": record.cam2world}
    if record.intrinsics is not None:
        arrays["intrinsics"] = record.intrinsics
    if record.size is not None:
        arrays["size"] = np.array(record.size)
    if record.timestamps is not None:
        arrays["timestamps"] = record.timestamps
    if record.names is not None:
        arrays["names"] = np.array(record.names)
    if suffix == ".npz":
        write_atomically(path, npz(**arrays))
    elif suffix == ".npy":
        write_atomically(path, npy(record.cam2world))
    elif suffix == ".json":
        said = {
            "convention": "cam2world, OpenCV axes (x right, y down, z forward), metres; intrinsics "
            "fx fy cx cy of pictures of size (height, width), pixel centres at +0.5"
        }
        content = said | {name: array.tolist() for name, array in arrays.items()}
        write_atomically(path, json.dumps(content))
    elif suffix in (".txt", ".csv"):
        rows = map(join, record.cam2world.reshape(-1, 16))
        lines = ["# cam2world, OpenCV axes (x right, y down, z forward), row by row"]
        lines += [row.replace(" ", ",") if suffix == ".csv" else row for row in rows]
        write_atomically(path, "\n".join(lines) + "\n")
    else:
        raise ValueError(
            f"{path}: found suffix {path.suffix!r}, expected .npz, .npy, .json, .txt or .csv"
        )
