"""Vectors of all positions as one matrix: what XLA's CPU backend is fast on."""

from __future__ import annotations

import jax
from jaxtyping import Array, Float

from mirage_jax.parallel.mesh import CONTEXT


def rows(x: Float[Array, "*b d"]) -> Float[Array, "*n d"]:
    """Merges all leading axes, unless the mesh in force splits the tokens of a sample.

    Gradients of kernels then need no transposed copies, and sums run over no axes of length one,
    which take the library behind them up to twenty times as long (docs/performance.md). Merging an
    axis that devices split with others before it would move its data.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return x if mesh.shape.get(CONTEXT, 1) > 1 else x.reshape(-1, x.shape[-1])
