"""Pictures to latents and back: range, statistics, tiles, and the folder of an encoder."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import tiny_world
from helpers.tiny_world import SIZE
from mirage_jax.nn.video_vae import LatentStats, VideoVAE
from mirage_jax.world.latent_encoder import LatentEncoder, to_model_range, to_uint8

PICTURE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def model():
    return tiny_world.world_model()


def test_pictures_survive_the_change_of_range():
    every = np.arange(256, dtype=np.uint8)
    np.testing.assert_array_equal(to_uint8(to_model_range(every)), every)
    assert float(to_model_range(every)[0]) == -1 and float(to_model_range(every)[-1]) == 1
    np.testing.assert_array_equal(to_uint8(np.array([-3.0, 1.7])), [0, 255])


def test_latents_are_normalised_and_back():
    stats = LatentStats(mean=jnp.array([0.1, 0.2, -0.3]), std=jnp.array([1.0, 2.0, 0.5]))
    encoder = LatentEncoder(None, stats, tiny_world.Darkens())
    video = to_model_range(PICTURE)[None, None]
    latents = encoder.encode(video)
    cells = np.asarray(video).reshape(2, 8, 3, 8, 3).mean((1, 3))
    np.testing.assert_allclose(latents[0, 0], (cells - stats.mean) / stats.std, atol=1e-5)
    np.testing.assert_allclose(encoder.encode_images(video[0]), latents[0], atol=1e-6)
    expected = 0.5 * cells.repeat(8, axis=0).repeat(8, axis=1)
    np.testing.assert_allclose(encoder.decode(latents)[0, 0], expected, atol=1e-5)


def test_tiles_of_a_code_that_sees_one_cell_alone_change_nothing():
    few = {"width_mults": (1, 1), "temporal_downsample": (True,), "attention": False, "blocks": 1}
    vae = VideoVAE(base_width=2, decoder_width=2, latent_channels=4, **few)
    video = jnp.asarray(np.random.default_rng(0).uniform(-1, 1, (1, 3, 20, 28, 3)), jnp.float32)
    key = jax.random.key(0, impl="rbg")
    params = jax.jit(vae.init)(key, video)["params"]  # new: its linear path alone
    whole = LatentEncoder(params, LatentStats(jnp.full(4, 0.1), jnp.full(4, 2.0)), vae)
    tiled = whole.replace(tile=(2, 3))
    encode, decode = jax.jit(LatentEncoder.encode), jax.jit(LatentEncoder.decode)
    latents = encode(whole, video)
    np.testing.assert_allclose(encode(tiled, video), latents, atol=1e-5)
    np.testing.assert_allclose(decode(tiled, latents), decode(whole, latents), atol=1e-5)


def test_tiles_need_less_memory():
    vae = VideoVAE(base_width=4, decoder_width=8, latent_channels=4, blocks=1, attention=False)
    params = jax.eval_shape(vae.init, jax.random.key(0), jnp.zeros((1, 5, 8, 8, 3)))["params"]
    whole = LatentEncoder(None, LatentStats(jnp.zeros(4), jnp.ones(4)), vae)
    latents = jax.ShapeDtypeStruct((1, 2, 12, 16, 4), jnp.float32)

    def temporaries(encoder):
        decode = jax.jit(lambda params, latents: encoder.replace(params=params).decode(latents))
        memory = decode.lower(params, latents).compile().memory_analysis()
        return memory.temp_size_in_bytes

    assert temporaries(whole.replace(tile=(4, 4))) < temporaries(whole) / 3


def test_an_encoder_comes_back_from_its_folder(model, tmp_path):
    folder = tmp_path / "encoder"
    model.encoder.save(folder)
    loaded = LatentEncoder.load(folder)
    assert loaded.vae == model.encoder.vae
    for found, saved in zip(jax.tree.leaves(loaded), jax.tree.leaves(model.encoder), strict=True):
        np.testing.assert_array_equal(found, saved)


def test_an_encoder_of_another_architecture_is_refused(model, tmp_path):
    five = LatentStats(mean=np.zeros(5, np.float32), std=np.ones(5, np.float32))
    model.encoder.replace(stats=five).save(tmp_path / "a")
    with pytest.raises(ValueError, match=r"'stats/mean': found float32 \(5,\), expected .*\(4,\)"):
        LatentEncoder.load(tmp_path / "a")
    wider = model.encoder.replace(vae=model.encoder.vae.clone(base_width=8))
    wider.save(tmp_path / "b")
    with pytest.raises(ValueError, match=r"tensor 'vae/encoder/.*another|another.*'vae/encoder/"):
        LatentEncoder.load(tmp_path / "b")
    with pytest.raises(FileNotFoundError, match="c"):
        LatentEncoder.load(tmp_path / "c")
