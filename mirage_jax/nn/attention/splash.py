"""The splash attention kernel for TPUs that comes with JAX (Pallas)."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

LANES = 128
"""Blocks are multiples of this."""
BLOCK = 512
"""Tokens per block of long sequences."""


def attend(
    q: Float[Array, "b n heads d"],
    k: Float[Array, "b m heads d"],
    v: Float[Array, "b m heads d"],
    key_mask: Bool[Array, "b m"] | None = None,
    *,
    interpret: bool = False,
) -> Float[Array, "b n heads d"]:
    """Attention without materialised scores; sequences are padded to whole blocks.

    Args:
      q: queries.
      k: keys.
      v: values.
      key_mask: which keys are present; None for all.
      interpret: emulate the kernel, on any backend, slowly.
    """
    # Here, since importing Pallas takes longer than most commands.
    from jax.experimental.pallas.ops.tpu.splash_attention import (
        splash_attention_kernel as kernels,
    )
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    n, m, heads = q.shape[1], k.shape[1], q.shape[2]
    block_q, block_kv = _block(n), _block(m)
    padded_n, padded_m = _up(n, block_q), _up(m, block_kv)

    def heads_first(x: Array, tokens: int) -> Array:
        x = jnp.pad(x, ((0, 0), (0, tokens - x.shape[1]), (0, 0), (0, 0)))
        return jnp.swapaxes(x, 1, 2)

    kernel = kernels.make_splash_mha(
        mask=masks.MultiHeadMask([masks.FullMask((padded_n, padded_m))] * heads),
        block_sizes=kernels.BlockSizes(
            block_q=block_q,
            block_kv=block_kv,
            block_kv_compute=block_kv,
            block_q_dkv=block_q,
            block_kv_dkv=block_kv,
            block_kv_dkv_compute=block_kv,
            block_q_dq=block_q,
            block_kv_dq=block_kv,
        ),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )
    # Queries see keys of their own segment only: padding keys and absent ones are in another.
    segments = None
    if key_mask is not None or padded_m != m:
        present = jnp.ones((len(q), m), bool) if key_mask is None else key_mask
        absent = 1 - jnp.pad(present, ((0, 0), (0, padded_m - m))).astype(jnp.int32)
        segments = kernels.SegmentIds(q=jnp.zeros((len(q), padded_n), jnp.int32), kv=absent)
    scaled = heads_first(q * q.shape[-1] ** -0.5, padded_n)
    keys, values = heads_first(k, padded_m), heads_first(v, padded_m)
    out = jax.vmap(kernel)(scaled, keys, values, segments)
    return jnp.swapaxes(out, 1, 2)[:, :n].astype(q.dtype)


def _up(size: int, to: int) -> int:
    return -(-size // to) * to


def _block(tokens: int) -> int:
    return BLOCK if tokens >= BLOCK else _up(tokens, LANES)
