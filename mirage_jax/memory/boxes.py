"""Which runs of elements may lie in a view: bounding boxes, boxes of boxes, and frusta.

Host side, in numpy. The test is conservative: a box that is refused holds no element that
`memory.read` would show, a box that passes may hold none either.
"""

from __future__ import annotations

import math

import numpy as np
from jaxtyping import Bool, Float, Int

from mirage_jax.geometry import Camera

FAN = 32
"""Boxes of one level within a box of the next."""

_TOP = 512  # boxes of the highest level at most: to test them takes no longer than to walk on
Boxes = Float[np.ndarray, "n 6"]
"""Least coordinates and greatest, float64; NaN for a box that holds nothing."""


def frusta(camera: Camera, far: float | int, margin: float | int) -> Float[np.ndarray, "v p 4"]:
    """Planes `(normal, offset)` of each view, inside where `normal . x + offset >= 0`.

    Four sides, the plane of the lens and, unless `far` is infinite, the far plane.

    Args:
      camera: any leading dimensions; here they are made one.
      far: largest z-depth, metres.
      margin: pixels by which every side is moved outwards; what float32 makes of a projection is
        within a small part of one.
    """
    height, width = camera.size
    count = math.prod(camera.shape)
    lens = np.asarray(camera.intrinsics, np.float64).reshape(count, 4)
    pose = np.asarray(camera.cam2world, np.float64).reshape(count, 4, 4)
    planes = np.zeros((count, 6, 4))
    planes[:, 0, 0], planes[:, 0, 2] = lens[:, 0], lens[:, 2] + margin
    planes[:, 1, 0], planes[:, 1, 2] = -lens[:, 0], width + margin - lens[:, 2]
    planes[:, 2, 1], planes[:, 2, 2] = lens[:, 1], lens[:, 3] + margin
    planes[:, 3, 1], planes[:, 3, 2] = -lens[:, 1], height + margin - lens[:, 3]
    planes[:, 4, 2] = 1
    planes[:, 5, 2], planes[:, 5, 3] = -1, far * (1 + 1e-5)
    if not math.isfinite(far):
        planes = planes[:, :5]
    planes[..., :3] = planes[..., :3] @ pose[:, :3, :3].swapaxes(1, 2)
    planes[..., 3] -= (planes[..., :3] @ pose[:, :3, 3, None])[..., 0]
    return planes


def may_be_seen(boxes: Boxes, planes: Float[np.ndarray, "v p 4"]) -> Bool[np.ndarray, " n"]:
    """Whether no plane of at least one view has the whole box outside; no box of NaN has one."""
    # Of a box that corner counts which lies farthest inwards.
    normal = planes[..., :3]
    inwards = np.concatenate([np.minimum(normal, 0), np.maximum(normal, 0)], axis=-1)
    seen = np.zeros(len(boxes), bool)
    for view, offset in zip(inwards, planes[..., 3:], strict=True):
        left = np.flatnonzero(~seen)  # views overlap: after the first few are
        corners = boxes if len(left) == len(boxes) else boxes[left]
        seen[left] = (view @ corners.T >= -offset).all(axis=0)  # false for NaN
    return seen


def bounds(xyz: Float[np.ndarray, "n r 3"], valid: Bool[np.ndarray, "n r"]) -> Boxes:
    """Boxes of n runs of r elements, of those that are valid.

    Elements that are not finite fall into no view, so that they may be left out.
    """
    used = valid & np.isfinite(xyz).all(axis=-1)
    kept = np.where(used[..., None], xyz, np.float32(np.nan))
    return np.concatenate([np.fmin.reduce(kept, 1), np.fmax.reduce(kept, 1)], 1, dtype=np.float64)


class BoxTree:
    """Boxes in a fixed order, and above them boxes of `FAN` each, up to a level that is short.

    The order is that of the elements, so that what `find` gives is in the order of their slots.
    """

    def __init__(self) -> None:
        self._levels = [_Level()]

    def put(self, index: Int[np.ndarray, " n"], boxes: Boxes) -> None:
        """Sets the boxes of these numbers, ascending; those past the last are new."""
        for number, level in enumerate(self._levels):
            level.place(index, boxes)
            if number == len(self._levels) - 1:
                if level.used <= _TOP:
                    return
                index = np.arange(level.used)  # all that the new level is above, once
                self._levels.append(_Level())
            index = np.unique(index // FAN)
            boxes = level.hulls(index)

    def find(self, planes: Float[np.ndarray, "v p 4"]) -> Int[np.ndarray, " n"]:
        """Numbers of the boxes that may be seen, ascending."""
        index = np.arange(self._levels[-1].used)
        for number in reversed(range(len(self._levels))):
            index = index[may_be_seen(self._levels[number].boxes[index], planes)]
            if number:
                index = (index[:, None] * FAN + np.arange(FAN)).reshape(-1)
                index = index[index < self._levels[number - 1].used]
        return index


class _Level:
    """Boxes, NaN past the `used` ones; room for a multiple of `FAN`."""

    def __init__(self) -> None:
        self.boxes = np.zeros((0, 6))
        self.used = 0

    def place(self, index: Int[np.ndarray, " n"], boxes: Boxes) -> None:
        stop = int(index[-1]) + 1 if len(index) else 0
        if stop > len(self.boxes):
            room = -(-max(stop, 2 * len(self.boxes)) // FAN) * FAN
            more = np.full((room - len(self.boxes), 6), np.nan)
            self.boxes = np.concatenate([self.boxes, more])
        self.boxes[index] = boxes
        self.used = max(self.used, stop)

    def hulls(self, index: Int[np.ndarray, " n"]) -> Boxes:
        """What encloses the boxes of these blocks of `FAN`."""
        blocks = self.boxes.reshape(-1, FAN, 6)[index]
        low, high = np.fmin.reduce(blocks[..., :3], 1), np.fmax.reduce(blocks[..., 3:], 1)
        return np.concatenate([low, high], axis=1)
