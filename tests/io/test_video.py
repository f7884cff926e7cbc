"""Writing and reading mp4 files, and what is said of files that are not whole videos."""

import numpy as np
import pytest

from mirage_jax.io.video import VideoWriter, read_video, write_video


def _gradient(frames, height, width):
    """Smooth moving pictures, which a codec keeps to a few grey levels."""
    t, y, x = np.meshgrid(*(np.arange(n) for n in (frames, height, width)), indexing="ij")
    planes = [np.sin((x + 3 * t) / 9), np.cos(y / 7), np.sin((x - y + t) / 11)]
    return (128 + 90 * np.stack(planes, -1)).astype(np.uint8)


def test_small_pictures_come_back_enlarged_and_alike(tmp_path):
    frames = _gradient(9, 32, 40)
    path = write_video(tmp_path / "clip.mp4", frames, 12)
    loaded, fps = read_video(path)
    assert loaded.shape == (9, 256, 320, 3)
    assert fps == 12
    error = np.abs(loaded[:, 4::8, 4::8].astype(int) - frames)
    assert error.mean() < 3
    assert [p.name for p in tmp_path.iterdir()] == ["clip.mp4"]


def test_odd_sizes_are_padded_by_their_edge_and_frames_can_be_limited(tmp_path):
    frames = _gradient(6, 33, 47)
    loaded, fps = read_video(write_video(tmp_path / "a.mp4", frames, 29.97, scale=1), max_frames=4)
    assert loaded.shape == (4, 34, 48, 3)
    assert fps == pytest.approx(29.97, abs=0.01)


def test_parts_make_the_same_video_as_one_call(tmp_path):
    frames = _gradient(7, 32, 32)
    whole = write_video(tmp_path / "whole.mp4", frames, 8)
    with VideoWriter(tmp_path / "parts.mp4", fps=8, size=(32, 32)) as video:
        video.write(frames[:3])
        assert not (tmp_path / "parts.mp4").exists()
        video.write(frames[3:])
    np.testing.assert_array_equal(read_video(tmp_path / "parts.mp4")[0], read_video(whole)[0])


def test_a_rollout_that_fails_leaves_the_old_video(tmp_path):
    path = tmp_path / "old.mp4"
    path.write_bytes(b"old")
    with (
        pytest.raises(ValueError, match=r"found frames of \(8, 8\), expected \(32, 32\)"),
        VideoWriter(path, fps=8, size=(32, 32)) as video,
    ):
        video.write(_gradient(2, 32, 32))
        video.write(_gradient(2, 8, 8))
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["old.mp4"]


@pytest.mark.parametrize(
    ("frames", "fps", "scale", "message"),
    [
        (0, 8, None, "found 0 frames"),
        (2, 0, None, "fps: found 0"),
        (2, 0.0001, None, r"fps: found 0\.0001, expected from 0\.01 to 1000"),
        (2, 1e6, None, "fps: found 1000000"),
        (2, float("inf"), None, "fps: found inf"),
        (2, 8, 0, "scale: found 0"),
    ],
)
def test_a_bad_request_leaves_the_old_file_alone(tmp_path, frames, fps, scale, message):
    path = tmp_path / "old.mp4"
    path.write_bytes(b"old")
    with pytest.raises(ValueError, match=message):
        write_video(path, np.zeros((frames, 16, 16, 3), np.uint8), fps, scale=scale)
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["old.mp4"]


def test_files_that_are_not_videos(tmp_path):
    with pytest.raises(ValueError, match=r"nothing\.mp4: no such file"):
        read_video(tmp_path / "nothing.mp4")
    text = tmp_path / "text.mp4"
    text.write_text("not a video at all" * 50)
    with pytest.raises(ValueError, match=r"text\.mp4: not a readable video"):
        read_video(text)


@pytest.mark.parametrize("share", [0.05, 0.4, 0.8])
def test_a_truncated_video_is_noticed(tmp_path, share):
    noise = np.random.default_rng(0).integers(0, 256, (20, 64, 64, 3), dtype=np.uint8)
    whole = write_video(tmp_path / "whole.mp4", noise, 8, scale=1).read_bytes()
    path = tmp_path / "cut.mp4"
    path.write_bytes(whole[: int(share * len(whole))])
    with pytest.raises(ValueError, match=r"cut\.mp4: (truncated|damaged|not a readable|found no)"):
        read_video(path)


@pytest.mark.parametrize("name", ["file:a.mp4", "http:b.mp4", "pipe:1.mp4", "c, d.mp4", "E.MP4"])
def test_a_name_is_a_name_whatever_is_in_it(tmp_path, monkeypatch, name):
    monkeypatch.chdir(tmp_path)
    frames = np.zeros((2, 16, 16, 3), np.uint8)
    write_video(name, frames, 8, scale=1)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert read_video(name)[0].shape == frames.shape
