"""Where someone who walks is after a chunk: what is held, how fast, and what is in the way."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float
from scipy.spatial.transform import Rotation

from mirage_jax.geometry import check_cam2world
from mirage_jax.memory import LatentMemory
from mirage_jax.origin import UPS
from mirage_jax.settings import Settings, setting

KEYS = {
    "w": ("forward", 1),
    "s": ("forward", -1),
    "d": ("right", 1),
    "a": ("right", -1),
    "e": ("up", 1),
    "q": ("up", -1),
    "right": ("yaw", 1),
    "left": ("yaw", -1),
    "up": ("pitch", 1),
    "down": ("pitch", -1),
}
"""What each key holds, and which way."""


@dataclasses.dataclass(frozen=True)
class Controls(Settings):
    """What is held during one chunk; opposite keys cancel."""

    forward: float | int = setting(0.0, "Ahead, in the plane of the floor.", least=-1, most=1)
    right: float | int = setting(0.0, "To the right, in the plane of the floor.", least=-1, most=1)
    up: float | int = setting(0.0, "Away from the floor.", least=-1, most=1)
    yaw: float | int = setting(0.0, "Turning to the right.", least=-1, most=1)
    pitch: float | int = setting(0.0, "Looking up.", least=-1, most=1)

    @classmethod
    def of_keys(cls, keys: Iterable[str]) -> Controls:
        """Of keys that are held, w a s d q e left right up down; each counts once.

        A text is one key, or several of one letter: "left", "wd".

        Raises:
          ValueError: naming the key there is none of.
        """
        if isinstance(keys, str) and keys.lower() in KEYS:
            keys = (keys,)
        held: dict[str, float] = {}
        for key in sorted({key.lower() for key in keys}):
            if key not in KEYS:
                raise ValueError(f"keys: found {key!r}, expected some of {', '.join(KEYS)}")
            field, sign = KEYS[key]
            held[field] = held.get(field, 0.0) + sign
        return cls(**held)


@dataclasses.dataclass(frozen=True)
class WalkerOptions(Settings):
    """How someone walks."""

    speed: float = setting(1.5, "Metres per second.", above=0)
    turn: float = setting(60.0, "Degrees per second.", above=0)
    fps: float = setting(16.0, "Frames per second of what is generated.", above=0)
    max_pitch: float = setting(60.0, "Degrees that one can look up or down.", least=0, below=90)
    walls: bool = setting(True, "Stop where the memory holds something in the way.")
    radius: float = setting(0.2, "Of the body, in metres.", above=0)
    up: str = setting(
        "auto",
        "Direction away from the floor; auto is the axis nearest to the first camera's.",
        choices=("auto", *UPS),
    )


class Moved(NamedTuple):
    """Where a walker gets in a chunk.

    Attributes:
      poses: float64 [f, 4, 4], cam2world after each frame.
      blocked: whether something was in the way.
    """

    poses: Float[np.ndarray, "f 4 4"]
    blocked: bool


def upwards(pose: Float[np.ndarray, "4 4"], name: str = "auto") -> Float[np.ndarray, "3"]:
    """The direction away from the floor by its name in `WalkerOptions.up`; "auto" looks at the
    pose."""
    if name == "auto":
        name = max(UPS, key=lambda axis: -float(pose[:3, 1] @ UPS[axis]))
    return UPS[name]


def walk(
    pose: Float[np.ndarray, "4 4"],
    controls: Controls,
    frames: int,
    options: WalkerOptions,
    up: Float[np.ndarray, "3"],
) -> Float[np.ndarray, "f 4 4"]:
    """Poses after each of so many frames at constant speed, with nothing in the way.

    Turning is about `up`, looking up or down about the camera's own x axis; walking is in the plane
    of the floor wherever one looks, and diagonally as fast as straight on.

    Args:
      pose: cam2world of the frame before.
      controls: what is held.
      frames: how many.
      options: speeds.
      up: unit vector away from the floor.
    """
    local = np.array([controls.right, controls.up, controls.forward])
    local *= options.speed / options.fps / max(1.0, float(np.linalg.norm(local)))
    turn = math.radians(options.turn / options.fps)
    poses = []
    for _ in range(frames):
        pose = pose.copy()
        # Turning right is from z to x: against the direction that a screw drives up.
        pose[:3, :3] = Rotation.from_rotvec(-turn * controls.yaw * up).as_matrix() @ pose[:3, :3]
        tilt = _clamped(pose, turn * controls.pitch, math.radians(options.max_pitch), up)
        pose[:3, :3] = pose[:3, :3] @ Rotation.from_rotvec([tilt, 0.0, 0.0]).as_matrix()
        ahead = _ahead(pose, up)
        pose[:3, 3] += local @ np.stack([np.cross(ahead, up), up, ahead])
        poses.append(pose)
    return np.stack(poses)


def _clamped(pose: np.ndarray, tilt: float, most: float, up: np.ndarray) -> float:
    """The part of a tilt that does not lead beyond `most`; leading back always may."""
    pitch = math.asin(float(np.clip(pose[:3, 2] @ up, -1.0, 1.0)))
    low, high = min(-most, pitch), max(most, pitch)
    return min(max(pitch + tilt, low), high) - pitch


def _ahead(pose: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Where one looks, as a unit vector in the plane of the floor."""
    # Who looks at their feet walks where the top of the picture is, who looks at the sky away.
    forward = pose[:3, 2] - up * (pose[:3, 2] @ up)
    if np.linalg.norm(forward) < 1e-6:
        forward = -pose[:3, 1] * np.sign(-(pose[:3, 2] @ up))
        forward = forward - up * (forward @ up)
    return forward / np.linalg.norm(forward)


