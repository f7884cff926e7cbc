"""Cameras and points as other tools take them: COLMAP's text model, and transforms.json.

COLMAP (`cameras.txt`, `images.txt`, `points3D.txt`) has world2cam quaternions in OpenCV axes and
pixel centres at +0.5, as we do. transforms.json, of instant-ngp and nerfstudio, has cam2world in
OpenGL axes (y up, looking along -z).
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, UInt8
from scipy.spatial.transform import Rotation

from mirage_jax.geometry import invert_pose
from mirage_jax.io.atomic import write_atomically
from mirage_jax.io.outputs import FileKind, json_kind

COLMAP_FILES = ("cameras.txt", "images.txt", "points3D.txt")
_COMMENT = "# written by mirage_jax"

COLMAP = FileKind(
    "COLMAP model", lambda path: path.read_text(errors="replace").startswith(_COMMENT)
)
TRANSFORMS = json_kind("transforms.json", ["frames", "camera_model", "aabb_scale"])


def picture_name(number: int) -> str:
    """The name that a frame's picture is given."""
    return f"frame_{number:05d}.png"


def write_colmap(
    folder: str | Path,
    cam2world: Float[np.ndarray, "f 4 4"],
    intrinsics: Float[np.ndarray, "f 4"],
    size: tuple[int, int],
    xyz: Float[np.ndarray, "n 3"],
    colours: UInt8[np.ndarray, "n 3"],
    frames: list[int] | None = None,
) -> None:
    """Writes a model as text; one PINHOLE camera for each different lens, points without tracks.

    Args:
      folder: is made if needed.
      cam2world: poses, OpenCV axes, metres.
      intrinsics: fx, fy, cx, cy in pixels.
      size: (H, W) of the pictures.
      xyz: places of the points, metres.
      colours: red, green and blue.
      frames: numbers of the frames, for names of pictures; by default from 0.
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    lenses, of_frame = np.unique(np.asarray(intrinsics, np.float64), axis=0, return_inverse=True)
    of_frame = of_frame.reshape(-1)
    lines = [_COMMENT, "# CAMERA_ID, MODEL, WIDTH, HEIGHT, fx, fy, cx, cy"]
    for number, lens in enumerate(lenses):
        lines.append(f"{number + 1} PINHOLE {size[1]} {size[0]} {_words(lens)}")
    write_atomically(folder / COLMAP_FILES[0], "\n".join([*lines, ""]))

    world2cam = np.asarray(invert_pose(np.asarray(cam2world, np.float64)))
    turns = Rotation.from_matrix(world2cam[:, :3, :3]).as_quat()[:, [3, 0, 1, 2]]
    lines = [_COMMENT, "# IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME, then its points"]
    for number, turn in enumerate(turns):
        name = picture_name(number if frames is None else frames[number])
        place = _words(world2cam[number, :3, 3])
        lines += [f"{number + 1} {_words(turn)} {place} {of_frame[number] + 1} {name}", ""]
    write_atomically(folder / COLMAP_FILES[1], "\n".join([*lines, ""]))

    lines = [_COMMENT, "# POINT3D_ID, X, Y, Z, R, G, B, ERROR, then its track"]
    for number, (place, colour) in enumerate(zip(xyz.tolist(), colours.tolist(), strict=True)):
        x, y, z = place
        red, green, blue = colour
        lines.append(f"{number + 1} {x:.9g} {y:.9g} {z:.9g} {red} {green} {blue} 0")
    write_atomically(folder / COLMAP_FILES[2], "\n".join([*lines, ""]))


def write_transforms(
    path: str | Path,
    cam2world: Float[np.ndarray, "f 4 4"],
    intrinsics: Float[np.ndarray, "f 4"],
    size: tuple[int, int],
    frames: list[int] | None = None,
    point_file: str | None = None,
) -> None:
    """Writes transforms.json with the lens of each frame.

    Args:
      path: the file.
      cam2world: poses, OpenCV axes, metres.
      intrinsics: fx, fy, cx, cy in pixels.
      size: (H, W) of the pictures.
      frames: numbers of the frames, for names of pictures; by default from 0.
      point_file: name of a PLY file beside it, in the same world coordinates.
    """
    # Columns y and z of the camera's axes turn round; the world stays as it is.
    opengl = np.asarray(cam2world, np.float64) @ np.diag([1.0, -1.0, -1.0, 1.0])
    entries: list[dict[str, Any]] = []
    for number, (pose, lens) in enumerate(zip(opengl, intrinsics, strict=True)):
        name = picture_name(number if frames is None else frames[number])
        names = ("fl_x", "fl_y", "cx", "cy")
        entry = dict(zip(names, (float(v) for v in lens), strict=True))
        entries.append({"file_path": f"images/{name}", **entry, "transform_matrix": pose.tolist()})
    fields: dict[str, Any] = {
        "camera_model": "OPENCV",
        "w": size[1],
        "h": size[0],
        "aabb_scale": 16,
        "frames": entries,
    }
    if point_file is not None:
        fields["ply_file_path"] = point_file
    write_atomically(path, json.dumps(fields, indent=1, allow_nan=False) + "\n")


def _words(values: np.ndarray) -> str:
    return " ".join(f"{float(value):.17g}" for value in values)
