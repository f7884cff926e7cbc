"""Counts the floating-point operations of matrix products and convolutions, without running them.

XLA's own count takes the body of a loop once, and sees nothing inside fused kernels.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import jax
from jax.extend.core import ClosedJaxpr, Jaxpr


def count_flops(function: Callable[..., Any], *inputs: Any) -> int:
    """Multiplications and additions of all matrix products and convolutions in `function`.

    Loops of known length count as often as they run, others once, and of a conditional the most
    expensive branch. Everything elementwise is left out.

    Args:
      function: what `jax.jit` takes.
      inputs: arrays or `jax.ShapeDtypeStruct`s.
    """
    return _of_program(jax.make_jaxpr(function)(*inputs).jaxpr)


def _of_program(program: Jaxpr) -> int:
    return sum(map(_of_equation, program.eqns))


def _of_equation(equation: Any) -> int:
    name, params = equation.primitive.name, equation.params
    if name == "dot_general":
        (contracted, _), _ = params["dimension_numbers"]
        lhs = equation.invars[0].aval.shape
        return 2 * equation.outvars[0].aval.size * math.prod(lhs[i] for i in contracted)
    if name == "conv_general_dilated":
        kernel = equation.invars[1].aval
        features = kernel.shape[params["dimension_numbers"].rhs_spec[0]]
        return 2 * equation.outvars[0].aval.size * (kernel.size // features)
    inner = [_of_program(program) for program in _programs(params)]
    if name == "cond":
        return max(inner)
    return sum(inner) * (params["length"] if name == "scan" else 1)


def _programs(params: dict[str, Any]) -> Iterator[Jaxpr]:
    for value in params.values():
        for item in value if isinstance(value, tuple | list) else (value,):
            if isinstance(item, ClosedJaxpr):
                yield item.jaxpr
            elif isinstance(item, Jaxpr):
                yield item
