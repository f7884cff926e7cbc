"""Renders a memory whose elements are textured surfels: small pictures that face where they were
seen from.

A read-out on a grid (`memory.read`) shows of every cell the token of one element, as if it lay in
the middle of the cell. Seen from a new pose it lies beside it, larger or smaller, and foreshortened
as the surface is turned. Here the picture that a token stands for is drawn on the plane through its
element that `LatentMemory.tangents` span, to first order: every part of the view takes the element
whose centre is nearest among those that cover it, and samples its picture (surface splatting,
Zwicker et al., SIGGRAPH 2001, without blending; the z-buffer that says which elements are in front
is that of `memory.read`). Elements of unknown tangents face the camera, as wide as their `size`.
"""

from __future__ import annotations

import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int

from mirage_jax import geometry
from mirage_jax.memory.bank import LatentMemory
from mirage_jax.memory.readout import NEAR

COVERED = 0.52
"""Half the width of what an element covers, in its own widths; over .5, neighbours overlap."""

SAME_SURFACE = 0.1
"""Relative depth behind the nearest element of a part within which others count as well."""


LEAST_AREA = 0.3
"""Square pixels below which a picture is not drawn: its surface is seen from the edge."""


class _Seen(NamedTuple):
    """The element that is in front in each block, or what stands for none.

    Attributes:
      u, v: column and row of its centre, pixels.
      right_u, right_v, down_u, down_v: how far in its picture a pixel of the view leads to the
        right and down, in widths of the picture, along the view's columns and rows.
      z: depth of the centre, metres.
      z_right, z_down: what a width of its picture to the right and down adds to it.
      picture: number of its picture, -1 for none.
    """

    u: Any
    v: Any
    right_u: Any
    right_v: Any
    down_u: Any
    down_v: Any
    z: Any
    z_right: Any
    z_down: Any
    picture: Any

    def place(self, column: Any, row: Any) -> tuple[Any, Any]:
        """Where a place of the view lies in the picture: widths right of and below its centre."""
        across, along = column - self.u, row - self.v
        return (
            self.right_u * across + self.right_v * along,
            self.down_u * across + self.down_v * along,
        )


_NONE = _Seen(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, z=math.inf, z_right=0.0, z_down=0.0, picture=-1)


