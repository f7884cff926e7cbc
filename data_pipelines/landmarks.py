"""Points of a clip whose depth follows from its poses, to bring estimated depth to their scale.

Points that two frames share (`matches`) lie where the rays through them come nearest to each other.
What a network estimates of the same pixels is in metres, the poses may be in any unit: the median
ratio of the two is the unit. It tells nothing where the camera has only turned.
"""

from __future__ import annotations

import enum
import functools

import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines import matches
from mirage_jax.io.framing import Framing

MOST_LANDMARKS = 256
"""Landmarks of a clip."""

_ROWS = 240  # of the pictures that are compared
_KEYS = 6  # keyframes that are looked at
_GAPS = (1, 2, 3, 4, 6, -1, -2, -3)  # frames from there to those that they are compared with
_NEAR = 1.5  # pixels from where the poses allow a point, at most
_MOVED = 1.0  # pixels that a point moves by its distance alone between two frames, at least
_PARALLAX = 4.0  # and in all frames that it is seen in, root of the sum of squares
_AGREE = 0.3  # of the logarithm of the depth that each of these frames gives it, at most
_EDGE = 1.6  # of the depth around a landmark: most over least, beyond which it is an edge
_FEWEST = 16
_SPREAD = 0.5  # of the logarithm of the ratios, half of the middle half, at most
_ERROR = 0.02  # of the scale, as its spread and the number of landmarks tell, at most


def landmarks(
    video: UInt8[np.ndarray, "f h w 3"],
    intrinsics: Float[np.ndarray, "4"],
    cam2world: Float[np.ndarray, "f 4 4"],
    stride: int = 1,
) -> Float[np.ndarray, "most 4"]:
    """Landmarks in every `stride`-th frame of a clip, the keyframes, found with any other.

    Returns:
      Rows of (keyframe, column, row, z-depth): pixels, and depth in the unit of the poses. Rows
      beyond those that were found are zeros; of more than `MOST_LANDMARKS` those that move most
      are kept.
    """
    height, width = video.shape[1:3]
    lens, framing = np.asarray(intrinsics, np.float64), None
    if height > _ROWS:
        framing = Framing((height, width), (_ROWS, round(width * _ROWS / height)))
        lens = framing.intrinsics(lens[None])[0]
    poses = np.asarray(cam2world, np.float64)

    @functools.cache
    def points_in(frame: int) -> tuple[np.ndarray, np.ndarray]:
        picture = video[frame] if framing is None else framing.picture(video[frame])
        return matches.features(picture)

    rows = [np.zeros((0, 5))]
    for key in np.unique(np.linspace(0, (len(video) - 1) // stride, _KEYS).astype(int)):
        first = int(key) * stride
        seconds = [first + gap for gap in _GAPS if 0 <= first + gap < len(video)]
        observations = [
            _observations(
                matches.match_features(points_in(first), points_in(n)), lens, poses[[first, n]]
            )
            for n in seconds
        ]
        points, z, moved = _agreed(np.concatenate([np.zeros((0, 5)), *observations]))
        rows.append(np.column_stack([np.full(len(z), key), points, z, moved]))
    every = np.concatenate(rows)
    if framing is not None:
        every[:, 1:3] *= [width / framing.size[1], height / framing.size[0]]
    best = every[np.argsort(-every[:, 4], kind="stable")[:MOST_LANDMARKS], :4]
    found = np.zeros((MOST_LANDMARKS, 4), np.float32)
    found[: len(best)] = best
    return found


def _observations(
    matched: tuple[np.ndarray, np.ndarray], lens: np.ndarray, poses: np.ndarray
) -> Float[np.ndarray, "n 5"]:
    """Rows of (column, row) in the first picture, a and b of the best z-depth a / b, and by how
    many pixels it moves the point."""
    first, second = matched
    lenses = np.stack([lens, lens])
    near = matches.epipolar_distance((first, second), lenses, poses) < _NEAR
    first, second = first[near], second[near]
    fx, fy, cx, cy = lens
    far = matches.turned(first, lenses, poses)
    move = (poses[0, :3, 3] - poses[1, :3, 3]) @ poses[1, :3, :3]
    seen = (second - [cx, cy]) / [fx, fy]
    # z far + move is seen there: two equations for z, least squares in pixels.
    ways = (far[:, :2] - seen * far[:, 2:]) * [fx, fy]
    sides = (seen * move[2] - move[:2]) * [fx, fy]
    a, b = (ways * sides).sum(1), (ways**2).sum(1)
    at = far[:, :2] / np.maximum(far[:, 2:], 1e-6)
    moved = np.linalg.norm((seen - at) * [fx, fy], axis=1)
    good = (a > 0) & (moved > _MOVED) & (far[:, 2] > 1e-6)
    return np.column_stack([first, a, b, moved])[good]


def _agreed(
    observations: Float[np.ndarray, "n 5"],
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Points that several frames show where the same depth puts them; the depth; how they move."""
    points, which = np.unique(observations[:, :2], axis=0, return_inverse=True)
    which = which.ravel()
    count = np.bincount(which, minlength=len(points))
    a, b, moved = (
        np.bincount(which, n, len(points))
        for n in (*observations[:, 2:4].T, observations[:, 4] ** 2)
    )
    z = a / np.maximum(b, 1e-12)
    apart = np.abs(np.log(observations[:, 2] / observations[:, 3] / np.maximum(z[which], 1e-12)))
    worst = np.zeros(len(points))
    np.maximum.at(worst, which, apart)
    moved = np.sqrt(moved)
    good = (count >= 2) & (worst < _AGREE) & (moved > _PARALLAX)
    return points[good], z[good], moved[good]


class Unscaled(enum.Enum):
    """Why landmarks do not tell the unit of the poses."""

    TOO_FEW = "too few landmarks"
    DISCORDANT = "landmarks that do not agree"


def scale_of(
    depth: Float[np.ndarray, "k h w"], found: Float[np.ndarray, "most 4"]
) -> float | Unscaled:
    """What `depth` is to be multiplied by to be in the unit of the landmarks' depth, or why not."""
    rows = found[found[:, 3] > 0]
    key, column, row = rows[:, :3].astype(int).T
    beside = np.arange(-1, 2)
    down = np.clip(row[:, None, None] + beside[:, None], 0, depth.shape[1] - 1)
    across = np.clip(column[:, None, None] + beside, 0, depth.shape[2] - 1)
    around = depth[key[:, None, None], down, across].reshape(len(rows), 9)
    there, least, most = np.median(around, 1), around.min(1), around.max(1)
    # Corners at the edge of a surface are of what is in front, the pixel may be of what is behind.
    good = (least > 0) & np.isfinite(most) & (most < _EDGE * least)
    if good.sum() < _FEWEST:
        return Unscaled.TOO_FEW
    ratios = np.log(rows[good, 3].astype(np.float64) / there[good])
    low, middle, high = np.percentile(ratios, [25, 50, 75])
    spread = (high - low) / 2
    if spread > _SPREAD or 1.86 * spread / np.sqrt(good.sum()) > _ERROR:
        return Unscaled.DISCORDANT
    return float(np.exp(middle))
