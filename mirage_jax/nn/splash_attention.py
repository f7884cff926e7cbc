"""Attention by the splash kernel for TPUs that comes with JAX (Pallas), device by device."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks
from jax.sharding import PartitionSpec
from jaxtyping import Array, Float

from mirage_jax.parallel.mesh import BATCH_AXES

BLOCK = 512


def splash(
    q: Float[Array, "b n heads d"], k: Float[Array, "b m heads d"], v: Float[Array, "b m heads d"]
) -> Float[Array, "b n heads d"]:
    """Attention without materialised scores, forwards and backwards.

    The compiler cannot split the kernel, so on a mesh it is mapped over samples and heads; a
    device gets all tokens of its samples.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1:
        return _local(q, k, v)
    whole = q.shape[0] % math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    spec = PartitionSpec(None if whole else BATCH_AXES, None, "tensor", None)
    mapped = jax.shard_map(_local, in_specs=(spec,) * 3, out_specs=spec, check_vma=False)
    return mapped(q, k, v)


def _local(q: Array, k: Array, v: Array) -> Array:
    n, m, heads = q.shape[1], k.shape[1], q.shape[2]
    (q, block_q), (k, block_kv), (v, _) = (_blocks(x) for x in (q * q.shape[-1] ** -0.5, k, v))
    kernel = kernels.make_splash_mha(
        mask=masks.MultiHeadMask([masks.FullMask((q.shape[2], k.shape[2]))] * heads),
        block_sizes=kernels.BlockSizes(
            block_q=block_q,
            block_kv=block_kv,
            block_q_dkv=block_q,
            block_kv_dkv=block_kv,
            block_q_dq=block_q,
            block_kv_dq=block_kv,
        ),
        head_shards=1,
        q_seq_shards=1,
    )
    # Keys that only fill up a block are in a segment that no query is in.
    segments = kernels.SegmentIds(
        q=jnp.zeros(q.shape[2], jnp.int32), kv=(jnp.arange(k.shape[2]) >= m).astype(jnp.int32)
    )
    out = jax.vmap(lambda *qkv: kernel(*qkv, segment_ids=segments))(q, k, v)
    return jnp.swapaxes(out, 1, 2)[:, :n].astype(v.dtype)


def _blocks(x: Array) -> tuple[Array, int]:
    """[b, heads, n, d] with n filled up to whole blocks, and the block's length."""
    tokens = x.shape[1]
    block = BLOCK if tokens >= BLOCK else -(-tokens // 128) * 128
    filled = jnp.pad(x, ((0, 0), (0, -tokens % block), (0, 0), (0, 0)))
    return jnp.swapaxes(filled, 1, 2), block
