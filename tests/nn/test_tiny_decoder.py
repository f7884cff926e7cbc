"""Chunk by chunk is the whole clip, and nothing is known of what comes later."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.nn.tiny_decoder import TinyDecoder, init_params

DECODER = TinyDecoder(latent_channels=4, widths=(8, 8, 6, 6), space_upscale=(True, True, False))
LATENTS = jax.random.normal(jax.random.key(1), (2, 5, 2, 3, 4))


@pytest.fixture(scope="module")
def params():
    return init_params(DECODER, jax.random.key(0))


@jax.jit
def chunk(params, latents, state=None):
    return DECODER.apply({"params": params}, latents, state, method="decode_chunk")


@jax.jit
def whole_clip(params, latents):
    return DECODER.apply({"params": params}, latents)


def test_chunk_by_chunk_is_the_whole_clip(params):
    whole = whole_clip(params, LATENTS)
    assert whole.shape == (2, 17, 16, 24, 3) and float(whole.std()) > 0.05
    parts, state = [], None
    for start, end in ((0, 1), (1, 2), (2, 5)):
        part, state = chunk(params, LATENTS[:, start:end], state)
        parts.append(part)
    assert [part.shape[1] for part in parts] == [1, 4, 12]
    np.testing.assert_allclose(jnp.concatenate(parts, axis=1), whole, atol=1e-5)


def test_frames_depend_on_no_later_latent(params):
    found = whole_clip(params, LATENTS)
    other = whole_clip(params, LATENTS.at[:, 3].add(1.0))
    np.testing.assert_array_equal(found[:, :9], other[:, :9])
    assert not np.allclose(found[:, 9], other[:, 9])


def test_fields_that_do_not_fit_are_named():
    with pytest.raises(ValueError, match=r"widths: found \(8, 8\), expected 4 entries"):
        init_params(DECODER.clone(widths=(8, 8)), jax.random.key(0))
