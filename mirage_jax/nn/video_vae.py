"""The causal video VAE: pictures and clips to latents and back.

Its network has the structure of the Wan 2.2 VAE or, without the shortcuts around its levels, of the
Wan 2.1 VAE (arXiv 2503.20314, section 4.1; released weights of both fit, see
:mod:`mirage_jax.convert.wan_vae`); small presets differ in field values only. The first
latent covers one frame, every later one ``temporal_stride`` frames, and no latent or frame depends
on a later one. So a clip can be coded in one call or chunk by chunk with the same result.

Beside the network an optional *linear path* codes each patch by one matrix product. Started from
the principal components of patches (:mod:`mirage_jax.nn.patch_pca`) it is a usable VAE before the
first training step, and the network learns what is left.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from einops import rearrange, repeat
from jaxtyping import Array, Float, PRNGKeyArray, UInt32

from mirage_jax.nn.layers import (
    CausalConv3d,
    Conv2d,
    RMSNorm,
    Stream,
    fan_in_uniform,
    keep_last,
    logical,
)

Cache = tuple[Array, ...]

# Of clips and latents; devices that share rows exchange the borders a convolution sees.
_SPLIT = ("batch", None, "height", None, None)


@flax.struct.dataclass
class LatentStats:
    """Mean and standard deviation of latents, per channel; what a denoiser sees is normalised."""

    mean: Float[Array | np.ndarray, " c"]
    std: Float[Array | np.ndarray, " c"]


def measure_stats(latents: Float[Array, "*lead c"], *, per_channel: bool = True) -> LatentStats:
    """Statistics of a sample of latents.

    ``per_channel=False`` divides all channels by one number (their root-mean-square deviation), so
    that channels keep their relative weight.
    """
    flat = latents.reshape(-1, latents.shape[-1]).astype(jnp.float32)
    variance = jnp.var(flat, axis=0)
    if not per_channel:
        variance = jnp.broadcast_to(jnp.mean(variance), variance.shape)
    return LatentStats(mean=jnp.mean(flat, axis=0), std=jnp.sqrt(variance + 1e-12))


def normalise(latents: Float[Array, "*lead c"], stats: LatentStats) -> Float[Array, "*lead c"]:
    """``(latents - mean) / std``."""
    return (latents - stats.mean) / stats.std


def denormalise(latents: Float[Array, "*lead c"], stats: LatentStats) -> Float[Array, "*lead c"]:
    """The inverse of :func:`normalise`."""
    return latents * stats.std + stats.mean


def sample_posterior(
    key: PRNGKeyArray | UInt32[Array, " 2"],
    mean: Float[Array, "*shape"],
    logvar: Float[Array, "*shape"],
) -> Float[Array, "*shape"]:
    """Draw latents from the posterior N(mean, exp(logvar))."""
    return mean + jnp.exp(0.5 * logvar) * jax.random.normal(key, mean.shape, mean.dtype)


def kl_divergence(
    mean: Float[Array, "*shape"], logvar: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """KL(N(mean, exp(logvar)) || N(0, 1)) of every latent value, in nats."""
    return 0.5 * (jnp.square(mean) + jnp.exp(logvar) - 1.0 - logvar)


def latent_frames(frames: int, temporal_stride: int) -> int:
    """How many latents a clip of ``frames`` frames has; ValueError unless it is 1 + n strides."""
    if frames < 1 or (frames - 1) % temporal_stride:
        raise ValueError(
            f"a clip of {frames} frames cannot be encoded: expected 1 + n * {temporal_stride}"
        )
    return 1 + (frames - 1) // temporal_stride


def average_down(
    x: Float[Array, "b t h w i"], features: int, time: int, space: int
) -> Float[Array, "b t2 h2 w2 o"]:
    """Parameter-free shortcut of a down block: blocks go to channels, groups of which are averaged.

    A clip whose length is no multiple of ``time`` (the first chunk) gets zero frames in front.
    Where there are fewer values than ``features``, channels are repeated instead.
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

    In the first chunk the leading ``time - 1`` frames are dropped: its first latent is one frame.
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
    """Halve height and width and, with ``time``, the frames after the first."""

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
        past = None
        if stream is not None:
            past = stream.past()
            keep_last(stream, x, past, 1)
        # The first frame stays as it is; each later pair is seen with the frame before it.
        frames = x if past is None else jnp.concatenate([past, x], axis=1)
        if frames.shape[1] > 1 or self.is_initializing():
            windows = [frames[:, i : frames.shape[1] - 2 + i : 2] for i in range(3)]
            later = TemporalMix(c, self.dtype, name="time_conv")(windows)
            x = later if past is not None else jnp.concatenate([x[:, :1], later], axis=1)
        return x


