"""What the denoiser is given of a world for the next chunk: memory, rays and context frames."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from mirage_jax.geometry import Camera
from mirage_jax.world import context_frames
from mirage_jax.world.conditioners import camera_rays
from mirage_jax.world.state import World

if TYPE_CHECKING:
    from mirage_jax.world.model import WorldModel


def chunk_inputs(
    model: WorldModel,
    world: World,
    camera: Camera,
    slots: Int[Array, " n"] | None = None,
    constants: Float[Array, "_ h w k"] | None = None,
) -> tuple[dict[str, Any], Float[Array, "l h w r"]]:
    """Reads the memory along a chunk and gathers what the denoiser is given beside it.

    Args:
      model: the trained parts.
      world: the state.
      camera: cameras of the chunk's frames.
      slots: of reference frames, as `WorldModel.choose` gives them.
      constants: of the conditioner, for target and preceding latents; None: they are made here.

    Returns:
      The arguments of `WorldModel.denoise` for a batch of one, but for the key and the noise; and
      what was read along the chunk.
    """
    times = (world.frames - 1 + jnp.arange(camera.shape[0])).astype(jnp.float32)
    read = model.conditioner.read(
        world.bank, camera, times, model.encoder, world.movers, model.movers
    )
    context, frames = read, {}
    kept = world.context_frames
    before = 0 if kept is None else model.preceding_latents(kept)
    if kept is not None and before:
        frames["preceding"] = kept.recent[None, :before]
        context = jnp.concatenate([context, kept.context[:before]])
    if kept is not None and slots is not None:
        reference, present = context_frames.take(kept.latents, slots)
        frames["reference"] = reference[None]
        mask = jnp.concatenate([present, jnp.ones(before, bool)])
        frames["frame_mask"] = mask[None]
    if constants is None:
        constants = model.constants(len(context))
    context = model.conditioner.complete(context, constants)
    given = {
        "first": world.latent[None],
        "context": context[None] if model.denoiser.memory_channels else None,
        "rays": camera_rays(camera, model.grid)[None],
    }
    return given | frames, read
