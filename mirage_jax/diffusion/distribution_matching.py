"""Distribution matching distillation: a student whose samples are spread as its teacher's are.

A consistency student is told where each of its noises has to end. Here nothing is said of single
samples: the student draws one, noise is added to it, and two networks say what they take the clean
latents to be: the teacher, which knows the data ("real"), and a critic, which knows the student's
samples ("fake"). Their difference is the gradient by the sample of the divergence KL(student ||
teacher) of the noisy distributions, but for a factor (Yin et al., arXiv 2311.18828, eq. 7 and 8;
with a critic that learns faster, and students of several steps, DMD2, arXiv 2405.14867; on what the
student itself has generated, Self Forcing, arXiv 2506.08009).

Samples are what the student ends at, and the gradient runs back through all of its steps. Self
Forcing takes the estimate of a step that is drawn instead, with a gradient through that one alone.
What its critic learns, and the teacher is compared with, is then the mixture of what all steps
estimate, which may be right while the last one is not.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mirage_jax.diffusion import flow
from mirage_jax.diffusion.samplers import VelocityFn

Latents = Float[Array, "b t h w c"]
Sigma = Float[Array, "b t"]

NOISE_RANGE = (0.02, 0.98)
"""Levels at which the two estimates are compared: nearer to data or noise they say nothing."""

_LEAST = 1e-6


def draw_levels(key: PRNGKeyArray, batch: int, shift: float) -> Float[Array, " {batch}"]:
    """A noise level in `NOISE_RANGE` for each sample: uniform, shifted, then cut off.

    Args:
      key: random key.
      batch: samples.
      shift: see `flow.shift_sigma`.
    """
    return jnp.clip(flow.sample_sigma(key, batch, 1, shift=shift)[:, 0], *NOISE_RANGE)


def matching_gradient(x0: Latents, real: Latents, fake: Latents, mask: Sigma) -> Latents:
    """Direction in which samples become likelier to the critic than to the teacher; to go against.

        g = (fake - real) / mean |x0 - real|

    with the mean over the latents of a sample that count (DMD, eq. 8): samples that are far from
    clean to the teacher, at high noise, do not outweigh the others.

    Args:
      x0: the student's samples.
      real: the teacher's estimate of the clean latents, of x0 with noise.
      fake: the critic's, of the same.
      mask: 1 for the latents that count.
    """
    weight = jnp.broadcast_to(flow.per_frame(mask, x0), x0.shape)
    axes = tuple(range(1, x0.ndim))
    off = jnp.sum(weight * jnp.abs(x0 - real), axis=axes, keepdims=True)
    scale = off / jnp.maximum(jnp.sum(weight, axis=axes, keepdims=True), _LEAST)
    return weight * (fake - real) / jnp.maximum(scale, _LEAST)


def matching_loss(student: Latents, real: Latents, fake: Latents, mask: Sigma) -> Float[Array, ""]:
    """A squared error whose gradient by the samples is `matching_gradient`, over their number.

        1/2 mean (x0 - stop_gradient(x0 - g))^2

    Its value is half the mean square of g. It is no measure of how good the student is: it is 0
    where critic and teacher agree, be it that both are wrong.

    Args:
      student: its samples x0, with their gradient.
      real, fake, mask: see `matching_gradient`.
    """
    x0 = jax.lax.stop_gradient(student)
    gradient = jax.lax.stop_gradient(matching_gradient(x0, real, fake, mask))
    error = jnp.mean(jnp.square(student - (x0 - gradient)), axis=-1)
    return 0.5 * flow.masked_mean(error, mask)


def critic_loss(
    critic: VelocityFn, x0: Latents, noise: Latents, sigma: Sigma, mask: Sigma
) -> Float[Array, ""]:
    """Flow matching on the student's samples: mean (v(x, sigma) - (noise - x0))^2.

    Args:
      critic: what is trained; `x0` gets no gradient.
      x0: the student's samples.
      noise: standard normal.
      sigma: noise level of every latent, 0 for given ones.
      mask: 1 for the latents that count.
    """
    x0 = jax.lax.stop_gradient(x0)
    velocity = critic(flow.add_noise(x0, noise, sigma), flow.TIMESTEPS * sigma)
    return flow.flow_loss(velocity, x0, noise, mask)
