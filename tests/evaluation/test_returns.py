"""Captures that come back: found by their cameras alone, and read as clips."""

import pickle

import numpy as np
import pytest

from data_pipelines.sources import FiniteSource
from data_pipelines.sources.footage.source import FootageSource
from helpers import made_footage
from mirage_jax import trajectories
from mirage_jax.evaluation.returns import ReturnsSource, find_returns, in_comparable_units

FRAMES, HISTORY, REVISIT = 33, 17, 4


def found(poses):
    return find_returns(poses, FRAMES, HISTORY, REVISIT)


def test_a_look_away_and_back_is_a_return_and_nothing_else_is():
    [(numbers, away)] = found(trajectories.make("look_away", FRAMES, angle=90))
    np.testing.assert_array_equal(numbers, np.arange(FRAMES))
    assert away == pytest.approx(90 / 15)  # the farthest, in thresholds of 15 degrees
    for name in ("hold", "push_in", "pan_left", "orbit_left"):
        assert found(trajectories.make(name, FRAMES, distance=4.0)) == [], name
    jump = trajectories.make("look_away", FRAMES, angle=90)
    jump[12] = trajectories.make("pan_right", 2, angle=170)[1]
    assert found(jump) == []


def test_a_walk_out_of_a_place_and_back_counts_by_its_way():
    [(_, away)] = found(trajectories.make("out_and_back", FRAMES, distance=3.0))
    assert away == pytest.approx(3.0 / 0.6)
    assert found(trajectories.make("out_and_back", FRAMES, distance=0.5)) == []


def test_slow_captures_are_taken_in_strides():
    slow = trajectories.make("look_away", 3 * (FRAMES - 1) + 1, angle=90)
    [(numbers, _), *rest] = found(slow)
    np.testing.assert_array_equal(numbers, 3 * np.arange(FRAMES))
    for numbers, away in rest:  # shorter looks within it
        assert away >= 2 and np.ptp(numbers) < 3 * FRAMES


def test_returns_do_not_share_most_of_their_frames():
    several = np.concatenate([trajectories.make("look_away", FRAMES, angle=90)] * 3)
    spans = [set(range(n[0], n[-1] + 1)) for n, _ in found(several)]
    assert len(spans) >= 3
    for i, one in enumerate(spans):
        for other in spans[:i]:
            assert 2 * len(one & other) <= len(one)


@pytest.fixture
def captures(tmp_path):
    root = tmp_path / "captures"
    for name, clip in (("a", made_footage.room(66)), ("b", made_footage.room(12))):
        made_footage.tum_rgbd(root / name, clip)
    made_footage.tum_rgbd(root / "c", made_footage.room(12))
    (root / "c" / "rgbd_dataset_room" / "groundtruth.txt").write_text("no numbers\n")
    return root


LENS = tuple(map(float, made_footage.room().intrinsics[0]))


def test_returns_are_clips_of_their_frames(captures):
    source = ReturnsSource(
        FootageSource(root=str(captures), size=32, lens=LENS), FRAMES, HISTORY, REVISIT, most=2
    )
    assert isinstance(source, FiniteSource) and pickle.loads(pickle.dumps(source)) == source
    [reason] = source.unreadable
    assert "groundtruth.txt" in reason and "captures/c/" in reason
    [world] = source.worlds("eval")  # 12 frames are too few to come back
    assert world == "a/rgbd_dataset_room" and source.worlds("train") == ()
    count = source.clip_counts("eval")[world]
    assert 1 <= count <= 2
    names = set()
    for index in range(count):
        clip = source.clip(world, index)
        frames = list(source.returns[index].frames)
        poses = made_footage.room(66).cam2world[frames]
        np.testing.assert_allclose(clip.cam2world, poses, atol=1e-5)
        assert clip.video.shape == (FRAMES, 32, 32, 3) and clip.depth is not None
        names.add(clip.name)
    assert len(names) == count


def test_a_scale_of_its_own_is_measured_by_the_extent(tmp_path):
    made_footage.colmap(tmp_path, made_footage.room(66))
    scene = FootageSource(root=str(tmp_path), size=32).open("room")
    poses = in_comparable_units(scene)
    assert np.linalg.norm(np.ptp(poses[:, :3, 3], axis=0)) == pytest.approx(6.0)
    np.testing.assert_array_equal(poses[:, :3, :3], scene.cam2world[:, :3, :3])