# -- what is in the way ----------------------------------------------------------------------------

SLIDES = (0, 20, -20, 40, -40, 60, -60, 80, -80)
"""Degrees about the vertical by which a step may be turned aside, the straight one first."""


@functools.partial(jax.jit, static_argnames="radius")
def free_distance(
    bank: LatentMemory,
    start: Float[Array, "3"] | Float[np.ndarray, "3"],
    directions: Float[Array, "d 3"] | Float[np.ndarray, "d 3"],
    radius: float,
) -> Float[Array, " d"]:
    """How far a ball can go before it touches an element that lies ahead; inf where none does.

    Elements are taken as balls of half their size, `radius` at most, as those of far views stand
    for more than lies there.

    Args:
      bank: the memory.
      start: the ball's centre, metres.
      directions: unit vectors.
      radius: of the ball.
    """
    offset = bank.xyz - jnp.asarray(start, jnp.float32)
    square = jnp.sum(offset * offset, axis=-1)
    along = jnp.sum(offset[None] * jnp.asarray(directions, jnp.float32)[:, None], axis=-1)
    across = jnp.maximum(square - along * along, 0.0)
    reach = radius + jnp.minimum(0.5 * bank.size, radius)
    # What is touched already may be walked along, not into.
    towards = along > jnp.where(square < reach * reach, 0.5 * jnp.sqrt(square), 0.0)
    near = bank.valid & towards & (across < reach * reach)
    ahead = jnp.where(near, along - jnp.sqrt(jnp.maximum(reach * reach - across, 0.0)), jnp.inf)
    return jnp.maximum(jnp.min(ahead, axis=-1), 0.0)


def ways(
    start: Float[np.ndarray, "3"], poses: Float[np.ndarray, "f 4 4"], up: Float[np.ndarray, "3"]
) -> tuple[Float[np.ndarray, "d 3"], float]:
    """Unit vectors of a step straight on and turned aside by `SLIDES`, and its length in metres."""
    step = poses[-1, :3, 3] - start
    length = float(np.linalg.norm(step))
    aside = Rotation.from_rotvec(np.radians(np.array(SLIDES))[:, None] * up).as_matrix()
    return aside @ (step / length if length > 0 else np.zeros(3)), length


def stopped(
    start: Float[np.ndarray, "3"],
    poses: Float[np.ndarray, "f 4 4"],
    directions: Float[np.ndarray, "d 3"],
    free: Float[np.ndarray, " d"],
) -> Moved:
    """Poses that stop at what is in the way, or slide along it; they turn as before.

    Args:
      start: position before the first of them.
      poses: as `walk` gives them.
      directions: as `ways` gives them.
      free: how far one can go in each, metres.
    """
    travelled = np.linalg.norm(poses[:, :3, 3] - start, axis=1)
    length = float(np.linalg.norm(poses[-1, :3, 3] - start))
    if length == 0 or free[0] >= length:
        return Moved(poses, False)
    # Of a step turned aside what counts is how far it leads the way that was meant.
    shares = np.cos(np.radians(np.array(SLIDES)))
    reach = np.minimum(np.asarray(free, np.float64), length * shares)
    best = int(np.argmax(reach * shares))
    poses = poses.copy()
    part = reach[best] * np.minimum(travelled / length, 1.0)
    poses[:, :3, 3] = start + directions[best] * part[:, None]
    return Moved(poses, True)


def walk_in(
    bank: LatentMemory,
    pose: Float[np.ndarray, "4 4"],
    controls: Controls,
    frames: int,
    options: WalkerOptions,
    up: Float[np.ndarray, "3"],
) -> Moved:
    """`walk`, stopped by what a memory holds if `options.walls`; poses in its coordinates."""
    poses = walk(pose, controls, frames, options, up)
    directions, length = ways(pose[:3, 3], poses, up)
    if not options.walls or length == 0:
        return Moved(poses, False)
    start, towards = pose[:3, 3].astype(np.float32), directions.astype(np.float32)
    free = np.asarray(free_distance(bank, start, towards, options.radius))
    return stopped(pose[:3, 3], poses, directions, free)


def along(poses: Float[np.ndarray, "f 4 4"], frames: int) -> Moved:
    """`walk_in` where the poses are given; nothing is in the way.

    Raises:
      ValueError: if they are not as many, or no poses.
    """
    poses = check_cam2world(poses, "session: poses")
    if poses.shape != (frames, 4, 4):
        raise ValueError(f"session: poses: found shape {poses.shape}, expected {(frames, 4, 4)}")
    return Moved(poses, False)


def unit_directions() -> Any:
    """Directions of the shape that `stopped` asks about, to compile `free_distance` for."""
    return np.tile(np.array([0, 0, 1], np.float32), (len(SLIDES), 1))
