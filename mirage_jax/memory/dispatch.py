"""`memory.read`: on one device, or on the devices of the mesh in force."""

from __future__ import annotations

from typing import Any

from mirage_jax import geometry
from mirage_jax.memory import readout, sharded
from mirage_jax.memory.bank import LatentMemory
from mirage_jax.memory.readout import ReadOut
from mirage_jax.memory.split import split_axes


def read(
    mem: LatentMemory, camera: geometry.Camera, grid: tuple[int, ...], **options: Any
) -> ReadOut:
    """What a memory shows at target poses; arguments, result and errors as for `readout.read`.

    Where slots are split over the mesh in force (`split.split_axes`), every device reads its part
    of them, see `sharded.read`: the result is the same. A bank that lies so (`sharded.shardings`)
    stays where it is.
    """
    if len(grid) != 2:
        raise ValueError(f"memory.read: found grid {grid}, expected (rows, columns) of cells")
    axes = split_axes(mem.capacity)
    if axes:
        return sharded.read(mem, camera, (grid[0], grid[1]), axes=axes, **options)
    return readout.read(mem, camera, (grid[0], grid[1]), **options)
