"""Faults put into a path are found, and a good path has none."""

import numpy as np
import pytest

from mirage_jax import trajectories
from mirage_jax.io.camera_files import CameraRecord
from mirage_jax.io.camera_files.checks import check_record


def wrong(record, frames=None):
    return {f.name: f.said for f in check_record(record, frames) if f.good is False}


def good_record(**changes):
    record = CameraRecord(
        trajectories.keys("w*10 wl*10"),
        np.tile([400.0, 400, 320, 240], (21, 1)),
        (480, 640),
        timestamps=np.arange(21) / 10,
    )
    return record.replace(**changes)


def test_a_good_path_has_no_faults():
    said = {f.name: f.said for f in check_record(good_record(), 21)}
    assert wrong(good_record(), 21) == {}
    assert said["looks forward"].startswith("100%") and "10 per second" in said["timestamps"]
    assert "77.3" in said["lens"]  # 2 atan(320 / 400)
    assert "4 n + 1)" in dict((f.name, f.said) for f in check_record(good_record()))["frames"]


def test_faults_are_found():
    poses = good_record().cam2world.copy()
    poses[7:, 0, 3] += 5
    assert "6 to 7" in wrong(good_record(cam2world=poses))["steps"]
    times = np.arange(21) / 10
    times[[4, 9]] = times[3], 0.05
    found = wrong(good_record(timestamps=times))["timestamps"]
    assert "1 duplicate, first at frame 4" in found and "1 unsorted, first at frame 9" in found
    assert wrong(good_record(), 81)["frames"] == "21, expected 81"
    off = np.tile([400.0, 400, 20, 240], (21, 1))
    assert "expected a centred lens" in wrong(good_record(intrinsics=off))["lens"]


def test_a_path_read_the_wrong_way_round_looks_backward():
    back = good_record(cam2world=np.linalg.inv(good_record().cam2world))
    said = {f.name: f.said for f in check_record(back)}["looks forward"]
    assert said.startswith("0%")


@pytest.mark.parametrize(
    ("metric", "said"),
    [(True, "metres"), (False, "arbitrary"), (None, "not stated, arbitrary; taken as metres")],
)
def test_the_scale_is_said(metric, said):
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[:, 0, 3] = 0, 0.25, 0.5
    (found,) = [
        finding
        for finding in check_record(CameraRecord(poses, metric=metric))
        if finding.name == "scale"
    ]
    assert found.good is None and found.said.startswith(said)
    assert ("moves 0.25 m a frame" in found.said) == (metric is None)
