"""The attention module of a Wan block and the projections it is made of."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name
from jaxtyping import Array, Bool, Float

from mirage_jax.nn.attention.dispatch import attention
from mirage_jax.nn.logical_axes import logical
from mirage_jax.nn.rope import rotate
from mirage_jax.nn.rows import aligned, rows

ATTENTION_OUTPUT = "attention_output"
"""Checkpoint name of attention's output before the last projection, see `block.REMAT`."""


def rms_norm(
    x: Float[Array, "*b d"], scale: Float[Array, " d"], eps: float = 1e-6
) -> Float[Array, "*b d"]:
    """x / rms(x) * scale over the last axis; computed in float32, returned in x's dtype."""
    wide = rows(x.astype(jnp.float32))
    normed = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + eps)
    return (normed * aligned(scale, normed)).astype(x.dtype).reshape(x.shape)


def named_param(
    module: nn.Module,
    name: str,
    init: Callable[..., Any],
    shape: tuple[int, ...],
    axes: tuple[str | None, ...],
) -> Any:
    """A float32 parameter of `module` whose axes carry logical names."""
    value: Any = module.param(name, logical(init, axes), shape, jnp.float32)
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
        lead = x.shape[:-1]
        x = rows(x.astype(self.dtype))
        out = x @ self.kernel.astype(self.dtype)
        if self.has_variable("params", "lora_a"):  # a low-rank adapter, see `nn.lora`
            down: Any = self.get_variable("params", "lora_a")
            up: Any = self.get_variable("params", "lora_b")
            if self.has_variable("params", "lora_key"):  # in training, with dropout
                key: Any = self.get_variable("params", "lora_key")
                keep_prob: Any = self.get_variable("params", "lora_keep_prob")
                x = jnp.where(jax.random.bernoulli(key, keep_prob, x.shape), x, 0)
            out = out + (x @ down.astype(self.dtype)) @ up.astype(self.dtype)
        return (out + aligned(self.bias.astype(self.dtype), out)).reshape(*lead, self.features)


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
        x: Float[Array, "b *n d"],
        *,
        rotations: Float[Array, "*n half 2"] | None = None,
        context: Float[Array, "b m d"] | None = None,
        frame_mask: Bool[Array, "b f"] | None = None,
    ) -> Float[Array, "b *n d"]:
        """Attends from x to itself, with rotations, or to `context`, without.

        With `frame_mask` the token axes are [frames, cells], and nothing attends to absent frames.

        Tokens may have several dimensions, of which the last is the one that devices may split:
        merging it into one with the others would move every token.
        """
        source = x if context is None else context
        q, k, v = self.q(x), self.k(source), self.v(source)
        q, k = rms_norm(q, self.norm_q), rms_norm(k, self.norm_k)
        q, k, v = (a.reshape(*a.shape[:-1], self.heads, -1) for a in (q, k, v))
        if rotations is not None:
            q, k = rotate(q, rotations), rotate(k, rotations)
        out = attention(
            q, k, v, frame_mask=frame_mask, backend=self.backend, keys_split=context is None
        )
        return self.o(checkpoint_name(out.reshape(x.shape), ATTENTION_OUTPUT))
