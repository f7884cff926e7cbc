"""Which decoder makes the pictures of a model, and which is refused."""

import jax
import numpy as np
import pytest

from helpers import tiny_world
from mirage_jax.nn.tiny_decoder import TinyDecoder, init_params
from mirage_jax.weights import export, module_fields
from mirage_jax.world import decoders

ENCODER = tiny_world.encoder()
PLAIN = ENCODER.replace(vae=ENCODER.vae.clone(linear_path=False))
TINY = TinyDecoder(tiny_world.CHANNELS, (4, 4, 4, 4), space_upscale=(True, True, False))
TINY_PARAMS = init_params(TINY, jax.random.key(1))
LATENTS = jax.random.normal(jax.random.key(0), (1, 2, 2, 3, tiny_world.CHANNELS))
decode = jax.jit(lambda encoder: encoder.decode(LATENTS))


@pytest.fixture
def folder(tmp_path):
    """An encoder, and a tiny decoder of its latents."""
    ENCODER.save(tmp_path / "encoder")
    made = {"kind": "tiny_decoder", "tiny_decoder": module_fields(TINY)}
    made |= decoders.trained_for(tmp_path / "encoder")
    export(tmp_path / decoders.PART, TINY_PARAMS, made)
    return tmp_path


def by_hand():
    """The linear path: one matrix for the patch of the first frame, one for those of four."""
    raw = np.asarray(LATENTS[0] * ENCODER.stats.std + ENCODER.stats.mean)
    weights, video = ENCODER.params["linear_decoder"], np.zeros((5, 16, 24, 3), np.float32)
    for row, column in np.ndindex(2, 3):
        place = np.s_[8 * row : 8 * row + 8, 8 * column : 8 * column + 8]
        first = raw[0, row, column] @ weights["image_kernel"] + weights["image_bias"]
        later = raw[1, row, column] @ weights["group_kernel"] + weights["group_bias"]
        video[0][place] = first.reshape(8, 8, 3)
        video[1:][(slice(None), *place)] = later.reshape(4, 8, 8, 3)
    return video


def test_linear_is_a_matrix_for_each_patch(folder):
    found = decode(decoders.with_decoder(ENCODER, folder, "linear"))
    np.testing.assert_allclose(found[0], by_hand(), atol=1e-5)
    assert not np.allclose(found, decode(ENCODER), atol=1e-3)


def test_auto_takes_the_cheapest_there_is(folder, tmp_path):
    tiny = jax.jit(TINY.apply)({"params": TINY_PARAMS}, LATENTS)
    for name in ("tiny", "auto"):
        found = decode(decoders.with_decoder(ENCODER, folder, name))
        np.testing.assert_allclose(found, tiny, atol=1e-6)
    assert decoders.with_decoder(ENCODER, folder, "vae") is ENCODER
    for nowhere in (tmp_path / "none", None):
        assert decoders.with_decoder(ENCODER, nowhere, "auto").linear
        assert decoders.with_decoder(PLAIN, nowhere, "auto") is PLAIN


def test_one_for_the_latents_of_another_encoder_is_refused(folder):
    other = ENCODER.replace(stats=ENCODER.stats.replace(mean=ENCODER.stats.mean + 1))
    other.save(folder / "encoder")
    for name in ("tiny", "auto"):
        with pytest.raises(ValueError, match="field encoder: found a decoder of another encoder"):
            decoders.with_decoder(other, folder, name)


def test_what_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="tiny_decoder"):
        decoders.with_decoder(ENCODER, tmp_path, "tiny")
    with pytest.raises(ValueError, match="'tiny' for a released checkpoint, expected 'vae'"):
        decoders.with_decoder(ENCODER, None, "tiny")
    with pytest.raises(ValueError, match="linear_path: found False"):
        decoders.with_decoder(PLAIN, tmp_path, "linear")
    with pytest.raises(ValueError, match="decoder: found 'best', expected one of vae, linear"):
        decoders.with_decoder(ENCODER, tmp_path, "best")
