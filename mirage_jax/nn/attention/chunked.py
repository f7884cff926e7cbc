"""Attention over chunks of keys with a running softmax: memory linear in the tokens.

The forward pass is that of Rabe and Staats (arXiv 2112.05682); the parts it is made of, and their
gradients in closed form, also serve `ring`, where the chunks come from other devices. Arrays are
`[b, heads, tokens, d]` here, queries already scaled by 1 / sqrt(d).
"""

from __future__ import annotations

import functools
from collections.abc import Iterable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

# Stands for -inf, without its NaN where a whole chunk is padding: such a chunk counts until the
# first real key shrinks it to nothing.
MASKED = -1e30


def attend(
    q: Float[Array, "b n heads d"],
    k: Float[Array, "b m heads d"],
    v: Float[Array, "b m heads d"],
    key_mask: Bool[Array, "b m"] | None = None,
    *,
    chunk: int = 512,
) -> Float[Array, "b n heads d"]:
    """Walks over `chunk` keys at a time, also backwards; has no forward-mode derivative."""
    key_mask = jnp.ones((1, k.shape[1]), bool) if key_mask is None else key_mask
    average = _average(*heads_first(q, k, v), key_mask, chunk)
    return jnp.swapaxes(average, 1, 2).astype(q.dtype)


# With a backward pass of its own the forward one need not keep the running average of every chunk.
@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _average(queries: Array, keys: Array, values: Array, key_mask: Array, chunk: int) -> Array:
    return _forward(queries, keys, values, key_mask, chunk)[0]


def _forward(
    queries: Array, keys: Array, values: Array, key_mask: Array, chunk: int
) -> tuple[Array, Any]:
    average, log_sum = finish(add_keys(start(queries), queries, keys, values, key_mask, chunk))
    return average, (queries, keys, values, key_mask, average, log_sum)


def _backward(chunk: int, saved: Any, d_average: Array) -> tuple[Array | None, ...]:
    queries, keys, values, key_mask, average, log_sum = saved
    overlap = jnp.sum(d_average * average, axis=-1)
    gradients = key_gradients(
        queries, keys, values, key_mask, d_average.astype(queries.dtype), log_sum, overlap, chunk
    )
    return *in_dtypes_of(gradients, (queries, keys, values)), None


_average.defvjp(_forward, _backward)


def heads_first(
    q: Float[Array, "b n heads d"], k: Float[Array, "b m heads d"], v: Float[Array, "b m heads d"]
) -> tuple[Float[Array, "b heads n d"], Float[Array, "b heads m d"], Float[Array, "b heads m d"]]:
    """Queries scaled, tokens behind heads."""
    scaled = q * q.shape[-1] ** -0.5
    return jnp.swapaxes(scaled, 1, 2), jnp.swapaxes(k, 1, 2), jnp.swapaxes(v, 1, 2)


class Running(NamedTuple):
    """A softmax average over the keys so far, in float32.

    Attributes:
      total: sum of exp(score - peak) times value.
      norm: sum of exp(score - peak).
      peak: largest score.
    """

    total: Float[Array, "b heads n d"]
    norm: Float[Array, "b heads n"]
    peak: Float[Array, "b heads n"]


def start(queries: Float[Array, "b heads n d"]) -> Running:
    """The average over no keys."""
    shape = queries.shape
    return Running(
        total=jnp.zeros(shape, jnp.float32),
        norm=jnp.zeros(shape[:-1], jnp.float32),
        peak=jnp.full(shape[:-1], MASKED, jnp.float32),
    )


def add_keys(
    running: Running,
    queries: Float[Array, "b heads n d"],
    keys: Float[Array, "b heads m d"],
    values: Float[Array, "b heads m d"],
    key_mask: Bool[Array, "#b m"],
    chunk: int,
) -> Running:
    """Takes more keys, those of `key_mask`, into the average."""

    def step(running: Running, block: tuple[Array, Array, Array]) -> tuple[Running, None]:
        keys, values, key_mask = block
        scores = _scores(queries, keys, key_mask)
        peak = jnp.maximum(running.peak, scores.max(axis=-1))
        weights = jnp.exp(scores - peak[..., None])
        shrink = jnp.exp(running.peak - peak)
        new = _product("bhnm,bhmd->bhnd", weights.astype(values.dtype), values)
        norm = running.norm * shrink + weights.sum(axis=-1)
        return Running(running.total * shrink[..., None] + new, norm, peak), None

    return jax.lax.scan(step, running, _split(keys, values, key_mask, chunk))[0]


