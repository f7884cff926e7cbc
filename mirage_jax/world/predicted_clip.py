"""Clips as a geometry head sees them: what a rollout would have remembered of their keyframes.

A rollout remembers the head's tokens and depths, which err by tens of per cent, alike for the cells
of a frame and for the frames of a clip; what training on them brings is in docs/method.md.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mirage_jax import memory
from mirage_jax.nn.geometry_head import Geometry, GeometryHead
from mirage_jax.world.latent_clip import LatentClip


class Keyframes(NamedTuple):
    """What is remembered of a clip's keyframes.

    Attributes:
      tokens: image-mode latents.
      depth: metres at the cells, 0 = unknown.
      static: share of a cell that stands still.
      confidence: in the depth of each cell.
    """

    tokens: Float[Array, "*b k h w c"]
    depth: Float[Array, "*b k h w"]
    static: Float[Array, "*b k h w"]
    confidence: Float[Array, "*b k h w"]


def true_keyframes(clip: LatentClip) -> Keyframes:
    """Of one clip or of a batch, as they were cached; depths that are known are certain."""
    depth = jnp.asarray(clip.depth)
    tokens, static = jnp.asarray(clip.tokens), jnp.asarray(clip.static)
    return Keyframes(tokens, depth, static, jnp.ones_like(depth))


@flax.struct.dataclass
class HistoryHead:
    """A trained geometry head that says what a rollout would have remembered.

    Attributes:
      params: of the head.
      head: the module.
      sky_depth: metres at which sky is remembered.
      reencode: whether rollouts encode each keyframe alone, and not the head's tokens are theirs.
    """

    params: Any
    head: GeometryHead = flax.struct.field(pytree_node=False)
    sky_depth: float = flax.struct.field(pytree_node=False, default=200.0)
    reencode: bool = flax.struct.field(pytree_node=False, default=False)

    def __call__(self, clips: LatentClip) -> Keyframes:
        """What `WorldModel.observe` would have written of a batch of clips."""
        if self.reencode:
            found = image_geometry(self.head, self.params, clips.tokens)
        else:
            found = keyframe_geometry(self.head, self.params, clips)
        grid = (int(clips.tokens.shape[2]), int(clips.tokens.shape[3]))
        depth = jnp.where(found.sky_logit > 0, self.sky_depth, found.depth)
        return Keyframes(
            found.image_tokens,
            memory.pool_depth(depth, grid)[0],
            memory.pool_static(found.mover_logit < 0, grid),
            jnp.mean(memory.pooling.cell_pixels(found.confidence, grid), axis=-1),
        )


def keyframe_geometry(head: GeometryHead, params: Any, clips: LatentClip) -> Geometry:
    """A head's predictions for every keyframe, leading dimensions [clips, keyframes].

    Each is seen in the chunk that it is not the first of, as rollouts see it; the first, and those
    before the first chunk that has latents, alone.

    Args:
      head: the module.
      params: of the head.
      clips: a batch.
    """
    chunks = jnp.asarray(clips.chunks)
    count, parts, latents = chunks.shape[:3]
    is_image = jnp.broadcast_to(jnp.arange(latents) == 0, (count * parts, latents))
    found: Any = head.apply({"params": params}, chunks.reshape(-1, *chunks.shape[2:]), is_image)

    def of_keyframes(maps: Array) -> Array:
        maps = maps.reshape(count, parts, *maps.shape[1:])
        later = maps[:, :, 1:].reshape(count, -1, *maps.shape[3:])
        return jnp.concatenate([maps[:, 0, :1], later], axis=1)

    found = jax.tree.map(of_keyframes, found)
    before = clips.tokens.shape[1] - found.log_depth.shape[1]
    if not before:
        return found
    alone = image_geometry(head, params, clips.tokens[:, :before])
    return jax.tree.map(lambda *maps: jnp.concatenate(maps, axis=1), alone, found)


def image_geometry(
    head: GeometryHead, params: Any, tokens: Float[Array | np.ndarray, "b k h w c"]
) -> Geometry:
    """A head's predictions for image-mode latents, of which each is seen alone."""
    is_image = jnp.ones(tokens.shape[:2], bool)
    found: Any = head.apply({"params": params}, jnp.asarray(tokens), is_image)
    return found
