"""Walkers go as fast and as far as they are told, and not through what is remembered."""

import math

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from mirage_jax import memory
from mirage_jax.origin import UPS
from mirage_jax.world.controls import (
    KEYS,
    Controls,
    WalkerOptions,
    free_distance,
    unit_directions,
    upwards,
    walk,
    walk_in,
)

OPTIONS = WalkerOptions(speed=2.0, turn=90.0, fps=16.0, radius=0.25)
UP = UPS["-y"]
SLOTS = 64


def bank_of(points, size=0.0):
    """A memory of elements at these points."""
    bank, count = memory.create(SLOTS, 1), len(points)
    return bank.replace(
        xyz=bank.xyz.at[:count].set(jnp.asarray(points, jnp.float32)),
        valid=bank.valid.at[:count].set(True),
        size=bank.size.at[:count].set(size),
    )


def facing(degrees, position=(0, 0, 0)):
    """Upright, turned so far to the right of z, which is ahead."""
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("y", degrees, degrees=True).as_matrix()
    pose[:3, 3] = position
    return pose


# -- keys ------------------------------------------------------------------------------------------


def test_keys_are_held_or_cancel_each_other():
    assert Controls.of_keys([]) == Controls()
    assert Controls.of_keys(["W", "w", "left"]) == Controls(forward=1, yaw=-1)
    assert Controls.of_keys(set(KEYS)) == Controls()
    assert Controls.of_keys("left") == Controls(yaw=-1)
    assert Controls.of_keys("wd") == Controls(forward=1, right=1)
    with pytest.raises(ValueError, match="keys: found 'x', expected some of w, s, d"):
        Controls.of_keys("wx")
    with pytest.raises(ValueError, match=r"forward: found 1\.5, expected >= -1 and <= 1"):
        Controls(forward=1.5)


@pytest.mark.parametrize(
    ("key", "direction"),
    [
        ("w", (0, 0, 1)),
        ("s", (0, 0, -1)),
        ("d", (1, 0, 0)),
        ("a", (-1, 0, 0)),
        ("e", (0, -1, 0)),
        ("q", (0, 1, 0)),
    ],
)
def test_a_key_leads_its_way_at_constant_speed(key, direction):
    poses = walk(np.eye(4), Controls.of_keys([key]), 4, OPTIONS, UP)
    expected = np.arange(1, 5)[:, None] * 2.0 / 16 * np.array(direction)
    np.testing.assert_allclose(poses[:, :3, 3], expected, atol=1e-12)
    np.testing.assert_allclose(poses[:, :3, :3], np.tile(np.eye(3), (4, 1, 1)), atol=1e-12)


@pytest.mark.parametrize(
    ("key", "ahead"),
    [("right", (1, 0, 1)), ("left", (-1, 0, 1)), ("up", (0, -1, 1)), ("down", (0, 1, 1))],
)
def test_a_key_turns_its_way(key, ahead):
    """Half a second of 90 degrees a second."""
    pose = walk(np.eye(4), Controls.of_keys([key]), 8, OPTIONS, UP)[-1]
    np.testing.assert_allclose(pose[:3, 2], np.array(ahead) / math.sqrt(2), atol=1e-12)
    np.testing.assert_array_equal(pose[:3, 3], 0)


@pytest.mark.parametrize("up", UPS)
def test_every_world_has_its_own_up(up):
    """A pose turned along with the vertical moves as it did, turned along."""
    turned = Rotation.align_vectors([UPS[up]], [UP])[0].as_matrix()
    held = Controls(forward=1, right=0.5, up=0.3, yaw=1, pitch=-0.5)
    start = facing(20)
    plain = walk(start, held, 6, OPTIONS, UP)
    other = start.copy()
    other[:3, :3] = turned @ start[:3, :3]
    found = walk(other, held, 6, OPTIONS, UPS[up])
    np.testing.assert_allclose(found[:, :3, :3], turned @ plain[:, :3, :3], atol=1e-9)
    np.testing.assert_allclose(found[:, :3, 3], plain[:, :3, 3] @ turned.T, atol=1e-9)
    np.testing.assert_array_equal(upwards(other), UPS[up])


