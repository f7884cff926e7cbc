"""Connected parts of a mask, under jit with a static number of them."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int


class Components(NamedTuple):
    """The largest connected parts of a mask.

    Attributes:
      masks: pixels of each, largest first; those of unused places are empty.
      pixels: how many each has.
      dropped: parts that were large enough and had no place.
    """

    masks: Bool[Array, "d height width"]
    pixels: Int[Array, " d"]
    dropped: Int[Array, ""]


def components(
    mask: Int[Array, "height width"] | Bool[Array, "height width"],
    most: int,
    least_pixels: int = 1,
    depth: Float[Array, "height width"] | None = None,
    depth_step: float = 0.2,
) -> Components:
    """Parts of pixels that touch, at an edge or a corner, and have the same number.

    Labels go from neighbour to neighbour and, by looking up the label of a label, ever further, so
    that a part needs about as many rounds as the logarithm of its length (Shiloach & Vishkin 1982,
    "An O(log n) parallel connectivity algorithm"). Of parts of equal size that with the first pixel
    comes first.

    Args:
      mask: 0 or False is background; numbers keep bodies apart that touch, where they are known.
      most: parts that are kept.
      least_pixels: parts of fewer are left out, uncounted.
      depth: of the pixels, 0 = unknown.
      depth_step: where the logarithm of depth differs by more between two, they do not touch: one
        of two bodies stands before the other.
    """
    height, width = mask.shape
    numbers = jnp.asarray(mask).astype(jnp.int32)
    foreground = numbers != 0
    count = height * width
    own = jnp.arange(count, dtype=jnp.int32).reshape(height, width)
    labels = jnp.where(foreground, own, count)

    known = jnp.zeros(mask.shape, bool) if depth is None else depth > 0
    logs = jnp.zeros(mask.shape) if depth is None else jnp.log(jnp.where(known, depth, 1.0))

    def spread(labels: Array) -> Array:
        wide = jnp.pad(labels, 1, constant_values=count)
        wide_numbers, wide_known, wide_logs = (jnp.pad(x, 1) for x in (numbers, known, logs))
        for row in range(3):
            for column in range(3):
                window = slice(row, row + height), slice(column, column + width)
                same = foreground & (wide_numbers[window] == numbers)
                further = jnp.abs(wide_logs[window] - logs) > depth_step
                same &= ~(further & known & wide_known[window])
                labels = jnp.where(same, jnp.minimum(labels, wide[window]), labels)
        return labels

    def jump(labels: Array) -> Array:
        table = jnp.append(labels.reshape(-1), count)
        return table[labels]

    def changed(state: tuple[Array, Array]) -> Array:
        return jnp.any(state[0] != state[1])

    def step(state: tuple[Array, Array]) -> tuple[Array, Array]:
        labels = state[0]
        return jump(jump(spread(labels))), labels

    labels, _ = jax.lax.while_loop(changed, step, (jump(spread(labels)), labels))
    sizes = jnp.zeros(count + 1, jnp.int32).at[labels].add(foreground.astype(jnp.int32))[:count]
    sizes = jnp.where(sizes >= least_pixels, sizes, 0)
    pixels, roots = jax.lax.top_k(sizes, min(most, count))  # of equals the lowest first
    pixels = jnp.pad(pixels, (0, most - len(pixels)))
    roots = jnp.pad(roots, (0, most - len(roots)), constant_values=count)
    masks = (labels[None] == roots[:, None, None]) & (pixels > 0)[:, None, None] & foreground
    found = jnp.sum(sizes > 0, dtype=jnp.int32)
    return Components(masks, pixels, jnp.maximum(found - most, 0))