def render(
    mem: LatentMemory,
    pictures: Float[Array | np.ndarray, "*n s s k"],
    camera: geometry.Camera,
    source: Int[Array | np.ndarray, "v bh bw"],
    *,
    reach: int = 1,
    split: int = 2,
) -> tuple[Float[Array, "v height width k"], Float[Array, "v th tw"]]:
    """Pictures of a memory, of which every element shows a small picture of its own.

    Pure and jittable; differentiable in the pictures.

    Args:
      mem: the memory; elements of unknown `size` are taken to be a block wide where they are seen.
      pictures: as wide as the cell that an element was written from; of every slot, [n, s, s, k],
        or of the element in front in every block, [v, bh, bw, s, s, k], which is less where the
        memory has more slots than the views have blocks.
      camera: of the views, one leading dimension.
      source: slot of the element that is in front in each block of pixels, -1 for none: the
        `source` of `memory.read`. Height and width of the view are multiples of the grid's.
      reach: blocks around each block whose elements may cover it.
      split: parts of a block in height and width, which take an element each.

    Returns:
      The pictures, 0 where nothing is known, and the z-depth of what each part shows, 0 likewise.

    Raises:
      ValueError: if the parts of the grid do not divide the view.
    """
    views, rows, columns = source.shape
    parts = (rows * split, columns * split)
    if camera.size[0] % parts[0] or camera.size[1] % parts[1]:
        raise ValueError(f"source: found {parts} parts, expected divisors of {camera.size} pixels")
    pixels = (camera.size[0] // parts[0], camera.size[1] // parts[1])
    pictures, source = jnp.asarray(pictures), jnp.asarray(source)
    number = source
    if pictures.ndim > 4:
        number = jnp.where(source >= 0, jnp.arange(source.size).reshape(source.shape), -1)
        pictures = pictures.reshape(-1, *pictures.shape[-3:])
    seen = _seen(mem, camera, source, number)
    # Every part of a block has the candidates of its block: [v, bh, split, bw, split].
    y, x = (
        ((jnp.arange(count, dtype=jnp.float32) + 0.5) * side).reshape(shape)
        for count, side, shape in zip(
            parts, pixels, [(1, rows, split, 1, 1), (1, 1, 1, columns, split)], strict=True
        )
    )

    def candidate(by: tuple[int, int]) -> tuple[_Seen, Array, Array]:
        """Elements of the blocks at an offset, how far in their pictures each part is from the
        centre, in widths, and their depth there; inf where they do not cover it."""
        moved = jax.tree.map(functools.partial(_shifted, by=by), seen, _NONE)
        found = jax.tree.map(lambda field: field[:, :, None, :, None], moved)
        right, down = found.place(x, y)
        distance = jnp.maximum(jnp.abs(right), jnp.abs(down))
        depth = found.z + right * found.z_right + down * found.z_down
        covers = (distance <= COVERED) & (depth > NEAR) & (found.picture >= 0)
        return found, distance, jnp.where(covers, depth, jnp.inf)

    offsets = [(i, j) for i in range(-reach, reach + 1) for j in range(-reach, reach + 1)]
    shape = (views, rows, split, columns, split)
    front = jnp.full(shape, jnp.inf, jnp.float32)
    for by in offsets:
        front = jnp.minimum(front, candidate(by)[2])
    least = jnp.full(shape, jnp.inf, jnp.float32)
    depth = jnp.zeros(shape, jnp.float32)
    chosen: Any = jax.tree.map(lambda f, none: jnp.full(shape, none, f.dtype), seen, _NONE)
    for by in offsets:
        found, distance, there = candidate(by)
        nearer = jnp.isfinite(there) & (there <= front * (1.0 + SAME_SURFACE)) & (distance < least)
        least = jnp.where(nearer, distance, least)
        depth = jnp.where(nearer, there, depth)
        chosen = jax.tree.map(functools.partial(jnp.where, nearer), found, chosen)
    depth = depth.reshape(views, *parts)
    chosen = jax.tree.map(lambda field: field.reshape(views, *parts), chosen)
    return _sampled(pictures, chosen, camera.size, pixels), depth


def _seen(
    mem: LatentMemory,
    camera: geometry.Camera,
    source: Int[Array, "v bh bw"],
    number: Int[Array, "v bh bw"],
) -> _Seen:
    """Where the element in each block lies in the view and how, and the number of its picture;
    `_NONE` where there is none."""
    slot = jnp.maximum(source, 0)
    uv, z = geometry.project(mem.xyz[slot], camera)
    known = (source >= 0) & (z > NEAR)
    z = jnp.where(known, z, 1.0)
    intrinsics = jnp.asarray(camera.intrinsics, jnp.float32)[:, :, None, None]
    u, v = uv[..., 0], uv[..., 1]

    # Columns of the Jacobian of the view's columns and rows by places in the element's picture.
    tangents = mem.tangents[slot]
    turn = jnp.asarray(camera.cam2world, jnp.float32)[:, None, None, None, :3, :3]
    x, y, slope = (jnp.sum(tangents * turn[..., axis], axis=-1) for axis in range(3))
    x = (intrinsics[:, 0, ..., None] * x - (u - intrinsics[:, 2])[..., None] * slope) / z[..., None]
    y = (intrinsics[:, 1, ..., None] * y - (v - intrinsics[:, 3])[..., None] * slope) / z[..., None]

    # `size` is of the same mean of both focal lengths, so that cells are square for every lens.
    width = mem.size[slot] * jnp.sqrt(intrinsics[:, 0] * intrinsics[:, 1]) / z
    block = math.sqrt(math.prod(camera.size) / math.prod(source.shape[1:]))
    width = jnp.where(width > 0, jnp.maximum(width, NEAR), block)
    facing = jnp.all(tangents == 0, axis=(-2, -1))
    nothing = jnp.zeros_like(width)
    x = jnp.where(facing[..., None], jnp.stack([width, nothing], axis=-1), x)
    y = jnp.where(facing[..., None], jnp.stack([nothing, width], axis=-1), y)

    area = x[..., 0] * y[..., 1] - x[..., 1] * y[..., 0]
    known &= jnp.abs(area) >= LEAST_AREA
    area = jnp.where(known, area, 1.0)
    fields = _Seen(
        u,
        v,
        right_u=y[..., 1] / area,
        right_v=-x[..., 1] / area,
        down_u=-y[..., 0] / area,
        down_v=x[..., 0] / area,
        z=z,
        z_right=slope[..., 0],
        z_down=slope[..., 1],
        picture=number,
    )
    found: Any = jax.tree.map(functools.partial(jnp.where, known), fields, _NONE)
    return found


def _sampled(
    pictures: Float[Array, "n s s k"],
    chosen: _Seen,
    size: tuple[int, int],
    pixels: tuple[int, int],
) -> Float[Array, "v height width k"]:
    """The view, each of whose parts is `pixels` of the picture of the element chosen for it.

    Linear interpolation between the pixels of a picture; beyond them its border.
    """
    side = pictures.shape[1]

    def per_pixel(field: Array) -> Array:
        return jnp.repeat(jnp.repeat(field, pixels[0], axis=1), pixels[1], axis=2)

    chosen = jax.tree.map(per_pixel, chosen)
    y, x = (jnp.arange(length, dtype=jnp.float32) + 0.5 for length in size)

    def between_pixels(widths: Array) -> tuple[Array, Array]:
        """First of the two pixels of a picture between which a place lies, and the other's part."""
        found = jnp.clip(widths * side + 0.5 * (side - 1), 0.0, side - 1.0)
        first = jnp.minimum(found.astype(jnp.int32), side - 2)
        return first, (found - first)[..., None]

    (column, right), (row, below) = map(
        between_pixels, chosen.place(x[None, None], y[None, :, None])
    )
    number = chosen.picture
    flat = pictures.reshape(-1, pictures.shape[-1])
    first = (jnp.maximum(number, 0) * side + row) * side + column

    def between(at: Array) -> Array:
        return (1.0 - right) * flat[at] + right * flat[at + 1]

    found = (1.0 - below) * between(first) + below * between(first + side)
    return jnp.where((number >= 0)[..., None], found, 0.0)


def _shifted(blocks: Array, outside: float | int, by: tuple[int, int]) -> Array:
    """`out[v, r, c] = blocks[v, r + by[0], c + by[1]]`; beyond the border `outside`."""
    rows, columns = blocks.shape[1:]
    reach = max(map(abs, by))
    padded = jnp.pad(blocks, ((0, 0), (reach, reach), (reach, reach)), constant_values=outside)
    top, left = reach + by[0], reach + by[1]
    return padded[:, top : top + rows, left : left + columns]
