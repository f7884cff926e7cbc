"""What frames share, against closed forms and a clip whose every pixel is known."""

import numpy as np
import pytest

from data_pipelines.shared_views import FRACTIONS, GRID, cover, returning_pairs, seen_samples
from data_pipelines.sources.procedural import ProceduralSource

SIZE = (64, 64)
LENS = np.float32([32, 32, 32, 32])  # 90 degrees


def turned(*degrees):
    angle = np.radians(degrees)
    poses = np.tile(np.eye(4), (len(angle), 1, 1))
    poses[:, 0, 0] = poses[:, 2, 2] = np.cos(angle)
    poses[:, 0, 2], poses[:, 2, 0] = np.sin(angle), -np.sin(angle)
    return poses


def shares(poses, depth=None):
    return seen_samples(poses, np.tile(LENS, (len(poses), 1)), SIZE, depth).mean(2)


def test_turning_on_the_spot_shares_the_columns_that_stay_in_the_picture():
    found = shares(turned(0, 30, 60, 89, 120, 180))
    # A ray at angle a is seen from a camera turned by t if |a - t| < 45 degrees, its height fits.
    place = (8 * np.arange(GRID) + 4.5) / 32 - 1
    a = np.arctan(place)
    for column, turn in enumerate(np.radians([0, 30, 60, 89, 120, 180])):
        inside = np.abs(a - turn) < np.pi / 4
        fits = np.abs(place)[:, None] * np.cos(a) < np.cos(a - turn)
        assert found[0, column] == pytest.approx(np.mean(inside & fits))


def test_a_wall_hides_what_lies_behind_it():
    poses = np.tile(np.eye(4), (2, 1, 1))
    near, far = np.full(SIZE, 2.0), np.full(SIZE, 6.0)
    found = shares(poses, np.float32([near, far]))
    # Of the far frame's samples at 3, 4.5 and 6 metres none is before the near one's wall.
    assert found[0, 1] == 1.0 and found[1, 0] == 0.0
    found = shares(poses, np.float32([np.full(SIZE, 3.1), far]))
    assert found[1, 0] == pytest.approx(1 / len(FRACTIONS))


def test_unknown_depth_and_sky_hide_nothing():
    poses = np.tile(np.eye(4), (2, 1, 1))
    for value in (0.0, np.inf):
        depth = np.float32([np.full(SIZE, value), np.full(SIZE, 6.0)])
        assert shares(poses, depth)[1, 0] == 1.0


def test_shares_do_not_depend_on_the_world_frame_or_scale():
    clip = _room()
    plain = shares_of(clip.cam2world, clip)
    move = np.eye(4)
    move[:3, 3] = 5, -2, 9
    move[:3, :3] = turned(40)[0, :3, :3]
    np.testing.assert_allclose(shares_of(move @ clip.cam2world, clip), plain, atol=0.02)
    scaled = clip.cam2world.copy()
    scaled[:, :3, 3] *= 7.0
    np.testing.assert_allclose(shares_of(scaled, clip, 7.0), plain, atol=0.02)
    without = shares_of(clip.cam2world, clip, None)
    np.testing.assert_allclose(shares_of(scaled, clip, None), without, atol=0.02)
    assert np.abs(without - plain).max() > 0.1


def shares_of(poses, clip, scale=1.0):
    depth = None if scale is None else clip.depth * np.float32(scale)
    return seen_samples(poses, clip.intrinsics, clip.size, depth).mean(2)


def _room():
    source = ProceduralSource(size=32, frames=24)
    return next(source.clips(source.worlds("train")[0], 1, 3))


def test_samples_at_surfaces_are_seen_where_the_pictures_agree():
    """Against `warp_check`, which compares every pixel's depth."""
    from data_pipelines.sources.warp_check import warp_frame

    clip = _room()
    share = seen_samples(clip.cam2world, clip.intrinsics, clip.size, clip.depth).mean(2)
    pairs = [(0, 4), (0, 12), (6, 18), (2, 23)]
    covered = [warp_frame(clip, j, i, tolerance=0.1).coverage for i, j in pairs]
    found = [share[i, j] for i, j in pairs]
    # More than the surfaces alone: nearer samples are hidden less. Never much less.
    assert all(f > c - 0.1 for f, c in zip(found, covered, strict=True))
    assert np.corrcoef(found, covered)[0, 1] > 0.8


def test_pairs_that_return_are_those_of_a_loop():
    rng = np.random.default_rng(0)
    shared = rng.uniform(size=(14, 14))
    found = returning_pairs(shared, gap=3, least=0.4, away=0.5)
    for i in range(14):
        for j in range(14):
            between = [shared[i, m] for m in range(min(i, j) + 1, max(i, j))]
            away = any(value <= 0.5 * shared[i, j] for value in between)
            assert found[i, j] == (abs(i - j) >= 3 and shared[i, j] >= 0.4 and away)
    assert found.any() and not found.all()


def test_a_camera_that_stays_or_only_leaves_does_not_return():
    pairs = {"gap": 2, "least": 0.3, "away": 0.5}
    assert not returning_pairs(shares(turned(*[0] * 8)), **pairs).any()
    assert not returning_pairs(shares(turned(*range(0, 160, 20))), **pairs).any()
    there_and_back = returning_pairs(shares(turned(0, 40, 80, 120, 80, 40, 0)), **pairs)
    assert there_and_back[6, 0] and there_and_back[0, 6] and not there_and_back[6, 5]


def test_cover_takes_what_adds_most():
    seen = np.zeros((4, 100), bool)
    seen[0, :60] = seen[1, :50] = seen[2, 50:95] = True
    assert cover(seen, 4) == [0, 2]
    assert cover(seen, 1) == [0]
    assert cover(seen, 3, first=np.array([False, True, False, False])) == [1, 2]
    assert cover(seen, 3, first=np.zeros(4, bool)) == [0, 2]
