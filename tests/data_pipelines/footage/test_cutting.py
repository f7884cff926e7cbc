"""Which frames make a clip."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from data_pipelines.sources.footage.cutting import longest_piece, native_fps, windows


def every(times, **options):
    return [w.tolist() for w in windows(times, np.ones(len(times), bool), **options)]


def test_clips_follow_one_another_or_overlap():
    times = np.arange(10) / 10
    assert every(times, frames=4) == [[0, 1, 2, 3], [4, 5, 6, 7]]
    assert every(times, frames=4, hop=3) == [[0, 1, 2, 3], [3, 4, 5, 6], [6, 7, 8, 9]]
    assert every(times, frames=11) == []
    assert native_fps(times) == 10.0 and native_fps(times[:1]) == 1.0


def test_no_clip_goes_past_a_gap_or_an_unusable_frame():
    times = np.arange(12) / 10
    times[6:] += 2.0
    usable = np.ones(12, bool)
    usable[2] = False
    found = [w.tolist() for w in windows(times, usable, frames=3)]
    assert found == [[3, 4, 5], [6, 7, 8], [9, 10, 11]]
    assert windows(times, np.zeros(12, bool), frames=3) == []


def test_no_clip_leaves_its_take_however_the_times_go_on():
    times, usable = np.arange(9) / 10, np.ones(9, bool)
    takes = np.repeat([0, 1], [5, 4])
    found = [w.tolist() for w in windows(times, usable, takes=takes, frames=2)]
    assert found == [[0, 1], [2, 3], [5, 6], [7, 8]]
    assert windows(times, usable, takes=takes, frames=6) == []
    assert longest_piece(times, usable, takes=takes) == 5
    assert len(windows(times, usable, takes=np.arange(9), frames=1)) == 9
    assert windows(times, usable, takes=np.arange(9), frames=2) == []


def test_times_between_takes_do_not_count_for_gaps_and_rates():
    times = np.array([0.0, 0.1, 5.0, 5.1, 10.0, 10.5])
    options = {"takes": np.repeat([0, 1, 2], 2), "frames": 2, "fps": 10.0}
    found = [w.tolist() for w in windows(times, np.ones(6, bool), **options)]
    assert found == [[0, 1], [2, 3]]  # 10 to 10.5 s is a gap at 10 frames a second


@given(seed=st.integers(0, 1000), fps=st.floats(2.0, 12.0))
@settings(max_examples=50, deadline=None)
def test_frames_picked_for_a_rate_are_the_nearest_in_time(seed, fps):
    rng = np.random.default_rng(seed)
    times = np.cumsum(rng.uniform(0.02, 0.06, 200))
    for window in windows(times, np.ones(200, bool), frames=5, fps=fps, hop=1):
        assert (np.diff(window) > 0).all()
        # Each lies within half a source step of the grid, which starts at the first frame.
        grid = times[0] + np.round((times[window] - times[0]) * fps) / fps
        assert np.abs(times[window] - grid).max() <= 0.03 + 1e-9
        steps = np.diff(times[window])
        assert np.abs(steps - 1 / fps).max() <= 0.06 + 1e-9


def test_a_rate_that_the_footage_does_not_have_is_refused():
    times = np.arange(10) / 10
    with pytest.raises(ValueError, match="found 10 frames per second, expected at least 16"):
        every(times, frames=4, fps=16.0)
    assert every(times, frames=2, fps=5.0) == [[0, 2], [4, 6]]
    assert every(times, frames=4, fps=10.0) == [[0, 1, 2, 3], [4, 5, 6, 7]]
