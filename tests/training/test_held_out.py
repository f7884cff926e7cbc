"""Held-out batches: which clips, how many, and always the same."""

import numpy as np
import pytest

from mirage_jax.training import held_out
from mirage_jax.training.sources import Joined


class Numbers:
    """Random access to {"x": start + index}."""

    def __init__(self, count, start=0):
        self.count, self.start = count, start

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        assert 0 <= index < self.count
        return {"x": np.float32(self.start + index)}


@pytest.mark.parametrize(("count", "wanted"), [(1, 4), (5, 4), (64, 3), (3, 3), (10, 300)])
def test_indices_are_spread_from_first_to_last(count, wanted):
    chosen = held_out.spread_over(count, wanted)
    assert len(chosen) == min(count, wanted) and chosen == sorted(set(chosen))
    assert chosen[0] == 0 and (wanted == 1 or chosen[-1] == count - 1)
    gaps = np.diff(chosen)
    assert len(gaps) == 0 or gaps.max() - gaps.min() <= 1


def test_held_out_batches_are_whole_distinct_and_always_the_same():
    batches = [batch["x"] for batch in held_out.clip_batches(Numbers(37), 16)]
    assert [batch.shape for batch in batches] == [(16,), (16,)]
    seen = np.concatenate(batches)
    assert len(set(seen.tolist())) == 32
    again = np.concatenate([batch["x"] for batch in held_out.clip_batches(Numbers(37), 16)])
    np.testing.assert_array_equal(seen, again)
    # Spread over the sources, not the first ones only.
    assert seen[:16].max() > 16


class Clips(Numbers):
    """Clips of five frames of one pixel: its number, the number of the frame, nothing."""

    def __getitem__(self, index):
        number = super().__getitem__(index)["x"]
        return {"video": np.array([[[[number, frame, 0]]] for frame in range(5)])}


@pytest.mark.parametrize(
    ("counts", "size", "batches"), [((40, 40, 4), 8, 8), ((13, 6), 8, 2), ((7,), 7, 1)]
)
def test_held_out_windows_are_the_last_frames_of_clips_of_every_world(counts, size, batches):
    starts = np.cumsum([0, *counts])
    source = Joined([Clips(n, first) for n, first in zip(counts, starts, strict=False)])
    drawn = [window["video"] for window in held_out.window_batches(source, 3)]
    assert [video.shape for video in drawn] == [(size, 3, 1, 1, 3)] * batches
    numbers, frames, _ = np.moveaxis(np.concatenate(drawn)[:, :, 0, 0], -1, 0)
    assert (frames == [2, 3, 4]).all()
    assert len(np.unique(numbers[:, 0])) == size * batches
    worlds = np.searchsorted(starts, numbers[:, 0], side="right")
    assert set(worlds) == set(range(1, len(counts) + 1))


@pytest.mark.parametrize(("devices", "count"), [(1, 15), (8, 15), (4, 3)])
def test_fewer_held_out_clips_than_a_batch_are_used_as_far_as_they_can_be_shared(
    devices, count, monkeypatch
):
    monkeypatch.setattr(held_out.jax, "device_count", lambda: devices)
    used = sum(len(batch["x"]) for batch in held_out.clip_batches(Numbers(count)))
    assert used == count // devices * devices


@pytest.mark.parametrize(("devices", "size"), [(1, 16), (8, 16), (12, 24), (32, 32)])
def test_held_out_batches_can_be_shared_by_all_devices(devices, size, monkeypatch):
    monkeypatch.setattr(held_out.jax, "device_count", lambda: devices)
    assert [len(batch["x"]) for batch in held_out.clip_batches(Numbers(70))] == [size] * (
        70 // size
    )
    clips = held_out.window_batches(Clips(70), 3)
    size = max(size // 2, devices)
    assert {len(batch["video"]) for batch in clips} == {size}
