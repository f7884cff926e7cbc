"""Training the geometry head on cached latents: depth, confidence, movers and image-mode tokens."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from mirage_jax.nn import geometry_head as heads
from mirage_jax.nn.geometry_head import GeometryHead
from mirage_jax.training.task import Params, Task
from mirage_jax.world.latent_clip import from_fields


def is_image(latents: Array) -> Array:
    """Which latents of chunks [B, T', h, w, C] cover one frame: the first of each chunk."""
    return jnp.broadcast_to(jnp.arange(latents.shape[1]) == 0, latents.shape[:2])


def per_chunk(keyframes: Array, chunks: int, latents: int) -> Array:
    """Keyframe values [B, K, ...] as [B * chunks, latents, ...], of the last chunks there are.

    Neighbours share a keyframe.
    """
    per = latents - 1
    first = keyframes.shape[1] - 1 - chunks * per
    index = first + np.arange(chunks)[:, None] * per + np.arange(latents)
    values = keyframes[:, index]
    return values.reshape(-1, *values.shape[2:])


def on_grid(shares: Array, grid: tuple[int, ...]) -> Array:
    """Shares of cells [B, T, h, w] on a grid that is so many times as fine: repeated."""
    for axis, size in ((2, grid[0]), (3, grid[1])):
        shares = jnp.repeat(shares, size // shares.shape[axis], axis=axis)
    return shares


@dataclasses.dataclass(frozen=True)
class GeometryTask(Task):
    """Laplace likelihood of log-depth, cross-entropy of movers and sky, error of image tokens.

    Batches are the fields of `LatentClip`.

    Attributes:
      head: the module.
      grid: cells (h, w) and channels of a latent, to initialise with.
      sky_depth: depth at and beyond which a cell counts as sky.
      mover_weight: how many times as much a moving cell counts as one that stands still.
      batch_shapes: sizes of pictures that batches come in; how many.
    """

    head: GeometryHead
    grid: tuple[int, int, int]
    sky_depth: float = 200.0
    mover_weight: float = 1.0
    batch_shapes: int = 1

    def init(self, key: PRNGKeyArray) -> Params:
        latents = jnp.zeros((1, 2, *self.grid), jnp.float32)
        return self.head.init(key, latents, is_image(latents))["params"]

    def loss(
        self, params: Params, batch: dict[str, Array], key: PRNGKeyArray, *, train: bool, **_: Any
    ) -> tuple[Array, dict[str, Array]]:
        clip = from_fields(batch)
        count = clip.chunks.shape[1]
        latents = jnp.asarray(clip.chunks).reshape(-1, *clip.chunks.shape[2:])
        image = is_image(latents)
        depth, static, tokens = (
            per_chunk(jnp.asarray(field), count, latents.shape[1])
            for field in (clip.depth, clip.static, clip.tokens)
        )
        moves = (
            1.0 - static
            if clip.moving is None
            else per_chunk(jnp.asarray(clip.moving), count, latents.shape[1])
        )
        found: Any = self.head.apply({"params": params}, latents, image)
        sky = depth >= 0.99 * self.sky_depth
        parts = {
            "depth": heads.depth_loss(found.log_depth, found.log_scale, depth, mask=~sky),
            "sky": heads.logit_loss(found.sky_logit, sky, mask=depth > 0),
            "mover": heads.logit_loss(
                found.mover_logit,
                on_grid(moves, found.mover_logit.shape[2:]),
                weight=self.mover_weight,
            ),
            "tokens": heads.token_loss(
                found.image_tokens,
                tokens,
                mask=jnp.broadcast_to(~image[:, :, None, None], depth.shape),
            ),
        }
        error = heads.abs_rel(found.depth, depth, mask=~sky)
        return sum(parts.values(), start=jnp.zeros((), jnp.float32)), {**parts, "abs_rel": error}
