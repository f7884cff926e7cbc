import json

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mirage_jax import geometry, trajectories


def forward(pose):
    return pose[:3, 2]


@pytest.mark.parametrize("name", trajectories.NAMES)
@pytest.mark.parametrize("frames", [1, 2, 33, 40])
def test_every_path_is_valid_starts_at_start_and_closes_if_closed(name, frames):
    start = np.eye(4)
    start[:3, :3] = Rotation.from_euler("xyz", [10, 20, 30], degrees=True).as_matrix()
    start[:3, 3] = 1, 2, 3
    poses = trajectories.make(name, frames, start=start)
    assert poses.shape == (frames, 4, 4) and poses.dtype == np.float64
    geometry.check_cam2world(poses)
    np.testing.assert_array_equal(poses[0], start)
    if name in trajectories.CLOSED_NAMES:
        np.testing.assert_array_equal(poses[-1], start)


@pytest.mark.parametrize("name", trajectories.NAMES)
def test_paths_are_smooth_and_rest_at_both_ends(name):
    poses = trajectories.make(name, 201, angle=60, distance=2)
    turn = np.asarray(geometry.pose_angle_deg(poses[:-1], poses[1:]))
    step = geometry.pose_distance(poses[:-1], poses[1:])
    for speed in (turn, step):
        assert speed[0] <= 0.01 * speed.max() + 1e-9 and speed[-1] <= 0.01 * speed.max() + 1e-9
        # No jump: neighbouring speeds differ by a small part of the largest one.
        assert np.abs(np.diff(speed)).max() <= 0.06 * speed.max() + 1e-6


@pytest.mark.parametrize(
    ("name", "position", "looks_at"),
    [
        ("push_in", (0, 0, 2), (0, 0, 1)),
        ("pull_out", (0, 0, -2), (0, 0, 1)),
        ("move_left", (-2, 0, 0), (0, 0, 1)),
        ("move_right", (2, 0, 0), (0, 0, 1)),
        ("move_up", (0, -2, 0), (0, 0, 1)),
        ("move_down", (0, 2, 0), (0, 0, 1)),
        ("pan_left", (0, 0, 0), (-1, 0, 0)),
        ("pan_right", (0, 0, 0), (1, 0, 0)),
        ("tilt_up", (0, 0, 0), (0, -1, 0)),
        ("tilt_down", (0, 0, 0), (0, 1, 0)),
        ("orbit_right", (2, 0, 2), (-1, 0, 0)),
        ("orbit_left", (-2, 0, 2), (1, 0, 0)),
    ],
)
def test_open_paths_end_where_their_name_says(name, position, looks_at):
    last = trajectories.make(name, 9, angle=90, distance=2)[-1]
    np.testing.assert_allclose(last[:3, 3], position, atol=1e-12)
    np.testing.assert_allclose(forward(last), looks_at, atol=1e-12)


def test_roll_right_leans_the_picture_top_to_the_right():
    last = trajectories.make("roll_right", 5, angle=90)[-1]
    np.testing.assert_allclose(-last[:3, 1], [1, 0, 0], atol=1e-12)  # up of the camera


def test_orbit_keeps_its_centre_in_the_middle():
    poses = trajectories.make("orbit_left", 17, angle=70, distance=3)
    to_centre = np.array([0, 0, 3]) - poses[:, :3, 3]
    np.testing.assert_allclose(to_centre / 3, poses[:, :3, 2], atol=1e-12)


def test_closed_paths_reach_their_extreme_in_the_middle():
    away = trajectories.make("look_away", 33, angle=120)
    angles = np.asarray(geometry.pose_angle_deg(away[0], away))
    assert angles.argmax() == 16 and angles[16] == pytest.approx(120)
    out = trajectories.make("out_and_back", 33, distance=2)
    np.testing.assert_allclose(out[16, :3, 3], [0, 0, 2], atol=1e-12)
    circle = trajectories.make("full_circle", 33)
    np.testing.assert_allclose(forward(circle[16]), [0, 0, -1], atol=1e-12)
    quarter = np.unwrap(np.arctan2(circle[:-1, 0, 2], circle[:-1, 2, 2]))
    assert (np.diff(quarter) >= 0).all() and quarter[-1] > np.pi  # all the way, not back