class Upsample(nn.Module):
    """Double height and width and, with ``time``, the frames after the first."""

    features: int
    time: bool
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t h w c"], stream: Stream | None = None
    ) -> Float[Array, "b t2 h2 w2 o"]:
        c = x.shape[-1]
        if self.time:
            past = None if stream is None else stream.past()
            # In the first chunk frame 0 passes by, unseen by the frames after it.
            head, rest = (x[:, :1], x[:, 1:]) if past is None else (x[:, :0], x)
            if past is None:
                past = jnp.zeros((x.shape[0], 2, *x.shape[2:]), x.dtype)
            if stream is not None:
                keep_last(stream, jnp.concatenate([past, rest], axis=1), None, 2)
            if rest.shape[1] or self.is_initializing():
                frames = jnp.concatenate([past, rest], axis=1)
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
        return y.astype(jnp.float32) + bias


class Encoder(nn.Module):
    """Frames (patches folded into channels) to ``features`` channels per latent cell."""

    width: int
    features: int
    width_mults: tuple[int, ...]
    blocks: int
    temporal_downsample: tuple[bool, ...]
    attention: bool
    level_shortcuts: bool = True
    conv_impl: str = "auto"
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t h w p"], stream: Stream | None = None
    ) -> Float[Array, "b t2 h2 w2 c"]:
        kind: dict[str, Any] = {"conv_impl": self.conv_impl, "dtype": self.dtype}
        x = CausalConv3d(self.width, **kind, name="conv_in")(x, stream)
        for i, mult in enumerate(self.width_mults):
            shortcut = x
            for j in range(self.blocks):
                x = ResidualBlock(self.width * mult, **kind, name=f"down_{i}_res_{j}")(x, stream)
            time, space = 1, 1
            if i < len(self.temporal_downsample):
                time, space = 1 + self.temporal_downsample[i], 2
                x = Downsample(time == 2, self.dtype, name=f"down_{i}_resample")(x, stream)
            if self.level_shortcuts:
                x = x + average_down(shortcut, self.width * mult, time, space)
        x = _middle(x, stream, self.attention, **kind)
        x = nn.silu(RMSNorm(name="norm_out")(x))
        return CausalConv3d(self.features, **kind, name="conv_out")(x, stream)


class Decoder(nn.Module):
    """Latent cells to frames with ``features`` channels (patches folded into channels)."""

    width: int
    features: int
    width_mults: tuple[int, ...]
    blocks: int
    temporal_downsample: tuple[bool, ...]
    attention: bool
    level_shortcuts: bool = True
    conv_impl: str = "auto"
    dtype: Any = jnp.float32
    out_init: Any = fan_in_uniform()

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t h w c"], stream: Stream | None = None, first: bool = True
    ) -> Float[Array, "b t2 h2 w2 p"]:
        kind: dict[str, Any] = {"conv_impl": self.conv_impl, "dtype": self.dtype}
        mults = self.width_mults[::-1]
        upsample = self.temporal_downsample[::-1]
        x = CausalConv3d(self.width * mults[0], **kind, name="conv_in")(x, stream)
        x = _middle(x, stream, self.attention, **kind)
        for i, mult in enumerate(mults):
            features = self.width * mult
            shortcut = x
            for j in range(self.blocks + 1):
                x = ResidualBlock(features, **kind, name=f"up_{i}_res_{j}")(x, stream)
            if i < len(upsample):
                kept = features if self.level_shortcuts else features // 2
                resample = Upsample(kept, upsample[i], self.dtype, name=f"up_{i}_resample")
                x = resample(x, stream)
                if self.level_shortcuts:
                    x = x + duplicate_up(shortcut, features, 1 + upsample[i], 2, first)
        x = nn.silu(RMSNorm(name="norm_out")(x))
        conv = CausalConv3d(self.features, **kind, kernel_init=self.out_init, name="conv_out")
        return conv(x, stream)


def _middle(x: Array, stream: Stream | None, attention: bool, **kind: Any) -> Array:
    """Residual block, attention, residual block; called inside the owning module's scope."""
    x = ResidualBlock(x.shape[-1], **kind, name="mid_res_0")(x, stream)
    if attention:
        x = FrameAttention(kind["dtype"], name="mid_attention")(x)
    return ResidualBlock(x.shape[-1], **kind, name="mid_res_1")(x, stream)


