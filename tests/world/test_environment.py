"""Environments are sessions under another interface; many at once are as many sessions."""

import sys

import jax
import numpy as np
import pytest

from helpers import tiny_world
from helpers.tiny_world import INTRINSICS, SIZE
from mirage_jax import Controls, Environment, Session, SessionOptions, VectorEnvironment
from mirage_jax.geometry import Camera
from mirage_jax.trajectories import make
from mirage_jax.world import environment
from mirage_jax.world.options import ContextFrameOptions, MemoryOptions

PICTURE = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
OPTIONS = SessionOptions(seed=5, radius=0.1)
ACTIONS = np.random.default_rng(1).uniform(-1, 1, (4, 2, 5))


@pytest.fixture(scope="module")
def model():
    return tiny_world.world_model(memory=MemoryOptions(capacity=30))


@pytest.fixture(scope="module")
def starts(model):
    """One at zero, and one far from it that turned elsewhere."""
    far = make("orbit_right", 2, angle=70, distance=2)[-1]
    far[:3, 3] += [500_000.0, 0, 70_000.0]
    return [model.start(PICTURE), model.start(PICTURE[::-1], Camera(INTRINSICS, far, SIZE))]


def test_an_environment_is_a_session_whose_controls_are_numbers(model, starts):
    session = Session(model, starts[0], options=OPTIONS)
    rewarded = Environment(
        model,
        starts[0],
        options=OPTIONS,
        reward=lambda session, step: 10.0 * step.number,
        terminated=lambda session, step: step.number == 2,
        max_steps=3,
    )
    seen, info = rewarded.reset()
    np.testing.assert_array_equal(seen, session.picture)
    assert info["memory"] == session.statistics()
    for number, action in enumerate(ACTIONS[:3, 0]):
        step = session.step(Controls(*action))
        seen, reward, ended, truncated, info = rewarded.step(action)
        np.testing.assert_array_equal(seen, step.video[-1])
        np.testing.assert_array_equal(info["video"], step.video)
        np.testing.assert_array_equal(info["pose"], session.pose)
        assert (reward, ended, truncated) == (10.0 * number, number == 2, number == 2)
        assert info["memory"]["elements"] == int(session.world.bank.valid.sum())
        np.testing.assert_array_equal(rewarded.render(), seen)
    again, _ = rewarded.reset(seed=9)
    other = Session(model, starts[0], options=SessionOptions(seed=9, radius=0.1))
    np.testing.assert_array_equal(again, other.picture)
    np.testing.assert_array_equal(
        rewarded.step(ACTIONS[0, 0])[0], other.step(Controls(*ACTIONS[0, 0])).video[-1]
    )


def test_gymnasium_finds_nothing_wrong(model, starts):
    checker = pytest.importorskip("gymnasium.utils.env_checker")
    checker.check_env(Environment(model, starts[0], options=OPTIONS), skip_render_check=True)


def test_without_gymnasium_there_are_no_spaces(monkeypatch):
    monkeypatch.setitem(sys.modules, "gymnasium", None)
    monkeypatch.setitem(sys.modules, "gymnasium.spaces", None)
    assert environment.base("Env") is object
    assert environment.spaces(SIZE) == (None, None)


@pytest.mark.parametrize("action", [np.zeros(4), [np.nan] * 5, 1, np.zeros((1, 5))])
def test_actions_that_are_none_are_refused(action):
    with pytest.raises(ValueError, match="expected 5 numbers: forward, right, up, yaw, pitch"):
        environment.controls_of_action(action)
    assert environment.controls_of_action([2, 0, 0, -3, 0]) == Controls(forward=1.0, yaw=-1.0)


# -- many at once ----------------------------------------------------------------------------------


def test_many_walkers_are_as_many_sessions(model, starts):
    """Frames within a level of 255 and memories within 1e-4, as sums are rounded otherwise."""
    together = VectorEnvironment(model, starts, options=OPTIONS, max_steps=4)
    alone = [
        Session(model, world, options=SessionOptions(seed=OPTIONS.seed + n, radius=0.1))
        for n, world in enumerate(starts)
    ]
    seen, _ = together.reset()
    for n, session in enumerate(alone):
        assert np.abs(seen[n] - session.picture.astype(int)).max() <= 1
    for count, actions in enumerate(ACTIONS, 1):
        seen, _, ended, truncated, info = together.step(actions)
        assert not ended.any() and (truncated == (count == 4)).all()
        for n, session in enumerate(alone):
            step = session.step(Controls(*actions[n]))
            assert np.abs(info["video"][n] - step.video.astype(int)).max() <= 1
            np.testing.assert_allclose(info["pose"][n], session.pose, atol=1e-9)
            assert info["blocked"][n] == step.blocked
            assert {name: int(info[name][n]) for name in step.report} == step.report
    for world, session in zip(together.worlds, alone, strict=True):
        assert world.origin == session.world.origin
        for one, other in zip(jax.tree.leaves(world), jax.tree.leaves(session.world), strict=True):
            np.testing.assert_allclose(np.float32(one), np.float32(other), atol=1e-4)


def test_some_begin_anew_while_others_go_on(model, starts):
    together = VectorEnvironment(model, starts, options=OPTIONS, max_steps=2)
    first = together.step(ACTIONS[0])
    before = together.worlds
    _, info = together.reset(options={"reset_mask": np.array([True, False])})
    np.testing.assert_allclose(info["pose"][0], starts[0].pose)
    np.testing.assert_array_equal(info["pose"][1], first[4]["pose"][1])
    for one, other in zip(
        jax.tree.leaves(together.worlds[1]), jax.tree.leaves(before[1]), strict=True
    ):
        np.testing.assert_array_equal(one, other)
    again = together.step(np.stack([ACTIONS[0, 0], ACTIONS[1, 1]]))
    np.testing.assert_array_equal(again[4]["video"][0], first[4]["video"][0])
    assert again[3].tolist() == [False, True]
    # A seed is for those that begin anew.
    seeded = VectorEnvironment(model, starts, options=OPTIONS)
    seeded.step(ACTIONS[0])
    seeded.reset(seed=9, options={"reset_mask": np.array([True, False])})
    video = seeded.step(np.stack([ACTIONS[0, 0], ACTIONS[1, 1]]))[4]["video"]
    np.testing.assert_array_equal(video[1], again[4]["video"][1])
    assert (video[0] != again[4]["video"][0]).any()
    with pytest.raises(ValueError, match=r"reset_mask: found int64 \(2,\), expected bool"):
        together.reset(options={"reset_mask": np.zeros(2, int)})


def test_walkers_that_do_not_go_together_are_refused(model, starts):
    with pytest.raises(ValueError, match="starts: found none"):
        VectorEnvironment(model, [])
    small = starts[0].replace(bank=model.conditioner.create(12))
    with pytest.raises(ValueError, match=r"starts: found capacities \[12, 30\]"):
        VectorEnvironment(model, [starts[0], small])
    beside = model.replace(context_frames=ContextFrameOptions(preceding=5))
    with pytest.raises(ValueError, match="found preceding context frames"):
        VectorEnvironment(beside, starts)
    with pytest.raises(ValueError, match="actions: found 3, expected 2"):
        VectorEnvironment(model, starts, options=OPTIONS).step(np.zeros((3, 5)))
