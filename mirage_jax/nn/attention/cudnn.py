"""The fused attention kernel of cuDNN, on NVIDIA GPUs."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

MAX_HEAD = 128
"""Largest size of a head; sizes are multiples of 8."""


def fits(q: Float[Array, "b *n heads d"]) -> bool:
    """Whether the kernel takes queries of this type and head size."""
    half = q.dtype in (jnp.bfloat16, jnp.float16)
    return half and q.shape[-1] % 8 == 0 and q.shape[-1] <= MAX_HEAD


def attend(
    q: Float[Array, "b n heads d"],
    k: Float[Array, "b m heads d"],
    v: Float[Array, "b m heads d"],
    key_mask: Bool[Array, "b m"] | None = None,
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
    if key_mask is None:
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    k, v, lengths = present_first(k, v, key_mask)
    return jax.nn.dot_product_attention(
        q, k, v, key_value_seq_lengths=lengths, implementation="cudnn"
    )


def present_first(
    k: Float[Array, "b m heads d"], v: Float[Array, "b m heads d"], key_mask: Bool[Array, "b m"]
) -> tuple[Float[Array, "b m heads d"], Float[Array, "b m heads d"], Int[Array, " b"]]:
    """Keys and values with those of the mask in front, and how many they are.

    Attention does not depend on the order of its keys, and the kernel knows how many of them count
    without a mask as large as the scores.
    """
    order = jnp.argsort(~key_mask, axis=1, stable=True)[..., None, None]
    k, v = (jnp.take_along_axis(x, order, axis=1) for x in (k, v))
    return k, v, key_mask.sum(axis=1, dtype=jnp.int32)
