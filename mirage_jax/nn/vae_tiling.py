"""Coding large pictures tile by tile: less memory, at the price of a blend where tiles overlap.

A tile sees zeros beyond its border instead of its neighbour, and attention within a frame only
looks inside the tile, so results near a border differ from those of the whole picture. Tiles
therefore overlap and are averaged, with weights that ramp linearly towards every border inside the
picture. Tiles, ramps and weights are those of the released Wan pipelines, whose steps are at least
half a tile.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

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
      decode: latents of a tile to its frames, compiled: it is called once per tile, with four
        different shapes at most.
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
    size = [cells * scale_out for cells in grid]
    border = [(t - s) * scale_out for t, s in zip(tile, step, strict=True)]
    spans = [tile_spans(*axis) for axis in zip(grid, tile, step, strict=True)]
    tiles = list(_weights(spans, border, grid, scale_out))
    weights = np.zeros(size, np.float32)
    for region, weight in tiles:
        weights[region] += weight
    total = None
    for region, weight in tiles:
        rows, columns = (
            slice(s.start // scale_out * scale_in, s.stop // scale_out * scale_in) for s in region
        )
        part = code(x[:, :, rows, columns])
        if total is None:
            total = jnp.zeros((*part.shape[:2], *size, part.shape[-1]), part.dtype)
        share = (weight / weights[region])[..., None]
        total = total.at[:, :, region[0], region[1]].add(part * share)
    assert total is not None
    return total


def _weights(
    spans: list[list[tuple[int, int]]], border: list[int], grid: list[int], scale: int
) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
    """Where in the output every tile lies, and its weights there, before they are normalised."""
    for rows in spans[0]:
        for columns in spans[1]:
            region, ramps = [], []
            for (start, stop), cells, width in zip((rows, columns), grid, border, strict=True):
                region.append(slice(start * scale, stop * scale))
                ramps.append(_ramp((stop - start) * scale, width, start > 0, stop < cells))
            yield (region[0], region[1]), np.minimum(ramps[0][:, None], ramps[1])


def _ramp(length: int, border: int, rises: bool, falls: bool) -> np.ndarray:
    """One, except for `border` values at an end that meets another tile: 1 / border, 2 / border."""
    steps = np.arange(1, length + 1, dtype=np.float32) / max(border, 1)
    ramp = np.ones(length, np.float32)
    if rises:
        ramp = np.minimum(ramp, steps)
    if falls:
        ramp = np.minimum(ramp, steps[::-1])
    return ramp
