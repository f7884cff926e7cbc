"""Statistics and posterior of latents."""

import jax
import jax.numpy as jnp
import numpy as np

from mirage_jax.nn import latents
from mirage_jax.nn.latents import LatentStats, denormalise, normalise


def close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


def test_posterior_and_kl():
    mean, logvar = jnp.full((200_000,), 0.7), jnp.full((200_000,), -1.0)
    z = latents.sample_posterior(jax.random.key(0), mean, logvar)
    assert abs(float(z.mean()) - 0.7) < 0.01
    assert abs(float(z.var()) - np.exp(-1.0)) < 0.01
    # Monte Carlo estimate of E[log q - log p].
    log_q = -0.5 * ((z - mean) ** 2 / jnp.exp(logvar) + logvar)
    estimate = float((log_q + 0.5 * z**2).mean())
    assert abs(float(latents.kl_divergence(mean, logvar)[0]) - estimate) < 0.01


def test_stats_round_trip():
    x = jnp.asarray(np.random.default_rng(0).normal(2.0, [0.1, 1.0, 5.0], (400, 3)), jnp.float32)
    stats = latents.measure_stats(x)
    normal = normalise(x, stats)
    close(normal.mean(0), np.zeros(3), 1e-4)
    close(normal.std(0), np.ones(3), 1e-4)
    close(denormalise(normal, stats), x, 1e-4)
    shared = normalise(x, latents.measure_stats(x, per_channel=False))
    close(jnp.mean(shared.var(0)), 1.0, 1e-4)
    assert float(shared.std(0)[2] / shared.std(0)[0]) > 40
    assert isinstance(stats, LatentStats)
