"""`memory.read`: on one device, or on the devices of the mesh in force."""

from __future__ import annotations

from typing import Any

import jax
from jax.sharding import AxisType

from mirage_jax import geometry
from mirage_jax.memory import readout, sharded
from mirage_jax.memory.bank import LatentMemory
from mirage_jax.memory.readout import ReadOut
from mirage_jax.parallel import CONTEXT


def read(
    mem: LatentMemory, camera: geometry.Camera, grid: tuple[int, int], **options: Any
) -> ReadOut:
    """What a memory shows at target poses; arguments, result and errors as for `readout.read`.

    Where the mesh in force (`jax.set_mesh`) has a `context` axis larger than one that divides the
    slots, every device along it reads its part of them, see `sharded.read`: the result is the same.
    A bank that lies so (`sharded.shardings`) stays where it is. Inside `jax.shard_map`, and where
    axes are not Auto, the memory is taken to be one device's.
    """
    axes = split_axes(mem.capacity)
    if axes:
        return sharded.read(mem, camera, grid, axes=axes, **options)
    return readout.read(mem, camera, grid, **options)


def split_axes(slots: int) -> tuple[str, ...]:
    """Axes of the mesh in force along which a memory of so many slots is read in parts."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or set(mesh.axis_types) != {AxisType.Auto}:
        return ()
    parts = dict(mesh.shape).get(CONTEXT, 1)
    return (CONTEXT,) if parts > 1 and slots % parts == 0 else ()
