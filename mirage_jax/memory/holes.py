"""Fills the holes of pictures from what is around them, by the pull-push algorithm.

Where nothing is known the picture is continued from its surroundings, the more smoothly the further
away they are (Gortler, Grzeszczuk, Szeliski and Cohen, The Lumigraph, SIGGRAPH 1996, section 3.3):
pulled down to coarser and coarser levels, of which each holds the mean of what is known below it,
and pushed up again, each level showing what the coarser ones say where it knows nothing itself.
"""

from __future__ import annotations

import jax
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
    # A branch has the pictures made before it, where a compiler would make them for every level.
    return jax.lax.cond(jnp.all(known >= 1), lambda whole, _: whole, _filled, pictures, known)


def _filled(pictures: Array, known: Array) -> Array:
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
    for axis in (field.ndim - 3, field.ndim - 2):
        if field.shape[axis] > 1:
            padding = [(0, 0)] * field.ndim
            padding[axis] = (0, field.shape[axis] % 2)
            field = jnp.pad(field, padding)
            pairs = (field.shape[axis] // 2, 2)
            field = field.reshape(*field.shape[:axis], *pairs, *field.shape[axis + 1 :])
            field = jnp.sum(field, axis=axis + 1)
    return field


def _pushed(field: Array, below: Array) -> Array:
    """At the size of the level below: linear interpolation between the centres of its blocks."""
    for axis in (field.ndim - 3, field.ndim - 2):
        count, length = field.shape[axis], below.shape[axis]
        if count == length:
            continue

        def part(start: int, stop: int, axis: int = axis, of: Array = field) -> Array:
            return jax.lax.slice_in_dim(of, start, stop, axis=axis)

        before = jnp.concatenate([part(0, 1), part(0, count - 1)], axis=axis)
        after = jnp.concatenate([part(1, count), part(count - 1, count)], axis=axis)
        halves = jnp.stack([0.75 * field + 0.25 * before, 0.75 * field + 0.25 * after], axis + 1)
        field = halves.reshape(*field.shape[:axis], 2 * count, *field.shape[axis + 1 :])
        field = jax.lax.slice_in_dim(field, 0, length, axis=axis)
    return field
