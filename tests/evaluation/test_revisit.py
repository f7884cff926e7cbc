"""Revisits by pose, and memory retention on hand-made worlds with perfect and with no memory."""

import numpy as np
import pytest

from mirage_jax.evaluation import revisit
from mirage_jax.evaluation.image_metrics import psnr


def _yaw(degrees, x=0.0):
    """Poses that look `degrees` to the right from a point at x metres."""
    degrees, x = np.broadcast_arrays(np.asarray(degrees, float), np.asarray(x, float))
    a = np.deg2rad(degrees)
    poses = np.tile(np.eye(4), (len(a), 1, 1))
    poses[:, 0, 0], poses[:, 0, 2] = np.cos(a), np.sin(a)
    poses[:, 2, 0], poses[:, 2, 2] = -np.sin(a), np.cos(a)
    poses[:, 0, 3] = x
    return poses


OUT_AND_BACK = np.concatenate([np.linspace(0, 96, 17), np.linspace(96, 0, 17)[1:]])


def test_nearest_view_and_gap_in_units_of_the_thresholds():
    history = _yaw([0, 30, 60], [0, 0, 1.2])
    query = _yaw([10, 58, 0], [0, 0.9, 0.3])
    # (10 deg, 0 m) -> 2/3 of a threshold to view 0; (2 deg, .3 m) -> .5 to view 2.
    expected = [
        [10 / 15, 20 / 15, 50 / 15],
        [58 / 15, 28 / 15, 0.5],
        [0.5, 2, 4],
    ]
    np.testing.assert_allclose(revisit.pose_gap(query, history), expected, atol=1e-9)
    np.testing.assert_array_equal(revisit.nearest_view(query, history), [0, 2, 0])
    with pytest.raises(ValueError, match="no frames"):
        revisit.nearest_view(query, history[:0])


def test_nearest_view_takes_the_earliest_of_equals():
    assert revisit.nearest_view(_yaw([0]), _yaw([5, 0, 0])).tolist() == [1]


@pytest.mark.parametrize(
    ("degrees", "metres", "parallax"),
    [(0, 0.59, False), (0, 0.61, True), (14.9, 0, False), (15.1, 0, True), (10, 0.5, False)],
)
def test_parallax_thresholds(degrees, metres, parallax):
    query = _yaw([-degrees], [-metres])
    assert revisit.has_parallax(query, _yaw([0, 90], [0, 2])).tolist() == [parallax]


def test_a_return_has_parallax_if_half_of_its_revisit_has():
    poses = _yaw(OUT_AND_BACK)
    assert not revisit.returns_with_parallax(poses, history=17, revisit=4)
    poses[-2:, 0, 3] = -0.7
    assert revisit.returns_with_parallax(poses, history=17, revisit=4)
    assert not revisit.returns_with_parallax(poses, history=17, revisit=5)
    with pytest.raises(ValueError, match="do not fit a trajectory of 33"):
        revisit.returns_with_parallax(poses, history=30, revisit=4)


def test_pairs_of_an_out_and_back_turn_are_mirrored():
    pairs = revisit.nmr_pairs(_yaw(OUT_AND_BACK), first=17)
    # 6 degrees a frame, tolerance clamped to 5: only mirror images, ten frames apart or more.
    expected = [[32 - later, later] for later in range(21, 33)]
    assert pairs.revisit.tolist() == expected
    assert pairs.short.tolist() == [[k - 1, k] for k in range(18, 33)]
    for earlier, later in pairs.baseline:
        assert later >= 17
        assert abs(OUT_AND_BACK[later] - OUT_AND_BACK[earlier]) >= 45 - 1e-6
        assert 2 <= later - earlier <= 32
    everything = [
        [e, k]
        for k in range(17, 33)
        for e in range(33)
        if k - e >= 10
        and abs(OUT_AND_BACK[k] - OUT_AND_BACK[e]) >= 45
        and any(abs((k - e) - (b - a)) <= max(10, 0.3 * (b - a)) for a, b in expected)
    ]
    assert sorted(pairs.baseline.tolist()) == sorted(everything)


def test_the_static_tail_is_cut():
    poses = _yaw(np.concatenate([OUT_AND_BACK, np.zeros(8)]))
    whole, cut = revisit.nmr_pairs(poses, 17), revisit.nmr_pairs(poses[:33], 17)
    for name in ("revisit", "baseline", "short"):
        np.testing.assert_array_equal(getattr(whole, name), getattr(cut, name))


def test_trajectories_without_returns_or_movement_have_no_retention():
    for poses in (_yaw(np.linspace(0, 300, 33)), _yaw(np.zeros(33))):
        pairs = revisit.nmr_pairs(poses, 17)
        assert not pairs.usable
        assert np.isnan(revisit.memory_retention(np.zeros((33, 8, 8, 3), np.uint8), pairs))


def _panorama(seed):
    """A smooth random cylinder, 360 columns, one per degree."""
    rng = np.random.default_rng(seed)
    wave = np.fft.irfft(
        np.fft.rfft(rng.normal(size=(16, 360, 3)), axis=1)
        * np.exp(-np.arange(181) / 12)[None, :, None],
        axis=1,
    )
    wave = (wave - wave.mean()) / wave.std()
    return np.clip(128 + 50 * wave, 0, 255).astype(np.uint8)


def _views(panorama, degrees):
    columns = (np.round(degrees).astype(int)[:, None] + np.arange(-20, 20)) % 360
    return panorama[:, columns].transpose(1, 0, 2, 3)


@pytest.mark.parametrize("metric", ["psnr", "ssim"])
def test_perfect_memory_retains_and_no_memory_does_not(metric):
    pairs = revisit.nmr_pairs(_yaw(OUT_AND_BACK), first=17)
    truth = _views(_panorama(0), OUT_AND_BACK)
    other_world = np.concatenate([truth[:17], _views(_panorama(1), OUT_AND_BACK[17:])])
    half = truth.copy()
    half[17:] = (truth[17:].astype(int) + other_world[17:]) // 2
    perfect, mixed, none = (
        revisit.memory_retention(video, pairs, metric) for video in (truth, half, other_world)
    )
    # A revisit shows the very same pixels, adjacent ones have moved by 6 degrees.
    assert perfect > 1
    assert abs(none) < 0.15
    assert none < mixed < perfect


def test_retention_is_the_formula():
    video = np.random.default_rng(5).integers(0, 256, (6, 8, 8, 3), dtype=np.uint8)
    video[5] = video[0]
    video[4] = video[2] // 2 + 100
    groups = [[[0, 5], [1, 5], [0, 4]], [[1, 3], [0, 3], [0, 2]], [[2, 4], [2, 4], [2, 4]]]
    r, b, s = (np.mean([psnr(video[i], video[j]) for i, j in g]) for g in groups)
    pairs = revisit.NmrPairs(*(np.array(g) for g in groups))
    assert revisit.memory_retention(video, pairs) == pytest.approx((r - b) / (s - b))
    with pytest.raises(ValueError, match="lpips"):
        revisit.memory_retention(video, pairs, "lpips")


def test_a_still_world_cannot_be_normalised():
    pairs = revisit.nmr_pairs(_yaw(OUT_AND_BACK), first=17)
    assert np.isnan(revisit.memory_retention(np.full((33, 8, 8, 3), 7, np.uint8), pairs))
