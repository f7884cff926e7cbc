"""Fills the holes of pictures from what is around them, by the pull-push algorithm.

Where nothing is known the picture is continued from its surroundings, the more smoothly the further
away they are (Gortler, Grzeszczuk, Szeliski and Cohen, The Lumigraph, SIGGRAPH 1996, section 3.3):
pulled down to coarser and coarser levels, of which each holds the mean of what is known below it,
and pushed up again, each level showing what the coarser ones say where it knows nothing itself.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float


def fill(
    pictures: Float[Array, "*b height width c"], known: Float[Array, "*b height width"]
) -> Float[Array, "*b height width c"]:
    """Pictures without holes; those of which nothing is known stay zero.

    Pure, jittable and linear in the pictures; time Theta(pixels).

    Args:
      pictures: of any height and width.
      known: weight of each pixel in [0, 1]: 1 stays as it is, 0 is filled.
    """
    weight = known[..., None]
    levels = [(pictures * weight, weight)]
    while max(levels[-1][0].shape[-3:-1]) > 1:
        levels.append(_pulled(*levels[-1]))
    filled, weight = levels.pop()
    for fine, own in reversed(levels):
        rest = 1.0 - own
        filled = fine + rest * _pushed(filled, fine)
        weight = own + rest * _pushed(weight, own)
    return filled / jnp.where(weight > 0, weight, 1.0)


def _pulled(weighted: Array, weight: Array) -> tuple[Array, Array]:
    """The level above: sums over two by two pixels, of which a weight of one is enough."""
    weighted, weight = _halved(weighted), _halved(weight)
    scale = jnp.minimum(weight, 1.0) / jnp.where(weight > 0, weight, 1.0)
    return weighted * scale, weight * scale


def _halved(field: Array) -> Array:
    """Sums over blocks of two by two, with zeros behind odd borders."""
    for axis in (-3, -2):
        if field.shape[axis] > 1:
            padding = [(0, 0)] * field.ndim
            padding[axis] = (0, field.shape[axis] % 2)
            field = jnp.pad(field, padding)
            even = jnp.arange(0, field.shape[axis], 2)
            field = jnp.take(field, even, axis=axis) + jnp.take(field, even + 1, axis=axis)
    return field


def _pushed(field: Array, below: Array) -> Array:
    """At the size of the level below: linear interpolation between the centres of its blocks."""
    for axis in (-3, -2):
        count, length = field.shape[axis], below.shape[axis]
        if count == length:
            continue
        place = jnp.arange(length)
        block = place // 2
        beside = jnp.clip(jnp.where(place % 2 == 0, block - 1, block + 1), 0, count - 1)
        field = 0.75 * jnp.take(field, block, axis=axis) + 0.25 * jnp.take(field, beside, axis=axis)
    return field
