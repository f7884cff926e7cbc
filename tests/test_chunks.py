"""Frames, latents and chunks: which frames belong together, and which paths make whole chunks."""

import re

import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax import chunks
from mirage_jax.chunks import chunks_of_path


@pytest.mark.parametrize(
    ("reads", "expected"),
    [
        (1, [[0], [4], [8]]),
        (2, [[0, 0], [2, 4], [6, 8]]),
        (4, [[0, 0, 0, 0], [1, 2, 3, 4], [5, 6, 7, 8]]),
    ],
)
def test_frames_are_grouped_by_the_latent_that_covers_them(reads, expected):
    frames = jnp.arange(9.0)[:, None] * jnp.array([1.0, 10.0])
    grouped = np.asarray(chunks.frames_per_latent(frames, reads))
    np.testing.assert_array_equal(grouped[..., 0], expected)
    np.testing.assert_array_equal(grouped[..., 1], 10 * np.array(expected))


@pytest.mark.parametrize("frames", [0, 2, 8])
def test_frames_that_fill_no_latent_are_refused(frames):
    with pytest.raises(ValueError, match=f"found {frames}, expected 1 \\+ 4 n"):
        chunks.latents_of_frames(frames)


def test_reads_that_do_not_divide_a_latent_are_refused():
    assert chunks.latents_of_frames(17) == 5
    with pytest.raises(ValueError, match="found 3, expected a divisor of 4"):
        chunks.frames_per_latent(jnp.zeros((5, 1)), 3)


@pytest.mark.parametrize("chunk_frames", [5, 17])
def test_chunks_of_every_length_of_path(chunk_frames):
    step = chunk_frames - 1
    whole = {1 + n * step: n for n in range(1, 4)}
    for poses in range(1, 3 * step + 2):
        if poses in whole:
            assert chunks_of_path(poses, chunk_frames) == whole[poses]
            continue
        with pytest.raises(ValueError, match=f"found {poses} poses, expected 1") as error:
            chunks_of_path(poses, chunk_frames)
        offered = [int(n) for n in re.findall(r"example (\d+) or (\d+)", str(error.value))[0]]
        assert [(n - 1) % step for n in offered] == [0, 0] and offered[0] > 1
        assert offered[1] - offered[0] == step
        assert poses < chunk_frames or offered[0] < poses < offered[1]


@pytest.mark.parametrize("frames", [1, 5, 9, 33])
def test_latents_and_frames_are_each_other_s_inverse(frames):
    latents = chunks.latents_of_frames(frames)
    assert chunks.frames_of_latents(latents) == frames
    covering = chunks.latent_of_frame(latents)
    # A latent's pose is that of the last frame it covers.
    grouped = chunks.frames_per_latent(jnp.arange(1.0 * frames), 1)[:, 0]
    assert [int(np.flatnonzero(covering == n)[-1]) for n in range(latents)] == grouped.tolist()
    for more in range(4):
        assert chunks.whole_latents(frames + more) == frames


def test_bounds_cover_a_path_and_share_a_frame():
    assert chunks.chunk_bounds(13, 9) == [(0, 8), (8, 12)]
    assert chunks.chunk_bounds(17, 9) == [(0, 8), (8, 16)]
    for poses, chunk in ((12, 9), (13, 8), (1, 5)):
        with pytest.raises(ValueError, match=r"expected 1 \+ 4 n and at least 5"):
            chunks.chunk_bounds(poses, chunk)
