"""Camera paths from names, pose files and geometry files."""

import numpy as np
import pytest

from mirage_jax import memory, trajectories
from mirage_jax.io import camera_files
from mirage_jax.io.camera_files import CameraRecord
from mirage_jax.world.path_file import NO_FILE
from mirage_jax.world.state import World
from mirage_jax.world.walk import Walk, camera_path, extended_path, scene_depth, with_path_file

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


def test_steps_begin_where_the_world_is_and_come_back_to_it():
    found = path_of("forward:2m,turn_left:90,back")
    assert len(found) == 33
    np.testing.assert_array_equal(found[[0, -1]], [START, START])
    away = np.linalg.inv(START) @ found[16]
    np.testing.assert_allclose(away[:3, 3], [0, 0, 2], atol=1e-9)


def test_keys_fill_whole_chunks_by_waiting():
    found = path_of("w*20")
    assert len(found) == 33
    moved = np.linalg.inv(START) @ found
    np.testing.assert_allclose(moved[20:, :3, 3], [[0, 0, 0.4]] * 13, atol=1e-9)
    with pytest.raises(ValueError, match="found 17 frames, expected at least 21"):
        path_of("w*20", 17)


def test_files_whose_names_look_like_steps_are_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert trajectories.is_named("a,b") and trajectories.is_named("forward:0.5x")
    (tmp_path / "a,b").mkdir()
    (tmp_path / "look_away").mkdir()
    assert not trajectories.is_named("a,b") and not trajectories.is_named("walk.npz")
    assert trajectories.is_named("look_away") and trajectories.is_named("zoom_in")


def test_paths_that_face_the_middle_do_so_at_the_depth_of_the_scene():
    for trajectory in ("face_left", "face_left:1m", "face_up:0.25x"):
        path = camera_path(
            trajectory,
            frames=17,
            chunk_frames=17,
            start=START,
            angle=60.0,
            distance=1.0,
            scene_depth=4.0,
        )
        middle = START @ [0, 0, 4, 1]
        seen = np.linalg.inv(path) @ middle
        np.testing.assert_allclose(seen[:, :2], 0, atol=1e-9)
        away = np.linalg.norm(path[-1, :3, 3] - START[:3, 3])
        assert away == pytest.approx(1)


def test_the_depth_of_a_scene_is_the_median_of_what_lies_ahead():
    ahead = np.array([[0, 0, 1.0], [1, 0, 3], [0, 2, 8], [0, 0, -5], [0, 0, 100]])
    points = ahead @ START[:3, :3].T + START[:3, 3]
    bank = memory.create(capacity=5, channels=1).replace(
        xyz=points.astype(np.float32), valid=np.array([True, True, True, True, False])
    )
    world = World(bank, None, START.astype(np.float32), None, 1)
    assert scene_depth(world) == pytest.approx(3, rel=1e-5)
    with pytest.raises(ValueError, match="nothing remembered ahead"):
        scene_depth(world.replace(bank=bank.replace(valid=np.zeros(5, bool))))


def walk_along(path, size=(48, 64)):
    lens = np.array([50, 52, 31, 25], np.float32)
    world = World(memory.create(1, 1), None, START.astype(np.float32), lens, 1)
    return with_path_file(Walk(world, path_of(str(path))), str(path), size)


def test_a_file_that_zooms_zooms_the_lens_of_the_world(tmp_path):
    poses = trajectories.make("hold", 17)
    zoom = np.linspace(1, 2, 17)
    fractions = np.stack([0.7 * zoom, 0.9 * zoom, np.full(17, 0.5), 0.5 + 0.01 * zoom], -1)
    size = (480, 640)
    record = CameraRecord(
        poses, fractions * [640, 480, 640, 480], size=size, timestamps=3 + np.arange(17) / 8
    )
    camera_files.write(tmp_path / "zoom.txt", record, "re10k")
    found = walk_along(tmp_path / "zoom.txt")
    np.testing.assert_allclose(found.intrinsics[:, :2], zoom[:, None] * [[50, 52]], rtol=1e-5)
    np.testing.assert_allclose(found.intrinsics[:, 2], 31, rtol=1e-5)
    np.testing.assert_allclose(found.intrinsics[:, 3], 25 + 0.48 * (zoom - 1), rtol=1e-4)
    assert found.fps == pytest.approx(8) and found.path_file.times[-1] == pytest.approx(5)
    path = extended_path(None, found, (48, 64), 8.0, True)
    np.testing.assert_allclose(path.times, np.arange(17) / 8, atol=1e-5)
    np.testing.assert_array_equal(path.intrinsics, found.intrinsics)


def test_a_file_of_one_lens_without_times_leaves_both_to_the_world(tmp_path):
    trajectories.save(tmp_path / "walk.json", trajectories.make("push_in", 17))
    found = walk_along(tmp_path / "walk.json")
    assert found.intrinsics is None and found.path_file == NO_FILE and found.fps is None
    trajectories.save(tmp_path / "walk.txt", trajectories.make("push_in", 17))
    assert walk_along(tmp_path / "walk.txt").fps is None  # TUM, timed by frame numbers
    named = Walk(found.world, path_of("push_in"))
    assert with_path_file(named, "push_in", (48, 64)) is named


def test_a_path_that_zooms_zooms_the_lens_of_the_world():
    held = walk_along("hold").world
    zoom = np.linspace(1, 3, 33)
    found = with_path_file(Walk(held, path_of("dolly_zoom")), "dolly_zoom", (48, 64), zoom=zoom)
    np.testing.assert_allclose(found.intrinsics[:, :2], zoom[:, None] * [[50, 52]], rtol=1e-6)
    np.testing.assert_array_equal(found.intrinsics[:, 2:], np.tile([31, 25], (33, 1)))
