"""How the surface lies in each cell of a depth map, from the depths beside it.

The inverse depth of a plane is linear across a picture, so that the difference of two neighbouring
cells gives its slope exactly. Of a cell's two neighbours along an axis the one whose inverse depth
is nearer counts: across an edge lies another surface.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mirage_jax import geometry

STEEPEST = 1.0
"""Largest change of inverse depth from a cell to the next, as a share of the cell's own."""


def tangents(depth: Float[Array, "t h w"], camera: geometry.Camera) -> Float[Array, "t h w 2 3"]:
    """The ways along the surface that lead one cell to the right and one cell down, in metres.

    Derivatives of `geometry.lift` by the column and the row of a cell. Where no neighbour is known
    the surface is taken to face the camera.

    Args:
      depth: z-depth of the cells in metres, 0 = unknown.
      camera: of the frames, leading dimension T.

    Returns:
      World vectors, 0 where the depth is unknown.
    """
    depth = jnp.asarray(depth, jnp.float32)
    known = depth > 0
    inverse = jnp.where(known, 1.0 / jnp.where(known, depth, 1.0), 0.0)
    grid = (depth.shape[1], depth.shape[2])
    lens = geometry.resize_camera(camera, grid).intrinsics
    lens = jnp.asarray(lens, jnp.float32)[:, None, None]
    rows, columns = (jnp.arange(n, dtype=jnp.float32) + 0.5 for n in grid)
    ray_x = (columns[None, None] - lens[..., 2]) / lens[..., 0]
    ray_y = (rows[None, :, None] - lens[..., 3]) / lens[..., 1]
    turn = jnp.asarray(camera.cam2world, jnp.float32)[:, None, None, :3, :3]

    def along(axis: int) -> Array:
        """Of a ray r, at the depth z: d(z r) = z dr + dz r, with dz = -z^2 d(1 / z)."""
        relative = jnp.clip(depth * _slope(inverse, axis), -STEEPEST, STEEPEST)
        own = [-relative * ray_x, -relative * ray_y, -relative]
        own[2 - axis] += 1.0 / lens[..., 2 - axis]
        # Term after term, so that every program rounds alike: on one device or several.
        x, y, z = (depth * part for part in own)
        return jnp.stack(
            [x * turn[..., i, 0] + y * turn[..., i, 1] + z * turn[..., i, 2] for i in range(3)], -1
        )

    return jnp.where(known[..., None, None], jnp.stack([along(2), along(1)], axis=-2), 0.0)


def _slope(inverse: Float[Array, "t h w"], axis: int) -> Float[Array, "t h w"]:
    """Change per cell, by the neighbour that differs less; 0 where none is known (above 0)."""
    size = inverse.shape[axis]
    padding = [(1, 1) if at == axis else (0, 0) for at in range(inverse.ndim)]
    padded = jnp.pad(inverse, padding)  # beyond the picture nothing is known
    lower = jax.lax.slice_in_dim(padded, 0, size, axis=axis)
    upper = jax.lax.slice_in_dim(padded, 2, size + 2, axis=axis)
    rise, fall = upper - inverse, inverse - lower
    take_upper = (upper > 0) & ((lower <= 0) | (jnp.abs(rise) <= jnp.abs(fall)))
    return jnp.where(take_upper, rise, jnp.where(lower > 0, fall, 0.0))
