"""transforms.json of NeRF tools (instant-ngp, nerfstudio, Blender's synthetic scenes)."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from mirage_jax.io.atomic import write_atomically
from mirage_jax.io.camera_files.colmap import several_sizes
from mirage_jax.io.camera_files.conventions import FileCameras, Told, in_convention
from mirage_jax.io.camera_files.parsing import as_matrices, as_size, frame_order, read_json
from mirage_jax.io.camera_files.record import CameraRecord

NAME = "transforms.json"
_FISHEYE = ("k1", "k2", "k3", "k4")
_OPENCV = (*_FISHEYE, "p1", "p2")
_STRAIGHT = ("PINHOLE", "SIMPLE_PINHOLE")  # without distortion
_PERSPECTIVE = (*_STRAIGHT, "SIMPLE_RADIAL", "RADIAL", "OPENCV")
_BROWN4 = "BROWN4"  # OPENCV, but k4 is a fourth radial term, as nerfstudio reads it
_PANORAMAS = ("latlong", "equirectangular")  # marks of instant-ngp, as is ftheta_p0


def read_transforms(path: Path, told: Told) -> FileCameras:
    """Camera to world, OpenGL axes; frames sorted by the names of their pictures."""
    path = path / NAME if path.is_dir() else path
    content = read_json(path)
    frames = content.get("frames") if isinstance(content, dict) else None
    if not isinstance(frames, list) or not all(isinstance(frame, dict) for frame in frames):
        raise ValueError(f"{path}: frames: found no list of objects, expected one per picture")
    if not frames:
        raise ValueError(f"{path}: frames: found 0 poses, expected at least one")
    for i, frame in enumerate(frames):
        if "transform_matrix" not in frame:
            raise ValueError(
                f"{path}: frames[{i}]: found {', '.join(sorted(frame))}, expected transform_matrix"
            )
    names = tuple(str(frame.get("file_path", "")) for frame in frames)
    notes: tuple[str, ...] = ()
    if all(names):
        order, notes = frame_order(names)
        frames, names = [frames[i] for i in order], tuple(names[i] for i in order)
    for key in ("applied_transform", "applied_scale"):
        if key in content:
            notes = (*notes, f"world: {key} of the file is kept in the poses, not undone")
    matrices = [frame["transform_matrix"] for frame in frames]
    both = [{**content, **frame} for frame in frames]
    return FileCameras(
        as_matrices(path, matrices, "frames"),
        "c2w",
        "opengl",
        "",
        "of transforms.json",
        names=names if all(names) else None,
        timestamps=_times(path, frames),
        notes=notes,
        **_lens(path, both, told),
    )


def read_frame_files(path: Path, field: str) -> dict[str, Path]:
    """Files that frames name beside their pictures, as by depth_file_path, by the picture's name.

    Raises:
      ValueError: naming the file and the frame, for a name that is no text.
    """
    path = path / NAME if path.is_dir() else path
    named = {}
    for i, frame in enumerate(read_json(path)["frames"]):
        given = frame.get(field)
        if given is not None and not isinstance(given, str):
            raise ValueError(f"{path}: frames[{i}]: {field}: found {given!r}, expected a file")
        if given:
            named[str(frame.get("file_path", ""))] = path.parent / given.replace("\\", "/")
    return named


def _times(path: Path, frames: list[dict]) -> np.ndarray | None:
    if not all("time" in frame for frame in frames):
        return None
    return np.array([_number(path, i, frame, "time") for i, frame in enumerate(frames)])


def _number(path: Path, frame: int, fields: dict, name: str) -> float:
    value = fields[name]
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{path}: frames[{frame}]: {name}: found {value!r}, expected a number")
    return float(value)


def _lens(path: Path, frames: list[dict], told: Told) -> dict[str, Any]:
    """Intrinsics, size and distortion; {} where the file gives no focal length."""
    rows, coefficients, models = [], [], set()
    sizes: list[tuple[int, int]] = []
    for i, fields in enumerate(frames):
        given = {
            name: _number(path, i, fields, name)
            for name in ("fl_x", "fl_y", "cx", "cy", "w", "h", *_OPENCV)
            if fields.get(name) is not None
        }
        angles = {
            name: _number(path, i, fields, name)
            for name in ("camera_angle_x", "camera_angle_y")
            if fields.get(name) is not None
        }
        size = told.size
        if {"h", "w"} <= given.keys():
            size = as_size(path, given["h"], given["w"], f"frames[{i}]: h, w")
        row = _intrinsics(given, angles, size)
        if row is None:
            return {}
        rows.append(row)
        sizes += [] if size is None else [size]
        coefficients.append({name: given[name] for name in _OPENCV if given.get(name)})
        models.add(_model(path, i, fields, coefficients[-1]))
    result: dict[str, Any]
    if len(sizes) < len(rows):
        whole = all(max(row) >= 4 for row in rows)
        result = {"intrinsics": np.array(rows), "normalised": not whole}
    else:
        result = several_sizes(np.array(rows), sizes)
    if any(coefficients) or not models <= set(_PERSPECTIVE):
        if _BROWN4 in models:  # which has what the other perspective ones have
            models -= set(_PERSPECTIVE)
        bent = models - set(_STRAIGHT) if models <= set(_PERSPECTIVE) else models
        result |= {
            "lens": " and ".join(sorted(bent)) or "OPENCV",
            "distortion": tuple(coefficients),
        }
    return result


def _model(path: Path, frame: int, fields: dict, coefficients: dict[str, float]) -> str:
    """The lens of a frame, by nerfstudio's camera_model or the marks of instant-ngp."""
    named = str(fields.get("camera_model") or "").upper()
    marks = [mark.upper() for mark in _PANORAMAS if fields.get(mark)]
    marks += ["FTHETA"] if "ftheta_p0" in fields else []
    marks += ["OPENCV_FISHEYE"] if fields.get("is_fisheye") else []
    models = list(dict.fromkeys([*marks, named] if named else marks))
    if marks and len(models) > 1:
        both = ", ".join(models)
        raise ValueError(f"{path}: frames[{frame}]: found lenses {both}, expected one of them")
    model = models[0] if models else "OPENCV"
    return _BROWN4 if model in _PERSPECTIVE and coefficients.get("k4") else model


