import numpy as np
import pytest

from mirage_jax.training import stages


class Numbers:
    """Random access to {"x": start + index}."""

    def __init__(self, count, start=0):
        self.count, self.start = count, start

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        assert 0 <= index < self.count
        return {"x": np.float32(self.start + index)}


def test_joined_sources_follow_each_other():
    joined = stages.Joined([Numbers(3), Numbers(1, 3), Numbers(4, 4)])
    assert len(joined) == 8
    assert [joined[i]["x"] for i in range(8)] == list(range(8))


@pytest.mark.parametrize(("count", "wanted"), [(1, 4), (5, 4), (64, 3), (3, 3), (10, 300)])
def test_indices_are_spread_from_first_to_last(count, wanted):
    chosen = stages.spread_over(count, wanted)
    assert len(chosen) == min(count, wanted) and chosen == sorted(set(chosen))
    assert chosen[0] == 0 and (wanted == 1 or chosen[-1] == count - 1)
    gaps = np.diff(chosen)
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


def test_held_out_batches_are_whole_distinct_and_always_the_same():
    batches = [batch["x"] for batch in stages.eval_batches(Numbers(37), 16)]
    assert [batch.shape for batch in batches] == [(16,), (16,)]
    seen = np.concatenate(batches)
    assert len(set(seen.tolist())) == 32
    again = np.concatenate([batch["x"] for batch in stages.eval_batches(Numbers(37), 16)])
    np.testing.assert_array_equal(seen, again)
    # Spread over the sources, not the first ones only.
    assert seen[:16].max() > 16


class Clips(Numbers):
    """Clips of five frames of one pixel: its number, the number of the frame, nothing."""

    def __getitem__(self, index):
        number = super().__getitem__(index)["x"]
        return {"video": np.array([[[[number, frame, 0]]] for frame in range(5)])}


@pytest.mark.parametrize(("counts", "batches"), [((40, 40, 4), 8), ((13, 6), 2), ((7,), 0)])
def test_held_out_windows_are_the_last_frames_of_clips_of_every_world(counts, batches):
    starts = np.cumsum([0, *counts])
    source = stages.Joined([Clips(n, first) for n, first in zip(counts, starts, strict=False)])
    drawn = [window["video"] for window in stages._eval_windows(source, 3)]
    assert [video.shape for video in drawn] == [(8, 3, 1, 1, 3)] * batches
    if batches:
        numbers, frames, _ = np.moveaxis(np.concatenate(drawn)[:, :, 0, 0], -1, 0)
        assert (frames == [2, 3, 4]).all()
        assert len(np.unique(numbers[:, 0])) == 8 * batches
        worlds = np.searchsorted(starts, numbers[:, 0], side="right")
        assert set(worlds) == set(range(1, len(counts) + 1))


@pytest.mark.parametrize(("devices", "size"), [(1, 16), (8, 16), (12, 24), (32, 32)])
def test_held_out_batches_can_be_shared_by_all_devices(devices, size, monkeypatch):
    monkeypatch.setattr(stages.jax, "device_count", lambda: devices)
    assert [len(batch["x"]) for batch in stages.eval_batches(Numbers(70))] == [size] * (70 // size)
    clips = stages._eval_windows(Clips(70), 3)
    size = max(size // 2, devices)
    assert {len(batch["video"]) for batch in clips} == {size}


# -- windows -------------------------------------------------------------------------------------


def test_windows_are_whole_cells_of_consecutive_frames():
    frame, row, column = np.indices((9, 32, 24), np.uint8)
    video = np.stack([frame, row, column], axis=-1)
    window = stages.VideoWindow(frames=5, pixels=16, stride=8)
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
