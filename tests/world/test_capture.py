"""A memory written from a capture, a few pictures at a time."""

import dataclasses

import numpy as np
import pytest

from helpers import tiny_world
from helpers.tiny_world import GRID, INTRINSICS, SIZE
from mirage_jax import trajectories
from mirage_jax.geometry import Camera
from mirage_jax.origin import NEAR
from mirage_jax.world.capture import start_from_capture

COUNT = 5
CELLS = GRID[0] * GRID[1]
PICTURES = np.random.default_rng(0).integers(0, 256, (COUNT, *SIZE, 3), np.uint8)
DEPTH = np.random.default_rng(1).uniform(2, 4, (COUNT, *SIZE)).astype(np.float32)
STATIC = np.ones((COUNT, *SIZE), np.float32)
POSES = trajectories.make("pan_right", COUNT, angle=30)
POSES[:, 0, 3] = 50 * np.arange(COUNT)  # so far apart that no two see the same


@pytest.fixture(scope="module")
def model():
    made = tiny_world.world_model()
    return made.replace(memory=dataclasses.replace(made.memory, capacity=COUNT * CELLS))


def capture(model, poses=POSES, **options):
    given = {"depth": DEPTH, "static": STATIC, "batch": 2, **options}
    camera = Camera(np.tile(INTRINSICS, (COUNT, 1)), poses, SIZE)
    return start_from_capture(model, PICTURES, camera, **given)


def test_batches_remember_what_a_start_with_all_pictures_does(model):
    camera = Camera(np.tile(INTRINSICS, (COUNT, 1)), POSES, SIZE)
    whole = model.start(PICTURES, camera, depth=DEPTH, static=STATIC)
    parts = capture(model)
    assert int(parts.frames) == COUNT and int(parts.bank.valid.sum()) == COUNT * CELLS
    for name in ("xyz", "tokens", "time", "frame", "valid"):
        found, expected = getattr(parts.bank, name), getattr(whole.bank, name)
        np.testing.assert_allclose(found, expected, atol=1e-5, err_msg=name)
    np.testing.assert_allclose(parts.latent, whole.latent, atol=1e-5)
    np.testing.assert_allclose(parts.pose, POSES[-1], atol=1e-6)


def test_a_place_seen_again_is_not_stored_again(model):
    """Five times the same view of a wall: one picture's cells are enough."""
    poses = np.tile(POSES[:1], (COUNT, 1, 1))
    world = capture(model, poses, depth=np.full_like(DEPTH, 3.0))
    assert int(world.bank.valid.sum()) == CELLS


def test_captures_far_from_zero_get_an_origin_and_what_is_wrong_is_refused(model):
    far = POSES.copy()
    far[:, 0, 3] += 1000 * NEAR
    world = capture(model, far)
    np.testing.assert_allclose(world.pose, far[-1], atol=1e-4)
    assert np.abs(np.asarray(world.bank.xyz)).max() < 250
    with pytest.raises(ValueError, match="depth: "):
        capture(model, depth=1000 * DEPTH)  # millimetres
