"""Edits of a memory: what is in a region is deleted, moved, copied, swapped or pinned; memories are
merged and compared.

All functions are pure and compiled once for a kind of region. An edit obeys: it also takes what is
`pinned`, which is meant against what happens by itself. Slots that are freed hold nothing of what
was there.
"""

from __future__ import annotations

import functools
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mirage_jax import geometry
from mirage_jax.memory.bank import COUNTERS, ELEMENT_FIELDS, LatentMemory
from mirage_jax.memory.frustum_voxels import number_voxels
from mirage_jax.memory.regions import Region, select, transform, turned

Pose = Float[Array, "4 4"] | Float[np.ndarray, "4 4"]
Rows = dict[str, Array]


@flax.struct.dataclass
class InsertReport:
    """What became of elements that were to be added, int32; the three sum to all of them.

    Attributes:
      added: those that have a slot now.
      known: left out because the memory held an element there already.
      dropped: those for which no slot was free.
    """

    added: Any
    known: Any
    dropped: Any


@flax.struct.dataclass
class MemoryDiff:
    """What differs between two memories, slot by slot.

    Attributes:
      added: `[N]` bool, an element in the second alone.
      removed: `[N]` bool, an element in the first alone.
      changed: `[N]` bool, an element in both, not the same in every bit.
    """

    added: Any
    removed: Any
    changed: Any

    def counts(self) -> dict[str, int]:
        """How many there are of each."""
        return {name: int(np.sum(np.asarray(mask))) for name, mask in vars(self).items()}


@jax.jit
def delete(mem: LatentMemory, region: Region) -> tuple[LatentMemory, Int[Array, ""]]:
    """Frees the slots of the elements in a region; also says how many they were.

    What the memory knows behind them is seen again. `count` stays: slots may be free below it.
    """
    chosen = select(mem, region)
    cleared = {n: _where(chosen, jnp.zeros_like(leaf), leaf) for n, leaf in _rows(mem).items()}
    return _replace(mem, **cleared), _number(chosen)


@jax.jit
def move(mem: LatentMemory, region: Region, by: Pose) -> tuple[LatentMemory, Int[Array, ""]]:
    """Moves the elements in a region, and where they were seen from; also says how many they were.

    Args:
      mem: the memory.
      region: of space, before they are moved.
      by: `[4, 4]` rigid transform of world coordinates.
    """
    chosen = select(mem, region)
    return _moved(mem, chosen, by), _number(chosen)


@jax.jit
def swap(mem: LatentMemory, one: Region, other: Region) -> tuple[LatentMemory, Int[Array, ""]]:
    """Exchanges what is in two regions of space; also says how many elements were moved.

    Centre goes to centre and axes to axes (those of `OrientedBox`; all others are parallel). With
    regions of one shape the same again undoes it, to rounding. Elements in both regions stay.

    Raises:
      ValueError: if one is a mask, which has no place.
    """
    if not all(hasattr(region, "pose") for region in (one, other)):
        raise ValueError("swap: found a mask, expected two regions of space")
    first, second = select(mem, one), select(mem, other)
    here, there = jnp.asarray(one.pose), jnp.asarray(other.pose)  # type: ignore[union-attr]
    to_other = _after(there, geometry.invert_pose(here))
    to_one = _after(here, geometry.invert_pose(there))
    mem = _moved(mem, first & ~second, to_other)
    return _moved(mem, second & ~first, to_one), _number(first ^ second)


@jax.jit
def duplicate(mem: LatentMemory, region: Region, by: Pose) -> tuple[LatentMemory, InsertReport]:
    """Copies the elements in a region to another place, into free slots, the lowest first.

    Args:
      mem: the memory.
      region: of space, or a mask.
      by: `[4, 4]` rigid transform of world coordinates, from an element to its copy.
    """
    chosen = select(mem, region)
    return _insert(mem, _rows(_moved(mem, chosen, by)), chosen, jnp.zeros_like(chosen))


