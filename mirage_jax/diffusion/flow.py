"""Flow matching: noise levels, the interpolant and the loss.

A latent at noise level sigma is x = (1 - sigma) x0 + sigma noise, the model predicts the velocity
v = noise - x0, and its timestep input is `TIMESTEPS` sigma (Lipman et al., arXiv 2210.02747;
Wan, arXiv 2503.20314).
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt32

from mirage_jax.nn.timesteps import TIMESTEPS

__all__ = [
    "DISTRIBUTIONS",
    "TIMESTEPS",
    "add_noise",
    "flow_loss",
    "masked_mean",
    "per_frame",
    "sample_sigma",
    "shift_sigma",
    "velocity",
]

DISTRIBUTIONS = ("uniform", "logit_normal")

Key = PRNGKeyArray | UInt32[Array, "2"]

Levels = Float[Array | np.ndarray, "*b"] | float
"""Noise levels, on a device or on the host."""


def shift_sigma(sigma: Levels, shift: float) -> Any:
    """shift sigma / (1 + (shift - 1) sigma): more steps at high noise for shift > 1."""
    return shift * sigma / (1.0 + (shift - 1.0) * sigma)


def sample_sigma(
    key: Key,
    batch: int,
    frames: int,
    *,
    shift: float = 1.0,
    per_frame: bool = False,
    distribution: str = "uniform",
) -> Float[Array, "{batch} {frames}"]:
    """Noise levels for training.

    Args:
      key: random key.
      batch: samples.
      frames: latent frames of a sample.
      shift: see `shift_sigma`, applied after drawing.
      per_frame: draw every frame's level independently (diffusion forcing); by default the frames
        of a sample share one, as in all sampling but `samplers.staggered_schedule`.
      distribution: of the level before the shift: "uniform" on [0, 1], or "logit_normal", the
        sigmoid of a standard normal.

    Raises:
      ValueError: if the distribution is unknown.
    """
    shape = (batch, frames if per_frame else 1)
    if distribution == "uniform":
        sigma = jax.random.uniform(key, shape, jnp.float32)
    elif distribution == "logit_normal":
        sigma = jax.nn.sigmoid(jax.random.normal(key, shape, jnp.float32))
    else:
        raise ValueError(
            f"noise distribution: found {distribution!r}, expected {' or '.join(DISTRIBUTIONS)}"
        )
    return jnp.broadcast_to(shift_sigma(sigma, shift), (batch, frames))


def per_frame(sigma: Float[Array, "*b"], latents: Array) -> Array:
    """Levels of samples or frames, shaped to be multiplied with their latents."""
    return sigma.reshape(*sigma.shape, *(1,) * (latents.ndim - sigma.ndim))


def add_noise(
    x0: Float[Array, "b t h w c"], noise: Float[Array, "b t h w c"], sigma: Float[Array, "b t"]
) -> Float[Array, "b t h w c"]:
    """(1 - sigma) x0 + sigma noise."""
    level = per_frame(sigma, x0)
    return (1.0 - level) * x0 + level * noise


def velocity(
    x0: Float[Array, "b t h w c"], noise: Float[Array, "b t h w c"]
) -> Float[Array, "b t h w c"]:
    """The model's target, noise - x0: the derivative of the latents by the noise level."""
    return noise - x0


def flow_loss(
    prediction: Float[Array, "b t h w c"],
    x0: Float[Array, "b t h w c"],
    noise: Float[Array, "b t h w c"],
    mask: Float[Array, "b t"] | Float[Array, "b t h w"] | None = None,
) -> Float[Array, ""]:
    """Mean squared error of the velocity over what counts.

    Args:
      prediction: the model's velocity.
      x0: clean latents.
      noise: the noise that was added.
      mask: 1 where the loss counts, 0 for given (clean) frames or cells; None counts everything.
        A mask of zeros gives a loss of zero.
    """
    error = jnp.mean(jnp.square(prediction - velocity(x0, noise)), axis=-1)
    if mask is None:
        return jnp.mean(error)
    return masked_mean(error, mask)


def masked_mean(
    error: Float[Array, "b t h w"], mask: Float[Array, "b t"] | Float[Array, "b t h w"]
) -> Float[Array, ""]:
    """Mean over what counts, weighted by the mask of frames or cells; 0 where nothing does."""
    weight = jnp.broadcast_to(per_frame(mask, error), error.shape)
    return jnp.sum(error * weight) / jnp.maximum(jnp.sum(weight), 1e-6)