def test_looking_up_ends_and_diagonals_are_no_faster():
    for key, sign in (("up", -1), ("down", 1)):
        poses = walk(np.eye(4), Controls.of_keys([key]), 100, OPTIONS, UP)
        assert poses[-1, 1, 2] == pytest.approx(sign * math.sin(math.radians(60)))
    step = walk(np.eye(4), Controls.of_keys("wd"), 1, OPTIONS, UP)[0, :3, 3]
    assert np.linalg.norm(step) == pytest.approx(2 / 16)
    # Who looks down walks on the floor as fast.
    down = walk(np.eye(4), Controls.of_keys(["down"]), 100, OPTIONS, UP)[-1]
    np.testing.assert_allclose(walk(down, Controls(forward=1), 1, OPTIONS, UP)[0, :3, 3],
                               [0, 0, 2 / 16], atol=1e-12)  # fmt: skip


def test_a_start_that_looks_farther_up_than_one_may_leads_back_only():
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("x", 80, degrees=True).as_matrix()
    higher = walk(pose, Controls(pitch=1), 4, OPTIONS, UP)[-1]
    lower = walk(pose, Controls(pitch=-1), 4, OPTIONS, UP)[-1]
    np.testing.assert_allclose(higher, pose, atol=1e-12)
    assert lower[1, 2] > pose[1, 2] + 0.05


@given(
    held=st.tuples(*[st.floats(-1, 1)] * 5),
    turn=st.tuples(*[st.floats(-180, 180)] * 3),
)
@settings(max_examples=50, deadline=None)
def test_poses_stay_rigid_wherever_one_looks(held, turn):
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("YXZ", turn, degrees=True).as_matrix()
    poses = walk(pose, Controls(*held), 4, OPTIONS, UP)
    turns = poses[:, :3, :3]
    np.testing.assert_allclose(
        turns @ turns.swapaxes(1, 2), np.tile(np.eye(3), (4, 1, 1)), atol=1e-9
    )
    steps = np.diff(np.concatenate([pose[None], poses])[:, :3, 3], axis=0)
    assert (np.linalg.norm(steps, axis=1) <= 2 / 16 + 1e-9).all()


# -- walls -----------------------------------------------------------------------------------------


def wall(z, spacing=0.2):
    """Points of a wall across z."""
    across = (np.arange(8) - 3.5) * spacing
    return np.array([(x, y, z) for x in across for y in across])


def go(bank, pose, keys, chunks, options=OPTIONS):
    """Positions after each chunk, and whether something was in the way."""
    positions, blocked = [pose[:3, 3]], []
    for _ in range(chunks):
        poses = walk(pose, Controls.of_keys(keys), 4, options, UP)
        moved = walk_in(bank, pose, Controls.of_keys(keys), 4, options, UP)
        np.testing.assert_array_equal(moved.poses[:, :3, :3], poses[:, :3, :3])
        pose = moved.poses[-1]
        positions.append(pose[:3, 3])
        blocked.append(moved.blocked)
    return np.stack(positions), blocked


def test_a_wall_stops_at_the_body_and_lets_one_turn_back():
    bank = bank_of(wall(2.0))
    positions, blocked = go(bank, np.eye(4), "w", 8)
    assert not blocked[0] and blocked[-1]
    gaps = np.linalg.norm(wall(2.0)[None] - positions[:, None], axis=-1).min(axis=1)
    assert gaps.min() >= OPTIONS.radius - 1e-5
    assert positions[-1, 2] > 2.0 - 2.5 * OPTIONS.radius
    back, blocked = go(bank, facing(0, positions[-1]), "s", 2)
    assert not any(blocked) and back[-1, 2] == pytest.approx(positions[-1, 2] - 1.0)


