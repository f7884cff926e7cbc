"""Cutting and resizing pictures, depth and labels to one size, and the intrinsics with them.

Nothing here imports jax: recording and loading workers use it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Num, UInt8
from PIL import Image

from mirage_jax.io.depth_maps import resample


def centred_window(
    picture: tuple[int, int], size: tuple[int, int]
) -> tuple[int, int, tuple[int, int]]:
    """The largest window of the shape of `size` in the middle of a picture, all as (H, W).

    Returns:
      Top, left, and the window's own (H, W).
    """
    scale = min(picture[0] / size[0], picture[1] / size[1])
    height, width = (
        max(min(round(scale * side), whole), 1) for side, whole in zip(size, picture, strict=True)
    )
    return (picture[0] - height) // 2, (picture[1] - width) // 2, (height, width)


def nearest_shape(
    shapes: Sequence[tuple[int, int]], size: tuple[int, int] | None
) -> tuple[int, int]:
    """The shape, (H, W), that least of a picture is cut off for; of equal ones the first.

    A picture of no known size has the first.
    """
    if size is None:
        return shapes[0]
    ratios = np.log([height / width for height, width in shapes]) - np.log(size[0] / size[1])
    return shapes[int(np.argmin(np.abs(ratios).round(9)))]


@dataclasses.dataclass(frozen=True)
class Framing:
    """The middle of pictures of one size, cut to the shape of another size and resized to it.

    Attributes:
      source: (H, W) of the pictures that come.
      size: (H, W) of the pictures that are made.
    """

    source: tuple[int, int]
    size: tuple[int, int]

    def __post_init__(self) -> None:
        for name in ("source", "size"):
            if min(getattr(self, name)) < 1:
                raise ValueError(f"{name}: found {getattr(self, name)}, expected pixels above 0")

    def picture(self, picture: UInt8[np.ndarray, "H W 3"]) -> UInt8[np.ndarray, "h w 3"]:
        """A picture, by a triangle filter as wide as a new pixel; ValueError for another size."""
        self._check(picture)
        if self.source == self.size:
            return picture
        top, left, (height, width) = centred_window(self.source, self.size)
        box = (left, top, left + width, top + height)
        image = Image.fromarray(np.ascontiguousarray(picture))
        return np.asarray(image.resize(self.size[::-1], Image.Resampling.BILINEAR, box=box))

    def nearest(self, values: Num[np.ndarray, "H W"]) -> Num[np.ndarray, "h w"]:
        """Depth or labels, which are never blended; ValueError for another size."""
        self._check(values)
        top, left, (height, width) = centred_window(self.source, self.size)
        return resample(values[top : top + height, left : left + width], self.size)

    def intrinsics(self, intrinsics: Float[np.ndarray, "*b 4"]) -> Float[np.ndarray, "*b 4"]:
        """`fx, fy, cx, cy` of the new pictures, pixel centres at +0.5."""
        top, left, (height, width) = centred_window(self.source, self.size)
        x, y = self.size[1] / width, self.size[0] / height
        moved = np.asarray(intrinsics, np.float64) - [0, 0, left, top]
        return moved * [x, y, x, y]

    def _check(self, array: np.ndarray) -> None:
        if tuple(array.shape[:2]) != tuple(self.source):
            raise ValueError(
                f"found {array.shape[0]} x {array.shape[1]} pixels, expected "
                f"{self.source[0]} x {self.source[1]}"
            )
