"""Which elements make room for new ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mirage_jax.memory import pooling
from mirage_jax.memory.bank import LatentMemory

FAR_METRES = 10.0
"""Distance from the camera at which an element is worth half of what it is worth beside it."""
OLD_FRAMES = 200.0
"""Written frames after which an element is worth half of a new one."""


def worth(mem: LatentMemory, here: Float[Array, "3"]) -> Float[Array, " n"]:
    """What it costs to lose each element; the least go first.

    Confidence, divided by 1 + age / `OLD_FRAMES`, by 1 + distance from the camera / `FAR_METRES`
    and by the number of elements of about its size in its part of space, which can stand for it.

    Args:
      mem: the memory.
      here: where the camera is.
    """
    age = (mem.frames - mem.frame).astype(jnp.float32)
    distance = jnp.linalg.norm(mem.xyz - here[None], axis=-1)
    fresh, near = 1.0 + age / OLD_FRAMES, 1.0 + distance / FAR_METRES
    return mem.confidence / (fresh * near * crowding(mem))


def crowding(mem: LatentMemory) -> Float[Array, " n"]:
    """Elements of a similar size in the same cube of space, each counting itself; at least 1.

    Cubes have the edge of the size rounded to a power of two and lie along the axes of the world:
    a world that is turned may evict others. They are counted by a hash of their numbers, so that
    now and then two share a count.
    """
    octave = jnp.round(jnp.log2(jnp.maximum(mem.size, 1e-6)))
    cube = jnp.floor(mem.xyz / jnp.exp2(octave)[:, None])
    numbers = jnp.concatenate([cube, octave[:, None]], axis=-1).astype(jnp.int32)
    mixed = jnp.zeros(mem.capacity, jnp.uint32)
    for axis in range(4):
        # The multiplier of Knuth 1998, "Sorting and Searching", section 6.4; the high bits are
        # those that every number has changed.
        mixed = (mixed ^ numbers[:, axis].astype(jnp.uint32)) * np.uint32(2654435761)
        mixed = mixed ^ (mixed >> 15)
    bits = (4 * mem.capacity - 1).bit_length()
    place = (mixed * np.uint32(2654435761)) >> (32 - bits)
    counts = jnp.zeros(1 << bits, jnp.int32).at[place].add(mem.valid.astype(jnp.int32))
    return jnp.maximum(counts[place], 1).astype(jnp.float32)


def make_room(
    mem: LatentMemory,
    wanted: Int[Array, ""],
    here: Float[Array, "3"],
    *,
    spared: Bool[Array, " n"],
) -> tuple[LatentMemory, Int[Array, ""]]:
    """Removes as many elements as `wanted` new ones lack slots, those worth least first.

    Of equals the lowest slot goes. Pinned and `spared` elements stay, even if room is lacking then.

    Returns:
      The memory, and how many went.
    """
    free = mem.capacity - jnp.sum(mem.valid, dtype=jnp.int32)
    may_go = mem.valid & ~mem.pinned & ~spared
    lacking = jnp.minimum(wanted - free, jnp.sum(may_go, dtype=jnp.int32))

    def evict(mem: LatentMemory) -> LatentMemory:
        # Positive floats order like their bit patterns.
        keys = jax.lax.bitcast_convert_type(jnp.maximum(worth(mem, here), 0.0), jnp.int32)
        keys = jnp.where(may_go, keys, np.int32(2**31 - 1))
        bound = pooling.kth_smallest(keys, lacking)
        below = keys < bound
        ties = keys == bound
        left = lacking - jnp.sum(below, dtype=jnp.int32)
        goes = below | (ties & (jnp.cumsum(ties, dtype=jnp.int32) <= left))
        return mem.replace(valid=mem.valid & ~(goes & may_go))  # type: ignore[attr-defined]

    mem = jax.lax.cond(lacking > 0, evict, lambda mem: mem, mem)
    return mem, jnp.maximum(lacking, 0)


def free_slots(valid: Bool[Array, " n"], number: Int[Array, " m"]) -> Int[Array, " m"]:
    """The `number`-th free slot, from 1, of each; the capacity where there are fewer, or for 0."""
    # Those of a memory that was just made XLA would count while it compiles, which takes seconds.
    before = jnp.cumsum(jax.lax.optimization_barrier(~valid), dtype=jnp.int32)
    found = jnp.searchsorted(before, number, side="left").astype(jnp.int32)
    return jnp.where(number > 0, found, len(valid))
