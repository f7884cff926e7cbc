"""Camera paths from names, pose files and geometry files."""

import numpy as np
import pytest

from mirage_jax import trajectories
from mirage_jax.world.walk import camera_path

START = trajectories.make("orbit_left", 2, angle=40, distance=2)[-1]


def path_of(trajectory, frames=0):
    return camera_path(
        trajectory, frames=frames, chunk_frames=17, start=START, angle=60.0, distance=1.0
    )


def test_named_paths_begin_where_the_world_is():
    assert len(path_of("look_away")) == 33  # two chunks
    expected = trajectories.make("push_in", 17, angle=60, distance=1, start=START)
    np.testing.assert_array_equal(path_of("push_in", 17), expected)
    with pytest.raises(ValueError, match=r"'lookaway'.*did you mean 'look_away'"):
        path_of("lookaway")


def test_paths_of_files_are_moved_to_where_the_world_is(tmp_path):
    poses = trajectories.make(
        "look_and_walk", 17, start=trajectories.make("tilt_up", 2, angle=20)[-1]
    )
    trajectories.save(tmp_path / "walk.json", poses)
    found = path_of(str(tmp_path / "walk.json"))
    np.testing.assert_allclose(found[0], START, atol=1e-12)
    for a, b in zip(found, poses, strict=True):
        np.testing.assert_allclose(
            np.linalg.inv(found[0]) @ a, np.linalg.inv(poses[0]) @ b, atol=1e-12
        )
    with pytest.raises(OSError, match=r"absent\.npz"):
        path_of(str(tmp_path / "absent.npz"))
    short = camera_path(
        str(tmp_path / "walk.json"), frames=9, chunk_frames=5, start=START, angle=0, distance=0
    )
    np.testing.assert_array_equal(short, found[:9])
    with pytest.raises(ValueError, match=r"walk\.json: found 17 poses, expected 33"):
        path_of(str(tmp_path / "walk.json"), 33)
    for count in (0, 18):
        np.save(tmp_path / "some.npy", np.tile(np.eye(4), (count, 1, 1)))
        with pytest.raises(ValueError, match=rf"some\.npy: found {count} poses, expected"):
            path_of(str(tmp_path / "some.npy"))
    with pytest.raises(
        ValueError, match=r"--frames of push_in: found 18 poses, expected 1 \+ 16 n"
    ):
        path_of("push_in", 18)
