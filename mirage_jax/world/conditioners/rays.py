"""Pluecker rays of a chunk's cameras, which the denoiser sees beside its context."""

from __future__ import annotations

import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from mirage_jax.chunks import TEMPORAL_STRIDE, frames_per_latent
from mirage_jax.geometry import Camera, pluecker_rays, relative_pose

RAY_CHANNELS = 6 * TEMPORAL_STRIDE
"""Channels of `camera_rays`."""


def camera_rays(camera: Camera, grid: tuple[int, int]) -> Float[Array, "latents h w 24"]:
    """Pluecker rays of all four frames of each latent, relative to the chunk's first camera.

    Directions are unit vectors; moments are in metres.
    """
    first = jnp.broadcast_to(camera.cam2world[:1], camera.cam2world.shape)
    relative = relative_pose(first, camera.cam2world)
    rays = pluecker_rays(Camera(camera.intrinsics, relative, camera.size), grid)
    return rearrange(frames_per_latent(rays), "t r h w c -> t h w (r c)", r=TEMPORAL_STRIDE, c=6)
