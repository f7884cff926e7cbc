"""Attention as three matrix operations: simplest and, for short sequences, fastest."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float


def attend(
    q: Float[Array, "b n heads d"],
    k: Float[Array, "b m heads d"],
    v: Float[Array, "b m heads d"],
    key_mask: Bool[Array, "b m"] | None = None,
) -> Float[Array, "b n heads d"]:
    """Materialises all n m scores of every head, in float32."""
    if len(q) == 1:  # see `nn.rows` on axes of length one
        q, k, v, key_mask = q[0], k[0], v[0], None if key_mask is None else key_mask[0]
    # Heads are moved in front of the tokens first: XLA's CPU backend runs these batched products a
    # third faster than the same contraction in the [b, n, heads, d] layout.
    q, k, v = (jnp.swapaxes(x, -3, -2) for x in (q * q.shape[-1] ** -0.5, k, v))
    scores = jnp.einsum("...nd,...md->...nm", q, k, preferred_element_type=jnp.float32)
    if key_mask is not None:
        scores = jnp.where(key_mask[..., None, None, :], scores, -jnp.inf)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    out = jnp.swapaxes(jnp.einsum("...nm,...md->...nd", weights, v), -3, -2)
    return out.reshape(-1, *out.shape[-3:])
