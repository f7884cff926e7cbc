"""A tiny streaming decoder of video latents: 2-D convolutions, each block beside its last frame.

The network of TAEHV's decoder (github.com/madebyollin/taehv, MIT), so that its weights for Wan's
latents fit (`convert.taehv`); other sizes are other field values. It takes latents as the
denoiser has them, normalised. No frame depends on a later one, and all that a chunk leaves to the
next is one frame of features per block: a clip can be decoded at once or chunk by chunk with the
same result.
"""

from __future__ import annotations

from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange, repeat
from jaxtyping import Array, Float

BLOCKS = 3
"""Blocks of a stage."""

State = tuple[Array, ...]
"""The last input of every block, [b, h, w, c] each."""

_LIMIT = 3.0


class MemoryBlock(nn.Module):
    """Three convolutions of a frame and the one before it, and a shortcut around them."""

    features: int
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, x: Float[Array, "b t h w c"], before: Float[Array, "b h w c"]
    ) -> Float[Array, "b t h w c"]:
        past = jnp.concatenate([before[:, None], x[:, :-1]], axis=1)
        y = jnp.concatenate([x, past], axis=-1)
        for i in range(3):
            y = _conv(self.features, self.dtype, f"conv_{i}")(y)
            y = nn.relu(y) if i < 2 else y
        return nn.relu(y + x)


class TinyDecoder(nn.Module):
    """Latents to frames in [-1, 1] (not clipped), 1 + (n - 1) `temporal_stride` of n latents.

    Attributes:
      latent_channels: of a latent cell.
      widths: channels of the three stages and of the frames after them.
      time_upscale: for each stage, whether it makes two frames of one.
      space_upscale: for each stage, whether it doubles height and width.
      patch: pixels along each axis that the last convolution gives at once.
      dtype: of convolutions.
    """

    latent_channels: int = 48
    widths: tuple[int, ...] = (256, 128, 64, 64)
    time_upscale: tuple[bool, ...] = (False, True, True)
    space_upscale: tuple[bool, ...] = (True, True, True)
    patch: int = 2
    dtype: Any = jnp.float32

    @property
    def spatial_stride(self) -> int:
        """Pixels per latent cell along each axis."""
        return self.patch * 2 ** sum(self.space_upscale)

    @property
    def temporal_stride(self) -> int:
        """Frames per latent after the first."""
        return 2 ** sum(self.time_upscale)

    def check(self) -> None:
        """Raises ValueError, naming the field, if fields do not fit each other."""
        for name, count in (("time_upscale", 3), ("space_upscale", 3), ("widths", 4)):
            if len(getattr(self, name)) != count:
                raise ValueError(f"{name}: found {getattr(self, name)}, expected {count} entries")

    def __call__(self, latents: Float[Array, "b t h w c"]) -> Float[Array, "b t2 height width 3"]:
        """Frames of a whole clip."""
        return self.decode_chunk(latents)[0]

    @nn.compact
    def decode_chunk(
        self, latents: Float[Array, "b t h w c"], state: State | None = None
    ) -> tuple[Float[Array, "b t2 height width 3"], State]:
        """Frames of the next latents, with the result of decoding them in one call.

        Args:
          latents: of the chunk, at least one.
          state: None for the first chunk, else that of the call before.

        Returns:
          (frames, state for the next chunk); the first latent of a clip gives one frame, every
          other `temporal_stride`.
        """
        self.check()
        x = jnp.tanh(latents.astype(jnp.float32) / _LIMIT) * _LIMIT
        x = nn.relu(_conv(self.widths[0], self.dtype, "conv_in")(x))
        following = []
        for stage, width in enumerate(self.widths[:-1]):
            for block in range(BLOCKS):
                before = jnp.zeros_like(x[:, 0])
                if state is not None:
                    before = state[stage * BLOCKS + block]
                following.append(x[:, -1])
                x = MemoryBlock(width, self.dtype, name=f"stage_{stage}_block_{block}")(x, before)
            if self.space_upscale[stage]:
                x = repeat(x, "b t h w c -> b t (h i) (w j) c", i=2, j=2)
            frames = 1 + self.time_upscale[stage]
            x = nn.Dense(
                width * frames, use_bias=False, dtype=self.dtype, name=f"stage_{stage}_grow"
            )(x)
            x = rearrange(x, "b t h w (f c) -> b (t f) h w c", f=frames)
            out = _conv(self.widths[stage + 1], self.dtype, f"stage_{stage}_out", use_bias=False)
            x = out(x)
        x = _conv(3 * self.patch**2, self.dtype, "conv_out")(nn.relu(x)).astype(jnp.float32)
        patches = "b t h w (c i j) -> b t (h i) (w j) c"
        video = 2.0 * rearrange(x, patches, i=self.patch, j=self.patch) - 1.0
        if state is None:  # what comes before the last frame of the first latent has no latent
            video = video[:, self.temporal_stride - 1 :]
        return video, tuple(following)


def _conv(features: int, dtype: Any, name: str, use_bias: bool = True) -> nn.Conv:
    return nn.Conv(features, (3, 3), padding=1, use_bias=use_bias, dtype=dtype, name=name)


def init_params(decoder: TinyDecoder, key: Any) -> Any:
    """Fresh parameters of a decoder."""
    return decoder.init(key, jnp.zeros((1, 1, 1, 1, decoder.latent_channels), jnp.float32))[
        "params"
    ]
