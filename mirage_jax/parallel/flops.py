"""Floating-point operations of the matrix products in a traced program.

Counted before compilation, over all devices, with everything that rematerialisation repeats and
inside of Pallas kernels, where XLA's cost analysis sees nothing.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any


def matmul_flops(jaxpr: Any) -> int:
    """Operations (multiplications and additions) of the products in a jaxpr, for all devices.

    A `while` loop without a known number of rounds counts as one round, of the branches of a
    condition the most expensive counts.
    """
    jaxpr = getattr(jaxpr, "jaxpr", jaxpr)
    return sum(_equation(equation) for equation in jaxpr.eqns)


def _equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        left = equation.invars[0].aval.shape
        inner = math.prod(left[axis] for axis in contracted)
        return 2 * inner * math.prod(equation.outvars[0].aval.shape)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval.shape
        features = kernel[params["dimension_numbers"].rhs_spec[0]]
        return 2 * math.prod(kernel) // features * math.prod(equation.outvars[0].aval.shape)
    parts = [matmul_flops(part) for part in _jaxprs(params)]
    if name == "cond":
        return max(parts, default=0)
    return _repeats(name, params) * sum(parts)


def _jaxprs(params: Mapping[str, Any]) -> Iterator[Any]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if hasattr(getattr(item, "jaxpr", item), "eqns"):
                yield item


def _repeats(name: str, params: Mapping[str, Any]) -> int:
    if name == "scan":
        return params["length"]
    if name == "shard_map":
        mesh = params["mesh"]
        axes = params.get("newly_manual_axes", params.get("manual_axes", mesh.axis_names))
        return math.prod(mesh.shape[axis] for axis in axes)
    if name == "pallas_call":
        return math.prod(params["grid_mapping"].grid)
    return 1
