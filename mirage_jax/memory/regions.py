"""Regions of space that an edit of a memory is about: boxes and balls, or a mask of elements.

All are pytrees: a region may be traced, so that one compiled edit serves every place.
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mirage_jax import geometry
from mirage_jax.memory.bank import LatentMemory

TINY = 1e-9
"""Metres below which a segment has no direction."""


@flax.struct.dataclass
class Box:
    """A box along the world's axes, its faces included.

    Attributes:
      low: `[3]`, its least coordinates, metres.
      high: `[3]`, its greatest.
    """

    low: Any
    high: Any

    def contains(self, xyz: Float[Array, "*n 3"]) -> Bool[Array, "*n"]:
        """Which points lie in it."""
        low, high = (_aligned(corner, xyz.ndim) for corner in (self.low, self.high))
        return jnp.all((xyz >= low) & (xyz <= high), axis=-1)

    def crossed(
        self, start: Float[Array, "n 3"], end: Float[Array, "n 3"], near: Float[Array, " n"]
    ) -> Bool[Array, " n"]:
        """Which segments pass it, or end, within so many metres of it along each of its axes."""
        low, high = (_aligned(corner, 2) for corner in (self.low, self.high))
        way = jnp.where(jnp.abs(end - start) < TINY, TINY, end - start)
        faces = (low - near[:, None] - start) / way, (high + near[:, None] - start) / way
        enters = jnp.max(jnp.minimum(*faces), axis=-1)
        leaves = jnp.min(jnp.maximum(*faces), axis=-1)
        return (enters <= leaves) & (enters <= 1.0) & (leaves >= 0.0)

    @property
    def pose(self) -> Float[Array, "4 4"]:
        """From the region's own axes, which begin at its centre, to the world's."""
        low, high = (_aligned(corner, 1) for corner in (self.low, self.high))
        return translation(0.5 * (low + high))


@flax.struct.dataclass
class Sphere:
    """A ball, its surface included.

    Attributes:
      centre: `[3]`, metres.
      radius: metres.
    """

    centre: Any
    radius: Any

    def contains(self, xyz: Float[Array, "*n 3"]) -> Bool[Array, "*n"]:
        """Which points lie in it."""
        offset = xyz - _aligned(self.centre, xyz.ndim)
        radius = jnp.asarray(self.radius, jnp.float32)
        return jnp.sum(offset * offset, axis=-1) <= jnp.square(radius)

    def crossed(
        self, start: Float[Array, "n 3"], end: Float[Array, "n 3"], near: Float[Array, " n"]
    ) -> Bool[Array, " n"]:
        """Which segments pass it, or end, within so many metres of it."""
        way, offset = end - start, _aligned(self.centre, 2) - start
        length = jnp.maximum(jnp.sum(way * way, axis=-1), TINY)
        share = jnp.clip(jnp.sum(offset * way, axis=-1) / length, 0.0, 1.0)
        gap = jnp.linalg.norm(offset - share[:, None] * way, axis=-1)
        return gap <= jnp.asarray(self.radius, jnp.float32) + near

    @property
    def pose(self) -> Float[Array, "4 4"]:
        """From the region's own axes, which begin at its centre, to the world's."""
        return translation(self.centre)


@flax.struct.dataclass
class OrientedBox:
    """A box along axes of its own, its faces included.

    Attributes:
      pose: `[4, 4]`, rigid, from the box's axes, which begin at its centre, to the world's.
      size: `[3]`, its lengths along its axes, metres.
    """

    pose: Any
    size: Any

    def contains(self, xyz: Float[Array, "*n 3"]) -> Bool[Array, "*n"]:
        """Which points lie in it."""
        own = self._own(xyz)
        return jnp.all(jnp.abs(own) <= 0.5 * _aligned(self.size, xyz.ndim), axis=-1)

    def crossed(
        self, start: Float[Array, "n 3"], end: Float[Array, "n 3"], near: Float[Array, " n"]
    ) -> Bool[Array, " n"]:
        """Which segments pass it, or end, within so many metres of it along each of its axes."""
        half = 0.5 * jnp.asarray(self.size, jnp.float32)
        return Box(-half, half).crossed(self._own(start), self._own(end), near)

    def _own(self, xyz: Float[Array, "*n 3"]) -> Float[Array, "*n 3"]:
        return transform(geometry.invert_pose(jnp.asarray(self.pose, jnp.float32)), xyz)


Space = Box | Sphere | OrientedBox
Region = Space | Bool[Array, " n"] | Bool[np.ndarray, " n"]
"""A part of space, or which slots of the memory are meant."""


def select(mem: LatentMemory, region: Region) -> Bool[Array, " n"]:
    """Which slots hold an element in the region.

    Raises:
      ValueError: if a mask is not of the memory's capacity.
    """
    if isinstance(region, Box | Sphere | OrientedBox):
        return mem.valid & region.contains(mem.xyz)
    if region.shape != mem.valid.shape:
        raise ValueError(
            f"region: found a mask of shape {region.shape}, expected {mem.valid.shape}, one "
            "truth value for every slot"
        )
    return mem.valid & jnp.asarray(region)


def showing(mem: LatentMemory, region: Space) -> Bool[Array, " n"]:
    """Which elements show some of a region: those in it, and those that were seen past its edge.

    A token keeps all that its cell showed. Where a thing ends within a cell whose depth is that of
    what is behind the thing, the element lies behind it and shows some of it. These are elements
    whose cell, on the way from where it was seen to where they lie, touches the region.

    Args:
      mem: the memory.
      region: no larger than the thing, which was there all the time: all that was seen through a
        part of it that is empty would be meant too.
    """
    span = jnp.linalg.norm(mem.xyz - mem.origin, axis=-1)
    middle = jnp.asarray(region.pose, jnp.float32)[:3, 3]
    distance = jnp.linalg.norm(middle - mem.origin, axis=-1)
    half_cell = 0.5 * mem.size * jnp.minimum(distance / jnp.maximum(span, TINY), 1.0)
    return mem.valid & region.crossed(mem.origin, mem.xyz, half_cell)


def translation(offset: Any) -> Float[Array, "4 4"]:
    """The rigid transform that adds `offset`, metres."""
    return jnp.eye(4, dtype=jnp.float32).at[:3, 3].set(jnp.asarray(offset, jnp.float32))


def transform(
    pose: Float[Array | np.ndarray, "4 4"], points: Float[Array, "*n 3"]
) -> Float[Array, "*n 3"]:
    """Points moved by a rigid transform, in float32 products also on accelerators."""
    return turned(pose, points) + _aligned(pose[:3, 3], points.ndim)


def turned(
    pose: Float[Array | np.ndarray, "4 4"], vectors: Float[Array, "*n 3"]
) -> Float[Array, "*n 3"]:
    """Directions turned by a rigid transform, which has no other part in them."""
    turn = _aligned(pose[:3, :3], vectors.ndim + 1)
    return jnp.sum(vectors[..., None, :] * turn, axis=-1)


def _aligned(values: Any, ndim: int) -> Array:
    """In float32 and with axes of length one in front, which JAX may be told not to add itself."""
    return jax.lax.broadcast_to_rank(jnp.asarray(values, jnp.float32), ndim)
