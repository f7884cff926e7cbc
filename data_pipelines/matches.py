"""Points that two pictures share, and whether the cameras explain where they are: no depth needed.

Corners (Harris and Stephens 1988) are matched by normalised correlation of the patches around them,
each the other's best. Of a point at any distance in front of the first camera the second sees a
half-line, from where it would be infinitely far (moved by the rotation alone) towards the epipole.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

_CORNERS = 200
_PATCH = 4  # pixels on each side of a corner
_SPREAD = 5  # pixels, within which the strongest corner alone is kept
_ALIKE = 0.8  # least correlation of matching patches
_SECOND = 0.9  # most that the second best may have of the best


def grey(picture: UInt8[np.ndarray, "h w 3"]) -> Float[np.ndarray, "h w"]:
    """Luma of Rec. 601."""
    return picture.astype(np.float64) @ np.array([0.299, 0.587, 0.114])


def corners(picture: Float[np.ndarray, "h w"]) -> Float[np.ndarray, "n 2"]:
    """Corners as (column, row), pixel centres at +0.5, the strongest first."""
    smooth = ndimage.gaussian_filter(picture, 1.0)
    dy, dx = np.gradient(smooth)
    xx, yy, xy = (ndimage.gaussian_filter(p, 1.5) for p in (dx * dx, dy * dy, dx * dy))
    strength = xx * yy - xy**2 - 0.05 * (xx + yy) ** 2
    peak = (strength == ndimage.maximum_filter(strength, _SPREAD)) & (strength > 1.0)
    margin = _PATCH + 1
    peak[:margin] = peak[-margin:] = peak[:, :margin] = peak[:, -margin:] = False
    rows, columns = np.nonzero(peak)
    best = np.argsort(-strength[rows, columns], kind="stable")[:_CORNERS]
    rows, columns = rows[best], columns[best]
    return np.stack(
        [
            columns + 0.5 + _vertex(strength, rows, columns, 0, 1),
            rows + 0.5 + _vertex(strength, rows, columns, 1, 0),
        ],
        axis=-1,
    )


def _vertex(
    values: np.ndarray, rows: np.ndarray, columns: np.ndarray, y: int, x: int
) -> np.ndarray:
    """How far beside a pixel a parabola through it and its two neighbours is highest."""
    before, here, after = (values[rows + k * y, columns + k * x] for k in (-1, 0, 1))
    bend = before - 2 * here + after
    beside = 0.5 * (before - after) / np.minimum(bend, -1e-12)
    return np.where(bend < 0, np.clip(beside, -0.5, 0.5), 0)


def match(
    first: UInt8[np.ndarray, "h w 3"], second: UInt8[np.ndarray, "h w 3"]
) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n 2"]]:
    """Corners of two pictures that look alike, as (column, row) in each."""
    return match_features(*(features(picture) for picture in (first, second)))


def features(
    picture: UInt8[np.ndarray, "h w 3"],
) -> tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n p"]]:
    """Corners of a picture and the patches around them, for `match_features`."""
    luma = grey(picture)
    points = corners(luma)
    return points, _patches(luma, points)


def match_features(
    first: tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n p"]],
    second: tuple[Float[np.ndarray, "m 2"], Float[np.ndarray, "m p"]],
) -> tuple[Float[np.ndarray, "k 2"], Float[np.ndarray, "k 2"]]:
    """`match` of what was found in two pictures."""
    points, patches = zip(first, second, strict=True)
    if min(map(len, points)) < 2:
        return points[0][:0], points[1][:0]
    alike = patches[0] @ patches[1].T
    ahead, back = alike.argmax(1), alike.argmax(0)
    rows = np.arange(len(alike))
    best = alike[rows, ahead]
    second_best = np.partition(alike, -2, axis=1)[:, -2]
    kept = (back[ahead] == rows) & (best > _ALIKE) & (second_best < _SECOND * best)
    return points[0][kept], points[1][ahead[kept]]


def _patches(picture: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Patches around points, of mean 0 and length 1."""
    offsets = np.arange(-_PATCH, _PATCH + 1)
    rows = points[:, 1, None, None] - 0.5 + offsets[:, None]
    columns = points[:, 0, None, None] - 0.5 + offsets[None]
    places = np.broadcast_arrays(rows, columns)
    patches = ndimage.map_coordinates(picture, places, order=1, mode="nearest")
    flat = patches.reshape(len(points), (2 * _PATCH + 1) ** 2)
    flat = flat - flat.mean(1, keepdims=True)
    return flat / np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)


def turned(
    points: Float[np.ndarray, "n 2"],
    intrinsics: Float[np.ndarray, "2 4"],
    cam2world: Float[np.ndarray, "2 4 4"],
) -> Float[np.ndarray, "n 3"]:
    """Where the second camera would see points of the first that are infinitely far.

    Args:
      points: pixels of the first picture.
      intrinsics: fx, fy, cx, cy of both.
      cam2world: poses of both.

    Returns:
      Directions in the second camera, not normalised.
    """
    fx, fy, cx, cy = np.asarray(intrinsics[0], np.float64)
    rays = np.stack([(points[:, 0] - cx) / fx, (points[:, 1] - cy) / fy, np.ones(len(points))], -1)
    return rays @ cam2world[0, :3, :3].T @ cam2world[1, :3, :3]


def epipolar_distance(
    points: tuple[Float[np.ndarray, "n 2"], Float[np.ndarray, "n 2"]],
    intrinsics: Float[np.ndarray, "2 4"],
    cam2world: Float[np.ndarray, "2 4 4"],
) -> Float[np.ndarray, " n"]:
    """Pixels from each point of the second picture to the half-line that the first allows it.

    Args:
      points: that match, in pixels of each picture.
      intrinsics: fx, fy, cx, cy of both.
      cam2world: poses of both, of any scale.

    Returns:
      inf for points that the second camera has behind it at every distance.
    """
    first, second = points
    rays = turned(first, intrinsics, cam2world)
    fx, fy, cx, cy = np.asarray(intrinsics[1], np.float64)
    move = (cam2world[0, :3, 3] - cam2world[1, :3, 3]) @ cam2world[1, :3, :3]
    ahead = rays[:, 2] > 1e-6
    at = rays[:, :2] / np.where(ahead, rays[:, 2], 1.0)[:, None]
    # d/ds of the projection of ray + s move, at s = 0: which way it goes as the point comes near.
    way = (move[:2] - at * move[2]) * [fx, fy]
    length = np.linalg.norm(way, axis=1, keepdims=True)
    way = np.divide(way, length, out=np.zeros_like(way), where=length > 1e-12)
    offset = second - (at * [fx, fy] + [cx, cy])
    along = np.maximum((offset * way).sum(1), 0)
    return np.where(ahead, np.linalg.norm(offset - along[:, None] * way, axis=1), np.inf)
