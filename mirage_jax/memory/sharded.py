"""Read-out of a memory whose elements are split over devices.

Each device projects its own elements and fills a z-buffer of its own. What travels is as large as
the picture, not as the memory: the least depth of every cell, the lowest slot among the elements
that reach it, then the winners' tokens, of which every device adds those it holds. Minima do not
depend on the order in which they are taken, and each sum has one term that is not zero, so the
result equals `memory.read` on one device bit for bit (but for a -0 in a token, which becomes 0).
"""

from __future__ import annotations

import dataclasses
import math
from typing import Any, Literal

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from mirage_jax import geometry
from mirage_jax.memory import readout
from mirage_jax.memory.bank import COUNTERS, LatentMemory
from mirage_jax.memory.collectives import ShardCollectives
from mirage_jax.memory.readout import ReadOut
from mirage_jax.memory.split import split_axes


def specs(axes: tuple[str, ...]) -> LatentMemory:
    """How a memory is split over mesh axes: elements evenly in order of slots, counters not."""
    return LatentMemory(
        **{
            field.name: PartitionSpec() if field.name in COUNTERS else PartitionSpec(axes)
            for field in dataclasses.fields(LatentMemory)
        }
    )


def shardings(mesh: Mesh, axes: tuple[str, ...]) -> LatentMemory:
    """`specs` for `jax.device_put` and `jax.jit`."""
    return jax.tree.map(
        lambda spec: NamedSharding(mesh, spec),
        specs(axes),
        is_leaf=lambda leaf: isinstance(leaf, PartitionSpec),
    )


def in_parts(mem: LatentMemory) -> LatentMemory:
    """The memory with every device of the mesh in force (`jax.set_mesh`) holding its own slots,
    where they are split over it (`split.split_axes`); else as it is. Host side: not to be jitted.
    """
    axes = split_axes(mem.capacity)
    return jax.device_put(mem, shardings(jax.sharding.get_mesh(), axes)) if axes else mem


def read(
    mem: LatentMemory,
    camera: geometry.Camera,
    grid: tuple[int, int],
    *,
    axes: tuple[str, ...] = ("context",),
    time: Any = None,
    prefer: Literal["nearest", "best_view"] = "nearest",
    tolerance: float = 0.05,
    footprint: int = 1,
    cells: str = "centre",
    far: float | int = math.inf,
) -> ReadOut:
    """`memory.read` with the elements split over `axes` of the mesh in force (`jax.set_mesh`).

    Work per device falls with the number of devices; the result is the same on all of them. For a
    batch of memories split over other axes use `jax.vmap(..., spmd_axis_name=those axes)`.

    Args:
      mem: the memory; capacity a multiple of the devices along `axes`.
      camera: as for `memory.read`.
      grid: as for `memory.read`.
      axes: mesh axes among which the elements are divided.
      time: as for `memory.read`, like the rest.
      prefer: see there.
      tolerance: see there.
      footprint: see there.
      cells: see there.
      far: see there.

    Raises:
      ValueError: without a mesh that has these axes, if the capacity does not divide, and as
        `memory.read`.
    """
    size = dict(jax.sharding.get_abstract_mesh().shape)
    unknown = [axis for axis in axes if axis not in size]
    if unknown:
        raise ValueError(
            f"memory.sharded.read: found no mesh axis {unknown[0]!r}, expected one of "
            f"{', '.join(size) or 'a mesh, see jax.set_mesh'}"
        )
    devices = math.prod(size[axis] for axis in axes)
    if mem.capacity % devices:
        raise ValueError(
            f"memory.sharded.read: found capacity {mem.capacity}, expected a multiple of {devices} "
            f"(mesh axes {' x '.join(axes)})"
        )

    def local(mem: LatentMemory, camera: geometry.Camera, time: Any) -> ReadOut:
        return readout.read_shard(
            mem,
            camera,
            grid,
            ShardCollectives(axes, mem.capacity),
            time=time,
            prefer=prefer,
            tolerance=tolerance,
            footprint=footprint,
            cells=cells,
            far=far,
        )

    whole = PartitionSpec()
    return jax.shard_map(local, in_specs=(specs(axes), whole, whole), out_specs=whole)(
        mem, camera, time
    )
