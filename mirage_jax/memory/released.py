"""From pixels to cells the way Mirage's released code goes, for weights that were trained with it.

There the token of cell (row i, column j) stands for image coordinate (j, i), the cell's upper left
corner, and a point is read into the cell of the nearest corner: half a cell off from where the
picture was taken (see `geometry`), but the same in both directions. Depth is blended between
neighbouring pixels and a mask is sampled at one pixel per cell. The read-out that belongs to it is
`readout.read(..., cells="corner")`.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num

from mirage_jax import geometry


def corner_camera(camera: geometry.Camera, grid: tuple[int, int]) -> geometry.Camera:
    """The camera whose cell centres see what the corners of the cells of `camera` see.

    Written with it, a token is lifted through the corner of its cell.
    """
    half_cell = np.array([0.0, 0.0, camera.size[1] / grid[1] / 2, camera.size[0] / grid[0] / 2])
    intrinsics = jnp.asarray(camera.intrinsics, jnp.float32)
    half_cell = half_cell.astype(np.float32).reshape(*(1,) * (intrinsics.ndim - 1), 4)
    return camera.replace(intrinsics=intrinsics + half_cell)  # type: ignore[attr-defined]


def bilinear_depth(
    depth: Float[Array | np.ndarray, "*b H W"], grid: tuple[int, int]
) -> Float[Array, "*b h w"]:
    """Depth at the centres of cells, blended between the four pixels around each (not antialiased).

    Unknown pixels (0) are blended like others, and one that is not finite makes the cells it is
    blended into not finite. A map of any size will do.
    """
    depth = jnp.asarray(depth, jnp.float32)
    for axis, cells in ((-2, grid[0]), (-1, grid[1])):
        pixels = depth.shape[axis]
        at = np.maximum((np.arange(cells) + 0.5) * (pixels / cells) - 0.5, 0.0)
        low = np.minimum(at.astype(int), pixels - 1)
        high = np.minimum(low + 1, pixels - 1)
        share = jnp.asarray((at - low).astype(np.float32))
        share = share.reshape([-1 if i == axis else 1 for i in range(-depth.ndim, 0)])
        before, after = (jnp.take(depth, index, axis=axis) for index in (low, high))
        depth = jnp.where(share > 0, before * (1.0 - share) + after * share, before)
    return depth


def nearest_mask(
    mask: Num[Array | np.ndarray, "*b H W"] | Bool[Array | np.ndarray, "*b H W"],
    grid: tuple[int, int],
) -> Num[Array, "*b h w"] | Bool[Array, "*b h w"]:
    """A mask at one pixel of every cell, the one at floor(cell * pixels / cells)."""
    mask = jnp.asarray(mask)
    for axis, cells in ((-2, grid[0]), (-1, grid[1])):
        index = (np.arange(cells) * (mask.shape[axis] / cells)).astype(int)
        mask = jnp.take(mask, index, axis=axis)
    return mask
