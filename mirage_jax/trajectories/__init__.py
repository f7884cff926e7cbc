"""Camera paths: by name, put together from steps, as keys, and from files.

Closed paths (`CLOSED_NAMES`) end exactly where they began: they are what a memory is tested with.
All poses are cam2world, OpenCV axes, metres, float64.
"""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from mirage_jax import geometry
from mirage_jax.io import camera_files
from mirage_jax.io.camera_files import CameraRecord
from mirage_jax.trajectories.composed import is_composed as is_composed
from mirage_jax.trajectories.composed import steps as steps
from mirage_jax.trajectories.composed import uses_scene_depth as uses_scene_depth
from mirage_jax.trajectories.composed import zoom_of_steps as zoom_of_steps
from mirage_jax.trajectories.composed import zooms as zooms
from mirage_jax.trajectories.held_keys import is_keys as is_keys
from mirage_jax.trajectories.held_keys import keys as keys
from mirage_jax.trajectories.named import ALIASES as ALIASES
from mirage_jax.trajectories.named import CLOSED_NAMES as CLOSED_NAMES
from mirage_jax.trajectories.named import NAMES as NAMES
from mirage_jax.trajectories.named import known_name as known_name
from mirage_jax.trajectories.named import make as make
from mirage_jax.trajectories.named import zoom as zoom
from mirage_jax.trajectories.presets import PRESETS as PRESETS


def __getattr__(name: str) -> Any:
    """Every named path as a function: `look_away(frames=49)` is `make("look_away", 49)`."""
    if name in NAMES:
        return functools.partial(make, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *NAMES])


def is_named(text: str) -> bool:
    """Whether a trajectory is a name, steps or keys rather than a file or folder of cameras."""
    if text in NAMES or text in ALIASES:
        return True
    return not Path(text).exists() and (is_composed(text) or not Path(text).suffix)


def zoom_of(
    trajectory: str,
    frames: int,
    *,
    angle: float | int = 90.0,
    distance: float | int = 1.0,
    scene_depth: float | None = None,
) -> Float[np.ndarray, " t"] | None:
    """Focal length of every frame of a named path or of steps, as a multiple of the first.

    Args:
      trajectory: a name, steps, keys, or a file, which says itself how its lens changes.
      frames, angle, distance, scene_depth: of `make` and `steps`.
    Returns:
      None where the lens does not change.
    Raises:
      ValueError: without the depth of the scene, whose size is kept, or as of `zoom`.
    """
    if not is_named(trajectory) or not zooms(trajectory):
        return None
    if scene_depth is None:
        raise ValueError(
            f"trajectory {trajectory!r}: the scene's depth is not known, which the lens zooms by"
        )
    if is_composed(trajectory):
        options = {"angle": angle, "distance": distance, "scene_depth": scene_depth}
        return zoom_of_steps(trajectory, frames, **options)
    return zoom(trajectory, frames, distance=distance, depth=scene_depth)


def load(path: str | Path, frames: int | None = None) -> Float[np.ndarray, "t 4 4"]:
    """Reads cam2world poses from a camera file of any format of `camera_files.FORMATS`.

    Matrices that say neither their direction nor their axes are taken for cam2world with OpenCV
    axes, as `save` writes them.

    Args:
      path: the file or folder.
      frames: the number of poses the caller needs.
    Returns:
      Poses `[T, 4, 4]`, float64, as in the file (not moved to start at the identity).
    Raises:
      ValueError: naming the file, for an unknown format, unreadable contents, a number of poses
        other than `frames`, or poses that are not rigid, right-handed and finite.
      FileNotFoundError: if there is no such file.
    """
    poses = load_cameras(path).cam2world
    if frames is not None and len(poses) != frames:
        raise ValueError(f"{path}: found {len(poses)} poses, expected {frames}, one per frame")
    return poses


def load_cameras(path: str | Path) -> CameraRecord:
    """All that a camera file says, with intrinsics and times where it has them; as `load`."""
    return camera_files.read(path, bare=("c2w", "opencv"))


def save(path: str | Path, poses: Float[np.ndarray, "t 4 4"]) -> None:
    """Writes cam2world poses in the format of the suffix: TUM for .txt, matrices for others.

    TUM files get the frame number as their time and keep rotations to about 1e-15.

    Raises:
      ValueError: for an unknown suffix or poses that are not rigid, right-handed and finite.
    """
    camera_files.write(path, CameraRecord(geometry.check_cam2world(poses, "poses")))
