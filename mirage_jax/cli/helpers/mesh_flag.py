"""--mesh of commands that walk: the devices that one model and its memory are split over."""

from __future__ import annotations

import contextlib
from typing import Any

from absl import flags
from jax.sharding import Mesh

from mirage_jax.cli.helpers.common import UserError
from mirage_jax.parallel import make_mesh
from mirage_jax.world import WorldModel, on_mesh

_AXES = ("fsdp", "context", "tensor")

MESH = flags.DEFINE_string(
    "mesh",
    "",
    "Devices to split over, AXIS=SIZE,...: fsdp and tensor split the denoiser's parameters, "
    "context the memory and the tokens of a chunk; one size may be -1, which takes the devices "
    "left over. By default one device.",
)


def parse(text: str) -> dict[str, int]:
    """Sizes by axis; {} for an empty text.

    Raises:
      UserError: on anything but AXIS=SIZE,..., each axis once.
    """
    sizes: dict[str, int] = {}
    for word in filter(None, text.split(",")):
        axis, _, size = word.partition("=")
        whole = size.removeprefix("-").isdecimal()
        if axis not in _AXES or axis in sizes or not whole:
            expected = f"expected AXIS=SIZE,... of {', '.join(_AXES)}, each once"
            raise UserError(f"--mesh: found {word!r}, {expected}")
        sizes[axis] = int(size)
    return sizes


def asked() -> Mesh | None:
    """The mesh that the flag asks for, None without it.

    Raises:
      UserError: if these are not as many devices as there are.
    """
    sizes: dict[str, Any] = parse(MESH.value)
    if not sizes:
        return None
    try:
        return make_mesh(data=1, **sizes)
    except ValueError as error:
        raise UserError(f"--mesh: {error}") from error


def in_force() -> contextlib.AbstractContextManager[Any]:
    """Within it this thread runs on the mesh."""
    return on_mesh.in_force(asked())


def placed(model: WorldModel) -> WorldModel:
    """The model on the mesh, or as it is without one."""
    mesh = asked()
    return model if mesh is None else on_mesh.place_model(model, mesh)
