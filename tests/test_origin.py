"""Origins: positions and times far from zero, kept to what float64 has of them."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mirage_jax import memory, trajectories
from mirage_jax.geometry import Camera
from mirage_jax.origin import FARTHEST, NEAR, Origin, check_positions, check_times, origin_near

UTM = np.array([448_262.31, 5_411_932.68, 35.2])  # easting, northing and height of a place in Paris
UNIX = 1_753_000_000.0
FARTHER = st.floats(-1e7, 1e7)


def walk(start, step=0.05, frames=9):
    poses = trajectories.make("pan_left", frames, angle=20)
    poses[:, :3, 3] = start + np.arange(frames)[:, None] * [step, 0, 0]
    return poses


@given(st.tuples(FARTHER, FARTHER, FARTHER))
def test_relative_poses_are_near_and_lead_back(start):
    poses = walk(np.array(start))
    origin = origin_near(poses)
    there = origin.relative(poses)
    np.testing.assert_allclose(origin.absolute(there), poses, rtol=0, atol=4e-9)
    np.testing.assert_allclose(origin.points(there[:, :3, 3]), poses[:, :3, 3], rtol=0, atol=4e-9)
    np.testing.assert_array_equal(there[:, :3, :3], poses[:, :3, :3])
    if np.abs(poses[:, :3, 3]).max() <= NEAR:
        assert origin == Origin()
    else:
        assert np.abs(there[0, :3, 3]).max() <= 0.5
        steps = np.diff(there.astype(np.float32)[:, 0, 3])
        np.testing.assert_allclose(steps, 0.05, atol=1e-6)


def test_without_an_origin_the_steps_would_be_lost():
    assert np.unique(np.diff(walk(UTM).astype(np.float32)[:, 0, 3]).round(4)).tolist() != [0.05]


def test_what_float32_keeps_is_taken_and_what_it_loses_is_refused():
    check_positions(np.array([[FARTHEST - 1, 0, 0]]), "a")
    with pytest.raises(ValueError, match=r"^a: found a position 5,411,933 m .* in steps of 0\.5 m"):
        check_positions(UTM, "a")
    for good in (None, 16_000_000, np.arange(5) / 24, np.array([1e5 + 1 / 24])):
        check_times(good, "t")
    for bad in (UNIX, np.array([UNIX]), np.float64(UNIX + 0.5), np.array([2e5 + 1 / 24])):
        with pytest.raises(ValueError, match=r"^t: found .* expected frame numbers, or seconds"):
            check_times(bad, "t")


def test_seconds_since_1970_are_relative_to_the_first_frames():
    seconds = UNIX + np.arange(4) / 30
    origin = origin_near(np.eye(4), seconds)
    assert origin == Origin(time=UNIX)
    found = origin.relative_times(seconds).astype(np.float32)
    np.testing.assert_allclose(found, np.arange(4) / 30, atol=1e-6)


def test_a_memory_refuses_what_it_could_not_tell_apart():
    tokens, depth = np.ones((2, 2, 2, 1), np.float32), np.full((2, 2, 2), 3, np.float32)
    lens = np.tile(np.float32([2, 2, 1, 1]), (2, 1))

    bank = memory.create(16, 1)

    def written(poses, times):
        return memory.write(bank, tokens, depth, Camera(lens, poses, (2, 2)), times=times)

    near, times = walk(np.zeros(3), frames=2), np.array([0.0, 0.5])
    with pytest.raises(ValueError, match=r"memory\.write: times: found 1,753,000,000"):
        written(near, UNIX + times)
    with pytest.raises(ValueError, match=r"memory\.write: camera: found a position 5,411,933 m"):
        written(walk(UTM, frames=2), times)
    with pytest.raises(ValueError, match=r"memory\.read: time: found 1,753,000,000"):
        memory.read(bank, Camera(lens, near, (2, 2)), (2, 2), time=UNIX)
    with pytest.raises(ValueError, match=r"memory\.read: camera: found a position"):
        memory.read(bank, Camera(lens, walk(UTM, frames=2), (2, 2)), (2, 2))
