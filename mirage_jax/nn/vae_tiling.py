"""Coding large pictures tile by tile: less memory, at the price of a blend where tiles overlap.

A tile sees zeros beyond its border instead of its neighbour, and attention within a frame stays
inside the tile, so results near a border differ from those of the whole picture. Tiles therefore
overlap and are averaged, with weights that ramp linearly towards every border inside the picture.
Tiles, ramps and weights are those of the released Wan pipelines, whose steps are at least half a
tile.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

Cells = tuple[int, int]


def encode_tiled(
    encode: Callable[[Float[Array, "b t height width 3"]], Float[Array, "b t2 h w c"]],
    video: Float[Array, "b t height width 3"],
    *,
    spatial_stride: int,
    tile: Cells,
    step: Cells,
) -> Float[Array, "b t2 h w c"]:
    """Latents of clips, encoded tile by tile in space.

    Arguments as of `decode_tiled`; ValueError also if the stride does not divide the pictures.
    """
    return _tiled(encode, video, spatial_stride, 1, tile, step)


def decode_tiled(
    decode: Callable[[Float[Array, "b t h w c"]], Float[Array, "b t2 height width 3"]],
    latents: Float[Array, "b t h w c"],
    *,
    spatial_stride: int,
    tile: Cells,
    step: Cells,
) -> Float[Array, "b t2 height width 3"]:
    """Frames of latents, decoded tile by tile in space.

    Args:
      decode: latents of a tile to its frames; called once per tile, with four different shapes at
        most.
      latents: of whole pictures.
      spatial_stride: pixels per latent cell along each axis.
      tile: rows and columns of latent cells in a tile; (30, 52) in the released pipelines.
      step: cells from one tile to the next, less than `tile` for an overlap; (15, 26) there.

    Raises:
      ValueError: if a step is not in 1..tile.
    """
    return _tiled(decode, latents, 1, spatial_stride, tile, step)


def tile_spans(cells: int, tile: int, step: int) -> list[tuple[int, int]]:
    """First and last + 1 cell of every tile along an axis; the last one ends with the picture.

    Raises:
      ValueError: if the step is not in 1..tile.
    """
    if not 1 <= step <= tile:
        raise ValueError(f"step: found {step}, expected 1 to {tile}, the size of a tile")
    starts = range(0, max(cells - tile + step, 1), step)
    return [(start, min(start + tile, cells)) for start in starts]


def _tiled(
    code: Callable[[Array], Array],
    x: Array,
    scale_in: int,
    scale_out: int,
    tile: Cells,
    step: Cells,
) -> Array:
    """Blends `code` of all tiles; the scales are rows (and columns) of in- and output per cell."""
    if any(size % scale_in for size in x.shape[2:4]):
        raise ValueError(f"video is {x.shape[2]}x{x.shape[3]}; expected multiples of {scale_in}")
    grid = [size // scale_in for size in x.shape[2:4]]
    spans = [tile_spans(*axis) for axis in zip(grid, tile, step, strict=True)]
    tiles = list(itertools.product(*spans))
    if len(tiles) == 1:
        return code(x)
    starts, ends = (np.array([(rows[i], columns[i]) for rows, columns in tiles]) for i in (0, 1))
    shapes, kinds = np.unique(ends - starts, axis=0, return_inverse=True)
    # Weights of the output's rows in every tile, and of its columns.
    ramps = [
        np.stack(
            [_weights(both[axis], grid[axis], tile[axis], step[axis], scale_out) for both in tiles]
        )
        for axis in range(2)
    ]
    total_weight = np.zeros([cells * scale_out for cells in grid], np.float32)
    for (top, left), rows, columns in zip(starts * scale_out, *ramps, strict=True):
        region = total_weight[top : top + len(rows), left : left + len(columns)]
        region += np.minimum.outer(rows[: region.shape[0]], columns[: region.shape[1]])

    def add_tile(cells: Cells, x: Array, total: Array, start: Array, sides: list[Array]) -> Array:
        """The sum with a tile of so many cells in it, which begins at the cell `start`."""
        where = (0, 0, start[0] * scale_in, start[1] * scale_in, 0)
        extent = [count * scale_in for count in cells]
        part = code(jax.lax.dynamic_slice(x, where, (*x.shape[:2], *extent, x.shape[-1])))
        rows, columns = (side[:n] for side, n in zip(sides, part.shape[2:4], strict=True))
        weight = jnp.minimum(rows[:, None], columns)[..., None]
        where = (0, 0, start[0] * scale_out, start[1] * scale_out, 0)
        before = jax.lax.dynamic_slice(total, where, part.shape)
        return jax.lax.dynamic_update_slice(total, before + part * weight, where)

    branches = [partial(add_tile, (rows, columns)) for rows, columns in shapes.tolist()]

    def one_more(total: Array, tile: Any) -> tuple[Array, None]:
        kind, start, sides = tile
        return jax.lax.switch(kind, branches, x, total, start, sides), None

    # A loop, since XLA would compute the tiles of a straight program side by side.
    rows, columns = shapes[0] * scale_in
    first = jax.eval_shape(code, x[:, :, :rows, :columns])
    total = jnp.zeros((*first.shape[:2], *total_weight.shape, first.shape[-1]), first.dtype)
    total, _ = jax.lax.scan(one_more, total, (kinds.ravel(), starts, ramps))
    return total / total_weight[..., None]


def _weights(span: tuple[int, int], cells: int, tile: int, step: int, scale: int) -> np.ndarray:
    """Weights of a tile's rows (or columns); one that the picture cuts short ends in zeros."""
    start, stop = span
    ramp = _ramp((stop - start) * scale, (tile - step) * scale, start > 0, stop < cells)
    return np.pad(ramp, (0, tile * scale - ramp.size))


def _ramp(length: int, border: int, rises: bool, falls: bool) -> np.ndarray:
    """One, except for `border` values at an end that meets another tile: 1 / border, 2 / border."""
    steps = np.arange(1, length + 1, dtype=np.float32) / max(border, 1)
    ramp = np.ones(length, np.float32)
    if rises:
        ramp = np.minimum(ramp, steps)
    if falls:
        ramp = np.minimum(ramp, steps[::-1])
    return ramp
