"""Which bodies are due again, counted by hand."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.due_again import DueAgain, Sight, due_again
from data_pipelines.sources.procedural import ProceduralSource

SIGHT = Sight(last=2, known=3, due=3, hidden=4)
FRAMES = 9  # the fifth is the last that is given


@pytest.fixture(scope="module")
def recorded():
    clip = next(ProceduralSource(size=16, bodies=1).clips("procedural/eval-000", 1, seed=0))
    timed = ("video", "depth", "intrinsics", "cam2world", "mover_ids")
    first = {name: getattr(clip, name)[:FRAMES] for name in timed}
    return dataclasses.replace(clip, **first, bodies=clip.bodies.cut(slice(FRAMES)))


def showing(recorded, pixels, skip=0):
    """The clip with a body that shows in so many pixels of each frame, and frames left out."""
    ids = np.zeros((FRAMES, *recorded.size), np.int32)
    for frame, count in enumerate(pixels):
        ids[frame].reshape(-1)[:count] = recorded.bodies.ids[0]
    numbers = np.arange(FRAMES) + skip * (np.arange(FRAMES) > FRAMES // 2)
    return dataclasses.replace(recorded, mover_ids=ids, times=numbers / recorded.fps)


@pytest.mark.parametrize(
    ("pixels", "expected"),
    [
        ((3, 3, 0, 0, 0, 0, 3, 2, 5), [(1, 6), (1, 8)]),  # in the eighth frame it shows too little
        ((3, 2, 1, 0, 0, 0, 3, 0, 0), [(1, 6)]),  # one pixel is no sight of it
        ((2, 2, 0, 0, 0, 0, 3, 3, 3), []),  # never seen well
        ((3, 3, 3, 3, 3, 3, 3, 3, 3), []),  # never out of sight
        ((3, 3, 3, 3, 0, 3, 3, 3, 3), []),  # not long enough, then seen most of the time
        ((3, 3, 3, 0, 3, 0, 0, 3, 3), [(4, 8)]),  # long enough, and seen in one frame of three
        ((0, 0, 0, 0, 0, 3, 3, 3, 3), []),  # not known
    ],
)
def test_who_is_out_of_sight_and_shows_again_is_due(recorded, pixels, expected):
    found = due_again(showing(recorded, pixels), SIGHT)
    assert [(one.last_seen, one.frame) for one in found] == expected
    assert all(one.hidden == one.frame - one.last_seen for one in found)


def test_frames_that_were_left_out_count_as_hidden_but_do_not_hide(recorded):
    due = due_again(showing(recorded, (3, 3, 3, 3, 0, 3, 0, 0, 0), skip=6), SIGHT)
    assert due == [DueAgain(0, 3, 5, 8)]
    assert due_again(showing(recorded, (3, 3, 3, 3, 3, 3, 0, 0, 0), skip=6), SIGHT) == []


def test_clips_without_states_are_refused(recorded):
    with pytest.raises(ValueError, match="bodies: found none"):
        due_again(dataclasses.replace(recorded, bodies=None))
