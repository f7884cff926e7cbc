"""Colours of a memory's elements, for people to look at."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import UInt8

from mirage_jax import memory
from mirage_jax.geometry import Camera
from mirage_jax.memory import LatentMemory
from mirage_jax.world.latent_encoder import LatentEncoder, to_uint8


def token_colours(tokens: np.ndarray) -> UInt8[np.ndarray, "n 3"]:
    """The three principal components of tokens [n, C] as red, green and blue.

    Colours (uint8 of three channels, as the RGB baseline stores them) stay what they are.
    """
    if tokens.dtype == np.uint8 and tokens.shape[1] == 3:
        return tokens
    if not len(tokens):
        return np.zeros((0, 3), np.uint8)
    values = tokens.astype(np.float64) - tokens.astype(np.float64).mean(0)
    directions = np.linalg.eigh(values.T @ values)[1][:, ::-1][:, :3]
    # Of the two directions of an axis, the one whose largest entry is positive.
    largest = np.abs(directions).argmax(0)
    directions = directions * np.sign(directions[largest, np.arange(directions.shape[1])])
    shown = np.zeros((len(values), 3))
    shown[:, : directions.shape[1]] = values @ directions
    low, high = np.percentile(shown, [2, 98], axis=0)
    scaled = (shown - low) / np.maximum(high - low, 1e-12)
    return np.round(255 * np.clip(scaled, 0, 1)).astype(np.uint8)


def decoded_colours(
    mem: LatentMemory,
    encoder: LatentEncoder,
    cameras: Camera,
    grid: tuple[int, int],
    *,
    cells: str = "centre",
) -> tuple[UInt8[np.ndarray, "n 3"], float]:
    """The colours that a latent memory's elements have in pictures decoded from its read-outs.

    Elements that no camera shows take the colour that a linear map of their token gives, fitted to
    those that are shown.

    Args:
      mem: the memory; its tokens are latents.
      encoder: that decodes them.
      cameras: from where the memory is read, one leading dimension.
      grid: cells (h, w) of a latent.
      cells: see `memory.read`.

    Returns:
      Colours of all slots, and the share of the elements that were shown.

    Raises:
      ValueError: if no camera shows any element.
    """

    @jax.jit
    def look(camera: Camera) -> tuple[jax.Array, jax.Array]:
        shown = memory.read(mem, camera, grid, cells=cells)
        picture = encoder.decode(shown.tokens.astype(jnp.float32)[None, None])[0, 0]
        height, width = (size // n for size, n in zip(picture.shape[:2], grid, strict=True))
        cut = picture.reshape(grid[0], height, grid[1], width, 3)
        return shown.source, cut.mean((1, 3))

    sums, times = np.zeros((mem.capacity, 3)), np.zeros(mem.capacity)
    for number in range(len(cameras)):
        source, colours = map(np.asarray, look(cameras[number]))
        seen = source >= 0
        np.add.at(sums, source[seen], np.clip(colours[seen], -1, 1))
        np.add.at(times, source[seen], 1)
    valid, shown = np.asarray(mem.valid), times > 0
    if not shown.any():
        raise ValueError("colours: found no element that any of the cameras shows")
    tokens = np.asarray(mem.tokens, np.float64)
    inputs = np.concatenate([tokens, np.ones((len(tokens), 1))], axis=1)
    means = sums[shown] / times[shown, None]
    linear = np.linalg.lstsq(inputs[shown], means, rcond=1e-6)[0]
    values = inputs @ linear
    values[shown] = means
    return to_uint8(values), float(shown.sum() / max(valid.sum(), 1))
