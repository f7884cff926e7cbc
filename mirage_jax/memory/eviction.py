"""Which elements make room for new ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt32

from mirage_jax.memory import pooling
from mirage_jax.memory.bank import LatentMemory
from mirage_jax.memory.collectives import ALONE, Collectives

OLD_FRAMES = 2000.0
"""Written frames after which an element is worth half of a new one."""
THINNEST = 0.1
"""Worth of the element of a place that goes first, in that of the one that goes last."""


def worth(mem: LatentMemory, shards: Collectives = ALONE) -> Float[Array, " n"]:
    """What it costs to lose each element; the least go first.

    Confidence, divided by 1 + age / `OLD_FRAMES` and by the number of elements of about its size in
    its part of space, which can stand for it, and times a number of its own (`thinning`), so that a
    memory without room becomes coarser everywhere before a place is forgotten. What the camera is
    far from now is worth no less: it is what is asked for when it comes back. What distance and age
    cost instead: docs/memory.md.
    """
    age = (mem.frames - mem.frame).astype(jnp.float32)
    return mem.confidence * thinning(mem) / ((1.0 + age / OLD_FRAMES) * crowding(mem, shards))


def thinning(mem: LatentMemory) -> Float[Array, " n"]:
    """A number from `THINNEST` to 1 for each element, as if drawn, by where it lies and when it was
    written alone."""
    bits = jax.lax.bitcast_convert_type(mem.xyz, jnp.uint32)
    numbers = jnp.concatenate([bits, mem.frame[:, None].astype(jnp.uint32)], axis=-1)
    share = (_mixed(numbers) >> 8).astype(jnp.float32) / np.float32(2**24)
    return THINNEST + (1.0 - THINNEST) * share


def crowding(mem: LatentMemory, shards: Collectives = ALONE) -> Float[Array, " n"]:
    """Elements of a similar size in the same cube of space, each counting itself; at least 1.

    Cubes have the edge of the size rounded to a power of two and lie along the axes of the world:
    a world that is turned may evict others. They are counted by a hash of their numbers, so that
    now and then two share a count.
    """
    octave = jnp.round(jnp.log2(jnp.maximum(mem.size, 1e-6)))
    cube = jnp.floor(mem.xyz / jnp.exp2(octave)[:, None])
    numbers = jnp.concatenate([cube, octave[:, None]], axis=-1).astype(jnp.int32)
    bits = (4 * shards.slots(mem.capacity) - 1).bit_length()
    place = _mixed(numbers.astype(jnp.uint32)) >> (32 - bits)
    counts = jnp.zeros(1 << bits, jnp.int32).at[place].add(mem.valid.astype(jnp.int32))
    return jnp.maximum(shards.total(counts)[place], 1).astype(jnp.float32)


def _mixed(numbers: UInt32[Array, "n k"]) -> UInt32[Array, " n"]:
    """A hash of each row, whose high bits every number changes."""
    mixed = jnp.zeros(len(numbers), jnp.uint32)
    for column in range(numbers.shape[1]):
        # The multiplier of Knuth 1998, "Sorting and Searching", section 6.4.
        mixed = (mixed ^ numbers[:, column]) * np.uint32(2654435761)
        mixed = mixed ^ (mixed >> 15)
    return mixed * np.uint32(2654435761)


def make_room(
    mem: LatentMemory,
    wanted: Int[Array, ""],
    *,
    spared: Bool[Array, " n"],
    shards: Collectives = ALONE,
) -> tuple[LatentMemory, Int[Array, ""]]:
    """Removes as many elements as `wanted` new ones lack slots, those worth least first.

    Of equals the lowest slot goes. Pinned and `spared` elements stay, even if room is lacking then.

    Args:
      mem: the memory, or one of its shards.
      wanted: new elements, of all shards together.
      spared: elements of `mem` that stay.
      shards: which shard it is.

    Returns:
      The memory, and how many went, of all shards together.
    """
    free = shards.total(jnp.sum(~mem.valid, dtype=jnp.int32))
    may_go = mem.valid & ~mem.pinned & ~spared
    lacking = jnp.minimum(wanted - free, shards.total(jnp.sum(may_go, dtype=jnp.int32)))

    def evict(mem: LatentMemory) -> LatentMemory:
        # Positive floats order like their bit patterns.
        keys = jax.lax.bitcast_convert_type(jnp.maximum(worth(mem, shards), 0.0), jnp.int32)
        keys = jnp.where(may_go, keys, np.int32(2**31 - 1))
        bound = pooling.kth_smallest(keys, lacking, shards)
        below = keys < bound
        ties = keys == bound
        left = lacking - shards.total(jnp.sum(below, dtype=jnp.int32))
        rank = jnp.cumsum(ties, dtype=jnp.int32)
        goes = below | (ties & (shards.before(rank[-1]) + rank <= left))
        return mem.replace(valid=mem.valid & ~(goes & may_go))  # type: ignore[attr-defined]

    mem = jax.lax.cond(lacking > 0, evict, lambda mem: mem, mem)
    return mem, jnp.maximum(lacking, 0)


def free_slots(
    valid: Bool[Array, " n"], number: Int[Array, " m"], shards: Collectives = ALONE
) -> Int[Array, " m"]:
    """The `number`-th free slot, from 1, of each; the capacity where there are fewer, or for 0."""
    # Those of a memory that was just made XLA would count while it compiles, which takes seconds.
    free = jnp.cumsum(jax.lax.optimization_barrier(~valid), dtype=jnp.int32)
    here = number - shards.before(free[-1])
    found = shards.first_slot + jnp.searchsorted(free, here, side="left").astype(jnp.int32)
    mine = (number > 0) & (here > 0) & (here <= free[-1])
    return shards.minimum(jnp.where(mine, found, shards.slots(len(valid))))