class LinearEncoder(nn.Module):
    """One matrix for the patches of a first frame, one for those of a group of later frames."""

    features: int
    spatial: int
    temporal: int

    @nn.compact
    def __call__(
        self, video: Float[Array, "b t height width 3"], first: bool
    ) -> Float[Array, "b t2 h w c"]:
        head = 1 if first else 0
        return jnp.concatenate(
            [
                self._project(video[:, :head], "image", 1),
                self._project(video[:, head:], "group", self.temporal),
            ],
            axis=1,
        )

    def _project(self, frames: Array, name: str, group: int) -> Array:
        size = self.spatial
        cells = "b (t p) (h q) (w r) c -> b t h w (p q r c)"
        x = rearrange(frames, cells, p=group, q=size, r=size)
        kernel_init = logical(fan_in_uniform(), (None, "conv_out"))
        bias_init = logical(nn.initializers.zeros_init(), ("conv_out",))
        shape = (x.shape[-1], self.features)
        kernel = self.param(f"{name}_kernel", kernel_init, shape, jnp.float32)
        return x @ kernel + self.param(f"{name}_bias", bias_init, (self.features,), jnp.float32)


class LinearDecoder(nn.Module):
    """The counterpart of :class:`LinearEncoder`: a latent to the pixels of its patch."""

    spatial: int
    temporal: int

    @nn.compact
    def __call__(
        self, latents: Float[Array, "b t h w c"], first: bool
    ) -> Float[Array, "b t2 height width 3"]:
        head = 1 if first else 0
        return jnp.concatenate(
            [
                self._expand(latents[:, :head], "image", 1),
                self._expand(latents[:, head:], "group", self.temporal),
            ],
            axis=1,
        )

    def _expand(self, latents: Array, name: str, group: int) -> Array:
        size = self.spatial
        pixels = group * size * size * 3
        kernel_init = logical(fan_in_uniform(), ("conv_in", None))
        bias_init = logical(nn.initializers.zeros_init(), (None,))
        shape = (latents.shape[-1], pixels)
        kernel = self.param(f"{name}_kernel", kernel_init, shape, jnp.float32)
        x = latents @ kernel + self.param(f"{name}_bias", bias_init, (pixels,), jnp.float32)
        cells = "b t h w (p q r c) -> b (t p) (h q) (w r) c"
        return rearrange(x, cells, p=group, q=size, r=size, c=3)


