"""Histories as a geometry head sees them, against what a model writes when it looks itself."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import tiny_world
from helpers.tiny_world import CHUNK, GRID, SIZE
from mirage_jax import trajectories
from mirage_jax.geometry import Camera
from mirage_jax.memory import LatentMemory
from mirage_jax.world import WorldModel
from mirage_jax.world.history import draw_history, write_history
from mirage_jax.world.predicted_clip import HistoryHead, Keyframes, true_keyframes

POSES = trajectories.make("look_and_walk", 9, angle=60, distance=0.7).astype(np.float32)
FIELDS = ("xyz", "tokens", "valid", "confidence", "time")

see = jax.jit(HistoryHead.__call__)
observe = jax.jit(WorldModel.observe)


@pytest.fixture(scope="module")
def model():
    """It finds some cells moving, some sky, and appends what it writes."""
    model = tiny_world.world_model()
    params = jax.tree.map(jnp.asarray, model.head_params)
    params["maps"]["bias"] = jnp.array([0.0, -1.0, -0.5, -0.5])
    memory = dataclasses.replace(model.memory, fuse=False, capacity=18)
    return model.replace(head_params=params, memory=memory)


@pytest.fixture(scope="module")
def clips():
    return jax.tree.map(jnp.asarray, tiny_world.latent_clips(2, POSES))


def head_of(model, **options):
    return HistoryHead(model.head_params, model.head, model.memory.sky_depth, **options)


def observed(model, clips, number, chunks):
    """The memory of a model that looks at one clip: its first picture, then chunk after chunk.

    Args:
      chunks: of each, its latents, which of them are of one frame, and the frames to write.
    """
    bank: LatentMemory = model.conditioner.create(model.memory.capacity)
    for latents, is_image, frames in chunks:
        lens = jnp.broadcast_to(clips.intrinsics[number], (len(frames), 4))
        camera = Camera(lens, clips.cam2world[number][np.array(frames)], SIZE)
        times = jnp.asarray(frames, jnp.float32) // 4
        bank = observe(model, bank, latents, jnp.asarray(is_image), camera, times)[0]
    return bank


@jax.jit
def written(model, clips, seen, number):
    one, shown = (jax.tree.map(lambda leaf: leaf[number], tree) for tree in (clips, seen))
    history = draw_history(one, jnp.ones(3, bool), SIZE, seen=shown)
    return write_history(model.conditioner, history)


def assert_same(found, expected):
    """The same elements; a history has a slot for every cell, kept or not."""
    assert 0 < int(expected.valid.sum()) < 18  # some are left out as they move
    for name in FIELDS:
        kept = np.asarray(getattr(found, name))[np.asarray(found.valid)]
        true = np.asarray(getattr(expected, name))[np.asarray(expected.valid)]
        np.testing.assert_allclose(kept, true, rtol=1e-5, atol=1e-5)


def test_a_predicted_history_is_what_a_model_writes_that_walks_along_the_clip(model, clips):
    number = 1
    first = clips.chunks[number, 0]
    chunks = [(first[:1], [True], [0])]
    for chunk in (0, 1):
        latents = clips.chunks[number, chunk]
        chunks.append((latents, [True, False], [(CHUNK - 1) * (chunk + 1)]))
    seen = see(head_of(model), clips)
    assert_same(written(model, clips, seen, number), observed(model, clips, number, chunks))


def test_keyframes_before_the_first_chunk_with_latents_are_seen_alone(model, clips):
    last = clips.replace(chunks=clips.chunks[:, 1:])
    seen = see(head_of(model), last)
    # A picture that is seen alone, the first of the chunk, and what that chunk generates.
    alone = [(clips.tokens[0, :1], [True], [0])]
    chunk = clips.chunks[0, 1]
    chunks = [*alone, (chunk[:1], [True], [4]), (chunk, [True, False], [8])]
    assert_same(written(model, last, seen, 0), observed(model, last, 0, chunks))


def test_keyframes_that_rollouts_encode_again_are_all_seen_alone(model, clips):
    seen = see(head_of(model, reencode=True), clips)
    chunks = [(clips.tokens[0, k : k + 1], [True], [4 * k]) for k in range(3)]
    assert_same(written(model, clips, seen, 0), observed(model, clips, 0, chunks))


def test_finer_maps_of_a_head_count_by_their_cells(clips):
    fine = tiny_world.GeometryHead(width=8, layers=1, cells_up=2)
    flags = jnp.zeros(clips.chunks.shape[1:3], bool)
    params = tiny_world.random_params(fine, 1, clips.chunks[0], flags)
    seen = see(HistoryHead(params, fine), clips)
    assert isinstance(seen, Keyframes)
    shape = (2, 3, *GRID)
    assert seen.depth.shape == seen.static.shape == seen.confidence.shape == shape
    assert set(np.unique(seen.static * 4)) <= set(range(5))
    assert ((seen.confidence > 0) & (seen.confidence <= 1)).all()


def test_true_keyframes_are_certain(clips):
    seen = true_keyframes(clips)
    for name in ("tokens", "depth", "static"):
        np.testing.assert_array_equal(getattr(seen, name), getattr(clips, name))
    assert (np.asarray(seen.confidence) == 1).all()
