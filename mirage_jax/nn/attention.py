"""Attention: one function for every backend, and the two modules of a Wan block that use it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mirage_jax.nn.rope import rotate
from mirage_jax.nn.splash_attention import splash

BACKENDS = ("auto", "xla", "chunked", "cudnn", "splash")
"""Values of `backend`."""

_SCORES_LIMIT = 64 * 2**20
"""Largest number of scores of one batch element that "auto" still lets XLA materialise."""


def attention(
    q: Float[Array, "b n heads d"],
    k: Float[Array, "b m heads d"],
    v: Float[Array, "b m heads d"],
    *,
    backend: str = "auto",
    chunk: int = 512,
) -> Float[Array, "b n heads d"]:
    """Softmax attention, softmax(q k^T / sqrt(d)) v, without mask; logits in float32.

    Args:
      q: queries.
      k: keys.
      v: values.
      backend: "xla" materialises the scores; "chunked" walks over the keys with a running softmax,
        so that memory is linear in the tokens, also backwards; "cudnn" is the fused NVIDIA kernel
        (bfloat16 or float16 only); "splash" the one for TPUs; "auto" takes cudnn where it can run,
        xla for short sequences, chunked otherwise.
      chunk: keys per step of "chunked".

    Raises:
      ValueError: if the backend is unknown, or cudnn is asked for with another dtype.
    """
    if backend == "auto":
        backend = _choose(q, k)
    if backend == "xla":
        return _materialised(q, k, v)
    if backend == "chunked":
        return _chunked(q, k, v, chunk)
    if backend == "cudnn":
        if not _half(q):
            raise ValueError(f"attention backend cudnn: found {q.dtype}, expected bfloat16/float16")
        return jax.nn.dot_product_attention(q, k, v, implementation="cudnn")
    if backend == "splash":
        return splash(q, k, v)
    raise ValueError(f"attention backend: found {backend!r}, expected one of {', '.join(BACKENDS)}")


def _half(x: Array) -> bool:
    return x.dtype in (jnp.bfloat16, jnp.float16)


def _choose(q: Array, k: Array) -> str:
    if jax.default_backend() == "gpu" and _half(q) and q.shape[-1] % 8 == 0 and q.shape[-1] <= 128:
        return "cudnn"
    scores = q.shape[1] * k.shape[1] * q.shape[2]
    return "xla" if scores <= _SCORES_LIMIT else "chunked"


def _materialised(q: Array, k: Array, v: Array) -> Array:
    # Heads are moved in front of the tokens first: XLA's CPU backend runs these batched products a
    # third faster than the same contraction in the [b, n, heads, d] layout.
    q, k, v = (jnp.swapaxes(x, 1, 2) for x in (q * q.shape[-1] ** -0.5, k, v))
    scores = jnp.einsum("bhnd,bhmd->bhnm", q, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scores, axis=-1).astype(v.dtype)
    return jnp.swapaxes(jnp.einsum("bhnm,bhmd->bhnd", weights, v), 1, 2)


def _chunked(q: Array, k: Array, v: Array, chunk: int) -> Array:
    """Online softmax over chunks of keys (Rabe and Staats, arXiv 2112.05682)."""
    tokens = k.shape[1]
    chunk = min(chunk, tokens)
    count = -(-tokens // chunk)
    pad = ((0, 0), (0, count * chunk - tokens), (0, 0), (0, 0))

    def split(x: Array) -> Array:
        padded = jnp.pad(x, pad).reshape(x.shape[0], count, chunk, *x.shape[2:])
        return padded.transpose(1, 0, 3, 2, 4)

    valid = (jnp.arange(count * chunk) < tokens).reshape(count, 1, 1, 1, chunk)
    queries = jnp.swapaxes(q * q.shape[-1] ** -0.5, 1, 2)

    # Checkpointed, so that the backward pass recomputes a chunk's scores and never keeps them all.
    @jax.checkpoint
    def step(carry: tuple[Array, Array, Array], block: tuple[Array, Array, Array]) -> Any:
        total, norm, peak = carry
        keys, values, keep = block
        scores = jnp.einsum("bhnd,bhmd->bhnm", queries, keys, preferred_element_type=jnp.float32)
        scores = jnp.where(keep, scores, -jnp.inf)
        new_peak = jnp.maximum(peak, scores.max(axis=-1))
        weights = jnp.exp(scores - new_peak[..., None])
        shrink = jnp.exp(peak - new_peak)
        new = jnp.einsum(
            "bhnm,bhmd->bhnd",
            weights.astype(values.dtype),
            values,
            preferred_element_type=jnp.float32,
        )
        norm = norm * shrink + weights.sum(axis=-1)
        return (total * shrink[..., None] + new, norm, new_peak), None

    shape = queries.shape
    start = (
        jnp.zeros(shape, jnp.float32),
        jnp.zeros(shape[:-1], jnp.float32),
        jnp.full(shape[:-1], -jnp.inf, jnp.float32),
    )
    (total, norm, _), _ = jax.lax.scan(step, start, (split(k), split(v), valid))
    return jnp.swapaxes(total / norm[..., None], 1, 2).astype(q.dtype)


def rms_norm(
    x: Float[Array, "*b d"], scale: Float[Array, " d"], eps: float = 1e-6
) -> Float[Array, "*b d"]:
    """x / rms(x) * scale over the last axis; computed in float32, returned in x's dtype."""
    wide = x.astype(jnp.float32)
    normed = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    return (normed * scale).astype(x.dtype)


