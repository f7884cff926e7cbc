"""Attention of tokens that are split over devices, by passing the keys around.

Every device keeps its queries; keys and values go round the ring of devices, and each stop adds
them to a running softmax. The backward pass sends them round once more, with their gradients in
tow, so that no device ever holds the keys of another but those in passing (Ring Attention, arXiv
2310.01889). Needs no heads to spare, unlike `ulysses`.
"""

from __future__ import annotations

import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mirage_jax.nn.attention import chunked
from mirage_jax.nn.attention.placement import CONTEXT, Placement, flat, key_mask


def attend(
    q: Float[Array, "b *n heads d"],
    k: Float[Array, "b *n heads d"],
    v: Float[Array, "b *n heads d"],
    place: Placement,
    frame_mask: Bool[Array, "b f"] | None = None,
    *,
    chunk: int = 512,
) -> Float[Array, "b *n heads d"]:
    """Self-attention, `chunk` keys at a time, to the frames of `frame_mask`."""
    cells, parts = q.shape[-3], place.parts

    def local(q: Array, k: Array, v: Array, frame_mask: Array | None) -> Array:
        queries, keys, values = chunked.heads_first(flat(q), flat(k), flat(v))
        sizes = _Sizes(parts, cells, k.shape[-3], chunk)
        out = _ring(queries, keys, values, key_mask(frame_mask, k), sizes)
        return jnp.swapaxes(out, 1, 2).reshape(q.shape).astype(q.dtype)

    return place.run(local, q, k, v, frame_mask, keys_split=True)


class _Sizes(NamedTuple):
    """Devices in the ring, cells of a frame, those of one device, and keys per chunk; static."""

    parts: int
    cells: int
    local_cells: int
    chunk: int


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _ring(queries: Array, keys: Array, values: Array, mask: Array | None, sizes: _Sizes) -> Array:
    return _forward(queries, keys, values, mask, sizes)[0]


def _forward(
    queries: Array, keys: Array, values: Array, mask: Array | None, sizes: _Sizes
) -> tuple[Array, Any]:
    parts, chunk = sizes.parts, sizes.chunk

    def add(running: chunked.Running, block: tuple[Array, Array], stop: Any) -> chunked.Running:
        return chunked.add_keys(
            running, queries, *block, _valid_keys(block[0], mask, stop, sizes), chunk
        )

    def step(carry: tuple[Any, Any], stop: Array) -> tuple[tuple[Any, Any], None]:
        running, block = carry
        block = _pass_on(block, parts)
        return (add(running, block, stop), block), None

    block = keys, values
    running = add(chunked.start(queries), block, 0)
    (running, _), _ = jax.lax.scan(step, (running, block), jnp.arange(1, parts))
    out, log_sum = chunked.finish(running)
    return out, (queries, keys, values, mask, out, log_sum)


def _backward(sizes: _Sizes, saved: Any, d_out: Array) -> tuple[Array | None, ...]:
    parts, chunk = sizes.parts, sizes.chunk
    queries, keys, values, mask, out, log_sum = saved
    overlap = jnp.sum(d_out * out, axis=-1)
    d_average = d_out.astype(queries.dtype)

    def add(d_queries: Array, block: Any, d_block: Any, stop: Any) -> tuple[Array, Any]:
        (k, v), valid = block, _valid_keys(block[0], mask, stop, sizes)
        dq, *d_new = chunked.key_gradients(queries, k, v, valid, d_average, log_sum, overlap, chunk)
        return d_queries + dq, tuple(a + b for a, b in zip(d_block, d_new, strict=True))

    def step(carry: tuple[Any, Any, Any], stop: Array) -> tuple[tuple[Any, Any, Any], None]:
        d_queries, block, d_block = carry
        block, d_block = _pass_on((block, d_block), parts)
        d_queries, d_block = add(d_queries, block, d_block, stop)
        return (d_queries, block, d_block), None

    block = keys, values
    zeros = tuple(jnp.zeros(x.shape, jnp.float32) for x in (queries, keys, values))
    d_queries, d_block = add(zeros[0], block, zeros[1:], 0)
    carry, _ = jax.lax.scan(step, (d_queries, block, d_block), jnp.arange(1, parts))
    d_queries, _, d_block = carry
    d_keys, d_values = _pass_on(d_block, parts)  # the last step home
    gradients = d_queries, d_keys, d_values
    return *chunked.in_dtypes_of(gradients, (queries, keys, values)), None


_ring.defvjp(_forward, _backward)


def _pass_on(blocks: Any, parts: int) -> Any:
    following = [(i, (i + 1) % parts) for i in range(parts)]
    return jax.tree.map(lambda x: jax.lax.ppermute(x, CONTEXT, following), blocks)


def _valid_keys(keys: Array, mask: Array | None, stop: Any, sizes: _Sizes) -> Array:
    """Which of the keys received at this stop are in `mask` and not padding."""
    owner = (jax.lax.axis_index(CONTEXT) - stop) % sizes.parts
    valid = owner * sizes.local_cells + jnp.arange(sizes.local_cells) < sizes.cells
    valid = jnp.tile(valid, keys.shape[2] // sizes.local_cells)[None]
    return valid if mask is None else valid & mask
