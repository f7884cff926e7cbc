"""What a model sees in frames before it writes them: tokens, depth, and what moves."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mirage_jax import memory
from mirage_jax.world.moving import free_of_bodies

if TYPE_CHECKING:
    from mirage_jax.world.model import WorldModel


class Look(NamedTuple):
    """The last K frames of some latents.

    Attributes:
      tokens: to be written.
      depth: metres, 0 = unknown.
      still: share that stands still, None = all.
      confidence: in the depth, None = full.
      moving: what is taken to move, at the finest size that it is known at.
    """

    tokens: Float[Array, "k h w c"]
    depth: Float[Array, "k dh dw"]
    still: Any
    confidence: Any
    moving: Bool[Array, "k mh mw"]


def look(
    model: WorldModel,
    latents: Float[Array, "l h w c"],
    is_image: Array,
    count: int,
    depth: Float[Array, "k dh dw"] | None = None,
    static: Float[Array, "k sh sw"] | None = None,
) -> Look:
    """Geometry of the last `count` frames; arguments otherwise as for `WorldModel.observe`.

    Raises:
      ValueError: if nothing tells their depth.
    """
    options, new = model.memory, slice(latents.shape[0] - count, None)
    bilinear = options.depth_resize == "bilinear"
    moving = None if static is None else static < 0.5
    if bilinear and static is not None:
        static = memory.released.nearest_mask(static, model.grid)
    tokens, confidence, still = latents[new], None, static
    if model.head is not None:
        found: Any = model.head.apply({"params": model.head_params}, latents[None], is_image[None])
        found = jax.tree.map(lambda leaf: leaf[:, new], found)
        if not options.clip_tokens:
            tokens = found.image_tokens[0]
        if moving is None:
            moving = found.mover_logit[0] > 0
        if options.static_only:
            still = (found.mover_logit[0] < 0).astype(jnp.float32)
            if static is not None:
                still = memory.pool_static(still, model.grid)
                still = still * (memory.pool_static(static, model.grid) > 0.5)
    if model.movers is not None and still is not None:
        still = free_of_bodies(still, model.grid, model.movers)
        if static is not None:
            still = still * free_of_bodies(static, model.grid, model.movers)
    if depth is not None:
        depth = jnp.where(jnp.isposinf(depth), options.sky_depth, depth)
    elif model.head is not None:
        depth = jnp.where(found.sky_logit > 0, options.sky_depth, found.depth)[0]
        # It says nothing of a depth that is not the head's. An element is a whole cell.
        confidence = memory.pool_static(found.confidence[0], model.grid)
    else:
        raise ValueError("depth: found none, expected some as the model has no geometry head")
    if moving is None:
        moving = jnp.zeros(depth.shape, bool)
    if bilinear:
        depth = memory.released.bilinear_depth(depth, model.grid)
    return Look(tokens, depth, still, confidence, moving)
