"""The causal video VAE: pictures and clips to latents and back.

Its network has the structure of the Wan 2.2 VAE or, without the shortcuts around its levels, of the
Wan 2.1 VAE (arXiv 2503.20314, section 4.1; released weights of both fit, see `convert.wan_vae`);
small presets differ in field values only. The first latent covers one frame, every later one
`temporal_stride` frames, and no latent or frame depends on a later one. So a clip can be coded in
one call or chunk by chunk with the same result.

Beside the network an optional *linear path* codes each patch by one matrix product. Started from
the principal components of patches (`patch_pca`) it is a usable VAE before the first training step,
and the network learns the residual.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from mirage_jax.nn.latents import (
    LatentStats,
    denormalise,
    kl_divergence,
    latent_frames,
    measure_stats,
    normalise,
    sample_posterior,
)
from mirage_jax.nn.layers import CausalConv3d, Conv2d, RMSNorm, Stream, fan_in_uniform
from mirage_jax.nn.vae_blocks import (
    Downsample,
    FrameAttention,
    ResidualBlock,
    Upsample,
    average_down,
    duplicate_up,
)
from mirage_jax.nn.vae_linear_path import LinearDecoder, LinearEncoder

__all__ = [
    "Decoder",
    "Encoder",
    "LatentStats",
    "VideoVAE",
    "denormalise",
    "kl_divergence",
    "latent_frames",
    "measure_stats",
    "normalise",
    "sample_posterior",
]

Cache = tuple[Array, ...]

# Of clips and latents; devices that share rows exchange the borders a convolution sees.
_SPLIT = ("batch", None, "height", None, None)


class _Levels(nn.Module):
    """Fields that both networks have, see `VideoVAE`; `features` are channels of the output."""

    width: int
    features: int
    width_mults: tuple[int, ...]
    blocks: int
    temporal_downsample: tuple[bool, ...]
    attention: bool
    level_shortcuts: bool = True
    conv_impl: str = "auto"
    dtype: Any = jnp.float32


class Encoder(_Levels):
    """Frames (patches folded into channels) to `features` channels per latent cell."""

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


class Decoder(_Levels):
    """Latent cells to frames with `features` channels (patches folded into channels)."""

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
                channels = features if self.level_shortcuts else features // 2
                resample = Upsample(channels, upsample[i], self.dtype, name=f"up_{i}_resample")
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


class VideoVAE(nn.Module):
    """Causal video VAE with the structure of Wan's (sizes: `convert.presets`).

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
      conv_impl: see `layers.causal_conv3d`.
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
        """Reconstruction of clips from the posterior mean; also the method to initialise with."""
        return self.decode(self.encode(video)[0])

    def encode(
        self, video: Float[Array, "b t height width 3"]
    ) -> tuple[Float[Array, "b t2 h w c"], Float[Array, "b t2 h w c"]]:
        """Mean and log-variance of the posterior of clips.

        Args:
          video: values in [-1, 1].

        Raises:
          ValueError: if there are not 1 + n `temporal_stride` frames, or height or width is no
            multiple of `spatial_stride`.
        """
        return self._encode(video, None, first=True)

    def encode_images(
        self, frames: Float[Array, "b t height width 3"]
    ) -> tuple[Float[Array, "b t h w c"], Float[Array, "b t h w c"]]:
        """Mean and log-variance of every frame alone, the only one of a clip: image-mode latents.

        Raises:
          ValueError: as `encode`.
        """
        b, t = frames.shape[:2]
        mean, logvar = self.encode(frames.reshape(b * t, 1, *frames.shape[2:]))
        return mean.reshape(b, t, *mean.shape[2:]), logvar.reshape(b, t, *mean.shape[2:])

    def decode(self, latents: Float[Array, "b t h w c"]) -> Float[Array, "b t2 height width 3"]:
        """Frames of latents as `encode` gives them (not normalised), without clipping."""
        return self._decode(latents, None, first=True)

    def encode_chunk(
        self, video: Float[Array, "b t height width 3"], cache: Cache | None = None
    ) -> tuple[tuple[Float[Array, "b t2 h w c"], Float[Array, "b t2 h w c"]], Cache]:
        """Encodes the next chunk of clips, with the result of encoding them in one call.

        Args:
          video: 1 + n `temporal_stride` frames of a first chunk, n `temporal_stride` of a later.
          cache: None for the first chunk, else that of the call before.

        Returns:
          ((mean, log-variance), cache for the next chunk).

        Raises:
          ValueError: as `encode`.
        """
        stream = Stream(cache)
        return self._encode(video, stream, first=stream.first), stream.cache

    def decode_chunk(
        self, latents: Float[Array, "b t h w c"], cache: Cache | None = None
    ) -> tuple[Float[Array, "b t2 height width 3"], Cache]:
        """Decodes the next latents of clips, with the result of decoding them in one call.

        Args:
          latents: of the chunk.
          cache: None for the first chunk, else that of the call before.

        Returns:
          (frames, cache for the next chunk).
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
