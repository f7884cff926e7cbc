"""The device mesh: four axes, whatever the machine.

`data` splits the batch and repeats the parameters, `fsdp` splits the batch and the parameters,
`context` splits the tokens of one sample, `tensor` splits the width of a layer.  A laptop is the
mesh (1, 1, 1, 1); nothing else in the code asks how many devices there are.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

AXES = ("data", "fsdp", "context", "tensor")
BATCH_AXES = ("data", "fsdp")
"""Axes over which the leading dimension of a batch is split."""
CONTEXT = "context"
"""Axis over which what belongs to one sample is split: its tokens, the slots of its memory."""


def make_mesh(
    data: int = -1,
    fsdp: int = 1,
    context: int = 1,
    tensor: int = 1,
    *,
    devices: Sequence[jax.Device] | None = None,
) -> Mesh:
    """A mesh over `devices` (default: all, of all processes) with the axes `AXES`.

    The axes are Auto: the compiler places what the logical rules leave open.  JAX's own default has
    been Explicit, under which Linen's logical constraints fail.

    Args:
      data: size of the axis; at most one of the four may be -1 and takes the devices left over.
      fsdp: as `data`.
      context: as `data`.
      tensor: as `data`.
      devices: devices to use, in order; by default they are ordered by their network topology, and
        several slices are joined along `data` or `fsdp`, see `by_slice`.

    Raises:
      ValueError: if a size is neither -1 nor positive, two are -1, or the sizes do not multiply to
        the number of devices.
    """
    sizes = dict(zip(AXES, (data, fsdp, context, tensor), strict=True))
    count = jax.device_count() if devices is None else len(devices)
    for name, size in sizes.items():
        if size != -1 and size < 1:
            raise ValueError(f"mesh.{name}: found {size}, expected a positive size or -1")
    open_axes = [name for name, size in sizes.items() if size == -1]
    if len(open_axes) > 1:
        raise ValueError(f"mesh: found -1 for {' and '.join(open_axes)}, expected at most one -1")
    fixed = int(np.prod([size for size in sizes.values() if size != -1]))
    if open_axes:
        if count % fixed:
            raise ValueError(
                f"mesh.{open_axes[0]}: {count} devices cannot be split into groups of {fixed} "
                f"({_describe(sizes)})"
            )
        sizes[open_axes[0]] = count // fixed
    elif fixed != count:
        raise ValueError(
            f"mesh: {_describe(sizes)} needs {fixed} devices, found {count}; give one axis -1"
        )
    shape = tuple(sizes.values())
    types = (AxisType.Auto,) * len(AXES)
    if devices is not None:
        return Mesh(np.asarray(devices).reshape(shape), AXES, axis_types=types)
    hybrid = by_slice(shape, jax.devices())
    if hybrid is not None:
        return Mesh(hybrid, AXES, axis_types=types)
    return jax.make_mesh(shape, AXES, axis_types=types)


def by_slice(shape: Sequence[int], devices: Sequence[Any]) -> np.ndarray | None:
    """Devices of several slices, so that one axis alone crosses the slow network between them.

    Args:
      shape: sizes of `AXES`.
      devices: with a `slice_index` each.

    Returns:
      Devices in that shape: the slices are laid along `data`, which talks least, or else along
      `fsdp`. None if there is one slice, or their number divides neither axis.
    """
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    for axis in range(len(BATCH_AXES)):
        if slices > 1 and shape[axis] % slices == 0:
            outer = [slices if each == axis else 1 for each in range(len(shape))]
            inner = [size // across for size, across in zip(shape, outer, strict=True)]
            return mesh_utils.create_hybrid_device_mesh(inner, outer, devices)
    return None


def batch_axes(count: int) -> tuple[str, ...]:
    """Axes of the mesh in force (`jax.set_mesh`) over which a batch of so many samples is split.

    An axis that does not divide them is left out, as it is for parameters.
    """
    size: dict[str, int] = dict(jax.sharding.get_abstract_mesh().shape)
    axes: tuple[str, ...] = tuple(axis for axis in BATCH_AXES if size.get(axis, 1) > 1)
    while axes and count % math.prod(size[axis] for axis in axes):
        axes = axes[1:]
    return axes


def map_batch(function: Callable[..., Any], *batch: Any) -> Any:
    """`jax.vmap` of a function of one sample, where each device has the samples that are its own.

    What `function` splits over other axes of the mesh, such as the memory of a sample, is then
    split within the devices of its sample.
    """
    axes = batch_axes(len(jax.tree.leaves(batch)[0]))
    return jax.vmap(function, spmd_axis_name=axes or None)(*batch)


def batch_shards(mesh: Mesh) -> int:
    """Parts a batch is split into; its leading dimension must be a multiple of this."""
    return int(np.prod([mesh.shape[axis] for axis in BATCH_AXES]))


def _describe(sizes: dict[str, int]) -> str:
    return " ".join(f"{name}={size}" for name, size in sizes.items())