def test_along_a_wall_one_slides():
    bank = bank_of(wall(1.0))
    positions, blocked = go(bank, facing(50, (-0.7, 0, 0)), "w", 4)
    assert any(blocked) and positions[-1, 0] > 0.3
    # What is touched is passed at 60 degrees and more from straight ahead.
    gaps = np.linalg.norm(wall(1.0)[None] - positions[:, None], axis=-1)
    assert gaps.min() > OPTIONS.radius * math.sin(math.radians(60)) - 1e-6


def test_without_walls_or_memories_one_walks_through():
    free = [[0, 0, 0.5 * n] for n in range(9)]
    for bank, options in (
        (memory.create(SLOTS, 1), OPTIONS),
        (bank_of(wall(2.0)).replace(valid=jnp.zeros(SLOTS, bool)), OPTIONS),
        (bank_of(wall(2.0)), WalkerOptions(speed=2.0, radius=0.25, walls=False)),
        (bank_of(wall(-2.0)), OPTIONS),
        (bank_of([[0, 1.0, z] for z in np.linspace(0, 4, 40)]), OPTIONS),  # the floor
    ):
        positions, blocked = go(bank, np.eye(4), "w", 8, options)
        np.testing.assert_allclose(positions, free, atol=1e-9)
        assert not any(blocked)


def test_what_lies_to_the_side_is_passed_even_if_it_is_touched():
    row = [[0.2, 0, z] for z in np.linspace(-2, 0.1, 20)]
    positions, _ = go(bank_of(row), np.eye(4), "w", 2)
    assert positions[-1, 2] > 0.5


@given(st.data())
@settings(max_examples=15, deadline=None)
def test_the_free_distance_is_that_of_a_ball_moved_step_by_step(data):
    """Against a march in small steps, for points that are not touched at the start."""
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    points = rng.uniform(-2, 2, (12, 3))
    sizes = rng.uniform(0, 1, 12)
    reach = OPTIONS.radius + np.minimum(sizes / 2, OPTIONS.radius)
    free = np.linalg.norm(points, axis=1) > reach + 0.02
    points, sizes, reach = points[free], sizes[free], reach[free]
    directions = unit_directions()
    directions = rng.normal(size=directions.shape).astype(np.float32)
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    bank = bank_of(points, jnp.asarray(sizes))
    found = np.asarray(free_distance(bank, np.zeros(3, np.float32), directions, OPTIONS.radius))
    steps = np.linspace(0, 4, 1001)
    for direction, distance in zip(directions, found, strict=True):
        gaps = np.linalg.norm(steps[:, None, None] * direction - points, axis=-1) - reach
        hit = np.flatnonzero((gaps < 0).any(axis=1))
        if len(hit):
            # A graze shorter than a step may be seen by one of the two alone.
            assert steps[hit[0]] - 4.1e-3 <= distance <= steps[hit[0]] + 1e-4 or gaps.min() > -1e-3
        else:
            assert distance > 3.9 or gaps.min() < 1e-3
    assert not np.isnan(found).any()


@given(st.integers(0, 2**32 - 1))
@settings(max_examples=15, deadline=None)
def test_nobody_gets_lost_among_things(seed):
    """Wherever one starts, inside of things too: no NaN, and never faster than one walks."""
    rng = np.random.default_rng(seed)
    bank = bank_of(rng.uniform(-1, 1, (SLOTS, 3)), jnp.asarray(rng.uniform(0, 5, SLOTS)))
    bank = bank.replace(xyz=bank.xyz.at[0].set(0.0))  # just where the walker stands
    positions, _ = go(bank, facing(rng.uniform(0, 360)), "wd", 4)
    assert np.isfinite(positions).all()
    assert (np.linalg.norm(np.diff(positions, axis=0), axis=1) <= 0.5 + 1e-9).all()