def named_param(
    module: nn.Module,
    name: str,
    init: Callable[..., Any],
    shape: tuple[int, ...],
    axes: tuple[str | None, ...],
) -> Array:
    """A float32 parameter of `module` whose axes carry logical names."""
    value: Any = module.param(name, nn.with_logical_partitioning(init, axes), shape, jnp.float32)
    return value


class Linear(nn.Module):
    """x @ kernel + bias, with logical axis names and the arrays within the parent's reach."""

    inputs: int
    features: int
    axes: tuple[str | None, str | None] = ("embed", "mlp")
    kernel_init: Callable[..., Any] = nn.initializers.xavier_uniform()
    dtype: Any = jnp.float32

    def setup(self) -> None:
        shape = (self.inputs, self.features)
        self.kernel = named_param(self, "kernel", self.kernel_init, shape, self.axes)
        self.bias = named_param(self, "bias", nn.initializers.zeros, shape[1:], self.axes[1:])

    def __call__(self, x: Float[Array, "*b inputs"]) -> Float[Array, "*b features"]:
        return x.astype(self.dtype) @ self.kernel.astype(self.dtype) + self.bias.astype(self.dtype)


def joint_projection(
    x: Float[Array, "b n d"], layers: tuple[Linear, ...]
) -> tuple[Float[Array, "b n features"], ...]:
    """Several projections of one input as a single matrix product (twice as fast on a CPU).

    Kernels are stacked on an axis of their own, never concatenated: a concatenation along an axis
    that is split over devices would move every kernel.
    """
    dtype = layers[0].dtype
    kernels = jnp.stack([layer.kernel for layer in layers], axis=1).astype(dtype)
    outputs = jnp.einsum("bnd,dke->kbne", x.astype(dtype), kernels)
    return tuple(outputs[i] + layer.bias.astype(dtype) for i, layer in enumerate(layers))


class Attention(nn.Module):
    """Multi-head attention with RMS-normalised queries and keys (norm over the full width)."""

    width: int
    heads: int
    backend: str = "auto"
    dtype: Any = jnp.float32

    def setup(self) -> None:
        projection = {"inputs": self.width, "features": self.width, "dtype": self.dtype}
        self.q = Linear(**projection, axes=("embed", "heads"))
        self.k = Linear(**projection, axes=("embed", "heads"))
        self.v = Linear(**projection, axes=("embed", "heads"))
        self.o = Linear(**projection, axes=("heads", "embed"))
        ones = nn.initializers.ones
        self.norm_q = named_param(self, "norm_q", ones, (self.width,), ("heads",))
        self.norm_k = named_param(self, "norm_k", ones, (self.width,), ("heads",))

    def __call__(
        self,
        x: Float[Array, "b n d"],
        *,
        rotations: Float[Array, "n half 2"] | None = None,
        context: Float[Array, "b m d"] | None = None,
    ) -> Float[Array, "b n d"]:
        """Attends from x to itself, with rotations, or to `context`, without."""
        if context is None:
            q, k, v = joint_projection(x, (self.q, self.k, self.v))
        else:
            q, (k, v) = self.q(x), joint_projection(context, (self.k, self.v))
        q, k = rms_norm(q, self.norm_q), rms_norm(k, self.norm_k)
        q, k, v = (a.reshape(*a.shape[:2], self.heads, -1) for a in (q, k, v))
        if rotations is not None:
            q, k = rotate(q, rotations), rotate(k, rotations)
        out = attention(q, k, v, backend=self.backend)
        return self.o(out.reshape(x.shape))
