"""The embedding of timesteps against float64."""

import jax.numpy as jnp
import numpy as np

from mirage_jax.nn.timesteps import TIMESTEPS, timestep_embedding


def test_timestep_embedding_is_accurate_at_any_timestep():
    steps = np.random.default_rng(0).uniform(0, TIMESTEPS, 200).astype(np.float32)
    angles = steps.astype(np.float64)[:, None] * 10000.0 ** (-np.arange(128) / 128)
    expected = np.concatenate([np.cos(angles), np.sin(angles)], axis=-1)
    found = timestep_embedding(jnp.asarray(steps), 256)
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-7)