@functools.partial(jax.jit, static_argnames="pinned")
def pin(
    mem: LatentMemory, region: Region, pinned: bool = True
) -> tuple[LatentMemory, Int[Array, ""]]:
    """Makes the elements in a region stay whatever is written, or (False) no longer.

    Also says how many elements are in the region.
    """
    chosen = select(mem, region)
    return _replace(mem, pinned=jnp.where(chosen, pinned, mem.pinned)), _number(chosen)


@functools.partial(jax.jit, static_argnames="voxel")
def merge(
    mem: LatentMemory,
    other: LatentMemory,
    pose: Pose,
    *,
    time: Any = 0.0,
    voxel: float = 0.0,
) -> tuple[LatentMemory, InsertReport]:
    """Adds the elements of another memory, into free slots, the lowest first.

    Frames of the other are numbered after those of the first.

    Args:
      mem: the memory that grows; its capacity stays.
      other: what is added to it.
      pose: `[4, 4]` rigid transform from the other's world to this one's, see
        `alignment.estimate_pose`.
      time: added to the times of the other.
      voxel: side of a voxel, metres, not traced; elements in voxels in which the first has one
        already are left out. 0: all are taken.

    Raises:
      ValueError: if the tokens are not of the same kind.
    """
    if (mem.channels, mem.tokens.dtype) != (other.channels, other.tokens.dtype):
        raise ValueError(
            f"merge: found tokens {other.tokens.dtype} of {other.channels} channels, expected "
            f"{mem.tokens.dtype} of {mem.channels}"
        )
    shifted = _moved(other, other.valid, pose)
    shifted = _replace(
        shifted,
        frame=other.frame + mem.frames,
        time=other.time + jnp.asarray(time, other.time.dtype),
    )
    known = jnp.zeros_like(other.valid)
    if voxel > 0:
        number = number_voxels(jnp.concatenate([mem.xyz, shifted.xyz]), voxel)
        ours, theirs = number[: mem.capacity], number[mem.capacity :]
        occupied = jnp.zeros(len(number), bool).at[ours].max(mem.valid)
        known = other.valid & occupied[theirs]
    mem, report = _insert(mem, _rows(shifted), other.valid, known)
    lost = {name: getattr(mem, name) + getattr(other, name) for name in _LOSSES}
    return _replace(mem, frames=mem.frames + other.frames, **lost), report


@jax.jit
def compact(mem: LatentMemory) -> LatentMemory:
    """Moves all elements to the first slots, in their order, so that `count` is their number."""
    order = jnp.argsort(~mem.valid, stable=True)
    count = _number(mem.valid)
    used = jnp.arange(mem.capacity) < count
    rows = {n: _where(used, leaf[order], jnp.zeros_like(leaf)) for n, leaf in _rows(mem).items()}
    return _replace(mem, **rows, count=count)


def with_capacity(mem: LatentMemory, capacity: int) -> LatentMemory:
    """The memory with another number of slots (host side: it cannot be jitted).

    Raises:
      ValueError: if there are fewer slots than are used; `compact` first.
    """
    if capacity < int(mem.count):
        raise ValueError(f"capacity: found {capacity}, expected at least {int(mem.count)}")
    more = max(capacity - mem.capacity, 0)

    def resized(leaf: Array) -> Array:
        return jnp.pad(leaf[:capacity], ((0, more), *((0, 0),) * (leaf.ndim - 1)))

    return _replace(mem, **{name: resized(leaf) for name, leaf in _rows(mem).items()})


