"""Sampling of a chunk of latents that begins with a given one."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PRNGKeyArray

from mirage_jax.diffusion import samplers
from mirage_jax.nn.denoiser import Denoiser
from mirage_jax.world.options import SamplerOptions


def memory_scale(denoiser: Denoiser, options: SamplerOptions) -> float | Float[Array, " layers"]:
    """The denoiser's `branch_scale` by `options.memory_scale`.

    Raises:
      ValueError: if the denoiser has no memory branch or another number of layers with one.
    """
    factors = options.memory_scale
    if not factors:
        return 1.0
    layers = len(denoiser.branch_layers)
    if not layers or len(factors) not in (1, layers):
        numbers = f"1 number or {layers}" if layers > 1 else "1 number"
        expected = numbers if layers else "none, as the denoiser has no memory branch"
        raise ValueError(f"memory_scale: found {factors}, expected {expected}")
    return factors[0] if len(factors) == 1 else jnp.asarray(factors, jnp.float32)


def network_calls(options: SamplerOptions, latents: int) -> tuple[int, ...]:
    """How often each step of the solver calls the network, for chunks of so many latents."""
    if options.method == "heun":
        return (2,) * (options.steps - 1) + (1,)
    late = latents - 2 if options.method == "staggered" else 0
    return (1,) * (options.steps + late)


def sample_chunk(
    denoiser: Denoiser,
    params: Any,
    first: Float[Array, "b h w c"],
    context: Float[Array, "b _ h w m"] | None,
    rays: Float[Array, "b l h w k"],
    key: PRNGKeyArray,
    options: SamplerOptions,
    *,
    noise: Float[Array, "b _ h w c"] | None = None,
    reference: Float[Array, "b r h w c"] | None = None,
    preceding: Float[Array, "b p h w c"] | None = None,
    frame_mask: Bool[Array, "b _"] | None = None,
    text: Float[Array, "b n e"] | None = None,
    negative_text: Float[Array, "b n2 e"] | None = None,
    guidance: Float[Array, ""] | None = None,
) -> Float[Array, "b l h w c"]:
    """Samples the latents of a chunk whose first latent is given; as many as there are rays for.

    The method "staggered" is Euler's, each latent a step behind the one before it, for denoisers
    trained with a noise level per latent.

    Args:
      denoiser: the network.
      params: its parameters.
      first: the given latent.
      context: of the conditioner, for target latents, or for target and preceding ones.
      rays: of the target latents; ignored by denoisers without `ray_channels`.
      key: of the noise, and of what the method "consistency" adds between steps.
      options: of the solver.
      noise: to start from in place of what the key gives, for exact comparisons.
      reference: clean latents of earlier frames.
      preceding: clean latents of the end of the chunk before.
      frame_mask: which of the two are present, see `Denoiser`.
      text: embedded prompt.
      negative_text: embedded prompt that guidance leads away from, where `cfg_scale` is not 1.
      guidance: in place of `cfg_scale`, a number that may change without compiling anew.

    Raises:
      ValueError: on options that do not fit the denoiser, or noise that does not fit the chunk.
    """
    shape = (*rays.shape[:2], *first.shape[1:])
    if noise is None:
        noise = jax.random.normal(key, shape, jnp.float32)
    if noise.shape != shape:
        raise ValueError(f"noise: found shape {noise.shape}, expected {shape}")
    scale = memory_scale(denoiser, options)
    strength: dict[str, Any] = {"branch_scale": scale} if options.memory_scale else {}
    clean = jnp.zeros_like(noise).at[:, 0].set(first)
    mask = jnp.zeros(noise.shape[:2], jnp.float32).at[:, 0].set(1.0)

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
                **strength,
            )

        return velocity

    velocity = velocity_under(text)
    if guidance is not None or options.cfg_scale != 1.0:
        strong = options.cfg_scale if guidance is None else guidance
        velocity = samplers.guided(velocity, velocity_under(negative_text), strong)
    steps, shift, method = options.steps, options.shift, options.method
    levels = samplers.make_schedule(steps, shift, options.schedule)
    if method == "staggered":
        levels = samplers.staggered_schedule(steps, rays.shape[1], shift=shift, given=1)
        method = "euler"
    pin = (clean, mask)
    return samplers.sample(
        velocity,
        noise,
        steps=steps,
        shift=shift,
        method=method,
        pin=pin,
        schedule=levels,
        key=jax.random.fold_in(key, 1) if method == "consistency" else None,
    )
