"""Statistics of latents, draws from their posterior, and how many a clip has."""

from __future__ import annotations

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt32

from mirage_jax.nn.rows import aligned


@flax.struct.dataclass
class LatentStats:
    """Mean and standard deviation of latents, per channel; what a denoiser sees is normalised."""

    mean: Float[Array | np.ndarray, " c"]
    std: Float[Array | np.ndarray, " c"]


def measure_stats(latents: Float[Array, "*lead c"], *, per_channel: bool = True) -> LatentStats:
    """Statistics of a sample of latents.

    Args:
      latents: the sample; all leading axes are pooled.
      per_channel: False divides all channels by one number, their root-mean-square deviation, so
        that channels keep their relative weight.
    """
    flat = latents.reshape(-1, latents.shape[-1]).astype(jnp.float32)
    variance = jnp.var(flat, axis=0)
    if not per_channel:
        variance = jnp.broadcast_to(jnp.mean(variance), variance.shape)
    return LatentStats(mean=jnp.mean(flat, axis=0), std=jnp.sqrt(variance + 1e-12))


def normalise(latents: Float[Array, "*lead c"], stats: LatentStats) -> Float[Array, "*lead c"]:
    """`(latents - mean) / std`."""
    mean, std = (aligned(each, latents) for each in (stats.mean, stats.std))
    return (latents - mean) / std


def denormalise(latents: Float[Array, "*lead c"], stats: LatentStats) -> Float[Array, "*lead c"]:
    """The inverse of `normalise`."""
    mean, std = (aligned(each, latents) for each in (stats.mean, stats.std))
    return latents * std + mean


def sample_posterior(
    key: PRNGKeyArray | UInt32[Array, " 2"],
    mean: Float[Array, "*shape"],
    logvar: Float[Array, "*shape"],
) -> Float[Array, "*shape"]:
    """Draws latents from the posterior N(mean, exp(logvar))."""
    return mean + jnp.exp(0.5 * logvar) * jax.random.normal(key, mean.shape, mean.dtype)


def kl_divergence(
    mean: Float[Array, "*shape"], logvar: Float[Array, "*shape"]
) -> Float[Array, "*shape"]:
    """KL(N(mean, exp(logvar)) || N(0, 1)) of every latent value, in nats."""
    return 0.5 * (jnp.square(mean) + jnp.exp(logvar) - 1.0 - logvar)


def latent_frames(frames: int, temporal_stride: int) -> int:
    """Number of latents of a clip of `frames` frames.

    Raises:
      ValueError: if `frames` is not 1 + n `temporal_stride`.
    """
    if frames < 1 or (frames - 1) % temporal_stride:
        raise ValueError(
            f"a clip of {frames} frames cannot be encoded: expected 1 + n * {temporal_stride}"
        )
    return 1 + (frames - 1) // temporal_stride
