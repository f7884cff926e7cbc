"""Coding latent by latent: the result of one call, in less memory."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import tiny_world
from mirage_jax.nn.video_vae import LatentStats, VideoVAE
from mirage_jax.world.latent_encoder import LatentEncoder

VAE = VideoVAE(
    base_width=2,
    decoder_width=3,
    latent_channels=4,
    width_mults=(1, 2, 2),
    blocks=1,
    attention=False,
    linear_path=False,
)
STATS = LatentStats(jnp.full(4, 0.1), jnp.full(4, 0.5))


@pytest.fixture(scope="module")
def whole():
    return LatentEncoder(tiny_world.random_params(VAE, 0, jnp.zeros((1, 5, 8, 8, 3))), STATS, VAE)


@pytest.mark.parametrize("latents", [1, 4])
def test_a_clip_coded_latent_by_latent_is_the_clip_coded_at_once(whole, latents):
    rng = np.random.default_rng(0)
    video = jnp.asarray(rng.uniform(-1, 1, (2, 4 * latents - 3, 16, 24, 3)), jnp.float32)
    streamed = whole.replace(streamed=True)
    expected = jax.jit(LatentEncoder.encode)(whole, video)
    found = jax.jit(LatentEncoder.encode)(streamed, video)
    assert found.shape == (2, latents, 2, 3, 4)
    np.testing.assert_allclose(found, expected, atol=1e-5 * float(jnp.abs(expected).max()))
    expected = jax.jit(LatentEncoder.decode)(whole, found)
    decoded = jax.jit(LatentEncoder.decode)(streamed, found)
    np.testing.assert_allclose(decoded, expected, atol=1e-5 * float(jnp.abs(expected).max()))


@pytest.mark.parametrize(("method", "channels", "stride"), [("encode", 3, 8), ("decode", 4, 1)])
def test_memory_does_not_grow_with_the_length_of_the_clip(whole, method, channels, stride):
    """But for the clip itself: its frames, or its latents."""

    def temporaries(latents, streamed):
        run = getattr(whole.replace(streamed=bool(streamed)), method)
        frames = latents if stride == 1 else 4 * latents - 3
        x = jax.ShapeDtypeStruct((1, frames, 8 * stride, 8 * stride, channels), jnp.float32)
        return jax.jit(run).lower(x).compile().memory_analysis().temp_size_in_bytes

    growth = {streamed: temporaries(8, streamed) - temporaries(4, streamed) for streamed in (0, 1)}
    assert growth[1] < growth[0] / 2