def _intrinsics(
    given: dict[str, float], angles: dict[str, float], size: tuple[int, int] | None
) -> list[float] | None:
    """fx, fy, cx, cy in pixels; None where they are not given without a size."""
    height, width = size or (None, None)
    fx = given.get("fl_x", _focal(angles.get("camera_angle_x"), width))
    fy = given.get("fl_y", _focal(angles.get("camera_angle_y"), height))
    fx, fy = fx if fx is not None else fy, fy if fy is not None else fx
    if fx is None or fy is None:
        return None
    if {"cx", "cy"} <= given.keys():
        return [fx, fy, given["cx"], given["cy"]]
    return None if size is None else [fx, fy, size[1] / 2, size[0] / 2]


def _focal(angle: float | None, side: int | None) -> float | None:
    if angle is None or side is None or not 0 < angle < math.pi:
        return None
    return side / 2 / math.tan(angle / 2)


WRITER = "mirage_jax"
"""Field `writer` of files that this program wrote."""


def write_transforms(path: Path, record: CameraRecord, *, points: str = "") -> None:
    """Writes camera to world, OpenGL axes, the world as it is; intrinsics of each frame if needed.

    Args:
      path: the file.
      record: the cameras.
      points: name of a PLY file beside it, in the same world coordinates; "" for none.

    Raises:
      ValueError: for intrinsics without the pictures' size.
    """
    content: dict[str, Any] = {"writer": WRITER, "camera_model": "OPENCV"}
    if points:
        content["ply_file_path"] = points
    per_frame: list[dict[str, Any]] = [{} for _ in range(len(record))]
    if record.intrinsics is not None:
        if record.size is None:
            raise ValueError(f"{path}: intrinsics need the pictures' size; give the size")
        content["camera_model"] = _model_for(path, record)
        for i, k in enumerate(record.pixel_intrinsics(record.size)):
            per_frame[i] = dict(zip(("fl_x", "fl_y", "cx", "cy"), map(float, k), strict=True))
            per_frame[i] |= record.distortion[i] if record.distortion else {}
        content |= {"w": record.size[1], "h": record.size[0]}
        if all(one == per_frame[0] for one in per_frame):
            content, per_frame = content | per_frame[0], [{} for _ in per_frame]
    names = record.names or tuple(f"images/frame_{i:05d}.png" for i in range(len(record)))
    for i, pose in enumerate(in_convention(record.cam2world, "c2w", "opengl")):
        per_frame[i] = {"file_path": names[i], **per_frame[i], "transform_matrix": pose.tolist()}
        if record.timestamps is not None:
            per_frame[i]["time"] = float(record.timestamps[i])
    write_atomically(path, json.dumps(content | {"frames": per_frame}, indent=1))


_WRITTEN = {
    "OPENCV": ({"pinhole", _BROWN4, *_PERSPECTIVE}, _OPENCV),
    "OPENCV_FISHEYE": (
        {"SIMPLE_FISHEYE", "FISHEYE", "SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "OPENCV_FISHEYE"},
        _FISHEYE,
    ),
}


def _model_for(path: Path, record: CameraRecord) -> str:
    """The camera_model that has the record's distortion; ValueError without one."""
    lenses = set(record.lens.split(" and "))
    used = {name for one in record.distortion or () for name, value in one.items() if value}
    for model, (fitting, coefficients) in _WRITTEN.items():
        fourth = model == "OPENCV" and "k4" in used and _BROWN4 not in lenses
        if lenses <= fitting and used <= set(coefficients) and not fourth:
            return model
    raise ValueError(
        f"{path}: found a lens {record.lens!r} with {', '.join(sorted(used))}, expected one of "
        f"{' or '.join(_WRITTEN)}, which transforms.json has"
    )
