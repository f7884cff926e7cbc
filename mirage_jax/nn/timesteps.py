"""Timesteps: the scale on which a network is given noise levels, and their embedding."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mirage_jax.nn.rows import aligned

TIMESTEPS = 1000.0
"""Timestep of pure noise: a timestep is this times the noise level sigma."""


def timestep_embedding(timestep: Float[Array, "*b"], width: int) -> Float[Array, "*b width"]:
    """Cosines, then sines, of a timestep in 0..`TIMESTEPS` at width / 2 frequencies, 1 to 1e-4."""
    frequencies = np.power(10000.0, -np.arange(width // 2) / (width // 2))
    # Angles reach 1000 rad, where a float32 product is off by 3e-5. Timestep and frequency are
    # split, so that the large part of the angle is exact (10 bits by 10 bits) and the rest small.
    coarse = np.round(frequencies * 2**10) / 2**10
    rest = (frequencies - coarse).astype(np.float32)
    coarse = coarse.astype(np.float32)
    t = timestep.astype(jnp.float32)[..., None]
    whole = jnp.floor(t)
    coarse, rest = aligned(coarse, t), aligned(rest, t)
    a, b = whole * coarse, (t - whole) * coarse + t * rest
    cosine = jnp.cos(a) * jnp.cos(b) - jnp.sin(a) * jnp.sin(b)
    sine = jnp.sin(a) * jnp.cos(b) + jnp.cos(a) * jnp.sin(b)
    return jnp.concatenate([cosine, sine], axis=-1)
