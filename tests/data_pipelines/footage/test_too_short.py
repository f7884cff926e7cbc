"""What is said of footage that is too short, and that the flags it names do what they say."""

import re

import numpy as np
import pytest

from data_pipelines.sources.footage import too_short
from data_pipelines.sources.footage.cutting import longest_piece, windows


def scene(*pieces, fps=10.0):
    """Times of pieces of so many frames, an unusable frame between two of them."""
    usable = np.concatenate([[*[True] * n, False] for n in pieces])[:-1]
    return np.arange(len(usable)) / fps, usable


@pytest.mark.parametrize(
    ("pieces", "frames", "fps", "fields"),
    [
        ((24,), 33, 0.0, {"record.frames": 17, "chunk_frames": 9}),
        ((9,), 33, 0.0, {"record.frames": 9, "chunk_frames": 5}),
        ((32,), 33, 0.0, {"record.frames": 25, "chunk_frames": 13}),
        ((8,), 33, 0.0, {"record.frames": 8}),
        ((5, 20, 7), 33, 0.0, {"record.frames": 17, "chunk_frames": 9}),
        ((40,), 33, 5.0, {"data.fps": 0}),
        ((30,), 33, 5.0, {"data.fps": 0, "record.frames": 25, "chunk_frames": 13}),
        ((3, 4), 33, 2.0, {"data.fps": 0, "record.frames": 4}),
    ],
)
def test_the_flags_make_a_clip(pieces, frames, fps, fields):
    times, usable = scene(*pieces)
    assert not windows(times, usable, frames=frames, fps=fps)
    said = too_short.described(times, usable, frames, fps)
    found = {name: int(value) for name, value in re.findall(r"--config\.(\S+)=(\d+)", said)}
    assert found == fields and f"found {sum(pieces)} frames" in said
    assert ("in a piece" in said) == (len(pieces) > 1 or fps > 0)
    asked = {"frames": found.get("record.frames", frames), "fps": float(found.get("data.fps", fps))}
    assert windows(times, usable, **asked)
    chunk = found.get("chunk_frames")
    if chunk:  # two chunks that share a frame, each of whole latents
        assert found["record.frames"] == 2 * chunk - 1 and chunk % 4 == 1
    assert ("to train on have 9 frames or more" in said) == (max(pieces) < 9)


def test_a_take_is_a_piece():
    times, takes = np.arange(20) / 10, np.repeat([0, 1], [12, 8])
    said = too_short.described(times, np.ones(20, bool), 17, 0.0, takes)
    assert "found 20 frames, at most 12 of them in a piece, expected a piece of 17" in said


def test_without_any_frame_there_is_no_advice():
    times, _ = scene(6)
    said = too_short.described(times, np.zeros(6, bool), 33, 0.0)
    assert said == "found 0 frames, expected a piece of 33 without a gap"


@pytest.mark.parametrize("fps", [0.0, 3.0, 10.0])
def test_the_longest_piece_is_that_of_which_one_more_frame_is_too_long(fps):
    times, usable = scene(4, 17, 11)
    longest = longest_piece(times, usable, fps)
    assert windows(times, usable, frames=longest, fps=fps)
    assert not windows(times, usable, frames=longest + 1, fps=fps)
