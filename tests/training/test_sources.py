"""Sources made of others, and windows of videos."""

import numpy as np
from ml_dtypes import bfloat16

from data_pipelines import loading
from mirage_jax.training.sources import Joined, VideoWindow, WithText


def test_joined_sources_follow_each_other():
    joined = Joined([[0, 1, 2], [3], [4, 5, 6, 7]])
    assert len(joined) == 8
    assert [joined[i] for i in range(8)] == list(range(8))


def test_every_record_of_a_world_has_its_text_and_batches_keep_its_type():
    texts = {value: np.full((3, 2), value, bfloat16) for value in (1, 2)}
    worlds = [[{"x": np.full(4, value, np.float32)}] * 5 for value in texts]
    source = Joined([WithText(w, t) for w, t in zip(worlds, texts.values(), strict=True)])
    assert len(source) == 10
    with loading.batches(source, batch_size=6, seed=0) as batches:
        batch = next(batches)
    assert batch["text"].shape == (6, 3, 2) and batch["text"].dtype == bfloat16
    np.testing.assert_array_equal(batch["text"][:, 0, 0].astype(np.float32), batch["x"][:, 0])
    assert set(batch["x"][:, 0]) == {1, 2}


def test_windows_are_whole_cells_of_consecutive_frames():
    frame, row, column = np.indices((9, 32, 24), np.uint8)
    video = np.stack([frame, row, column], axis=-1)
    window = VideoWindow(frames=5, pixels=16, stride=8)
    corners = set()
    for seed in range(60):
        cut = window({"video": video}, np.random.default_rng(seed))["video"]
        assert cut.shape == (5, 16, 16, 3)
        start, top, left = (int(value) for value in cut[0, 0, 0])
        np.testing.assert_array_equal(
            cut, video[start : start + 5, top : top + 16, left : left + 16]
        )
        assert top % 8 == 0 and left % 8 == 0
        corners.add((start, top, left))
    assert {corner[0] for corner in corners} == set(range(5))
    assert {corner[1:] for corner in corners} == {(t, l) for t in (0, 8, 16) for l in (0, 8)}