class VideoVAE(nn.Module):
    """Causal video VAE with the structure of Wan's (sizes: :mod:`mirage_jax.convert.presets`).

    Attributes:
      base_width: channels of the encoder's first convolution; a level has this times its
        multiplier.
      decoder_width: the same of the decoder.
      latent_channels: channels of a latent cell.
      width_mults: width of each level; between levels height and width are halved.
      blocks: residual blocks per level of the encoder; the decoder has one more.
      temporal_downsample: for each halving of the picture, whether frames are halved too.
      patch: pixels folded into channels before the first convolution, along each axis.
      linear_path: add the linear patch encoder and decoder. The last layers of the networks then
        start at zero, so that a new model *is* its linear path.
      initial_logvar: log-variance of the posterior of a new model with a linear path.
      attention: self-attention within frames at the coarsest level.
      level_shortcuts: parameter-free shortcuts around every level (Wan 2.2); without them an
        upsampling halves the channels (Wan 2.1).
      conv_impl: see :func:`mirage_jax.nn.layers.causal_conv3d`.
      dtype: of convolutions and matrix products; norms and residual stream are float32.
    """

    base_width: int = 16
    decoder_width: int = 24
    latent_channels: int = 16
    width_mults: tuple[int, ...] = (1, 2, 4)
    blocks: int = 2
    temporal_downsample: tuple[bool, ...] = (True, True)
    patch: int = 2
    linear_path: bool = True
    initial_logvar: float = -6.0
    attention: bool = True
    level_shortcuts: bool = True
    conv_impl: str = "auto"
    dtype: Any = jnp.float32

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent cell along each axis."""
        return self.patch * 2 ** len(self.temporal_downsample)

    @property
    def temporal_stride(self) -> int:
        """Frames per latent after the first."""
        return 2 ** sum(self.temporal_downsample)

    def setup(self) -> None:
        if len(self.temporal_downsample) != len(self.width_mults) - 1:
            raise ValueError(
                f"temporal_downsample has {len(self.temporal_downsample)} entries; expected one "
                f"less than width_mults, which has {len(self.width_mults)}"
            )
        shape: dict[str, Any] = {
            "width_mults": self.width_mults,
            "blocks": self.blocks,
            "temporal_downsample": self.temporal_downsample,
            "attention": self.attention,
            "level_shortcuts": self.level_shortcuts,
            "conv_impl": self.conv_impl,
            "dtype": self.dtype,
        }
        channels = self.latent_channels
        zeros, normal = nn.initializers.zeros_init(), fan_in_uniform()
        last_init = zeros if self.linear_path else normal
        self.encoder = Encoder(self.base_width, 2 * channels, **shape)
        self.decoder = Decoder(self.decoder_width, 3 * self.patch**2, **shape, out_init=last_init)
        self.quant = Conv2d(
            2 * channels,
            1,
            dtype=self.dtype,
            kernel_init=last_init,
            bias_init=self._quant_bias if self.linear_path else zeros,
        )
        self.post_quant = Conv2d(channels, 1, dtype=self.dtype)
        if self.linear_path:
            self.linear_encoder = LinearEncoder(channels, self.spatial_stride, self.temporal_stride)
            self.linear_decoder = LinearDecoder(self.spatial_stride, self.temporal_stride)

    def _quant_bias(self, key: Any, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
        mean = jnp.zeros(self.latent_channels, dtype)
        return jnp.concatenate([mean, jnp.full(shape[0] - mean.size, self.initial_logvar, dtype)])

    def __call__(
        self, video: Float[Array, "b t height width 3"]
    ) -> Float[Array, "b t height width 3"]:
        """Encode to the posterior mean and decode: the reconstruction, and how to initialise."""
        return self.decode(self.encode(video)[0])

    def encode(
        self, video: Float[Array, "b t height width 3"]
    ) -> tuple[Float[Array, "b t2 h w c"], Float[Array, "b t2 h w c"]]:
        """Mean and log-variance of the latents of clips with values in [-1, 1].

        The number of frames is 1 + n * ``temporal_stride``, height and width are multiples of
        ``spatial_stride``; ValueError otherwise.
        """
        return self._encode(video, None, first=True)

    def encode_images(
        self, frames: Float[Array, "b t height width 3"]
    ) -> tuple[Float[Array, "b t h w c"], Float[Array, "b t h w c"]]:
        """Encode every frame alone, as the first frame of its own clip (image-mode latents)."""
        b, t = frames.shape[:2]
        mean, logvar = self.encode(frames.reshape(b * t, 1, *frames.shape[2:]))
        return mean.reshape(b, t, *mean.shape[2:]), logvar.reshape(b, t, *mean.shape[2:])

    def decode(self, latents: Float[Array, "b t h w c"]) -> Float[Array, "b t2 height width 3"]:
        """Frames of latents as :meth:`encode` gives them (not normalised), without clipping."""
        return self._decode(latents, None, first=True)

    def encode_chunk(
        self, video: Float[Array, "b t height width 3"], cache: Cache | None = None
    ) -> tuple[tuple[Float[Array, "b t2 h w c"], Float[Array, "b t2 h w c"]], Cache]:
        """Encode the next chunk of clips, as if they had been encoded in one call.

        ``cache`` is None for the first chunk (1 + n strides long) and what the call before
        returned for the later ones (n strides long). Returns ((mean, logvar), cache).
        """
        stream = Stream(cache)
        return self._encode(video, stream, first=stream.first), stream.cache

    def decode_chunk(
        self, latents: Float[Array, "b t h w c"], cache: Cache | None = None
    ) -> tuple[Float[Array, "b t2 height width 3"], Cache]:
        """Decode the next latents of clips, as if they had been decoded in one call.

        ``cache`` as in :meth:`encode_chunk`. Returns (frames, cache).
        """
        stream = Stream(cache)
        return self._decode(latents, stream, first=stream.first), stream.cache

    def _encode(self, video: Array, stream: Stream | None, first: bool) -> tuple[Array, Array]:
        t, height, width = video.shape[1:4]
        if height % self.spatial_stride or width % self.spatial_stride:
            raise ValueError(
                f"video is {height}x{width} pixels; expected multiples of {self.spatial_stride}"
            )
        latent_frames(t if first else t + 1, self.temporal_stride)
        video = nn.with_logical_constraint(video.astype(jnp.float32), _SPLIT)
        patches = "b t (h q) (w r) c -> b t h w (c r q)"
        x = self.encoder(rearrange(video, patches, q=self.patch, r=self.patch), stream)
        mean, logvar = jnp.split(self.quant(x), 2, axis=-1)
        if self.linear_path:
            mean = mean + self.linear_encoder(video, first)
        return mean, logvar

    def _decode(self, latents: Array, stream: Stream | None, first: bool) -> Array:
        latents = nn.with_logical_constraint(latents.astype(jnp.float32), _SPLIT)
        x = self.decoder(self.post_quant(latents), stream, first)
        patches = "b t h w (c r q) -> b t (h q) (w r) c"
        video = rearrange(x, patches, q=self.patch, r=self.patch)
        return video + self.linear_decoder(latents, first) if self.linear_path else video
