"""Camera files of one line per frame: RealEstate10K, TUM, KITTI and Spatia."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from mirage_jax.io.atomic import write_atomically, write_together
from mirage_jax.io.camera_files.conventions import FileCameras, Told, in_convention
from mirage_jax.io.camera_files.parsing import (
    as_intrinsics,
    as_matrices,
    lines_of,
    matrices_of_quaternions,
    numbers,
    read_text,
)
from mirage_jax.io.camera_files.record import CameraRecord
from mirage_jax.io.camera_files.saving import fractions, join

_MICROSECONDS = 1e6


def read_re10k(path: Path, told: Told) -> FileCameras:
    """RealEstate10K, CameraCtrl: address, then `microseconds fx fy cx cy 0 0` and 3x4 w2c."""
    lines = lines_of(read_text(path))
    notes: tuple[str, ...] = ()
    if lines and "://" in lines[0][1].split()[0]:
        notes, lines = (f"source: {lines[0][1]}",), lines[1:]
    elif lines and len(lines[0][1].split()) == 1:
        lines = lines[1:]  # CameraCtrl's own files have a name there
    expected = "timestamp fx fy cx cy 0 0 and the 12 of a 3x4 matrix"
    rows = np.array([numbers(path, i, line, (19,), expected) for i, line in lines])
    rows = rows.reshape(-1, 19)
    return FileCameras(
        as_matrices(path, rows[:, 7:], "frame"),
        "w2c",
        "opencv",
        "",
        "of RealEstate10K files",
        intrinsics=rows[:, 1:5],
        normalised=True,
        timestamps=rows[:, 0] / _MICROSECONDS,
        notes=notes,
    )


def write_re10k(path: Path, record: CameraRecord) -> None:
    """Writes intrinsics as fractions; without timestamps, frame numbers take their place."""
    times = _times(record) * (1 if record.timestamps is None else _MICROSECONDS)
    lens = fractions(path, record)
    rows = in_convention(record.cam2world, "w2c", "opencv")[:, :3].reshape(-1, 12)
    lines = ["https://example.org/no-video"]
    for time, k, row in zip(times, lens, rows, strict=True):
        lines.append(f"{round(float(time))} {join(k)} 0 0 {join(row)}")
    write_atomically(path, "\n".join(lines) + "\n")


def read_tum(path: Path, told: Told) -> FileCameras:
    """TUM RGB-D: `seconds tx ty tz qx qy qz qw`, camera to world."""
    rows = _rows(path, 8, "timestamp tx ty tz qx qy qz qw")
    return FileCameras(
        matrices_of_quaternions(path, rows[:, 4:], rows[:, 1:4]),
        "c2w",
        "opencv",
        "m",
        "of TUM trajectories",
        timestamps=rows[:, 0],
    )


def write_tum(path: Path, record: CameraRecord) -> None:
    """Writes times in seconds, or frame numbers without; rotations are kept to about 1e-15."""
    quaternions = Rotation.from_matrix(record.cam2world[:, :3, :3]).as_quat()
    rows = np.concatenate([_times(record)[:, None], record.cam2world[:, :3, 3], quaternions], 1)
    lines = ["# timestamp tx ty tz qx qy qz qw", *map(join, rows)]
    write_atomically(path, "\n".join(lines) + "\n")


def read_kitti(path: Path, told: Told) -> FileCameras:
    """KITTI odometry: the 12 numbers of a 3x4 camera-to-world matrix per line."""
    rows = _rows(path, 12, "the 12 of a 3x4 matrix")
    matrices = as_matrices(path, rows, "frame")
    return FileCameras(matrices, "c2w", "opencv", "m", "of KITTI poses")


def write_kitti(path: Path, record: CameraRecord) -> None:
    rows = record.cam2world[:, :3].reshape(-1, 12)
    write_atomically(path, "".join(f"{join(row)}\n" for row in rows))


SPATIA_INTRINSICS = "intrinsics.txt"


def read_spatia(path: Path, told: Told) -> FileCameras:
    """Spatia: one JSON matrix per line, world to camera; intrinsics.txt as fractions beside it."""
    found = []
    for i, line in lines_of(read_text(path)):
        try:
            found.append(json.loads(line))
        except ValueError as error:
            raise ValueError(
                f"{path}: line {i}: found {line[:40]!r}, expected a matrix as [[...], ...]"
            ) from error
    matrices = as_matrices(path, found, "frame") if found else np.zeros((0, 4, 4))
    lens, other = None, path.with_name(SPATIA_INTRINSICS)
    if other.is_file():
        rows = [
            numbers(other, i, line.strip("[]"), (4,), "fx fy cx cy")
            for i, line in lines_of(read_text(other))
        ]
        lens = as_intrinsics(other, rows, len(matrices))
    return FileCameras(
        matrices, "w2c", "opencv", "m", "of Spatia's w2c.txt", intrinsics=lens, normalised=True
    )


def write_spatia(path: Path, record: CameraRecord) -> None:
    """Writes matrices, and intrinsics as fractions into intrinsics.txt beside them."""
    poses = in_convention(record.cam2world, "w2c", "opencv")
    files: dict[Path, bytes | str] = {}
    if record.intrinsics is not None:
        lens = fractions(path, record)
        lens = lens[:1] if (lens == lens[0]).all() else lens
        files[path.with_name(SPATIA_INTRINSICS)] = "".join(f"[{join(k)}]\n" for k in lens)
    files[path] = "".join(f"{json.dumps(pose.tolist())}\n" for pose in poses)
    write_together(files)


def _times(record: CameraRecord) -> np.ndarray:
    if record.timestamps is None:
        return np.arange(len(record), dtype=np.float64)
    return record.timestamps


def _rows(path: Path, columns: int, expected: str) -> np.ndarray:
    lines = lines_of(read_text(path))
    rows = [numbers(path, i, line, (columns,), expected) for i, line in lines]
    return np.array(rows, np.float64).reshape(-1, columns)
