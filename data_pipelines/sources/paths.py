"""Camera paths that leave a place and come back to it, for any world with a floor to stand on.

The first half of a path turns away, and in half of the paths walks off as well; the second half
returns: either exactly to the first view ("easy", which copying an old frame can solve) or to a
view of the same place that no earlier frame had ("parallax", which needs the geometry).
"""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float

EASY = "easy"
PARALLAX = "parallax"
KINDS = (EASY, PARALLAX)

TURN_AWAY = (75.0, 120.0)  # degrees
WALK_OFF = (0.3, 2.5)  # metres
RETURN_SHIFT = (0.6, 1.5)  # metres
RETURN_TURN = (15.0, 35.0)  # degrees
FOCUS = (2.0, 4.0)  # metres ahead of the first view: what a shifted return looks at
REVISIT_FRAMES = 4  # the last frames, those that revisit
ATTEMPTS = 24
LEAST_FRAMES = 2 * (REVISIT_FRAMES + 1)
CHECK_SPACING = 0.2  # metres between the points of a path that must be free

IsFree = Callable[[Float[np.ndarray, "n 2"]], Bool[np.ndarray, " n"]]


@dataclass(frozen=True)
class Path:
    """Positions (x, y) in metres and yaws in radians, counter-clockwise from +x, per frame."""

    positions: Float[np.ndarray, "t 2"]
    yaws: Float[np.ndarray, " t"]
    kind: str