@jax.jit
def diff(one: LatentMemory, other: LatentMemory) -> MemoryDiff:
    """Compares two states of one memory, e.g. before and after an edit.

    Slots are compared with slots: `compact` changes nearly all. A slot that was freed and filled
    again counts as changed.

    Raises:
      ValueError: if they are not of one size and kind.
    """
    for name in ELEMENT_FIELDS:
        kinds = [(m.shape, m.dtype) for m in (getattr(one, name), getattr(other, name))]
        if kinds[0] != kinds[1]:
            raise ValueError(f"diff: {name}: found {kinds[1]}, expected {kinds[0]}")
    rows = zip(_rows(one).values(), _rows(other).values(), strict=True)
    differs = jnp.any(jnp.stack([rows_differ(a, b) for a, b in rows]), axis=0)
    return MemoryDiff(
        added=other.valid & ~one.valid,
        removed=one.valid & ~other.valid,
        changed=one.valid & other.valid & differs,
    )


def rows_differ(one: Array, other: Array) -> Bool[Array, " n"]:
    """Which rows of two arrays of one shape and dtype are not the same in every bit."""
    axes = tuple(range(1, one.ndim))
    return jnp.any(_bits(one) != _bits(other), axis=axes)


# -- rows ----------------------------------------------------------------------------------------

_LOSSES = [name for name in COUNTERS if name not in ("count", "frames")]


def _rows(mem: LatentMemory) -> Rows:
    return {name: jnp.asarray(getattr(mem, name)) for name in ELEMENT_FIELDS}


def _replace(mem: LatentMemory, **fields: Any) -> LatentMemory:
    return mem.replace(**fields)  # type: ignore[attr-defined]


def _number(mask: Bool[Array, " n"]) -> Int[Array, ""]:
    return jnp.sum(mask, dtype=jnp.int32)


def _where(mask: Bool[Array, " n"], one: Array, other: Array) -> Array:
    return jnp.where(mask.reshape(-1, *(1,) * (other.ndim - 1)), one, other)


def _bits(values: Array) -> Array:
    if not jnp.issubdtype(values.dtype, jnp.floating):
        return values
    return jax.lax.bitcast_convert_type(values, f"uint{8 * values.dtype.itemsize}")


def _moved(mem: LatentMemory, chosen: Bool[Array, " n"], by: Pose) -> LatentMemory:
    pose = jnp.asarray(by, jnp.float32)
    places = {
        name: _where(chosen, transform(pose, leaf), leaf)
        for name, leaf in (("xyz", mem.xyz), ("origin", mem.origin))
    }
    tangents = _where(chosen, turned(pose, mem.tangents), mem.tangents)
    return _replace(mem, **places, tangents=tangents)


def _after(second: Pose, first: Pose) -> Float[Array, "4 4"]:
    """The rigid transform `first`, then `second`."""
    return jnp.sum(jnp.asarray(second)[:, :, None] * first[None], axis=1)


def _insert(
    mem: LatentMemory, rows: Rows, wanted: Bool[Array, " m"], known: Bool[Array, " m"]
) -> tuple[LatentMemory, InsertReport]:
    """Copies the wanted rows that are not known into free slots, both in their order."""
    taken = wanted & ~known
    number = _number(taken)
    free = ~mem.valid
    added = jnp.minimum(number, _number(free))
    # One scatter of scalars finds the row of every rank; whole rows are only ever gathered.
    total = len(taken)
    rank = jnp.where(taken, jnp.cumsum(taken, dtype=jnp.int32) - 1, total)
    numbers = jnp.arange(total, dtype=jnp.int32)
    of_rank = jnp.zeros(total, jnp.int32).at[rank].set(numbers, mode="drop")
    place = jnp.cumsum(free, dtype=jnp.int32) - 1
    filled = free & (place < number)
    source = of_rank[jnp.clip(place, 0, total - 1)]
    new = {n: _where(filled, rows[n][source], leaf) for n, leaf in _rows(mem).items()}
    slots = jnp.arange(1, mem.capacity + 1, dtype=jnp.int32)
    last = jnp.max(jnp.where(filled, slots, 0))
    dropped = number - added
    mem = _replace(mem, **new, count=jnp.maximum(mem.count, last), dropped=mem.dropped + dropped)
    return mem, InsertReport(added=added, known=_number(wanted & known), dropped=dropped)
