"""Paths leave and come back: angles and distances recomputed from the camera poses."""

import numpy as np
import pytest

from data_pipelines.sources import paths


def everywhere(points):
    return np.ones(len(points), bool)


def drawn(kind, is_free=everywhere, count=60, frames=33):
    made = []
    for seed in range(count):
        rng = np.random.default_rng(seed)
        path = paths.sample_path(rng, frames, np.array([3.0, -2.0]), 0.7, is_free, kind)
        if path is not None:
            made.append(path)
    return made


def angle(a, b):
    """Degrees between the viewing directions of two poses."""
    return np.degrees(np.arccos(np.clip(a[:3, 2] @ b[:3, 2], -1, 1)))


@pytest.mark.parametrize("kind", paths.KINDS)
def test_the_middle_frame_looks_away(kind):
    made = drawn(kind)
    assert len(made) > 50
    walked = []
    for path in made:
        centres = np.concatenate([path.positions, np.ones((33, 1))], 1)
        poses = paths.level_cam2world(centres, path.yaws)
        assert 75 - 1e-6 <= angle(poses[0], poses[16]) <= 120 + 1e-6
        walked.append(np.linalg.norm(path.positions[16] - path.positions[0]))
    walked = np.array(walked)
    assert 0.25 < (walked == 0).mean() < 0.75
    assert walked.max() <= 2.5 and walked[walked > 0].min() >= 0.3


def test_easy_paths_end_where_they_began():
    for path in drawn(paths.EASY):
        np.testing.assert_array_equal(path.positions[-1], path.positions[0])
        assert path.yaws[-1] == path.yaws[0] == 0.7


def test_parallax_paths_end_in_new_views_of_the_old_place():
    for path in drawn(paths.PARALLAX):
        centres = np.concatenate([path.positions, np.ones((33, 1))], 1)
        poses = paths.level_cam2world(centres, path.yaws)
        for late in poses[29:]:
            for early in poses[:17]:
                far = np.linalg.norm(late[:3, 3] - early[:3, 3]) >= 0.6 - 1e-9
                assert far or angle(late, early) >= 15 - 1e-6
        assert np.linalg.norm(path.positions[-1] - path.positions[0]) <= 1.5
        assert angle(poses[-1], poses[0]) < 90


@pytest.mark.parametrize("kind", paths.KINDS)
def test_speed_is_eased(kind):
    for path in drawn(kind, count=20):
        turn = np.abs(np.diff(path.yaws))
        assert turn[[0, 15, 16, 31]].max() < 0.6 * turn.max()
        assert turn.max() < np.deg2rad(30)


def test_paths_stay_where_it_is_free():
    def corridor(points):
        return (np.abs(points[:, 1] + 2.0) < 0.4) & (points[:, 0] > 2.5)

    made = drawn(paths.EASY, corridor) + drawn(paths.PARALLAX, corridor)
    assert len(made) > 40
    assert all(corridor(path.positions).all() for path in made)
    assert any(np.ptp(path.positions[:, 0]) > 0.3 for path in made)


def test_no_room_gives_no_path():
    assert drawn(paths.EASY, lambda points: np.zeros(len(points), bool), count=3) == []


def test_wrong_requests_are_refused():
    rng = np.random.default_rng(0)
    with pytest.raises(ValueError, match=r"'loop'.*easy"):
        paths.sample_path(rng, 33, np.zeros(2), 0.0, everywhere, "loop")
    with pytest.raises(ValueError, match="4 frames"):
        paths.sample_path(rng, 4, np.zeros(2), 0.0, everywhere, paths.EASY)


def test_poses_are_right_handed_and_look_along_the_yaw():
    yaws = np.linspace(-4, 4, 9)
    poses = paths.level_cam2world(np.zeros((9, 3)), yaws, pitch=0.2)
    rotations = poses[:, :3, :3]
    np.testing.assert_allclose(
        rotations @ rotations.swapaxes(1, 2), np.tile(np.eye(3), (9, 1, 1)), atol=1e-12
    )
    np.testing.assert_allclose(np.linalg.det(rotations), 1.0)
    np.testing.assert_allclose(
        np.arctan2(poses[:, 1, 2], poses[:, 0, 2]) % 6.2832, yaws % 6.2832, atol=1e-4
    )
    np.testing.assert_allclose(poses[:, 2, 2], np.sin(0.2))  # looks up
    assert (poses[:, 2, 1] < 0).all()  # image rows run downwards
    np.testing.assert_allclose(poses[:, 2, 0], 0.0)  # no roll