def test_bad_requests():
    with pytest.raises(ValueError, match=r"'lookaway'.*did you mean 'look_away'.*out_and_back"):
        trajectories.make("lookaway", 5)
    with pytest.raises(ValueError, match="frames=0"):
        trajectories.make("hold", 0)
    with pytest.raises(ValueError, match="finite"):
        trajectories.make("hold", 5, angle=float("nan"))
    with pytest.raises(ValueError, match="start"):
        trajectories.make("hold", 5, start=np.diag([1.0, 1, -1, 1]))


@pytest.mark.parametrize("suffix", [".npz", ".npy", ".json", ".txt"])
def test_files_round_trip(tmp_path, suffix):
    poses = trajectories.make("look_and_walk", 9, angle=70)
    path = tmp_path / f"path{suffix}"
    trajectories.save(path, poses)
    np.testing.assert_allclose(trajectories.load(path, 9), poses, atol=1e-14)
    loud = tmp_path / f"LOUD, path{suffix.upper()}"
    trajectories.save(loud, poses)
    assert {own.name for own in tmp_path.iterdir()} == {path.name, loud.name}
    np.testing.assert_allclose(trajectories.load(loud), poses, atol=1e-14)
    if suffix in (".json", ".txt"):  # as editors of Windows save them
        loud.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
        np.testing.assert_allclose(trajectories.load(loud), poses, atol=1e-14)
    with pytest.raises(ValueError, match=r"found 9 poses, expected 17"):
        trajectories.load(path, 17)


def test_formats_written_by_others(tmp_path):
    poses = trajectories.make("orbit_left", 4)
    np.savez(tmp_path / "geometry.npz", poses_c2w=poses.astype(np.float32), depths=np.zeros(1))
    np.testing.assert_allclose(trajectories.load(tmp_path / "geometry.npz"), poses, atol=1e-6)
    (tmp_path / "list.json").write_text(json.dumps(poses.tolist()))
    np.testing.assert_array_equal(trajectories.load(tmp_path / "list.json"), poses)
    # 90 degrees to the right about the y axis, quaternion (x, y, z, w), moved by 1 2 3
    (tmp_path / "tum.txt").write_text(
        "# t x y z qx qy qz qw\n0.5 1 2 3 0 0.70710678 0 0.70710678\n"
    )
    pose = trajectories.load(tmp_path / "tum.txt")[0]
    np.testing.assert_allclose(
        pose, [[0, 0, 1, 1], [0, 1, 0, 2], [-1, 0, 0, 3], [0, 0, 0, 1]], atol=1e-7
    )


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xml", b"1,2", "suffix '.xml'"),
        ("a.json", b"{not json", "not a readable .json"),
        ("a.json", b'{"a": []}', "cam2world, poses_c2w"),
        ("a.json", b"[[1, 2], [3]]", "unequal lengths"),
        ("a.npz", b"PK broken", "not a readable .npz"),
        ("a.npy", b"", "not a readable .npy"),
        ("a.txt", b"1 2 3\n", "3 columns, expected 8"),
        ("a.txt", b"a b c d e f g h\n", "line 1: found .*expected timestamp tx"),
        ("a.txt", b"0 0 0 0 0 0 0 0\n", r"frame\[0\].*quaternion .*of length 0, expected 1"),
    ],
)
def test_bad_files_are_named(tmp_path, name, content, message):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message) as error:
        trajectories.load(path)
    assert str(path) in str(error.value)


def test_bad_poses_in_a_file_are_named(tmp_path):
    poses = trajectories.make("hold", 3)
    poses[1, 0, 0] = -1
    np.save(tmp_path / "p.npy", poses)
    with pytest.raises(ValueError, match=r"p\.npy: frame\[1\].*right-handed"):
        trajectories.load(tmp_path / "p.npy")
    np.save(tmp_path / "q.npy", np.array([{"a": 1}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"q\.npy"):
        trajectories.load(tmp_path / "q.npy")
    with pytest.raises(FileNotFoundError):
        trajectories.load(tmp_path / "absent.npy")


def test_a_damaged_compressed_archive_is_named(tmp_path):
    path = tmp_path / "walk.npz"
    np.savez_compressed(path, cam2world=trajectories.make("look_and_walk", 400))
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = b"\xff" * 200
    path.write_bytes(content)
    with pytest.raises(ValueError, match=r"walk\.npz"):
        trajectories.load(path)
