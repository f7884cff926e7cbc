"""Named camera paths, open and closed, and pose files.

Closed paths (`look_away`, `out_and_back`, `look_and_walk`, `full_circle`) end exactly where they
began: they are what a memory is tested with. Every path starts and ends at rest, since a generated
video looks wrong when the camera jerks. All poses are cam2world, OpenCV axes, metres, float64.
"""

from __future__ import annotations

import difflib
import functools
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float
from scipy.spatial.transform import Rotation

from mirage_jax import geometry
from mirage_jax.io.atomic import replacing
from mirage_jax.io.numpy_files import ArrayFile, read_array
from mirage_jax.io.strict_json import parse_json

Pose = np.ndarray
# progress in [0, 1], angle in radians, distance in metres -> pose relative to the start
LocalPath = Callable[[float, float, float], Pose]


def _pose(
    *, x: float = 0, y: float = 0, z: float = 0, yaw: float = 0, pitch: float = 0, roll: float = 0
) -> Pose:
    """A pose relative to the start; yaw > 0 looks right, pitch > 0 up, roll > 0 leans right."""
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("YXZ", [yaw, pitch, roll]).as_matrix()
    pose[:3, 3] = x, y, z
    return pose


def _ease(u: float) -> float:
    """From 0 to 1 with zero velocity and acceleration at both ends."""
    return u**3 * (10 - 15 * u + 6 * u * u)


def _there_and_back(u: float) -> float:
    """From 0 to 1 and back to 0, at rest at the start, the turning point and the end."""
    return _ease(1 - abs(2 * u - 1))


def _orbit(theta: float, distance: float) -> Pose:
    """A move to the right (theta > 0) around the point `distance` ahead, kept in the centre."""
    return _pose(x=distance * math.sin(theta), z=distance * (1 - math.cos(theta)), yaw=-theta)


_CLOSED: dict[str, LocalPath] = {
    "look_away": lambda u, a, d: _pose(yaw=a * _there_and_back(u)),
    "out_and_back": lambda u, a, d: _pose(z=d * _there_and_back(u)),
    "look_and_walk": lambda u, a, d: _pose(
        yaw=a * _there_and_back(u),
        x=d * _there_and_back(u) * math.sin(a / 2),
        z=d * _there_and_back(u) * math.cos(a / 2),
    ),
    "full_circle": lambda u, a, d: _pose(yaw=2 * math.pi * _ease(u)),
}

_OPEN: dict[str, LocalPath] = {
    "hold": lambda u, a, d: _pose(),
    "push_in": lambda u, a, d: _pose(z=d * _ease(u)),
    "pull_out": lambda u, a, d: _pose(z=-d * _ease(u)),
    "move_left": lambda u, a, d: _pose(x=-d * _ease(u)),
    "move_right": lambda u, a, d: _pose(x=d * _ease(u)),
    "move_up": lambda u, a, d: _pose(y=-d * _ease(u)),
    "move_down": lambda u, a, d: _pose(y=d * _ease(u)),
    "pan_left": lambda u, a, d: _pose(yaw=-a * _ease(u)),
    "pan_right": lambda u, a, d: _pose(yaw=a * _ease(u)),
    "tilt_up": lambda u, a, d: _pose(pitch=a * _ease(u)),
    "tilt_down": lambda u, a, d: _pose(pitch=-a * _ease(u)),
    "roll_left": lambda u, a, d: _pose(roll=-a * _ease(u)),
    "roll_right": lambda u, a, d: _pose(roll=a * _ease(u)),
    "orbit_left": lambda u, a, d: _orbit(-a * _ease(u), d),
    "orbit_right": lambda u, a, d: _orbit(a * _ease(u), d),
}

CLOSED_NAMES = tuple(_CLOSED)
NAMES = (*_CLOSED, *_OPEN)


def make(
    name: str,
    frames: int,
    *,
    angle: float | int = 90.0,
    distance: float | int = 1.0,
    start: Float[geometry.Floats, "4 4"] | None = None,
) -> Float[np.ndarray, "t 4 4"]:
    """Poses of a named path.

    Closed: `look_away` turns right by `angle` and back; `out_and_back` walks forward and back;
    `look_and_walk` does both at once, walking towards half the angle; `full_circle` turns right by
    360 degrees. Open: `hold`; `push_in`, `pull_out`, `move_*` travel by `distance`; `pan_*`,
    `tilt_*`, `roll_*` rotate by `angle`; `orbit_*` circle by `angle` around the point `distance`
    ahead.

    Args:
      name: one of `NAMES`.
      frames: number of poses, the first at `start`.
      angle: degrees.
      distance: metres.
      start: cam2world of the first frame, by default the identity.
    Returns:
      cam2world, float64; closed paths end exactly at the start.
    Raises:
      ValueError: for an unknown name (with the nearest known one), fewer than one frame, an angle
        or a distance that is not finite, or a start that is not a rigid right-handed pose.
    """
    if name not in NAMES:
        near = difflib.get_close_matches(name, NAMES, n=1, cutoff=0.4)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(
            f"trajectory: found name {name!r}{hint}, expected one of {', '.join(NAMES)}"
        )
    if frames < 1:
        raise ValueError(f"trajectory {name}: found frames={frames}, expected at least 1")
    if not (math.isfinite(angle) and math.isfinite(distance)):
        raise ValueError(
            f"trajectory {name}: found angle={angle}, distance={distance}, expected finite numbers"
        )
    start = np.eye(4) if start is None else geometry.check_cam2world(start, "start")
    path = {**_CLOSED, **_OPEN}[name]
    progress = np.linspace(0.0, 1.0, frames) if frames > 1 else np.zeros(1)
    turn, travel = math.radians(angle), float(distance)
    poses = np.stack([start @ path(float(u), turn, travel) for u in progress])
    poses[0] = start
    if name in _CLOSED:
        poses[-1] = start  # sin(2 pi) is not 0 in floating point; the same place must be the same
    return poses


