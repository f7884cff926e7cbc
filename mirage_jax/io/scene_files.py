"""Cameras and points as other tools take them: COLMAP's text model, and transforms.json."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from mirage_jax.io.camera_files import CameraRecord, colmap, transforms_json
from mirage_jax.io.outputs import FileKind, json_fields

COLMAP_FILES = ("cameras.txt", "images.txt", "points3D.txt")


COLMAP = FileKind(
    "COLMAP model", lambda path: path.read_text(errors="replace").startswith(colmap.WRITTEN_BY)
)
TRANSFORMS = FileKind(
    "transforms.json", lambda path: json_fields(path).get("writer") == transforms_json.WRITER
)


def cameras(
    cam2world: Float[np.ndarray, "f 4 4"],
    intrinsics: Float[np.ndarray, "f 4"],
    size: tuple[int, int],
    frames: list[int] | None = None,
    folder: str = "",
) -> CameraRecord:
    """Cameras of generated frames.

    Args:
      cam2world: poses, OpenCV axes, metres.
      intrinsics: fx, fy, cx, cy in pixels.
      size: (H, W) of the pictures.
      frames: numbers of the frames, for names of pictures; by default from 0.
      folder: of the pictures, with its slash.
    """
    numbers = range(len(cam2world)) if frames is None else frames
    names = tuple(f"{folder}frame_{number:05d}.png" for number in numbers)
    lens = np.asarray(intrinsics, np.float64)
    return CameraRecord(np.asarray(cam2world, np.float64), lens, size, names=names)


def write_colmap(
    folder: str | Path,
    record: CameraRecord,
    xyz: Float[np.ndarray, "n 3"],
    colours: UInt8[np.ndarray, "n 3"],
) -> None:
    """Writes a model as text, points without tracks; the folder is made if needed."""
    colmap.write_colmap(Path(folder), record, points=(xyz, colours))


def write_transforms(path: str | Path, record: CameraRecord, points: str = "") -> None:
    """Writes transforms.json; `points` is the name of a PLY file beside it."""
    transforms_json.write_transforms(Path(path), record, points=points)
