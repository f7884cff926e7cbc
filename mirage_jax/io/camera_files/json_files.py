"""JSON camera files of other tools, each with conventions of its own."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np

from mirage_jax.io.atomic import write_atomically
from mirage_jax.io.camera_files.conventions import UNITS, FileCameras, Told, in_convention
from mirage_jax.io.camera_files.parsing import (
    as_floats,
    as_intrinsics,
    as_matrices,
    as_size,
    frame_order,
    matrices_of_quaternions,
    read_json,
)
from mirage_jax.io.camera_files.record import CameraRecord
from mirage_jax.io.camera_files.saving import join, pixels

HY_SIZE = (1080, 1920)
WORLDSCORE_SIZE, WORLDSCORE_FOCAL = (512, 512), 500.0
_BRACKETS = re.compile(r"\[([^\[\]]*)\]")


def _object(path: Path) -> dict[str, Any]:
    content = read_json(path)
    if not isinstance(content, dict):
        raise ValueError(f"{path}: found a {type(content).__name__}, expected an object")
    return content


def _field(path: Path, holder: Any, name: str, where: str = "") -> Any:
    if not isinstance(holder, dict) or name not in holder:
        shown = ", ".join(map(str, list(holder)[:8])) if isinstance(holder, dict) else repr(holder)
        raise ValueError(f"{path}: {where}found {shown}, expected {name}")
    return holder[name]


def _in_order(path: Path, content: Any) -> list[tuple[str, Any]]:
    """Entries by the frame numbers that are their keys."""
    if not isinstance(content, dict):
        raise ValueError(f"{path}: found a {type(content).__name__}, expected frames by number")
    keys = [key for key in content if re.fullmatch(r"\D*\d+", key)]
    if len(keys) != len(content) or not keys:
        strange = [key for key in content if key not in keys]
        raise ValueError(f"{path}: found keys {strange[:5]}, expected numbers of frames")
    order, _ = frame_order(keys)
    return [(keys[i], content[keys[i]]) for i in order]


def read_hy_worldplay(path: Path, told: Told) -> FileCameras:
    """HY-WorldPlay: {"0": {"extrinsic": 4x4 c2w, "K": 3x3 in pixels of 1920x1080}, ...}."""
    entries = _in_order(path, _object(path))
    poses = [_field(path, entry, "extrinsic", f"{key}: ") for key, entry in entries]
    lens = [_field(path, entry, "K", f"{key}: ") for key, entry in entries]
    return FileCameras(
        as_matrices(path, poses, "extrinsic"),
        "c2w",
        "opencv",
        "",
        "of HY-WorldPlay's poses",
        intrinsics=as_intrinsics(path, lens, len(poses), "K"),
        normalised=False,
        size=HY_SIZE if told.size is None else told.size,
    )


def write_hy_worldplay(path: Path, record: CameraRecord) -> None:
    content = {}
    for i, (pose, k) in enumerate(
        zip(record.cam2world, pixels(path, record, HY_SIZE), strict=True)
    ):
        matrix = [[k[0], 0.0, k[2]], [0.0, k[1], k[3]], [0.0, 0.0, 1.0]]
        content[str(i)] = {"extrinsic": pose.tolist(), "K": matrix}
    write_atomically(path, json.dumps(content))


def _matrix_of_text(path: Path, text: Any, where: str) -> list[list[float]]:
    """Rows in brackets, as Unreal prints a matrix: they are the columns of camera to world."""
    rows = [part.split() for part in _BRACKETS.findall(text)] if isinstance(text, str) else []
    try:
        found = np.array([[float(word) for word in row] for row in rows])
    except ValueError:
        found = np.zeros(0)
    if found.shape != (4, 4):
        raise ValueError(f"{path}: {where}: found {str(text)[:60]!r}, expected four [a b c d]")
    return found.T.tolist()


def _unreal_texts(record: CameraRecord) -> list[str]:
    poses = in_convention(record.cam2world, "c2w", "unreal", UNITS["cm"])
    return ["".join(f"[{join(row)}] " for row in pose.T) for pose in poses]


def _unreal(path: Path, matrices: list, notes: tuple[str, ...]) -> FileCameras:
    return FileCameras(
        as_matrices(path, matrices, "frame"),
        "c2w",
        "unreal",
        "cm",
        "of Unreal's cameras",
        notes=notes,
    )


def read_recammaster(path: Path, told: Told) -> FileCameras:
    """ReCamMaster: {"frame0": {"cam01": "four rows in brackets", ...}, ...}; `camera` picks one."""
    entries = _in_order(path, _object(path))
    known = sorted(entries[0][1]) if isinstance(entries[0][1], dict) else []
    camera = told.camera or (known[0] if len(known) == 1 else None)
    if camera is None or camera not in known:
        found = f"camera {told.camera!r}" if told.camera else f"{len(known)} cameras"
        raise ValueError(f"{path}: found {found}, expected --camera=one of {', '.join(known)}")
    matrices = [
        _matrix_of_text(path, _field(path, entry, camera, f"{key}: "), f"{key}: {camera}")
        for key, entry in entries
    ]
    return _unreal(path, matrices, (f"camera: {camera} of {', '.join(known)}",))


def write_recammaster(path: Path, record: CameraRecord) -> None:
    """Writes the path as cam01."""
    content = {f"frame{i}": {"cam01": text} for i, text in enumerate(_unreal_texts(record))}
    write_atomically(path, json.dumps(content))


HM_PARTS = ("cond_cam", "tgt_cam")


def read_hm_world(path: Path, told: Told) -> FileCameras:
    """HM-World, HyDRA: frames as texts of ReCamMaster's kind, or 4x4 under cond_cam and tgt_cam.

    Both parts follow each other in time, so both are read unless `camera` picks one.
    """
    content = _object(path)
    parts = [part for part in HM_PARTS if part in content]
    if not parts:
        entries = _in_order(path, content)
        matrices = [_matrix_of_text(path, text, key) for key, text in entries]
        return _unreal(path, matrices, ())
    if told.camera is not None and told.camera not in parts:
        raise ValueError(
            f"{path}: found camera {told.camera!r}, expected one of {', '.join(parts)}"
        )
    parts = [told.camera] if told.camera else parts
    found = [entry for part in parts for _, entry in _in_order(path, content[part])]
    return _unreal(path, found, (f"parts: {' then '.join(parts)}",))


def write_hm_world(path: Path, record: CameraRecord) -> None:
    """Writes the numbered texts of camera.json."""
    content = {str(i): text for i, text in enumerate(_unreal_texts(record))}
    write_atomically(path, json.dumps(content))


def read_worldscore(path: Path, told: Told) -> FileCameras:
    """WorldScore camera_data.json: c2w with OpenGL axes under cameras_interp (or cameras)."""
    content = _object(path)
    key = told.camera or ("cameras_interp" if "cameras_interp" in content else "cameras")
    focal = as_floats(path, content.get("focal_length", WORLDSCORE_FOCAL), "focal_length")
    if focal.size != 1:
        raise ValueError(f"{path}: focal_length: found {focal.size} numbers, expected one")
    fx = float(focal.reshape(()))
    size = told.size or WORLDSCORE_SIZE
    return FileCameras(
        as_matrices(path, _field(path, content, key), key),
        "c2w",
        "opengl",
        "",
        "of WorldScore's cameras",
        intrinsics=np.array([fx, fx, size[1] / 2, size[0] / 2]),
        normalised=False,
        size=size,
        notes=(f"camera: {key}",),
    )


def write_worldscore(path: Path, record: CameraRecord) -> None:
    """Writes the path as cameras_interp, its ends as cameras."""
    poses = in_convention(record.cam2world, "c2w", "opengl").tolist()
    focal = WORLDSCORE_FOCAL
    if record.intrinsics is not None:
        focal = float(pixels(path, record, WORLDSCORE_SIZE)[0, 0])
    content = {
        "focal_length": focal,
        "scale": 1,
        "cameras": [poses[0], poses[-1]],
        "cameras_interp": poses,
    }
    write_atomically(path, json.dumps(content))


def read_motionctrl(path: Path, told: Told) -> FileCameras:
    """MotionCtrl: a list of the 12 numbers of each frame's 3x4 world-to-camera matrix."""
    matrices = as_matrices(path, read_json(path), "frame")
    return FileCameras(matrices, "w2c", "opencv", "", "of MotionCtrl's RT")


