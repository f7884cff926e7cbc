"""A few clips of MiniWorld; skipped, with the reason, where nothing can be rendered."""

import dataclasses

import numpy as np
import pytest

from data_pipelines.clip import validate
from data_pipelines.sources import miniworld, offscreen
from data_pipelines.sources.body_kinds import KINDS, LOOKS
from data_pipelines.sources.miniworld import MiniworldSource
from data_pipelines.sources.stage import Placed
from data_pipelines.sources.warp_check import revisit_coverage
from helpers.warps import psnrs

SOURCE = MiniworldSource(size=64)
WORLD = "miniworld/rooms-0000000"
KIND = next(iter(KINDS))


@pytest.fixture(scope="module")
def renders():
    available, reason = MiniworldSource.available()
    if not available:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def clips(renders):
    return list(SOURCE.clips(WORLD, 2, seed=0))


def test_clips_are_valid_and_alternate(clips):
    for clip in clips:
        validate(clip)
        assert clip.video.shape == (33, 64, 64, 3)
        assert (clip.mover_ids == 0).all() and len(clip.bodies.ids) == 0
        assert clip.licence == "Apache-2.0"
    assert [clip.trajectory for clip in clips] == ["easy", "parallax"]


def test_geometry_predicts_the_other_views(clips):
    near, near_unwarped = psnrs(clips, [(0, 4), (14, 16), (16, 22)])
    assert near > 29 and near > near_unwarped + 8
    back, back_unwarped = psnrs(clips[1:], [(0, 32)])
    assert back > back_unwarped + 6
    assert min(revisit_coverage(clip) for clip in clips) >= 0.5


def test_depth_is_that_of_the_walls_and_the_floor(renders):
    """MiniWorld says where its walls are: rays that meet them agree, to a tenth of a millimetre."""
    with SOURCE.open_stage("miniworld/maze-0000003") as rooms:
        rng = np.random.default_rng(0)
        start = rooms.free_point(rng)
        pose = miniworld.paths.level_cam2world(np.array([[*start, 1.4]]), np.array([0.7]), -0.1)[0]
        depth = rooms.view(pose).depth
        fx, fy, cx, cy = SOURCE.intrinsics
        v, u = np.mgrid[:64, :64] + 0.5
        points = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones((64, 64))], -1) * depth[..., None]
        points = (points @ pose[:3, :3].T + pose[:3, 3]).reshape(-1, 3)
        walls = rooms.environment.wall_segs[..., [0, 2]] * [1.0, -1.0]
    low, high = walls.min(1) - 1e-4, walls.max(1) + 1e-4
    on_wall = ((points[:, None, :2] >= low) & (points[:, None, :2] <= high)).all(-1).any(-1)
    on_floor = np.abs(points[:, 2]) < 1e-4
    known = np.isfinite(depth).ravel()
    assert on_floor.sum() > 200 and on_wall.sum() > 200
    assert (on_wall | on_floor)[known].mean() > 0.7  # the rest is ceilings, lintels and things


def test_bodies_are_hidden_by_what_is_nearer(renders):
    with SOURCE.open_stage(WORLD) as rooms:
        rng = np.random.default_rng(1)
        start = rooms.free_point(rng)
        yaw = miniworld.paths.open_yaw(rng, start, rooms.is_free, 4)
        pose = miniworld.paths.level_cam2world(np.array([[*start, 1.4]]), np.array([yaw]))[0]
        empty = rooms.view(pose)
        middle = empty.depth[30:34, 30:34].min()
        assert 1.5 < middle < np.inf
        bodies = []
        for number, share in enumerate((0.5, 1.5), 1):
            place = np.eye(4)
            place[:3, 3] = pose[:3, 3] + share * middle * pose[:3, 2]
            bodies.append(Placed(number, KIND, LOOKS[0], place))
        one = rooms.view(pose, (bodies[0],))
        both = rooms.view(pose, tuple(bodies))
    shown = one.mover_ids == 1
    assert 10 < shown.sum() < 3000
    np.testing.assert_array_equal(one.depth[~shown], empty.depth[~shown])
    assert (one.depth[shown] < empty.depth[shown]).all()
    assert (both.mover_ids[shown] == 1).all() and not (both.mover_ids[31:33, 31:33] == 2).any()


def test_walking_bodies_have_their_states(renders):
    source = dataclasses.replace(SOURCE, bodies=1, frames=17)
    clip = next(source.clips("miniworld/fourrooms-0000000", 1, seed=0))
    validate(clip)
    assert (clip.mover_ids == 1).any() and clip.bodies.visible.any()
    assert clip.times[-1] > 16 / source.fps  # frames are left out between the halves
    living = dataclasses.replace(SOURCE, living=1.0, frames=17)
    clip = next(living.clips("miniworld/fourrooms-0000000", 1, seed=0))
    validate(clip)
    assert len(clip.bodies.ids) == 2 and clip.trajectory in ("easy", "parallax")
    np.testing.assert_allclose(clip.times, np.arange(17) / living.fps)


def test_equal_requests_give_equal_clips(clips):
    again = next(SOURCE.clips(WORLD, 1, seed=0))
    np.testing.assert_array_equal(again.video, clips[0].video)
    np.testing.assert_array_equal(again.depth, clips[0].depth)


def test_held_out_worlds_have_other_seeds_and_other_plans():
    train, held_out = SOURCE.worlds("train"), SOURCE.worlds("eval")
    assert len(train) == 200 and len(held_out) == 16
    seeds = [{world[-7:] for world in worlds} for worlds in (train, held_out)]
    plans = [{world[:-8] for world in worlds} for worlds in (train, held_out)]
    assert not seeds[0] & seeds[1] and plans[0] < plans[1]
    more = dataclasses.replace(SOURCE, maps=5000).worlds("train")
    assert more[:200] == train and not set(more) & set(held_out)
    for world in ("miniworld/rooms-12", "miniworld/hall-0000001", "rooms-0000001"):
        with pytest.raises(ValueError, match="expected miniworld/PLAN-SSSSSSS"):
            SOURCE.clips(world, 1, seed=0)


def test_a_machine_without_opengl_leaves_it_out_and_says_why(monkeypatch):
    pytest.importorskip("miniworld", reason="miniworld is not installed")
    monkeypatch.setattr(offscreen, "why_no_miniworld", lambda: "no libEGL")
    assert MiniworldSource.available() == (
        False,
        "no offscreen OpenGL by EGL (no libEGL); install libegl1",
    )
