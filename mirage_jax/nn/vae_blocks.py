"""The blocks of the video VAE's networks: residual and attention blocks, resampling, shortcuts."""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from einops import rearrange, repeat
from jaxtyping import Array, Float

from mirage_jax.nn.layers import (
    CausalConv3d,
    Conv2d,
    RMSNorm,
    Stream,
    fan_in_uniform,
    store_last,
)
from mirage_jax.nn.logical_axes import logical
from mirage_jax.nn.rows import aligned


def average_down(
    x: Float[Array, "b t h w i"], features: int, time: int, space: int
) -> Float[Array, "b t2 h2 w2 o"]:
    """Parameter-free shortcut of a down block: blocks go to channels, groups of which are averaged.

    A clip whose length is no multiple of `time` (the first chunk) gets zero frames in front.
    Where there are fewer values than `features`, channels are repeated instead.

    Args:
      x: input of the level.
      features: channels o of the result.
      time: frames per block.
      space: rows and columns per block.

    Raises:
      ValueError: if neither the values of a block nor `features` divide the other.
    """
    x = jnp.pad(x, ((0, 0), (-x.shape[1] % time, 0)) + ((0, 0),) * 3)
    values = x.shape[-1] * time * space**2
    if values % features and features % values:
        raise ValueError(
            f"width_mults: {x.shape[-1]} channels over blocks of {time}x{space}x{space} cannot be "
            f"regrouped into {features} channels; expected one count to divide the other"
        )
    group = max(values // features, 1)
    blocks = "b (t p) (h q) (w r) c"
    if group % space**2 == 0:
        # The groups contain whole spatial blocks: pool first, so that little has to be transposed.
        x = rearrange(x, f"{blocks} -> b t h w c p (q r)", p=time, q=space, r=space).mean(-1)
        group //= space**2
        x = x.reshape(*x.shape[:4], -1)
    else:
        x = rearrange(x, f"{blocks} -> b t h w (c p q r)", p=time, q=space, r=space)
    if group > 1:
        return x.reshape(*x.shape[:4], -1, group).mean(-1)
    return jnp.repeat(x, features // x.shape[-1], axis=-1)


def duplicate_up(
    x: Float[Array, "b t h w i"], features: int, time: int, space: int, first_chunk: bool
) -> Float[Array, "b t2 h2 w2 o"]:
    """Parameter-free shortcut of an up block: channels are repeated, then spread over blocks.

    In the first chunk the leading `time - 1` frames are dropped: its first latent is one frame.

    Args:
      x: input of the level.
      features: channels o of the result.
      time: frames per block.
      space: rows and columns per block.
      first_chunk: whether x begins the clip.

    Raises:
      ValueError: if the channels of x do not divide the values of a block.
    """
    values = features * time * space**2
    if values % x.shape[-1]:
        raise ValueError(
            f"width_mults: {x.shape[-1]} channels cannot be spread over {features} channels and "
            f"blocks of {time}x{space}x{space}; expected a divisor of {values}"
        )
    repeats = values // x.shape[-1]
    if repeats % space**2 == 0:
        x = jnp.repeat(x, repeats // space**2, axis=-1)
        x = repeat(x, "b t h w (c p) -> b (t p) (h q) (w r) c", p=time, q=space, r=space)
    else:
        x = jnp.repeat(x, repeats, axis=-1)
        blocks = "b t h w (c p q r) -> b (t p) (h q) (w r) c"
        x = rearrange(x, blocks, p=time, q=space, r=space)
    return x[:, time - 1 :] if first_chunk else x


class ResidualBlock(nn.Module):
    """Twice norm, SiLU, causal 3x3x3 convolution, beside a shortcut (1x1x1 where widths differ)."""

    features: int
    conv_impl: str = "auto"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t h w i"], stream: Stream | None = None
    ) -> Float[Array, "b t h w o"]:
        def conv(name: str, size: tuple[int, int, int]) -> CausalConv3d:
            return CausalConv3d(self.features, size, self.conv_impl, self.dtype, name=name)

        h = conv("conv1", (3, 3, 3))(nn.silu(RMSNorm(name="norm1")(x)), stream)
        h = conv("conv2", (3, 3, 3))(nn.silu(RMSNorm(name="norm2")(h)), stream)
        return h + (x if x.shape[-1] == self.features else conv("shortcut", (1, 1, 1))(x))


class FrameAttention(nn.Module):
    """Single-head self-attention among the cells of each frame."""

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "b t h w c"]) -> Float[Array, "b t h w c"]:
        b, t, h, w, c = x.shape
        qkv = Conv2d(3 * c, 1, dtype=self.dtype, name="qkv")(RMSNorm(name="norm")(x))
        q, k, v = jnp.split(qkv.reshape(b * t, h * w, 1, 3 * c).astype(self.dtype), 3, axis=-1)
        y = jax.nn.dot_product_attention(q, k, v).reshape(b, t, h, w, c)
        return x + Conv2d(c, 1, dtype=self.dtype, name="proj")(y)


