"""Pictures of what the memory shows: which latent stands for a frame, and what is left grey."""

import jax.numpy as jnp
import numpy as np

from helpers.tiny_world import Plain
from mirage_jax.training import memory_view
from mirage_jax.training.memory_view import UNSEEN

RNG = np.random.default_rng(1)


def cells(video):
    """A pixel of each cell; all of a cell are alike."""
    np.testing.assert_array_equal(video[:, :, ::2, ::2], video[:, :, 1::2, 1::2])
    return np.asarray(video)[:, :, ::2, ::2]


def test_tokens_stand_for_the_frames_of_their_latent_where_they_are_seen():
    tokens = RNG.normal(size=(2, 3, 2, 3, 4)).astype(np.float32)
    seen = (RNG.uniform(size=(2, 3, 2, 3, 1)) < 0.5).astype(np.float32)
    context = jnp.asarray(np.concatenate([tokens, seen], axis=-1))
    video = cells(memory_view.token_view(Plain(), context))
    expected = np.where(seen > 0, tokens[..., :3], np.float32(UNSEEN))
    np.testing.assert_array_equal(video, expected[:, [0, 1, 1, 1, 1, 2, 2, 2, 2]])


def test_a_rendering_is_shown_in_the_frames_that_cover_a_cell():
    latents = RNG.normal(size=(1, 2, 1, 1, 4)).astype(np.float32)
    shares = np.array([[0.9, 0.9, 0.9, 0.9], [0.6, 0.4, 0.0, 1.0]], np.float32)
    context = np.concatenate([latents, shares[None, :, None, None]], axis=-1)
    video = cells(memory_view.cloud_view(Plain(), jnp.asarray(context)))[0, :, 0, 0]
    first, second = latents[0, :, 0, 0, :3]
    grey = np.full(3, UNSEEN, np.float32)
    np.testing.assert_array_equal(video, [first, second, grey, grey, second])
