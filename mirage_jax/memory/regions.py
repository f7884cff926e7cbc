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
        own = transform(geometry.invert_pose(jnp.asarray(self.pose, jnp.float32)), xyz)
        return jnp.all(jnp.abs(own) <= 0.5 * _aligned(self.size, xyz.ndim), axis=-1)


Region = Box | Sphere | OrientedBox | Bool[Array, " n"] | Bool[np.ndarray, " n"]
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
