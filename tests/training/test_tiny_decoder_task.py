"""A tiny decoder fitted to an encoder's latents, and put in the place of the encoder's own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from helpers import tiny_world
from mirage_jax import weights
from mirage_jax.nn.latents import LatentStats
from mirage_jax.nn.tiny_decoder import TinyDecoder, init_params
from mirage_jax.training.tiny_decoder_task import TinyDecoderTask
from mirage_jax.world.latent_encoder import LatentEncoder, to_model_range

DECODER = TinyDecoder(3, widths=(4, 4, 4, 4), space_upscale=(True, True, False))


@pytest.fixture(scope="module")
def encoder():
    """Latents are mean colours of 8x8 pixels over the frames they cover."""
    return LatentEncoder({}, LatentStats(jnp.zeros(3), jnp.ones(3)), tiny_world.MeanColours())


@pytest.mark.long
def test_the_loss_is_the_error_of_the_decoded_clip_and_the_encoder_stays(encoder):
    task = TinyDecoderTask.of_encoder(DECODER, encoder, l1_weight=0.5, first_frame_weight=3.0)
    params = nn.unbox(task.init(jax.random.key(0)))
    rng = np.random.default_rng(0)
    video = jnp.asarray(rng.integers(0, 256, (2, 5, 16, 16, 3)), jnp.uint8)
    loss, metrics = task.loss(
        params, {"video": video}, jax.random.key(0), train=True, frozen=task.frozen
    )
    true = np.asarray(to_model_range(video))
    cells = true.reshape(2, 5, 2, 8, 2, 8, 3).mean((3, 5))
    latents = np.stack([cells[:, 0], cells[:, 1:].mean(1)], axis=1)
    decoded = np.asarray(DECODER.apply({"params": params}, jnp.asarray(latents)))
    assert decoded.shape == true.shape
    error = (decoded - true) ** 2 + 0.5 * np.abs(decoded - true)
    by_frame = error.mean((0, 2, 3, 4))
    np.testing.assert_allclose(loss, (3 * by_frame[0] + by_frame[1:].sum()) / 7, rtol=1e-4)
    mse = np.square(np.clip(decoded, -1, 1) - true).mean() / 4
    np.testing.assert_allclose(metrics["psnr"], -10 * np.log10(mse), rtol=1e-4)


def test_an_encoder_decodes_with_it_and_refuses_one_for_other_latents(tmp_path, encoder):
    params = init_params(DECODER, jax.random.key(0))
    made = {"kind": "tiny_decoder", "tiny_decoder": weights.module_fields(DECODER)}
    weights.export(tmp_path / "tiny", params, made)
    quick = encoder.with_tiny_decoder(tmp_path / "tiny")
    latents = jax.random.normal(jax.random.key(1), (1, 2, 2, 2, 3))
    np.testing.assert_array_equal(
        quick.decode(latents), DECODER.apply({"params": params}, jnp.asarray(latents))
    )
    assert quick.decode(latents).shape == encoder.decode(latents).shape
    large = DECODER.clone(space_upscale=(True, True, True))
    made["tiny_decoder"] = weights.module_fields(large)
    weights.export(tmp_path / "large", params, made)
    with pytest.raises(ValueError, match="spatial_stride: found 16, expected 8 as the encoder has"):
        encoder.with_tiny_decoder(tmp_path / "large")
