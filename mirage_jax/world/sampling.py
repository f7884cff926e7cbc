"""Sampling of a chunk of latents that begins with a given one."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mirage_jax.diffusion import samplers
from mirage_jax.nn.denoiser import Denoiser


def sample_chunk(
    denoiser: Denoiser,
    params: Any,
    first: Float[Array, "b h w c"],
    context: Float[Array, "b _ h w m"] | None,
    rays: Float[Array, "b l h w k"],
    key: PRNGKeyArray,
    *,
    steps: int,
    shift: float,
    method: str,
    schedule: str = "uniform",
    reference: Float[Array, "b r h w c"] | None = None,
    preceding: Float[Array, "b p h w c"] | None = None,
    frame_mask: Bool[Array, "b _"] | None = None,
    text: Float[Array, "b n e"] | None = None,
    other_text: Float[Array, "b n2 e"] | None = None,
    guidance: float = 1.0,
) -> Float[Array, "b l h w c"]:
    """Samples the latents of a chunk whose first latent is given; as many as there are rays for.

    `method` is one of `samplers.METHODS`, or "staggered": Euler's, each latent a step behind the
    one before it, for denoisers trained with a noise level per latent.

    Args:
      denoiser: the network.
      params: its parameters.
      first: the given latent.
      context: what the memory shows at target latents, or at target and preceding ones.
      rays: of the target latents; not asked for by denoisers without `ray_channels`.
      key: of the noise.
      steps: of the solver.
      shift: of its noise levels.
      method: see above.
      schedule: one of `samplers.KINDS`.
      reference: clean latents of earlier frames.
      preceding: clean latents of the end of the chunk before.
      frame_mask: which of the two are present, see `Denoiser`.
      text: embedded prompt.
      other_text: what to be led away from, if `guidance` is not 1.
      guidance: how far, see `samplers.guided`.
    """
    noise = jax.random.normal(key, (*rays.shape[:2], *first.shape[1:]))
    clean = jnp.zeros_like(noise).at[:, 0].set(first)
    mask = jnp.zeros(noise.shape[:2]).at[:, 0].set(1.0)

    def velocity_under(text: Array | None) -> samplers.VelocityFn:
        def velocity(x: Array, timestep: Array) -> Any:
            return denoiser.apply(
                {"params": params},
                x,
                timestep,
                memory=context,
                rays=rays if denoiser.ray_channels else None,
                reference=reference,
                preceding=preceding,
                frame_mask=frame_mask,
                text=text,
            )

        return velocity

    velocity = velocity_under(text)
    if guidance != 1.0:
        velocity = samplers.guided(velocity, velocity_under(other_text), guidance)
    levels = samplers.make_schedule(steps, shift, schedule)
    if method == "staggered":
        levels = samplers.staggered_schedule(steps, rays.shape[1], shift=shift, given=1)
        method = "euler"
    pin = (clean, mask)
    return samplers.sample(
        velocity, noise, steps=steps, shift=shift, method=method, pin=pin, schedule=levels
    )
