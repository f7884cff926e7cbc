"""Times and lenses in the camera file of a path: used, or said not to be."""

import numpy as np
import pytest

from mirage_jax import trajectories
from mirage_jax.io import camera_files
from mirage_jax.world.path_file import of_record

POSES = trajectories.make("push_in", 9)
EVEN = 1.7e9 + np.arange(9) / 25


def read_path_file(path, *wanted, **options):
    return of_record(path, trajectories.load_cameras(path), *wanted, **options)


def written(tmp_path, times, lens=None, name="walk.json"):
    record = camera_files.CameraRecord(POSES, lens, timestamps=times)
    camera_files.write(tmp_path / name, record)
    return tmp_path / name


def test_even_times_are_the_pace_of_the_first_frames(tmp_path):
    found = read_path_file(written(tmp_path, EVEN + 0.001 * (np.arange(9) % 2)), 5)
    assert found.even and len(found.times) == 5
    assert found.fps == pytest.approx(25, rel=1e-6)
    assert len(found.said) == 1 and "25 frames per second" in found.said[0]


def test_dropped_frames_are_said(tmp_path):
    times = np.delete(np.arange(12) / 25, [3, 4, 7])
    found = read_path_file(written(tmp_path, times))
    assert not found.even and found.fps == pytest.approx(8 / (11 / 25))
    assert "0.04 to 0.12 s apart" in found.said[0] and "evenly spaced" in found.said[0]
    np.testing.assert_allclose(found.times, times, atol=1e-9)


@pytest.mark.parametrize(
    ("times", "fps", "reason"),
    [
        (EVEN[[0, 1, 2, 2, 4, 5, 6, 7, 8]], None, "do not rise at frame 3"),
        (EVEN * 1e9, None, "found frames 4e+07 apart, expected seconds"),
        (EVEN, 5.0, "mean 0.04 s apart, are not used: --fps=5"),
    ],
)
def test_times_that_are_not_used_are_said(tmp_path, times, fps, reason):
    found = read_path_file(written(tmp_path, times), fps=fps)
    assert found.times is None and found.fps is None
    assert reason in found.said[0] and str(tmp_path / "walk.json") in found.said[0]


def test_numbers_of_frames_are_no_times(tmp_path):
    trajectories.save(tmp_path / "walk.txt", POSES)
    assert read_path_file(tmp_path / "walk.txt") == read_path_file(written(tmp_path, None))
    assert read_path_file(tmp_path / "walk.txt").said == ()


def test_a_lens_is_said_not_to_be_used(tmp_path):
    found = read_path_file(written(tmp_path, EVEN, np.tile([20.0, 20, 12, 8], (9, 1))))
    assert found.fps and "intrinsics are not used" in found.said[1]