def write_motionctrl(path: Path, record: CameraRecord) -> None:
    rows = in_convention(record.cam2world, "w2c", "opencv")[:, :3].reshape(-1, 12)
    write_atomically(path, json.dumps(rows.tolist()))


def read_record3d(path: Path, told: Told) -> FileCameras:
    """Record3D (ARKit): poses [qx qy qz qw x y z], K column by column, w, h, fps; OpenGL axes."""
    content = _object(path)
    poses = as_floats(path, _field(path, content, "poses"), "poses")
    if poses.ndim != 2 or poses.shape[1] != 7:
        raise ValueError(f"{path}: poses: found shape {poses.shape}, expected [F, 7]")
    lens = as_floats(path, _field(path, content, "K"), "K")
    if lens.size != 9:
        raise ValueError(f"{path}: K: found {lens.size} numbers, expected 9")
    size = None
    if {"w", "h"} <= content.keys():
        size = as_size(path, content["h"], content["w"], "h, w")
    fps = content.get("fps")
    times = np.arange(len(poses)) / float(fps) if isinstance(fps, int | float) and fps else None
    return FileCameras(
        matrices_of_quaternions(path, poses[:, :4], poses[:, 4:]),
        "c2w",
        "opengl",
        "m",
        "of Record3D, as ARKit",
        intrinsics=as_intrinsics(path, lens.reshape(3, 3).T, len(poses), "K"),
        normalised=False,
        size=size,
        timestamps=times,
    )


