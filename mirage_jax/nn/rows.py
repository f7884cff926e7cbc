"""Vectors of all positions as one matrix: what the library of XLA's CPU backend is fast on."""

from __future__ import annotations

import jax
from jaxtyping import Array, Float


def rows(x: Float[Array, "*b d"]) -> Float[Array, "*n d"]:
    """Merges all leading axes, unless a mesh of several devices is in force.

    Over axes of length one, such as a batch of one, that library sums up to twenty times slower;
    and gradients of kernels need no transposed copies (docs/performance.md). Devices may split any
    of several axes, and merging that one would move its data.
    """
    mesh = jax.sharding.get_abstract_mesh()
    return x.reshape(-1, x.shape[-1]) if mesh.empty or mesh.size == 1 else x
