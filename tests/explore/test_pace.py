"""The pace of a walk against what machines of known speed can do."""

import json
import struct

import numpy as np
import pytest

from helpers import drawn_session
from mirage_jax.explore import pace, protocol
from mirage_jax.explore.pace import LESS, MORE, Pace
from mirage_jax.explore.walker import Walker

FRAMES = 4


def paces(seconds, chunks, begin=16.0):
    """The pace after each of so many chunks that take `seconds(pace)`."""
    found = Pace(begin, fixed=False)
    history = []
    for _ in range(chunks):
        found.took(seconds(found.fps), FRAMES)
        history.append(found.fps)
    return np.array(history)


@pytest.mark.parametrize("possible", [9.0, 13.3, 20.0, 28.0])
@pytest.mark.parametrize("begin", [8.0, 16.0, 30.0])
def test_where_all_chunks_take_the_same_the_pace_is_what_is_possible_and_stays(possible, begin):
    found = paces(lambda fps: FRAMES / possible, 400, begin)
    # Up to rounding to a whole number, and what is not worth a change.
    assert possible / MORE - 0.5 <= found[-1] <= possible / LESS + 0.5
    assert (found[100:] == found[-1]).all()
    steps = np.diff(found)[np.diff(found) != 0]
    assert (steps >= 0).all() or (steps <= 0).all()  # it goes there without turning back


@pytest.mark.parametrize(("possible", "bound"), [(2.0, pace.LEAST), (200.0, pace.MOST)])
def test_it_stays_within_bounds(possible, bound):
    found = paces(lambda fps: FRAMES / possible, 200)
    assert bound / MORE <= found[-1] <= bound
    assert found.min() >= pace.LEAST and found.max() <= pace.MOST


def test_times_that_vary_do_not_make_it_swing():
    """Chunks of .8 to 1.2 times 200 ms, and one in fifty of two seconds."""
    rng = np.random.default_rng(0)

    def seconds(fps):
        return 2.0 if rng.random() < 0.02 else 0.2 * rng.uniform(0.8, 1.2)

    found = paces(seconds, 4000)
    assert found[200:].min() >= 14 and found[200:].max() <= 20
    assert (np.diff(found[200:]) != 0).sum() <= 4


@pytest.mark.parametrize("begin", [8.0, 16.0, 30.0])
def test_a_machine_that_a_faster_pace_slows_down_is_met_where_it_keeps_up(begin):
    """A chunk of a + b p seconds at a pace of p: it keeps up where p (a + b p) = 4."""
    a, b = 0.08, 0.004
    root = (-a + np.sqrt(a * a + 4 * b * FRAMES)) / (2 * b)
    found = paces(lambda fps: a + b * fps, 1000, begin)
    assert (found[300:] == found[-1]).all()
    possible = FRAMES / (a + b * found[-1])
    assert LESS <= possible / found[-1] <= MORE
    assert abs(found[-1] / root - 1) < 0.2


def test_a_machine_that_becomes_slower_or_faster_is_followed():
    speed = iter([20.0] * 200 + [10.0] * 200 + [20.0] * 200)
    found = paces(lambda fps: FRAMES / next(speed), 600)
    assert 9 <= found[399] <= 11.5 and 16 <= found[199] <= 22 and 16 <= found[-1] <= 22
    assert (found[300:400] == found[399]).all()  # a hundred chunks later at most


def test_the_first_pace_leaves_room_for_the_page():
    assert pace.first(0.2, FRAMES) == 13 and FRAMES / 13 > 0.2
    assert (pace.first(9.0, FRAMES), pace.first(1e-6, FRAMES)) == (pace.LEAST, pace.MOST)


@pytest.mark.parametrize("fixed", [True, False])
def test_a_walk_goes_at_its_pace_as_fast_as_ever_and_says_so(fixed):
    walker = Walker(1, drawn_session.Session(), pace=Pace(16.0, fixed=fixed))
    held = protocol.Controls(forward=1)

    def step():
        data = walker.step(held, 0.0, 1)
        (length,) = struct.unpack_from("<I", data)
        return json.loads(data[4 : 4 + length])

    before = step()
    for _ in range(pace.PATIENCE):
        walker.shown(250, 50.0)  # JSON has whole numbers, too
    here = walker.session.pose[:3, 3].copy()
    after = step()
    moved = np.linalg.norm(walker.session.pose[:3, 3] - here)
    assert before["fps"] == 16.0
    assert after["fps"] == 16.0 if fixed else 8 <= after["fps"] <= FRAMES / 0.3
    options = walker.session.options
    assert after["degrees"] == pytest.approx(options.turn * FRAMES / after["fps"])
    assert moved == pytest.approx(options.speed * FRAMES / after["fps"])
    assert walker.ledger.summary()["send"]["median"] == 250.0