def finish(running: Running) -> tuple[Float[Array, "b heads n d"], Float[Array, "b heads n"]]:
    """The average and, for `key_gradients`, the logarithm of the sum of exp(score)."""
    average = running.total / running.norm[..., None]
    return average, running.peak + jnp.log(running.norm)


def key_gradients(
    queries: Float[Array, "b heads n d"],
    keys: Float[Array, "b heads m d"],
    values: Float[Array, "b heads m d"],
    key_mask: Bool[Array, "#b m"],
    d_average: Float[Array, "b heads n d"],
    log_sum: Float[Array, "b heads n"],
    overlap: Float[Array, "b heads n"],
    chunk: int,
) -> tuple[Float[Array, "b heads n d"], Float[Array, "b heads m d"], Float[Array, "b heads m d"]]:
    """What these keys contribute to the gradients of queries, keys and values, in float32.

    With p the weights and o the average: dv = p^T do, ds = p (do v^T - do . o), dq = ds k,
    dk = ds^T q (FlashAttention, arXiv 2205.14135, section 3 and appendix B.4).

    Args:
      queries: scaled.
      keys: any part of the keys.
      values: of these keys.
      key_mask: which of them are present.
      d_average: gradient in the average over all keys.
      log_sum: from `finish`, over all keys.
      overlap: do . o.
      chunk: keys at a time.
    """

    def step(d_queries: Array, block: tuple[Array, Array, Array]) -> Any:
        keys, values, key_mask = block
        scores = _scores(queries, keys, key_mask)
        weights = jnp.exp(scores - log_sum[..., None])
        d_values = _product("bhnm,bhnd->bhmd", weights.astype(values.dtype), d_average)
        d_weights = _product("bhnd,bhmd->bhnm", d_average, values)
        d_scores = (weights * (d_weights - overlap[..., None])).astype(keys.dtype)
        d_keys = _product("bhnm,bhnd->bhmd", d_scores, queries)
        return d_queries + _product("bhnm,bhmd->bhnd", d_scores, keys), (d_keys, d_values)

    blocks = _split(keys, values, key_mask, chunk)
    d_queries, parts = jax.lax.scan(step, jnp.zeros(queries.shape, jnp.float32), blocks)
    d_keys, d_values = (
        jnp.moveaxis(x, 0, 2).reshape(*x.shape[1:3], -1, x.shape[-1])[:, :, : keys.shape[2]]
        for x in parts
    )
    return d_queries, d_keys, d_values


def in_dtypes_of(gradients: Iterable[Array], inputs: Iterable[Array]) -> tuple[Array, ...]:
    """Float32 gradients in the dtypes of what they are of, as JAX wants them."""
    return tuple(d.astype(x.dtype) for d, x in zip(gradients, inputs, strict=True))


def _scores(queries: Array, keys: Array, key_mask: Array) -> Array:
    return jnp.where(key_mask[:, None, None], _product("bhnd,bhmd->bhnm", queries, keys), MASKED)


def _product(pattern: str, a: Array, b: Array) -> Array:
    return jnp.einsum(pattern, a, b, preferred_element_type=jnp.float32)


def _split(keys: Array, values: Array, key_mask: Array, chunk: int) -> tuple[Array, Array, Array]:
    """Chunks of equal size, on a new leading axis; the last is padded."""
    tokens = keys.shape[2]
    count = -(-tokens // chunk)
    size = -(-tokens // count)
    pad = (0, count * size - tokens)

    def split(x: Array) -> Array:
        x = jnp.pad(x, ((0, 0), (0, 0), pad, (0, 0)))
        return jnp.moveaxis(x.reshape(*x.shape[:2], count, size, x.shape[-1]), 2, 0)

    mask = jnp.pad(key_mask, ((0, 0), pad)).reshape(-1, count, size)
    return split(keys), split(values), jnp.moveaxis(mask, 1, 0)
