"""Sampling of a chunk: staggered latents, and guidance by text."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import tiny_world
from helpers.tiny_world import CHANNELS, GRID
from mirage_jax.diffusion import samplers
from mirage_jax.nn.denoiser import Denoiser
from mirage_jax.world.conditioners import RAY_CHANNELS
from mirage_jax.world.options import SamplerOptions
from mirage_jax.world.sampling import network_calls, sample_chunk

KEY = jax.random.key(7)


def test_staggered_latents_are_sampled_one_after_the_other(monkeypatch):
    seen = {}

    def sample(velocity, noise, **options):
        seen.update(options)
        return noise

    monkeypatch.setattr(samplers, "sample", sample)
    first, rays = jnp.zeros((1, *GRID, CHANNELS)), jnp.zeros((1, 4, *GRID, RAY_CHANNELS))
    options = SamplerOptions(steps=3, shift=2.0, method="staggered")
    sample_chunk(tiny_world.denoiser(0), {}, first, None, rays, KEY, options)
    assert seen["method"] == "euler"
    timesteps = seen["schedule"].timesteps
    assert timesteps.shape == (5, 4)
    assert not timesteps[:, 0].any()  # the given latent is clean throughout
    for latent in (1, 2):
        np.testing.assert_array_equal(timesteps[1:, latent + 1], timesteps[:-1, latent])
    assert (timesteps[:, 1] > 0).sum() == 3 and timesteps[0, 3] == 1000


class Reads(tiny_world.stand_in(Denoiser)):
    """A velocity that is the mean of the text."""

    ray_channels = 0

    def apply(self, variables, latents, timestep, *, text, rays, **shown):
        assert rays is None and not any(value is not None for value in shown.values())
        return jnp.zeros(latents.shape) + text.mean()


@pytest.mark.parametrize("given", ["option", "array"])
@pytest.mark.parametrize("cfg_scale", [1.0, 2.5])
def test_guidance_leads_away_from_the_negative_text(cfg_scale, given):
    first, rays = jnp.ones((1, *GRID, CHANNELS)), jnp.zeros((1, 3, *GRID, RAY_CHANNELS))
    texts = {"text": jnp.full((1, 2, 4), 0.5), "negative_text": jnp.full((1, 1, 4), -0.25)}
    options = SamplerOptions(steps=3, cfg_scale=cfg_scale if given == "option" else 1.0)
    if given == "array":
        texts["guidance"] = jnp.float32(cfg_scale)
    sampled = sample_chunk(Reads(), {}, first, None, rays, KEY, options, **texts)
    noise = jax.random.normal(KEY, (1, 3, *GRID, CHANNELS))
    velocity = -0.25 + cfg_scale * 0.75
    np.testing.assert_allclose(sampled[:, 1:], noise[:, 1:] - velocity, atol=1e-5)
    np.testing.assert_array_equal(sampled[:, 0], first)


class Strength(tiny_world.stand_in(Denoiser)):
    """A velocity that is the sum of the factors on its branch."""

    ray_channels = 0

    def __init__(self, layers):
        self.branch_layers = tuple(range(layers))

    def apply(self, variables, latents, timestep, *, branch_scale, **_):
        return jnp.zeros(latents.shape) + jnp.sum(branch_scale)


@pytest.mark.parametrize(("factors", "total"), [((0.5,), 0.5), ((0.25, 0.0, 2.0), 2.25)])
def test_the_strength_of_the_memory_branch_and_noise_are_those_given(factors, total):
    first, rays = jnp.ones((1, *GRID, CHANNELS)), jnp.zeros((1, 3, *GRID, RAY_CHANNELS))
    options = SamplerOptions(steps=2, memory_scale=factors)
    noise = jax.random.normal(jax.random.key(1), (1, 3, *GRID, CHANNELS))
    sampled = sample_chunk(Strength(3), {}, first, None, rays, KEY, options, noise=noise)
    np.testing.assert_allclose(sampled[:, 1:], noise[:, 1:] - total, atol=1e-5)


def test_a_strength_or_noise_that_does_not_fit_is_refused():
    first, rays = jnp.ones((1, *GRID, CHANNELS)), jnp.zeros((1, 3, *GRID, RAY_CHANNELS))
    for factors, layers, message in (
        ((0.5, 1.0), 3, r"memory_scale: found \(0.5, 1.0\), expected 1 number or 3"),
        ((0.5,), 0, "expected none, as the denoiser has no memory branch"),
    ):
        options = SamplerOptions(memory_scale=factors)
        with pytest.raises(ValueError, match=message):
            sample_chunk(Strength(layers), {}, first, None, rays, KEY, options)
    with pytest.raises(ValueError, match=r"noise: found shape \(1, 2, 2, 3, 4\), expected \(1, 3,"):
        sample_chunk(
            Strength(1),
            {},
            first,
            None,
            rays,
            KEY,
            SamplerOptions(),
            noise=jnp.zeros((1, 2, 2, 3, 4)),
        )


@pytest.mark.parametrize("method", [*samplers.METHODS, "staggered"])
def test_how_often_a_step_calls_the_network(method):
    calls = []

    class Counts(tiny_world.stand_in(Denoiser)):
        ray_channels = 0

        def apply(self, params, x, timestep, **given):
            calls.append(float(timestep.max()))
            return x

    first, rays = jnp.zeros((1, 1, 1, 1)), jnp.zeros((1, 4, 1, 1, 1))
    options = SamplerOptions(steps=3, method=method)
    with jax.disable_jit():
        sample_chunk(Counts(), {}, first, None, rays, KEY, options)
    expected = network_calls(options, 4)
    assert sum(expected) == len(calls)
    assert len(expected) == (5 if method == "staggered" else 3)
