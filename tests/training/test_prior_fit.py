"""The closed form of the memory prior against data whose law is known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import tiny_world
from helpers.tiny_world import CHANNELS, GRID, SIZE, STRIDE
from mirage_jax import trajectories
from mirage_jax.training.denoiser_task import DenoiserTask
from mirage_jax.training.prior_fit import fit_gaussian, fit_memory_prior
from mirage_jax.world.conditioners import Folded
from mirage_jax.world.latent_clip import FIELDS


def test_mean_and_variance_of_a_known_law_are_found():
    rng = np.random.default_rng(0)
    x = rng.uniform(-1, 1, (4, 5000, 3)).astype(np.float32)
    kernel, bias = np.array([[1.0, -2], [0, 0.5], [3, 0]]), np.array([0.3, -1])
    slope, level = np.array([[0.2, 0], [0, 0], [0, -0.3]]), np.array([0.5, 0.6])
    noise = rng.normal(size=(4, 5000, 2)) * np.sqrt(x @ slope + level)
    y = (x @ kernel + bias + noise).astype(np.float32)
    fitted = fit_gaussian(
        lambda: ((jnp.asarray(a), jnp.asarray(b)) for a, b in zip(x, y, strict=True))
    )
    np.testing.assert_allclose(fitted["mean_kernel"], kernel, atol=0.03)
    np.testing.assert_allclose(fitted["mean_bias"], bias, atol=0.03)
    np.testing.assert_allclose(fitted["variance_kernel"], slope, atol=0.05)
    np.testing.assert_allclose(fitted["variance_bias"], level, atol=0.03)


def test_fewer_samples_than_channels_are_refused():
    pair = jnp.ones((1, 5, 8)), jnp.ones((1, 5, 2))
    with pytest.raises(ValueError, match="found 5 samples for 8 channels"):
        fit_gaussian(lambda: iter([pair]))


def test_a_task_starts_with_the_prior_of_its_own_samples():
    """Where the target is what memory holds, the prior explains most of it, and init carries it."""
    readout = Folded(CHANNELS, STRIDE, reads=1, fine=1)
    network = tiny_world.denoiser(readout.channels, data_std=(1.0,) * CHANNELS, memory_prior=True)
    task = DenoiserTask(
        denoiser=network,
        conditioner=readout,
        size=SIZE,
        chunks=2,
        chunk_latents=2,
        drop_memory=0.0,
    )
    still = np.tile(np.eye(4), (len(trajectories.make("look_away", 9)), 1, 1))
    clips = tiny_world.latent_clips(24, still, depth=3.0)
    tokens = np.broadcast_to(clips.tokens[:, :1], clips.tokens.shape).copy()
    shown = np.broadcast_to(tokens[:, None, :1], clips.chunks.shape).copy()
    clips = clips.replace(tokens=tokens, chunks=shown)
    source = [{name: getattr(clips, name)[i] for name in FIELDS} for i in range(24)]
    prior = fit_memory_prior(task, source, batches=4, batch_size=24)
    np.testing.assert_allclose(prior["mean_kernel"][:CHANNELS], np.eye(CHANNELS), atol=0.02)
    assert np.abs(prior["variance_bias"]).max() < 0.05

    task = DenoiserTask(**{**vars(task), "prior": prior})
    params = jax.jit(lambda key: task.init(key))(jax.random.key(0, impl="rbg"))
    for name, leaf in params["memory_prior"].items():
        np.testing.assert_array_equal(leaf.unbox(), prior[name])
    assert GRID[0] * GRID[1] * 24 * 4 > readout.channels