def __getattr__(name: str) -> Any:
    """Every named path as a function: `look_away(frames=49)` is `make("look_away", 49)`."""
    if name in NAMES:
        return functools.partial(make, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *NAMES])


# -- files ---------------------------------------------------------------------------------------

_KEYS = ("cam2world", "poses_c2w")


def load(path: str | Path, frames: int | None = None) -> Float[np.ndarray, "t 4 4"]:
    """Reads cam2world poses.

    Formats by suffix: `.npz` with the key `cam2world` or `poses_c2w` (Mirage's geometry.npz);
    `.npy`; `.json`, a list of 4x4 matrices or an object with one of those keys; `.txt`, the TUM
    format `t tx ty tz qx qy qz qw` per line, `#` comments.

    Args:
      path: the file.
      frames: the number of poses the caller needs.
    Returns:
      Poses `[T, 4, 4]`, float64, as in the file (not moved to start at the identity).
    Raises:
      ValueError: naming the file, for an unknown suffix, unreadable contents, a number of poses
        other than `frames`, or poses that are not rigid, right-handed and finite.
      FileNotFoundError: if there is no such file.
    """
    path = Path(path)
    readers: dict[str, Callable[[Path], Any]] = {
        ".npz": _read_npz,
        ".npy": read_array,
        ".json": lambda p: _from_json(p, parse_json(p.read_text("utf-8"))),
        ".txt": _read_tum,
    }
    if path.suffix not in readers:
        raise ValueError(f"{path}: found suffix {path.suffix!r}, expected {', '.join(readers)}")
    try:
        poses = np.asarray(readers[path.suffix](path))
    except (ValueError, TypeError) as error:
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: not a readable {path.suffix} pose file ({error})") from error
    if poses.ndim != 3:
        raise ValueError(f"{path}: found poses of shape {poses.shape}, expected [T, 4, 4]")
    if len(poses) == 0:
        raise ValueError(f"{path}: found 0 poses, expected at least one")
    poses = geometry.check_cam2world(poses, str(path))
    if frames is not None and len(poses) != frames:
        raise ValueError(f"{path}: found {len(poses)} poses, expected {frames}, one per frame")
    return poses


def save(path: str | Path, poses: Float[np.ndarray, "t 4 4"]) -> None:
    """Writes cam2world poses in the format of the suffix (see `load`).

    TUM files get the frame number as their time and keep rotations to about 1e-15.

    Raises:
      ValueError: for an unknown suffix or poses that are not rigid, right-handed and finite.
    """
    path = Path(path)
    poses = geometry.check_cam2world(poses, "poses")
    if path.suffix not in (".npz", ".npy", ".json", ".txt"):
        raise ValueError(
            f"{path}: found suffix {path.suffix!r}, expected one of .npz, .npy, .json, .txt"
        )
    with replacing(path) as partial:
        if path.suffix == ".npz":
            np.savez(partial, cam2world=poses)
        elif path.suffix == ".npy":
            np.save(partial, poses)
        elif path.suffix == ".json":
            partial.write_text(json.dumps({"cam2world": poses.tolist()}), "utf-8")
        else:
            quaternions = Rotation.from_matrix(poses[:, :3, :3]).as_quat()
            rows = np.concatenate([np.arange(len(poses))[:, None], poses[:, :3, 3], quaternions], 1)
            np.savetxt(partial, rows, fmt="%.17g", header="timestamp tx ty tz qx qy qz qw")


def _read_npz(path: Path) -> np.ndarray:
    with ArrayFile(path) as arrays:
        for key in _KEYS:
            if key in arrays.names:
                return arrays.read(key)
        raise ValueError(
            f"{path}: found keys {sorted(arrays.names)}, expected {' or '.join(_KEYS)}"
        )


def _from_json(path: Path, content: Any) -> Any:
    if not isinstance(content, dict):
        return content
    for key in _KEYS:
        if key in content:
            return content[key]
    raise ValueError(f"{path}: found keys {sorted(content)}, expected {' or '.join(_KEYS)}")


def _read_tum(path: Path) -> np.ndarray:
    rows = np.loadtxt(path, ndmin=2)
    if rows.shape[1] != 8:
        raise ValueError(
            f"{path}: found {rows.shape[1]} columns, expected 8: t tx ty tz qx qy qz qw"
        )
    poses = np.tile(np.eye(4), (len(rows), 1, 1))
    poses[:, :3, :3] = Rotation.from_quat(rows[:, 4:]).as_matrix()
    poses[:, :3, 3] = rows[:, 1:4]
    return poses
