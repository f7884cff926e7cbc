"""The fused attention kernel of cuDNN, on NVIDIA GPUs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

MAX_HEAD = 128
"""Largest size of a head; sizes are multiples of 8."""


def fits(q: Float[Array, "b *n heads d"]) -> bool:
    """Whether the kernel takes queries of this type and head size."""
    half = q.dtype in (jnp.bfloat16, jnp.float16)
    return half and q.shape[-1] % 8 == 0 and q.shape[-1] <= MAX_HEAD


def attend(
    q: Float[Array, "b n heads d"], k: Float[Array, "b m heads d"], v: Float[Array, "b m heads d"]
) -> Float[Array, "b n heads d"]:
    """Attention without materialised scores.

    Raises:
      ValueError: if the kernel does not take this type or head size.
    """
    if not fits(q):
        raise ValueError(
            f"attention backend cudnn: found {q.dtype} with heads of {q.shape[-1]}, expected "
            f"bfloat16/float16 with a multiple of 8 up to {MAX_HEAD}"
        )
    return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
