"""A rollout over a memory in tiles makes the frames that one over the whole memory does."""

import dataclasses

import jax
import numpy as np
import pytest

from helpers import tiny_world
from helpers.tiny_world import CHANNELS, CHUNK, SIZE
from mirage_jax import memory, trajectories
from mirage_jax.geometry import Camera
from mirage_jax.memory import tiles
from mirage_jax.memory.bank import COUNTERS, ELEMENT_FIELDS
from mirage_jax.world import rollout
from mirage_jax.world.options import ContextFrameOptions, MemoryOptions, SamplerOptions

CHUNKS = 2
SLOTS = 320
"""Of the whole memory and of what is gathered: so that programs are compiled once for both."""
ELSEWHERE = 256
PATH = trajectories.make("look_and_walk", CHUNKS * (CHUNK - 1) + 1, angle=40, distance=0.5)
PICTURE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def model():
    return tiny_world.world_model(
        sampler=SamplerOptions(steps=1),
        memory=MemoryOptions(fuse=False),
        context_frames=ContextFrameOptions(references=1, preceding=1),
    )


@pytest.fixture(scope="module")
def world(model):
    """One that has been elsewhere too: behind everything that the path shows."""
    world = model.start(PICTURE, capacity=SLOTS, keyframes=CHUNKS + 1)
    rng = np.random.default_rng(1)
    behind = np.diag(np.array([-1, 1, -1, 1], np.float32))
    behind[2, 3] = -50
    camera = Camera(np.array([[8, 8, 4, 4]], np.float32), behind[None], (8, 8))
    depth = rng.uniform(2, 4, (1, 16, 16)).astype(np.float32)
    tokens = rng.normal(size=(1, 16, 16, CHANNELS)).astype(np.float32)
    bank, _ = jax.jit(memory.write)(world.bank, tokens, depth, camera)
    return world.replace(bank=bank)


@pytest.fixture(scope="module")
def plain(model, world):
    return list(rollout(model, world, PATH))


@pytest.mark.parametrize("place", tiles.PLACES)
def test_the_frames_and_the_memory_are_those_of_a_plain_rollout(model, world, plain, place):
    tiled = tiles.from_memory(world.bank, place=place, working=SLOTS)
    for chunk, expected in zip(rollout(model, world, PATH, tiles=tiled), plain, strict=True):
        np.testing.assert_array_equal(chunk.video, expected.video)
        assert jax.tree.map(int, chunk.report) == jax.tree.map(int, expected.report)
        assert chunk.references == expected.references
        # What lies elsewhere was not on the device.
        bank = chunk.world.bank
        assert int(bank.valid.sum()) <= int(expected.world.bank.count) - ELSEWHERE + tiles.TILE
    bank = expected.world.bank
    got = {**vars(chunk.world), "bank": tiled.to_memory()}
    rows = {name: getattr(bank, name)[: int(bank.count)] for name in ELEMENT_FIELDS}
    want = {**vars(expected.world), "bank": bank.replace(**rows)}
    jax.tree.map(np.testing.assert_array_equal, got, want)
    assert set(vars(got["bank"])) == {*ELEMENT_FIELDS, *COUNTERS}


def test_tiles_of_another_world_and_references_by_voxels_are_refused(model, world):
    other = tiles.TiledMemory(CHANNELS)
    with pytest.raises(
        ValueError, match=r"tiles: found 0 written frames .* expected the world's 2"
    ):
        rollout(model, world, PATH, tiles=other)
    options = ContextFrameOptions(references=1, choice="voxels")
    voxels = dataclasses.replace(model, context_frames=options)
    with pytest.raises(ValueError, match=r"context_frames: choice: found 'voxels'"):
        rollout(voxels, world, PATH, tiles=tiles.from_memory(world.bank))
    fused = model.replace(memory=MemoryOptions())
    with pytest.raises(ValueError, match=r"memory: fuse: found True.*expected False"):
        rollout(fused, world, PATH, tiles=tiles.from_memory(world.bank))
