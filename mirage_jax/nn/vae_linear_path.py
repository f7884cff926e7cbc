"""The linear path of the video VAE: each patch coded by one matrix product."""

from __future__ import annotations

import flax.linen as nn
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from mirage_jax.nn.layers import fan_in_uniform
from mirage_jax.nn.logical_axes import logical
from mirage_jax.nn.rows import aligned


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
        bias = self.param(f"{name}_bias", bias_init, (self.features,), jnp.float32)
        return x @ kernel + aligned(bias, x)


class LinearDecoder(nn.Module):
    """The counterpart of `LinearEncoder`: a latent to the pixels of its patch."""

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
        bias = self.param(f"{name}_bias", bias_init, (pixels,), jnp.float32)
        x = latents @ kernel + aligned(bias, latents)
        cells = "b t h w (p q r c) -> b (t p) (h q) (w r) c"
        return rearrange(x, cells, p=group, q=size, r=size, c=3)
