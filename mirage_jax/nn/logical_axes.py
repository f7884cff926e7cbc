"""Names of the axes of parameters, which `parallel.rules` maps to those of a mesh."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import flax.struct
import jax


@flax.struct.dataclass
class LogicallyPartitioned(nn.LogicallyPartitioned):
    """Flax's box, which NNX code bases can lift on any mesh or none (`nnx.bridge.ToNNX`).

    NNX would split a parameter as soon as it is made, and fail where no rules say how. Here it does
    so only where there are a mesh (`jax.set_mesh`) and rules (`nn.logical_axis_rules`); the names
    stay with the variable in either case.
    """

    def to_nnx_metadata(self) -> dict[str, Any]:
        placed = not jax.sharding.get_abstract_mesh().empty and nn.get_logical_axis_rules()
        return {**super().to_nnx_metadata(), "eager_sharding": bool(placed)}


def logical(init: Callable[..., Any], names: tuple[str | None, ...]) -> Callable[..., Any]:
    """`init` with logical axis names on what it makes."""

    @functools.wraps(init)
    def boxed(*args: Any, **kwargs: Any) -> LogicallyPartitioned:
        return LogicallyPartitioned(init(*args, **kwargs), names)

    return boxed
