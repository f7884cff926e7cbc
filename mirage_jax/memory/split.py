"""Whether the slots of a memory are divided among devices."""

from __future__ import annotations

import jax
from jax.sharding import AxisType

from mirage_jax.parallel import CONTEXT


def split_axes(slots: int) -> tuple[str, ...]:
    """Axes of the mesh in force (`jax.set_mesh`) over which a memory of so many slots is split.

    That is `context`, where it is larger than one and divides them. Inside `jax.shard_map`, and
    where axes are not Auto, a memory is taken to be one device's: () as without a mesh.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or set(mesh.axis_types) != {AxisType.Auto}:
        return ()
    parts = dict(mesh.shape).get(CONTEXT, 1)
    return (CONTEXT,) if parts > 1 and slots % parts == 0 else ()
