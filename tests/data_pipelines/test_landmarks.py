"""Estimated depth comes to the unit of the poses: against rooms whose unit is known."""

import functools
import itertools

import numpy as np
import pytest

from data_pipelines.landmarks import MOST_LANDMARKS, Unscaled, landmarks, scale_of
from data_pipelines.sources.procedural import ProceduralSource

STRIDE = 4


@functools.cache
def clips():
    """Of each of some rooms: one clip that may only turn, one that walks."""
    source = ProceduralSource(size=128, frames=17)
    rooms = (f"procedural/train-{room:03d}" for room in range(4))
    return [clip for room in rooms for clip in source.clips(room, 2, seed=5)]


def test_the_unit_of_poses_is_found_within_five_percent():
    rng, walking, turning = np.random.default_rng(0), 0, 0
    for clip, unit in zip(clips(), itertools.cycle((1.0, 0.037, 52.0)), strict=False):
        poses = clip.cam2world.copy()
        poses[:, :3, 3] *= unit
        found = landmarks(clip.video, clip.intrinsics[0], poses, STRIDE)
        assert found.shape == (MOST_LANDMARKS, 4) and found.dtype == np.float32
        # A network errs by a tenth at each pixel.
        true = clip.depth[::STRIDE]
        estimated = (true * np.exp(0.1 * rng.normal(size=true.shape))).astype(np.float32)
        scale = scale_of(estimated, found)
        if np.ptp(clip.cam2world[:, :3, 3], axis=0).max() < 1e-9:
            turning += 1
            assert scale is Unscaled.TOO_FEW and not found.any()
        elif isinstance(scale, float):
            walking += 1
            assert scale == pytest.approx(unit, rel=0.05)
    assert walking >= 3 and turning >= 1


def test_landmarks_lie_where_the_surfaces_are():
    checked = 0
    for clip in clips():
        found = landmarks(clip.video, clip.intrinsics[0], clip.cam2world, STRIDE)
        rows = found[found[:, 3] > 0]
        key, column, row = rows[:, :3].astype(int).T
        true = clip.depth[key * STRIDE, row, column]
        if len(rows) >= 16:
            checked += 1
            assert np.median(np.abs(rows[:, 3] / true - 1)) < 0.08
    assert checked >= 3


def test_large_pictures_are_compared_small():
    source = ProceduralSource(size=256, frames=10)
    _, clip = source.clips("procedural/train-001", 2, seed=5)  # the second one walks
    rows = slice(3, 253)  # 250 rows, of which 240 are compared
    lens = clip.intrinsics[0] - np.float32([0, 0, 0, 3])
    found = landmarks(clip.video[:, rows], lens, clip.cam2world, STRIDE)
    assert scale_of(clip.depth[::STRIDE, rows], found) == pytest.approx(1.0, rel=0.05)
    assert found[:, 1].max() > 160 and found[:, 2].max() > 160


def test_too_few_or_contradicting_landmarks_tell_nothing():
    rng = np.random.default_rng(0)
    depth = np.full((2, 8, 8), 3.0, np.float32)
    found = np.zeros((MOST_LANDMARKS, 4), np.float32)
    assert scale_of(depth, found) is Unscaled.TOO_FEW
    found[:40, 1:3] = rng.uniform(0, 8, (40, 2))
    found[:40, 3] = 6.0
    assert scale_of(depth, found) == pytest.approx(2.0)
    assert scale_of(depth, found * (np.arange(MOST_LANDMARKS) < 15)[:, None]) is Unscaled.TOO_FEW
    assert scale_of(np.zeros_like(depth), found) is Unscaled.TOO_FEW
    found[:40, 3] = np.exp(rng.normal(0, 2, 40))
    assert scale_of(depth, found) is Unscaled.DISCORDANT
