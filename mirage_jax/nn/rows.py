"""Arrays of channel vectors: all positions as one matrix, and parameters beside them."""

from __future__ import annotations

from typing import Any

import jax
from jaxtyping import Array, Float


def rows(x: Float[Array, "*b d"]) -> Float[Array, "*n d"]:
    """Merges all leading axes, unless the mesh in force splits more than the batch.

    Gradients of kernels then need no transposed copies, and sums run over no axes of length one,
    which take the library behind them ten times as long (docs/performance.md). Merging an axis that
    devices split with others before it would move its data; and on TPUs that split parameters the
    5B model would take a tenth more memory.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return x if mesh.size > mesh.shape.get("data", 1) else x.reshape(-1, x.shape[-1])


def aligned(values: Any, x: Any) -> Any:
    """Values of the last axes of `x`, with axes of length one in front.

    NumPy adds these axes by itself, but not under `jax_numpy_rank_promotion=raise`.
    """
    return jax.lax.broadcast_to_rank(values, x.ndim)
