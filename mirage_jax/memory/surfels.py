"""Renders a memory whose elements are textured surfels: small pictures that face where they were
seen from.

A read-out on a grid (`memory.read`) shows of every cell the token of one element, as if it lay in
the middle of the cell. Seen from a new pose it lies beside it, larger or smaller. Here the picture
that a token stands for is moved and scaled to where its element projects: every part of the view
takes the element whose centre is nearest among those that cover it, and samples its picture
(surface splatting, Zwicker et al., SIGGRAPH 2001, without blending; the z-buffer that says which
elements are in front is that of `memory.read`). Surfels are not turned: seen from the side they
stay as wide as they were.
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

COVERED = 0.75
"""Half the width of what an element covers, in its own widths; over .5, surfels overlap."""

SAME_SURFACE = 0.1
"""Relative depth behind the nearest element of a part within which others count as well."""


class _Seen(NamedTuple):
    """The element that is in front in each block, or what stands for none.

    Attributes:
      u, v: column and row of its centre, pixels.
      width: of its picture, which is square, pixels.
      z: depth, metres.
      picture: number of its picture, -1 for none.
    """

    u: Any
    v: Any
    width: Any
    z: Any
    picture: Any


_NONE = _Seen(-math.inf, -math.inf, 1.0, math.inf, -1)


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

    def candidate(by: tuple[int, int]) -> tuple[_Seen, Array]:
        """Elements of the blocks at an offset, and how far off each part they are, in widths."""
        moved = jax.tree.map(functools.partial(_shifted, by=by), seen, _NONE)
        found = jax.tree.map(lambda field: field[:, :, None, :, None], moved)
        return found, jnp.maximum(jnp.abs(x - found.u), jnp.abs(y - found.v)) / found.width

    offsets = [(i, j) for i in range(-reach, reach + 1) for j in range(-reach, reach + 1)]
    shape = (views, rows, split, columns, split)
    front = jnp.full(shape, jnp.inf, jnp.float32)
    for by in offsets:
        found, distance = candidate(by)
        front = jnp.minimum(front, jnp.where(distance <= COVERED, found.z, jnp.inf))
    least = jnp.full(shape, jnp.inf, jnp.float32)
    chosen: Any = jax.tree.map(lambda f, none: jnp.full(shape, none, f.dtype), seen, _NONE)
    for by in offsets:
        found, distance = candidate(by)
        nearer = (distance <= COVERED) & (found.z <= front * (1.0 + SAME_SURFACE))
        nearer &= distance < least
        least = jnp.where(nearer, distance, least)
        chosen = jax.tree.map(functools.partial(jnp.where, nearer), found, chosen)
    chosen = jax.tree.map(lambda field: field.reshape(views, *parts), chosen)
    depth = jnp.where(chosen.picture >= 0, chosen.z, 0.0)
    return _sampled(pictures, chosen, camera.size, pixels), depth


def _seen(
    mem: LatentMemory,
    camera: geometry.Camera,
    source: Int[Array, "v bh bw"],
    number: Int[Array, "v bh bw"],
) -> _Seen:
    """Where the element in each block lies in the view, and the number of its picture; `_NONE`
    where there is none."""
    slot = jnp.maximum(source, 0)
    uv, z = geometry.project(mem.xyz[slot], camera)
    known = (source >= 0) & (z > NEAR)
    # `size` is of the same mean of both focal lengths, so that cells are square for every lens.
    intrinsics = jnp.asarray(camera.intrinsics, jnp.float32)
    focal = jnp.sqrt(intrinsics[:, 0] * intrinsics[:, 1])[:, None, None]
    width = mem.size[slot] * focal / jnp.where(known, z, 1.0)
    block = math.sqrt(math.prod(camera.size) / math.prod(source.shape[1:]))
    width = jnp.where(width > 0, jnp.maximum(width, NEAR), block)
    fields = _Seen(uv[..., 0], uv[..., 1], width, z, number)
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

    width = per_pixel(chosen.width)

    def place(centre: Array, at: Array) -> tuple[Array, Array]:
        """First of the two pixels of a picture between which a place lies, and the other's part."""
        found = (at - per_pixel(centre)) / width * side + 0.5 * (side - 1)
        found = jnp.clip(found, 0.0, side - 1.0)
        first = jnp.minimum(found.astype(jnp.int32), side - 2)
        return first, (found - first)[..., None]

    y, x = (jnp.arange(length, dtype=jnp.float32) + 0.5 for length in size)
    row, below = place(chosen.v, y[None, :, None])
    column, right = place(chosen.u, x[None, None])
    number = per_pixel(chosen.picture)
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
