"""Camera files of every format that is read, for `fuzzing`: written by the package, or by hand."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

from helpers import geometry_npz
from helpers.format_entry import Format
from helpers.made_footage import torch_bytes
from mirage_jax import trajectories
from mirage_jax.io import camera_files
from mirage_jax.pose_checks import check_cam2world

POSES = trajectories.make("look_away", 9)
_NAMES = tuple(f"{n:03d}.png" for n in range(len(POSES)))
_RECORD = camera_files.CameraRecord(
    POSES,
    np.tile([30.0, 31.0, 16.0, 12.0], (len(POSES), 1)),
    (24, 32),
    names=_NAMES,
    timestamps=np.arange(len(POSES)) / 10,
)

WRITTEN = {
    "re10k": "a.txt",
    "tum": "a.txt",
    "kitti": "a.txt",
    "colmap": "sparse",
    "colmap_bin": "sparse",
    "transforms": "transforms.json",
    "motionctrl": "a.json",
    "recammaster": "a.json",
    "hm_world": "camera.json",
    "worldscore": "a.json",
    "vipe": "pose.npz",
    "lyra": "a.npz",
    "spatialvid": "poses.npy",
    "lingbot": "poses.npy",
    "spatia": "a.txt",
    "hy_worldplay": "a.json",
    "matrices": "a.json",
}
"""Formats whose sample the package writes, and a name that each may have."""


def _record3d(folder: Path) -> Path:
    quaternions = Rotation.from_matrix(POSES[:, :3, :3]).as_quat()
    content = {
        "poses": np.concatenate([quaternions, POSES[:, :3, 3]], axis=1).tolist(),
        "K": [30.0, 0, 0, 0, 31.0, 0, 16.0, 12.0, 1.0],
        **{"w": 32, "h": 24, "fps": 60},
    }
    (folder / "metadata.json").write_text(json.dumps(content))
    return folder / "metadata.json"


def _splatting(folder: Path) -> Path:
    lens = {"fx": 30.0, "fy": 31.0, "width": 32, "height": 24}
    content = [
        {
            **{"id": n, "img_name": name, **lens},
            "position": pose[:3, 3].tolist(),
            "rotation": pose[:3, :3].tolist(),
        }
        for n, (name, pose) in enumerate(zip(_NAMES, POSES, strict=True))
    ]
    (folder / "cameras.json").write_text(json.dumps(content))
    return folder / "cameras.json"


def _llff(folder: Path) -> Path:
    turn = np.array([[0, 1, 0], [1, 0, 0], [0, 0, -1]])  # down, right, back
    poses = np.concatenate([POSES[:, :3, :3] @ turn, POSES[:, :3, 3:]], axis=2)
    hwf = np.tile([[24.0], [32.0], [30.0]], (len(POSES), 1, 1))
    rows = np.concatenate([poses, hwf], axis=2).reshape(len(POSES), 15)
    bounds = np.tile([0.5, 9.0], (len(POSES), 1))
    np.save(folder / "poses_bounds.npy", np.concatenate([rows, bounds], axis=1))
    return folder / "poses_bounds.npy"


def _alayaworld(folder: Path) -> Path:
    content = {"cam_c2w": POSES, "intrinsics": np.tile([30.0, 31.0, 16.0, 12.0], (len(POSES), 1))}
    (folder / "camera.pt").write_bytes(torch_bytes(content))
    return folder / "camera.pt"


BY_HAND = {
    "record3d": _record3d,
    "splatting": _splatting,
    "geometry": lambda folder: geometry_npz.save(folder / "geometry.npz"),
    "llff": _llff,
    "alayaworld": _alayaworld,
}
"""Formats whose sample is not written by the package, and what writes it into a folder."""


def _accept(found: Any, original: Any) -> None:
    count = len(check_cam2world(found.cam2world, "poses"))
    assert found.cam2world.shape == (count, 4, 4) and count
    if found.intrinsics is not None:
        assert found.intrinsics.shape == (count, 4) and np.isfinite(found.intrinsics).all()
        assert (found.intrinsics[:, :2] > 0).all()
    if found.timestamps is not None:
        assert found.timestamps.shape == (count,) and np.isfinite(found.timestamps).all()
    assert found.names is None or len(found.names) == count
    assert found.size is None or min(found.size) > 0
    for lens in found.distortion or ():
        assert np.isfinite(list(lens.values())).all()


def _camera_format(name: str) -> Format:
    """A camera file in the format of `camera_files.FORMATS` of this name."""

    def make(folder: Path) -> Path:
        if name in BY_HAND:
            return BY_HAND[name](folder)
        camera_files.write(folder / WRITTEN[name], _RECORD, name)
        return folder / WRITTEN[name]

    def read(path: Path) -> Any:
        return camera_files.read(path, name, bare=("c2w", "opencv"))

    function = camera_files.FORMATS[name].read
    reader = f"{function.__module__.rpartition('.')[2]}.{function.__name__}"
    return Format(f"cameras of {name}", make, read, _accept, ("camera_files.read", reader))


CAMERA_FORMATS = tuple(_camera_format(name) for name in (*WRITTEN, *BY_HAND))
