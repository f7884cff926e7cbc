"""Square crops of pictures: what lies at their points, and how much of their cells a mask covers.

A crop is its top, left and side, in pixels; the centre of the first pixel is at .5.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mirage_jax.memory import pooling


def sample_points(
    box: Float[Array, "3"], size: int
) -> tuple[Float[Array, " size"], Float[Array, " size"]]:
    """Rows and columns of the middles of `size` x `size` equal parts of a crop."""
    steps = (jnp.arange(size, dtype=jnp.float32) + 0.5) / size * box[2]
    return box[0] + steps, box[1] + steps


def crop_alpha(
    mask: Bool[Array, "height width"], box: Float[Array, "3"], cells: int
) -> Float[Array, "a a"]:
    """Share of each cell of a crop that a mask covers."""
    fine = 4 * cells
    rows, columns = sample_points(box, fine)
    inside = nearest(mask.astype(jnp.float32)[..., None], rows, columns)[..., 0]
    return pooling.pool_static(inside, (cells, cells))


def nearest(
    picture: Float[Array, "height width c"], rows: Float[Array, " n"], columns: Float[Array, " m"]
) -> Float[Array, "n m c"]:
    """Values of the pixels that hold the points, 0 outside."""
    height, width = picture.shape[:2]
    row, column = jnp.floor(rows).astype(jnp.int32), jnp.floor(columns).astype(jnp.int32)
    inside = ((row >= 0) & (row < height))[:, None] & ((column >= 0) & (column < width))[None]
    values = picture[jnp.clip(row, 0, height - 1)][:, jnp.clip(column, 0, width - 1)]
    return jnp.where(inside[..., None], values, 0.0)


def bilinear(
    picture: Float[Array, "height width c"], rows: Float[Array, " n"], columns: Float[Array, " m"]
) -> Float[Array, "n m c"]:
    """Values between pixel centres, those of the border outside."""

    def along(values: Array, points: Array, axis: int) -> Array:
        size = values.shape[axis]
        place = jnp.clip(points - 0.5, 0.0, size - 1.0)
        first = jnp.floor(place).astype(jnp.int32)
        share = (place - first).reshape((-1,) + (1,) * (values.ndim - 1 - axis))
        low = jnp.take(values, first, axis=axis)
        high = jnp.take(values, jnp.minimum(first + 1, size - 1), axis=axis)
        return low * (1.0 - share) + high * share

    return along(along(picture, rows, 0), columns, 1)