class Downsample(nn.Module):
    """Halves height and width and, with `time`, the frames after the first."""

    time: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t h w c"], stream: Stream | None = None
    ) -> Float[Array, "b t2 h2 w2 c"]:
        c = x.shape[-1]
        padding = ((0, 1), (0, 1))
        x = Conv2d(c, 3, 2, padding, dtype=self.dtype, name="conv")(x)
        if not self.time:
            return x
        preceding = None
        if stream is not None:
            preceding = stream.preceding()
            store_last(stream, x, preceding, 1)
        # The first frame stays as it is; each later pair is seen with the frame before it.
        frames = x if preceding is None else jnp.concatenate([preceding, x], axis=1)
        if frames.shape[1] > 1 or self.is_initializing():
            windows = [frames[:, i : frames.shape[1] - 2 + i : 2] for i in range(3)]
            later = TemporalMix(c, self.dtype, name="time_conv")(windows)
            x = later if preceding is not None else jnp.concatenate([x[:, :1], later], axis=1)
        return x


class Upsample(nn.Module):
    """Doubles height and width and, with `time`, the frames after the first."""

    features: int
    time: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t h w c"], stream: Stream | None = None
    ) -> Float[Array, "b t2 h2 w2 o"]:
        c = x.shape[-1]
        if self.time:
            preceding = None if stream is None else stream.preceding()
            # In the first chunk frame 0 passes by, unseen by the frames after it.
            head, rest = (x[:, :1], x[:, 1:]) if preceding is None else (x[:, :0], x)
            if preceding is None:
                preceding = jnp.zeros((x.shape[0], 2, *x.shape[2:]), x.dtype)
            if stream is not None:
                store_last(stream, jnp.concatenate([preceding, rest], axis=1), None, 2)
            if rest.shape[1] or self.is_initializing():
                frames = jnp.concatenate([preceding, rest], axis=1)
                windows = [frames[:, i : i + rest.shape[1]] for i in range(3)]
                pairs = TemporalMix(2 * c, self.dtype, name="time_conv")(windows)
                pairs = rearrange(pairs, "b t h w (p c) -> b (t p) h w c", p=2)
                x = jnp.concatenate([head, pairs], axis=1)
        return Conv2d(self.features, 3, upsample=True, dtype=self.dtype, name="conv")(x)


class TemporalMix(nn.Module):
    """A 3x1x1 convolution, given the three frames that each output sees."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, windows: list[Float[Array, "b t h w i"]]) -> Float[Array, "b t h w o"]:
        x = jnp.concatenate(windows, axis=-1).astype(self.dtype)
        kernel_init = logical(fan_in_uniform(), (None, None, None, "conv_in", "conv_out"))
        bias_init = logical(nn.initializers.zeros_init(), ("conv_out",))
        shape = (3, 1, 1, windows[0].shape[-1], self.features)
        kernel = self.param("kernel", kernel_init, shape, jnp.float32)
        bias = self.param("bias", bias_init, (self.features,), jnp.float32)
        y = x @ kernel.reshape(-1, self.features).astype(self.dtype)
        return y.astype(jnp.float32) + aligned(bias, y)
