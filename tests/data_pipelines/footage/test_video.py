"""Videos with cameras: which camera goes with which frame, and how often folders are listed."""

import os
import shutil

import numpy as np
import pytest

from helpers import made_footage
from helpers.footage_reading import forget
from helpers.footage_sources import made, refusal
from helpers.made_footage import FPS, FRAMES, SIZE, room


@pytest.fixture(autouse=True)
def anew():
    forget()


@pytest.fixture
def walk(tmp_path):
    root = tmp_path / "walk"
    root.mkdir()
    made_footage.video(root, room(), sound=False)
    return root


def test_cameras_with_times_go_with_the_frames_of_these_times(walk):
    """As many cameras as frames, and yet the first is that of the third frame."""
    poses = room().cam2world
    np.savez(walk / "walk.npz", cam2world=poses, timestamps=(np.arange(FRAMES) + 2) / FPS)
    (walk / "walk.txt").unlink()
    source = made(walk, size=SIZE, frames=10, eval_share=0.0)
    clip = source.clip("walk.mp4", 0)
    np.testing.assert_array_equal(clip.cam2world, poses[:10])
    assert clip.provenance["frames"] == [0, 9]
    assert np.abs(clip.video.astype(int) - room().video[2:]).max() <= 4
    np.testing.assert_allclose(clip.times, np.arange(2, 12) / FPS, rtol=1e-12)
    expected = {"no camera at its time": 2, "camera without a frame at its time": 2}
    assert source.left_out() == expected


@pytest.mark.parametrize(("first", "scale"), [(0, 1.0), (1, 1.0), (0, 1e-6)])
def test_numbers_in_the_place_of_times_go_one_by_one(walk, first, scale):
    times = (np.arange(FRAMES) + first) * scale
    np.savez(walk / "walk.npz", cam2world=room().cam2world, timestamps=times)
    (walk / "walk.txt").unlink()
    clip = made(walk, frames=FRAMES, eval_share=0.0).clip("walk.mp4", 0)
    np.testing.assert_array_equal(clip.cam2world, room().cam2world)


def test_a_rate_is_not_taken_for_times(walk):
    """Mirage's geometry.npz of another rate than the video, and as many poses as frames."""
    lens = np.tile([[48.0, 0, 24], [0, 48, 24], [0, 0, 1]], (FRAMES, 1, 1))
    cameras = {"poses_c2w": room().cam2world, "intrinsics": lens, "fps": np.float32([24])}
    np.savez(walk / "geometry.npz", processed_size=np.int32([SIZE, SIZE]), **cameras)
    (walk / "walk.txt").unlink()
    clip = made(walk, frames=FRAMES, eval_share=0.0).clip("walk.mp4", 0)
    np.testing.assert_array_equal(clip.cam2world, room().cam2world)


def test_times_that_do_not_increase_are_refused(walk):
    times = np.arange(FRAMES) / FPS
    times[5] = times[4]
    np.savez(walk / "walk.npz", cam2world=room().cam2world, timestamps=times)
    (walk / "walk.txt").unlink()
    message = refusal(made(walk, eval_share=0.0))
    assert "walk.npz: camera 5: found 0.400000 s again, expected increasing" in message


def test_the_licence_is_that_of_the_video_its_folder_or_the_root(walk):
    def licences():
        forget()
        source = made(walk.parent, eval_share=0.0)
        return {scene: source.open(scene).licence for scene in source.scenes()}

    folder = walk.parent / "other"
    shutil.copytree(walk, folder)
    assert licences() == {"other/walk.mp4": None, "walk/walk.mp4": None}
    (walk.parent / "licence.txt").write_text("of the root\n")
    (folder / "licence.txt").write_text("of the folder\n")
    assert licences() == {"other/walk.mp4": "of the folder", "walk/walk.mp4": "of the root"}
    (folder / "walk.licence.txt").write_text("its own\n")
    assert licences() == {"other/walk.mp4": "its own", "walk/walk.mp4": "of the root"}
    assert (
        made(walk / "walk.mp4").open("walk.mp4").licence is None
    )  # neither its own nor its folder's
    (walk / "licence.txt").write_text("of the folder\n")
    forget()
    assert made(walk / "walk.mp4").open("walk.mp4").licence == "of the folder"


def listings(monkeypatch):
    """Every folder that is listed from now on, by whatever function."""
    listed = []

    def counted(function):
        def listing(path="."):
            listed.append(os.path.abspath(path))
            return function(path)

        return listing

    for name in ("listdir", "scandir"):
        monkeypatch.setattr(os, name, counted(getattr(os, name)))
    return listed


def test_opening_every_video_of_a_folder_does_not_list_it_again(walk, monkeypatch):
    for number in range(300):
        (walk / f"{number}.mp4").touch()
        shutil.copy(walk / "walk.txt", walk / f"{number}.txt")
    listed = listings(monkeypatch)
    source = made(walk, format="video", eval_share=0.0)
    counts = source.clip_counts("train")
    assert len(counts) == 301 and counts["walk.mp4"] == 4
    assert listed.count(str(walk)) <= 3


def test_ten_thousand_files_of_any_layout_are_listed_a_few_times(tmp_path, monkeypatch):
    """The layout is looked for, too: every kind of footage looks into every folder."""
    made_footage.transforms(tmp_path, room())
    images = tmp_path / "room" / "images"
    for number in range(10_000):
        (images / f"other {number:05d}.jpg").touch()
    listed = listings(monkeypatch)
    source = made(tmp_path, lens=(), size=SIZE, eval_share=0.0)
    assert source.worlds("train") == ("room",)
    clip = source.clip("room", 3)
    np.testing.assert_allclose(clip.cam2world, room().cam2world[9:12], atol=1e-6)
    assert clip.provenance["format"] == "pictures"
    for folder in (tmp_path, tmp_path / "room", images):
        assert 0 < listed.count(str(folder)) <= 20
    assert len(listed) <= 60
