"""Consistency distillation: a student that lands in one step where its teacher's path ends.

Along the teacher's path from noise to data every state has the same end. The student's estimate of
that end, x - sigma v(x, sigma), is trained to be the same at neighbouring levels of one path
(Song et al., arXiv 2303.01469; for video models that go on chunk by chunk, Causal Forcing,
arXiv 2602.02214). At level 0 it is the state itself, so that no other parametrisation is needed.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mirage_jax.diffusion import flow
from mirage_jax.diffusion.samplers import VelocityFn, make_schedule

Latents = Float[Array, "b t h w c"]
Sigma = Float[Array, "b t"]


def draw_neighbours(
    key: PRNGKeyArray, batch: int, levels: int, shift: float
) -> tuple[Float[Array, " {batch}"], Float[Array, " {batch}"]]:
    """Noise levels next to each other, the higher one first, for each sample of a batch.

    Args:
      key: random key.
      batch: samples.
      levels: steps from 1 to 0 that neighbours are drawn from, all alike.
      shift: of the levels, see `flow.shift_sigma`.
    """
    sigmas = jnp.asarray(make_schedule(levels, shift).sigmas)
    index = jax.random.randint(key, (batch,), 0, levels)
    return sigmas[index], sigmas[index + 1]


def end_of_path(velocity_fn: VelocityFn, x: Latents, sigma: Sigma) -> Latents:
    """Where the straight path from `x` along the velocity ends: x - sigma v(x, sigma)."""
    return x - flow.per_frame(sigma, x) * velocity_fn(x, flow.TIMESTEPS * sigma)


def follow(velocity_fn: VelocityFn, x: Latents, sigma: Sigma, following: Sigma) -> Latents:
    """One Euler step from noise level `sigma` to `following`."""
    width = flow.per_frame(sigma - following, x)
    return x - width * velocity_fn(x, flow.TIMESTEPS * sigma)


def consistency_loss(
    student: VelocityFn,
    target: VelocityFn,
    teacher: VelocityFn,
    x0: Latents,
    noise: Latents,
    sigma: Sigma,
    following: Sigma,
    mask: Sigma,
) -> Float[Array, ""]:
    """Mean squared difference of the ends that student and target see from one step of the teacher.

    Args:
      student: what is trained; the only one with a gradient.
      target: the student's moving average.
      teacher: steps from `sigma` to `following`, with guidance where it is sampled with it.
      x0: clean latents.
      noise: standard normal.
      sigma: noise level of every latent, 0 for given ones.
      following: the level after it, not above `sigma`; 0 for given ones.
      mask: 1 for the latents that count.
    """
    x = flow.add_noise(x0, noise, sigma)
    stepped = jax.lax.stop_gradient(follow(teacher, x, sigma, following))
    goal = jax.lax.stop_gradient(end_of_path(target, stepped, following))
    found = end_of_path(student, x, sigma)
    return flow.masked_mean(jnp.mean(jnp.square(found - goal), axis=-1), mask)
