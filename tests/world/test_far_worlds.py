"""Worlds whose coordinates lie far from zero: the same world as near it, to the last bit."""

import dataclasses

import jax
import numpy as np
import pytest

from helpers import geometry_npz, tiny_world
from helpers.tiny_world import CHUNK, INTRINSICS, SIZE
from mirage_jax import trajectories
from mirage_jax.geometry import Camera
from mirage_jax.io.geometry_npz import read_geometry
from mirage_jax.origin import Origin
from mirage_jax.world import chunk_step, load_world, rollout, save_world
from mirage_jax.world.walk import Walk, along_geometry, extended_path

FAR = np.array([448_262.0, 5_411_933.0, 35.0])
PICTURE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)


@pytest.fixture(scope="module")
def model():
    return tiny_world.world_model()


def path(offset=0.0, frames=2 * CHUNK - 1):
    """Steps that are exact in float64 wherever they are, and in float32 near zero."""
    poses = trajectories.make("push_in", frames, angle=0)
    poses[:, :3, 3] = np.arange(frames)[:, None] * [3 / 64, 0, 1 / 64]
    poses[:, :3, 3] += offset
    return poses


def last(model, poses, **options):
    world = model.start(PICTURE, Camera(INTRINSICS, poses[0], SIZE), **options)
    chunks = list(rollout(model, world, poses))
    return np.concatenate([chunk.video for chunk in chunks]), chunks[-1].world


def programs():
    """How often each program of a chunk was compiled."""
    steps = (chunk_step._read, chunk_step._denoise, chunk_step._decode, chunk_step._remember)
    return [step._cache_size() for step in steps]


def assert_same_world(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_array_equal(a, b)


def test_a_far_world_is_the_near_one_beside_another_origin(model, tmp_path):
    near_video, near = last(model, path())
    compiled = programs()
    far_video, far = last(model, path(FAR))
    assert programs() == compiled and min(compiled) > 0
    assert near.origin == Origin() and far.origin == Origin(tuple(FAR))
    np.testing.assert_array_equal(far_video, near_video)
    assert_same_world(far, near.replace(origin=far.origin))
    np.testing.assert_array_equal(far.pose, path(FAR)[-1])
    # Continued from a file, in the coordinates that it comes from.
    save_world(tmp_path / "far.world", far)
    again = load_world(tmp_path / "far.world", model)
    assert again.origin == far.origin
    more = trajectories.make("hold", CHUNK, start=again.pose)
    (chunk,) = rollout(model, again, more)
    assert chunk.world.origin == far.origin
    with pytest.raises(ValueError, match=r"its first pose is 5\.41e\+06 away from the world's"):
        rollout(model, again, trajectories.make("hold", CHUNK, start=np.asarray(again.cam2world)))


def test_the_origin_may_be_given_with_a_clock(model):
    origin = Origin((448_000.0, 5_411_000.0, 0.0), time=1.7e9, frame_seconds=1 / 24)
    _, world = last(model, path(FAR), origin=origin)
    assert world.origin == origin
    np.testing.assert_allclose(world.pose, path(FAR)[-1], rtol=0, atol=1e-4)
    assert float(world.bank.time.max()) == 2 * (CHUNK - 1)


def test_what_is_too_far_from_the_origin_is_refused(model):
    far, origin = path(FAR), Origin((0.0, 0.0, 0.0))
    with pytest.raises(ValueError, match=r"^camera: cam2world: found a position 5,411,933 m from"):
        model.start(PICTURE, Camera(INTRINSICS, far[0], SIZE), origin=origin)
    world = model.start(PICTURE, Camera(INTRINSICS, far[0], SIZE))
    far[-1, 0, 3] += 1e5
    with pytest.raises(ValueError, match=r"^camera path: found a position 100,000 m from zero"):
        rollout(model, world, far)


def test_a_geometry_in_utm_is_walked_to_the_centimetre(model, tmp_path):
    poses = geometry_npz.arrays()["poses_c2w"]
    poses[:, :3, 3] += FAR + np.array([0.31, 0.68, 0.2])
    geometry = read_geometry(geometry_npz.save(tmp_path / "g.npz", poses_c2w=poses))
    walk = along_geometry(model, geometry, frames=CHUNK)
    world = walk.world
    np.testing.assert_array_equal(walk.path, poses[:CHUNK])
    np.testing.assert_allclose(world.pose, poses[0], rtol=0, atol=1e-6)
    # The wall is 4 m away from where the picture was taken.
    seen = world.origin.points(world.bank.xyz)[np.asarray(world.bank.valid)]
    np.testing.assert_allclose(seen[:, 2] - poses[0, 2, 3], 4, atol=1e-5)
    centres = world.origin.points(world.bank.origin)[np.asarray(world.bank.valid)]
    np.testing.assert_allclose(centres - poses[0, :3, 3], 0, atol=1e-6)
    for chunk in rollout(model, world, walk.path, intrinsics=walk.intrinsics):
        world = chunk.world
    np.testing.assert_allclose(world.pose, poses[CHUNK - 1], rtol=0, atol=1e-6)
    kept = extended_path(None, walk, model.size, 10.0, True)
    np.testing.assert_allclose(world.origin.absolute(kept.cam2world), poses[:CHUNK], atol=2e-9)
    assert np.abs(kept.cam2world[:, :3, 3]).max() < 1
    after = dataclasses.replace(walk, world=world, path=poses[CHUNK - 1 : 2 * CHUNK - 1])
    assert isinstance(after, Walk)
    longer = extended_path(kept, after, model.size, 10.0, False)
    np.testing.assert_allclose(
        world.origin.absolute(longer.cam2world), poses[: 2 * CHUNK - 1], atol=2e-9
    )
