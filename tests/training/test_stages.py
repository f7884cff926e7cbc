import jax
import numpy as np
import pytest

from mirage_jax.nn.video_vae import VideoVAE
from mirage_jax.training import stages
from mirage_jax.world.latent_encoder import LatentEncoder, to_model_range


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


@pytest.mark.parametrize(
    ("counts", "size", "batches"), [((40, 40, 4), 8, 8), ((13, 6), 8, 2), ((7,), 7, 1)]
)
def test_held_out_windows_are_the_last_frames_of_clips_of_every_world(counts, size, batches):
    starts = np.cumsum([0, *counts])
    source = stages.Joined([Clips(n, first) for n, first in zip(counts, starts, strict=False)])
    drawn = [window["video"] for window in stages._eval_windows(source, 3)]
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
    monkeypatch.setattr(stages.jax, "device_count", lambda: devices)
    used = sum(len(batch["x"]) for batch in stages.eval_batches(Numbers(count)))
    assert used == count // devices * devices


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


class Stripes:
    """Clips of stripes, whose patches two numbers describe: where, and how bright."""

    def __len__(self):
        return 8

    def __getitem__(self, index):
        rng = np.random.default_rng(index)
        columns = np.sin(np.arange(16) * np.pi / 4 + rng.uniform(0, 6.28))
        return {"video": np.tile(np.uint8(128 + 100 * columns)[None, None, :, None], (5, 16, 1, 3))}


def test_an_encoder_without_training_is_its_linear_path(tmp_path, monkeypatch):
    monkeypatch.setattr(stages.loading, "ClipSource", lambda *_, **__: Stripes())
    vae = VideoVAE(base_width=2, decoder_width=2, latent_channels=4, blocks=1, attention=False)
    options = {"frames": 5, "pixels": 16, "kl_weight": 0.0, "pca_power": 1.0}
    encoder = stages.train_vae(
        vae, [tmp_path], tmp_path / "run", steps=0, seed=0, stats_per_channel=True, **options
    )
    assert not (tmp_path / "run").exists()
    video = to_model_range(Stripes()[3]["video"])[None]
    latents = jax.jit(LatentEncoder.encode)(encoder, video)
    found = jax.jit(LatentEncoder.decode)(encoder, latents)
    np.testing.assert_allclose(found, video, atol=0.02)
    assert len(encoder.spread) == 4 and np.isfinite(encoder.spread).all()
