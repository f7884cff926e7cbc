"""A denoiser that is affine, so that next to nothing is compiled, for tests of what trains one."""

import jax.numpy as jnp
from flax import linen as nn

from helpers.tiny_world import CHANNELS
from mirage_jax.nn.denoiser import Denoiser

TEXT = 6
"""Channels of its text tokens."""


class Affine(Denoiser):
    """Velocity = W [latents, level] + U rays + V mean(text) + M memory, named as in a `Denoiser`.

    It takes context frames, and does not look at them.
    """

    @nn.compact
    def __call__(self, latents, timestep, *, memory=None, rays=None, text=None, **frames):
        shape = latents.shape[:-1]
        rays = jnp.zeros((*shape, self.ray_channels)) if rays is None else rays
        text = jnp.zeros((shape[0], 1, TEXT)) if text is None else text
        level = jnp.broadcast_to(timestep[:, :, None, None, None] / 1000.0, (*shape, 1))
        names = ["patch_embedding", "ray_adapter", "text_in"]
        if self.memory_channels:
            names.append("memory_hint")
            memory = jnp.zeros((*shape, self.memory_channels)) if memory is None else memory
        dense = {
            name: nn.Dense(
                CHANNELS,
                name=name,
                kernel_init=nn.with_logical_partitioning(nn.initializers.normal(0.5), (None,) * 2),
                use_bias=False,
            )
            for name in names
        }
        told = dense["text_in"](text.mean(1))[:, None, None, None]
        x = dense["patch_embedding"](jnp.concatenate([latents, level], -1))
        x = x + dense["ray_adapter"](rays) + told
        return x + dense["memory_hint"](memory) if self.memory_channels else x
