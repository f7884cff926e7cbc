"""What the shards of a memory tell each other, and how its slots are numbered over them.

Minima and sums of integers do not depend on the order in which they are taken, and where a value is
fetched from its owner each sum has one term that is not zero: what is made of them is the same on
any number of devices, bit for bit.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Int


class Collectives:
    """Reductions over the shards of a memory; the identity, as here there is one shard.

    Attributes:
      first_slot: slot number of the first element of this shard.
    """

    first_slot: Any = 0

    def minimum(self, values: Array) -> Array:
        """Elementwise minimum over the shards."""
        return values

    def maximum(self, values: Array) -> Array:
        """Elementwise maximum over the shards."""
        return values

    def total(self, counts: Int[Array, "*b"]) -> Int[Array, "*b"]:
        """Elementwise sum over the shards."""
        return counts

    def before(self, count: Int[Array, ""]) -> Int[Array, ""]:
        """Sum over the shards of lower slots than this one's."""
        return jnp.zeros_like(count)

    def slots(self, elements: int) -> int:
        """Slots of the whole memory, of which each shard has `elements`."""
        return elements

    def local_index(self, slot: Int[Array, "*b"]) -> tuple[Int[Array, "*b"], Bool[Array, "*b"]]:
        """Index of these elements in this shard, and whether they are in it."""
        return slot, jnp.ones(slot.shape, bool)

    def from_owner(self, values: Array, owned: Array) -> Array:
        """Each value from the shard whose `owned` is true."""
        return values


ALONE = Collectives()
"""Of a memory that is not one of several shards."""


class ShardCollectives(Collectives):
    """The elements of one device among those along `axes`; use inside `jax.shard_map`."""

    def __init__(self, axes: tuple[str, ...], elements: int) -> None:
        self._axes = axes
        self._elements = elements
        self.first_slot = jax.lax.axis_index(axes) * elements

    def minimum(self, values: Array) -> Array:
        return jax.lax.pmin(values, self._axes)

    def maximum(self, values: Array) -> Array:
        return jax.lax.pmax(values, self._axes)

    def total(self, counts: Int[Array, "*b"]) -> Int[Array, "*b"]:
        return jax.lax.psum(counts, self._axes)

    def before(self, count: Int[Array, ""]) -> Int[Array, ""]:
        counts = jax.lax.all_gather(count, self._axes)
        lower = jnp.arange(len(counts)) < jax.lax.axis_index(self._axes)
        return jnp.sum(jnp.where(lower, counts, 0), dtype=count.dtype)

    def slots(self, elements: int) -> int:
        return elements * int(jax.lax.axis_size(self._axes))

    def local_index(self, slot: Int[Array, "*b"]) -> tuple[Int[Array, "*b"], Bool[Array, "*b"]]:
        index = slot - self.first_slot
        return jnp.clip(index, 0, self._elements - 1), (index >= 0) & (index < self._elements)

    def from_owner(self, values: Array, owned: Array) -> Array:
        # Truth values would be added up to numbers.
        kind = jnp.int32 if values.dtype == bool else values.dtype
        found = jax.lax.psum(jnp.where(owned, values, 0).astype(kind), self._axes)
        return found.astype(values.dtype)
