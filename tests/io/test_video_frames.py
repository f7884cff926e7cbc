"""Frames of videos by number, whatever the container, the codec and the times."""

import itertools

import av
import numpy as np
import pytest

from helpers.made_footage import FPS, write_video
from mirage_jax.io.video_frames import VideoFrames

COUNT = 40


def numbered(number, height=32, width=64):
    """A picture with its number in black and white bars, legible after any encoder."""
    bars = [255 * (number >> bit & 1) for bit in range(8)]
    picture = np.repeat(np.uint8(bars), width // 8)[None, :, None]
    return np.broadcast_to(picture, (height, width, 3))


def number_of(picture):
    bars = picture[16].mean(-1).reshape(8, -1).mean(-1) > 128
    return sum(int(bar) << bit for bit, bar in enumerate(bars))


PICTURES = [numbered(i) for i in range(COUNT)]
KINDS = {
    "b_frames.mp4": {"bf": "3", "g": "12"},
    "one_keyframe.mp4": {"g": "250"},
    "ten_bits.mp4": {"pixels": "yuv420p10le", "qp": "12"},
    "x265.mp4": {"codec": "libx265", "pixels": "yuv420p", "x265-params": "log-level=none:keyint=9"},
    "vp9.webm": {"codec": "libvpx-vp9", "pixels": "yuv420p", "g": "9"},
    "old.avi": {"codec": "mpeg4", "pixels": "yuv420p"},
    "sound.mkv": {"audio": True, "g": "7"},
}


@pytest.mark.parametrize("name", KINDS)
def test_any_frames_come_exactly(name, tmp_path):
    video = VideoFrames(write_video(tmp_path / name, PICTURES, **KINDS[name]))
    assert len(video) == COUNT and video.size == (32, 64)
    np.testing.assert_allclose(video.times, np.arange(COUNT) / FPS, atol=2e-3)
    rng = np.random.default_rng(1)
    for wanted in (
        [0],
        [COUNT - 1],
        [3, 4, 5, 30],
        sorted(rng.choice(COUNT, 6, replace=False).tolist()),
    ):
        assert [number_of(picture) for picture in video.read(wanted)] == list(wanted)


def test_frames_of_a_variable_rate_have_their_times(tmp_path):
    steps = np.random.default_rng(0).choice([0.02, 0.04, 0.3], COUNT)
    times = np.round(np.cumsum(steps) - steps[0], 3)
    video = VideoFrames(write_video(tmp_path / "vfr.mkv", PICTURES, times=times, bf="2"))
    np.testing.assert_allclose(video.times, times, atol=1.1e-3)
    assert [number_of(picture) for picture in video.read([7, 9])] == [7, 9]


@pytest.mark.parametrize("angle", [90, 180, -90])
def test_frames_are_turned_as_the_file_says(angle, tmp_path):
    video = VideoFrames(write_video(tmp_path / "phone.mp4", PICTURES[:3], rotate=angle))
    expected = np.rot90(PICTURES[1], {90: 1, 180: 2, -90: 3}[angle])
    assert video.size == expected.shape[:2]
    (picture,) = video.read([1])
    assert np.abs(picture.astype(int) - expected).max() < 40


def test_a_quarter_turn_is_that_of_players(tmp_path):
    """The display matrix of a phone held upright: the first stored row is the right column."""
    path = write_video(tmp_path / "phone.mp4", PICTURES[5:6], rotate=-90)
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).rotation == -90
    (picture,) = VideoFrames(path).read([0])
    # Clockwise by a quarter: bars that stood from left to right lie from top to bottom.
    bars = picture.mean(-1).mean(-1).reshape(8, -1).mean(-1) > 128
    assert sum(int(bar) << bit for bit, bar in enumerate(bars)) == 5


def refused(path, *parts):
    with pytest.raises(ValueError, match="expected") as refusal:
        list(VideoFrames(path).read([0]))
    for part in (str(path), *parts):
        assert part in str(refusal.value)


def test_what_is_no_whole_video_is_refused(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (20, 32, 64, 3), np.uint8)
    whole = write_video(tmp_path / "a.mp4", noise, container={"movflags": "+faststart"})
    data = whole.read_bytes()
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(data[: len(data) * 2 // 3])
    refused(cut, "truncated", "expected 20 by its header")
    empty = tmp_path / "empty.mp4"
    empty.write_bytes(b"")
    refused(empty, "found an empty file")
    refused(tmp_path / "none.mp4", "no such file")
    with pytest.raises(ValueError, match=r"text\.mp4: found no readable video"):
        (tmp_path / "text.mp4").write_text("no video")
        VideoFrames(tmp_path / "text.mp4")
    loop = tmp_path / "loop.mp4"
    loop.symlink_to(loop)
    refused(loop, "no such file")


def test_a_damaged_frame_is_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (20, 32, 64, 3), np.uint8)
    path = write_video(tmp_path / "a.mkv", noise, codec="ffv1", pixels="bgr0")
    data = bytearray(path.read_bytes())
    start = len(data) * 3 // 5
    data[start : start + 4000] = bytes(4000)
    path.write_bytes(bytes(data))
    with pytest.raises(ValueError, match=r"a\.mkv: .*(frame|whole)"):
        list(VideoFrames(path).read(range(20)))


def test_numbers_that_are_none_of_its_frames_are_refused(tmp_path):
    video = VideoFrames(write_video(tmp_path / "a.mp4", PICTURES[:4]))
    assert list(video.read([])) == []
    with pytest.raises(IndexError, match=r"frames 2 to 4 of 4"):
        list(video.read([2, 4]))
    for wanted in itertools.permutations((1, 2), 2):
        if list(wanted) != [1, 2]:
            with pytest.raises(ValueError, match="expected strictly increasing"):
                list(video.read(wanted))
