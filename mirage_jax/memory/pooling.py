"""From pixels to cells: pooling of depth and of static masks without blending across edges.

A bilinear or mean resize of depth invents surfaces in mid-air wherever a cell straddles an edge;
the elements lifted there float in front of the background and win every later z-buffer. Here a cell
takes the depth of one of its own pixels.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Num

from mirage_jax.memory.collectives import ALONE, Collectives

# Pixels within this share of the cell's depth count as the same surface.
SAME_SURFACE = 0.1

_INFINITE = np.int32(0x7F800000)  # bit pattern of +inf: above every finite positive float
_ABSENT = np.int32(0x7FFFFFFF)


def cell_pixels(values: Num[Array, "*b H W"], grid: tuple[int, int]) -> Num[Array, "*b h w p"]:
    """Groups the pixels of every cell on the last axis.

    Raises:
      ValueError: if the picture size is not a multiple of the grid.
    """
    height, width = values.shape[-2:]
    h, w = grid
    if height % h or width % w:
        raise ValueError(
            f"a map of size {(height, width)} cannot be pooled to a grid of {grid} cells: expected "
            "height and width that are multiples of the grid's"
        )
    p, q = height // h, width // w
    lead = values.shape[:-2]
    # One axis at a time: more is refused where a mesh with explicit axes splits others.
    blocks = values.reshape(*lead, h, p, width).reshape(*lead, h, p, w, q)
    return jnp.swapaxes(blocks, -3, -2).reshape(*lead, h, w, p * q)


def pool_depth(
    depth: Num[Array | np.ndarray, "*b H W"], grid: tuple[int, int]
) -> tuple[Float[Array, "*b h w"], Float[Array, "*b h w"]]:
    """Depth of each cell: the lower median of its pixels, always a depth that occurs in the cell.

    Pixels of depth 0, below 0 or NaN are unknown and have no vote. Infinite ones (sky) vote as
    farther than everything, and a cell whose median they are is unknown: its token shows sky. At a
    tie between foreground and background the lower median takes the foreground. Depth already at
    the grid's resolution passes through.

    Args:
      depth: z-depth in metres; size a multiple of the grid's.
      grid: cells `(h, w)`.
    Returns:
      `(depth, share)`: depth in metres, 0 where unknown; the share of the cell's pixels that lie on
      the same surface (within 10 %), a measure of how pure the cell's token is.
    Raises:
      ValueError: if the size of `depth` is not a multiple of the grid.
    """
    pixels = cell_pixels(without_nan(depth), grid)
    known = pixels > 0
    # Positive floats order like their bit patterns, so the median is found bit by bit: 31 passes of
    # compare-and-count, several times cheaper than a sort on a CPU and as exact.
    keys = jnp.where(known, jax.lax.bitcast_convert_type(pixels, jnp.int32), _ABSENT)
    rank = (jnp.sum(known, axis=-1, dtype=jnp.int32) + 1) // 2
    median_key = keys[..., 0] if keys.shape[-1] == 1 else kth_smallest(keys, rank)
    usable = (rank > 0) & (median_key < _INFINITE)
    pooled = jax.lax.bitcast_convert_type(jnp.where(usable, median_key, 0), jnp.float32)
    near = jnp.abs(pixels - pooled[..., None]) <= SAME_SURFACE * pooled[..., None]
    share = jnp.mean((known & near).astype(jnp.float32), axis=-1)
    return pooled, jnp.where(usable, share, 0.0)


def without_nan(depth: Num[Array | np.ndarray, "*b H W"]) -> Float[Array, "*b H W"]:
    """Depth in float32, 0 where it is NaN or below 0.

    By numpy or by one operation of XLA, since under `jax_debug_nans` none of these may give NaN.
    """
    if isinstance(depth, np.ndarray):
        return jnp.asarray(np.where(depth > 0, depth, 0), jnp.float32)
    return jax.lax.select(depth > 0, depth, jnp.zeros_like(depth)).astype(jnp.float32)


def kth_smallest(
    keys: Int[Array, "*b p"], k: Int[Array, "*b"], shards: Collectives = ALONE
) -> Int[Array, "*b"]:
    """The k-th smallest (from 1) of non-negative integers along the last axis, of all shards."""

    def bit(i: Any, prefix: Array) -> Array:
        candidate = prefix | jnp.left_shift(jnp.int32(1), 30 - i)
        below = shards.total(jnp.sum(keys < candidate[..., None], axis=-1, dtype=jnp.int32))
        return jnp.where(below < k, candidate, prefix)

    return jax.lax.fori_loop(np.int32(0), np.int32(31), bit, jnp.zeros_like(k))


def pool_static(
    static: Num[Array | np.ndarray, "*b H W"] | Bool[Array | np.ndarray, "*b H W"],
    grid: tuple[int, int],
) -> Float[Array, "*b h w"]:
    """Share of each cell's pixels that are static, from a mask (or probability) that is 1 = static.

    Raises:
      ValueError: if the size of `static` is not a multiple of the grid.
    """
    return jnp.mean(cell_pixels(jnp.asarray(static, jnp.float32), grid), axis=-1)