def sample_path(
    rng: np.random.Generator,
    frames: int,
    start: Float[np.ndarray, "2"],
    yaw: float,
    is_free: IsFree,
    kind: str,
) -> Path | None:
    """Draw a path of `frames` poses from a start pose, or None where the place has no room for one.

    `is_free` tells for points (x, y) in metres whether a camera may be there. The middle frame,
    `frames // 2`, is the furthest from the start. ValueError: unknown kind, or fewer than
    LEAST_FRAMES frames.
    """
    if kind not in KINDS:
        raise ValueError(f"path kind {kind!r}, expected one of {KINDS}")
    if frames < LEAST_FRAMES:
        raise ValueError(f"paths of {frames} frames, expected >= {LEAST_FRAMES}")
    first = np.array([*start, yaw], float)
    for _ in range(ATTEMPTS):
        turn = rng.choice([-1.0, 1.0]) * np.deg2rad(rng.uniform(*TURN_AWAY))
        away = first + np.array([*_walk_off(rng, yaw), turn])
        last = first if kind == EASY else _another_view(rng, first, turn)
        poses = _there_and_back(rng, frames, first, away, last)
        if kind == PARALLAX and not is_new_view(poses, frames // 2):
            continue
        if _all_free(np.stack([first, away, last])[:, :2], is_free):
            return Path(poses[:, :2], poses[:, 2], kind)
    return None


def open_yaw(
    rng: np.random.Generator, start: Float[np.ndarray, "2"], is_free: IsFree, tries: int
) -> float:
    """Of a few drawn directions the one with the longest free way ahead, up to 8 metres."""
    yaws = rng.uniform(-np.pi, np.pi, tries)
    ways = np.linspace(0.0, 8.0, 33)[:, None, None] * np.stack([np.cos(yaws), np.sin(yaws)], 1)
    free = is_free((start + ways).reshape(-1, 2)).reshape(33, tries)
    return float(yaws[np.cumprod(free, axis=0).sum(0).argmax()])


def is_new_view(poses: Float[np.ndarray, "t 3"], middle: int) -> bool:
    """Whether each revisit frame is off every frame up to `middle` by .6 m or 15 degrees.

    poses: x, y in metres and yaw in radians per frame.
    """
    late, early = poses[-REVISIT_FRAMES:, None], poses[None, : middle + 1]
    shift = np.linalg.norm(late[..., :2] - early[..., :2], axis=-1)
    turn = np.abs((late[..., 2] - early[..., 2] + np.pi) % (2 * np.pi) - np.pi)
    return bool(((shift >= RETURN_SHIFT[0]) | (turn >= np.deg2rad(RETURN_TURN[0]))).all())


def _walk_off(rng: np.random.Generator, yaw: float) -> np.ndarray:
    """Displacement of the middle frame: none in half of the paths."""
    if rng.random() < 0.5:
        return np.zeros(2)
    return _direction(yaw + rng.uniform(-2.0, 2.0)) * rng.uniform(*WALK_OFF)


def _another_view(rng: np.random.Generator, first: np.ndarray, turn: float) -> np.ndarray:
    """A pose near the first one that looks at the same place."""
    position, yaw = first[:2], first[2]
    # The first half sweeps towards `turn`: views on the other side of the first one are new.
    extra = -np.sign(turn) * np.deg2rad(rng.uniform(*RETURN_TURN))
    choice = rng.choice(["turn", "shift", "both"])
    if choice == "turn":
        return np.array([*position, yaw + extra])
    shifted = position + _direction(rng.uniform(-np.pi, np.pi)) * rng.uniform(*RETURN_SHIFT)
    focus = position + _direction(yaw) * rng.uniform(*FOCUS)
    towards = np.arctan2(*(focus - shifted)[::-1])
    # The representative next to the first yaw, so that the camera does not spin round.
    towards = yaw + (towards - yaw + np.pi) % (2 * np.pi) - np.pi
    return np.array([*shifted, towards + (extra if choice == "both" else 0.0)])


def _direction(yaw: float) -> np.ndarray:
    return np.array([np.cos(yaw), np.sin(yaw)])


def _there_and_back(
    rng: np.random.Generator, frames: int, first: np.ndarray, away: np.ndarray, last: np.ndarray
) -> np.ndarray:
    middle = frames // 2
    poses = np.empty((frames, 3))
    for part in (slice(0, 2), slice(2, 3)):  # walking and turning keep their own pace
        out = _eased(rng, middle + 1)[:, None]
        back = _eased(rng, frames - middle)[:, None]
        poses[: middle + 1, part] = first[part] + out * (away - first)[part]
        poses[middle:, part] = away[part] + back * (last - away)[part]
    poses[-1] = last
    return poses


def _eased(rng: np.random.Generator, count: int) -> Float[np.ndarray, " count"]:
    """Progress 0..1 that starts and ends at rest, at an uneven pace in between."""
    pace = 1.0 + 0.3 * np.convolve(rng.standard_normal(count + 1), [0.25, 0.5, 0.25], "valid")
    time = np.concatenate([[0.0], np.cumsum(np.maximum(pace, 0.2))])
    time /= time[-1]
    return time**2 * (3.0 - 2.0 * time)


def _all_free(corners: np.ndarray, is_free: IsFree) -> bool:
    """Whether the straight lines between successive corners stay free."""
    points = [corners[:1]]
    for begin, end in itertools.pairwise(corners):
        count = int(np.ceil(np.linalg.norm(end - begin) / CHECK_SPACING)) + 1
        points.append(begin + (end - begin) * np.linspace(0.0, 1.0, count)[:, None])
    return bool(is_free(np.concatenate(points)).all())


def level_cam2world(
    positions: Float[np.ndarray, "t 3"], yaws: Float[np.ndarray, " t"], pitch: float = 0.0
) -> Float[np.ndarray, "t 4 4"]:
    """OpenCV cam2world poses, without roll, in a world with z up.

    positions: camera centres, metres. yaws: radians counter-clockwise from +x. pitch: radians,
    positive looks up.
    """
    cos, sin = np.cos(yaws), np.sin(yaws)
    zero = np.zeros_like(cos)
    right = np.stack([sin, -cos, zero], -1)
    ahead = np.stack([cos * np.cos(pitch), sin * np.cos(pitch), zero + np.sin(pitch)], -1)
    poses = np.tile(np.eye(4), (len(positions), 1, 1))
    poses[:, :3, :3] = np.stack([right, np.cross(ahead, right), ahead], -1)
    poses[:, :3, 3] = positions
    return poses