def read_splatting(path: Path, told: Told) -> FileCameras:
    """cameras.json of Gaussian splatting: position and rotation (camera to world) of each image."""
    content = read_json(path)
    if not isinstance(content, list):
        raise ValueError(f"{path}: found a {type(content).__name__}, expected a list of cameras")
    names = [str(_field(path, entry, "img_name", f"[{i}]: ")) for i, entry in enumerate(content)]
    order, notes = frame_order(names)
    matrices = np.tile(np.eye(4), (len(order), 1, 1))
    lens, sizes = np.zeros((len(order), 4)), []
    for row, i in enumerate(order):
        entry = content[i]
        for part, columns in (("rotation", slice(0, 3)), ("position", 3)):
            values = as_floats(path, _field(path, entry, part, f"[{i}]: "), f"[{i}]: {part}")
            if values.shape != ((3, 3) if part == "rotation" else (3,)):
                raise ValueError(f"{path}: [{i}]: {part}: found shape {values.shape}")
            matrices[row, :3, columns] = values
        focal = [_field(path, entry, name, f"[{i}]: ") for name in ("fx", "fy", "width", "height")]
        fx, fy, width, height = as_floats(path, focal, f"[{i}]: fx, fy, width, height")
        sizes.append(as_size(path, height, width, f"[{i}]: height, width"))
        lens[row] = fx / width, fy / height, 0.5, 0.5
    size = sizes[0] if len(set(sizes)) == 1 else None
    scale = 1.0 if size is None else np.array([size[1], size[0]] * 2)
    return FileCameras(
        matrices,
        "c2w",
        "opencv",
        "",
        "of Gaussian splatting's cameras.json",
        intrinsics=lens * scale,
        normalised=size is None,
        size=size,
        names=tuple(names[i] for i in order),
        notes=notes,
    )
