"""Frames of videos by number, whatever the container, the codec and the times."""

import itertools

import av
import numpy as np
import pytest

from helpers.made_footage import FPS, write_video
from mirage_jax.io.video import read_video
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
    "open_groups.mp4": {"x264-params": "open-gop=1:keyint=9:bframes=3:scenecut=0"},
    "refreshed.mp4": {"x264-params": "intra-refresh=1:keyint=9:bframes=0"},
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


@pytest.mark.parametrize("name", ["titled.mp4", "titled.mkv"])
def test_texts_may_be_of_any_character_set(name, tmp_path):
    path = tmp_path / name
    with av.open(str(path), "w") as container:
        container.metadata["title"] = "caf~ on the corner"
        stream = container.add_stream("mpeg4", rate=FPS, width=64, height=32)
        for picture in PICTURES[:5]:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    written = path.read_bytes()
    assert b"caf~ on" in written
    path.write_bytes(written.replace(b"caf~ on", "caf\xe9 on".encode("latin-1")))
    assert [number_of(picture) for picture in VideoFrames(path).read([0, 4])] == [0, 4]
    assert len(read_video(path)[0]) == 5


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


def waves(number, height=96, width=128):
    """A picture of colours that move from frame to frame."""
    y, x = np.mgrid[:height, :width]
    colours = 128 + 100 * np.sin((x + 3 * number) / 9), 128 + 100 * np.cos((y - 2 * number) / 7)
    return np.stack([*colours, (2 * x + y + number) % 256], -1).clip(0, 255).astype(np.uint8)


def test_damage_that_a_decoder_would_hide_is_named(tmp_path):
    """Bytes flipped in the middle of an H.264 stream: FFmpeg makes up what they spoil."""
    film = [waves(number) for number in range(30)]
    whole = write_video(tmp_path / "whole.mp4", film, pixels="yuv420p", g="10", bf="2", qp="22")
    with av.open(str(whole)) as container:
        packets = [p for p in container.demux(video=0) if p.size]
        hit = next(p for p in packets[13:] if not p.is_disposable)  # others are made from it
        place, number = hit.pos + hit.size // 2, round(hit.pts * hit.time_base * FPS)
    data = bytearray(whole.read_bytes())
    for at in range(place, place + 8):
        data[at] ^= 0x5A
    path = tmp_path / "damaged.mp4"
    path.write_bytes(bytes(data))
    with av.open(str(path)) as container:  # it does decode, to as many frames
        assert sum(1 for _ in container.decode(video=0)) == 30
    video, truth = VideoFrames(path), VideoFrames(whole)
    assert 10 < number < 20 and len(video) == 30
    with pytest.raises(ValueError, match=rf"damaged\.mp4: frame {number}: damaged, .*expected"):
        list(video.read([number]))
    with pytest.raises(ValueError, match=rf"frame 19: made from frame {number}, which is damaged"):
        list(video.read([3, 19]))
    for frame in (*range(10), *range(20, 30)):  # groups of pictures that it is not in
        (found,), (expected,) = video.read([frame]), truth.read([frame])
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("name", ["a.mkv", "a.webm"])
def test_a_file_without_a_count_that_ends_early_is_refused(tmp_path, name):
    codec = "libvpx-vp9" if name == "a.webm" else "libx264"
    sound = name == "a.mkv"
    path = write_video(tmp_path / name, PICTURES, codec=codec, pixels="yuv420p", audio=sound, g="9")
    assert len(VideoFrames(path)) == COUNT
    data = path.read_bytes()
    path.write_bytes(data[: len(data) * 3 // 5])
    refused(path, "truncated, found", "expected 4.00 s by its header")


def test_only_times_are_kept_while_a_file_is_indexed(tmp_path, monkeypatch):
    """However long the video: two packets at most are alive at a time."""
    path = write_video(tmp_path / "a.mp4", PICTURES[:2])
    alive, most = 0, 0

    class Packet:
        size, is_corrupt, is_discard, is_keyframe = 1, False, False, True

        def __init__(self, pts):
            nonlocal alive, most
            self.pts, alive = pts, alive + 1
            most = max(most, alive)

        def __del__(self):
            nonlocal alive
            alive -= 1

    video = VideoFrames(path)
    with av.open(str(path)) as container:
        stream = container.streams.video[0]

        class Container:
            streams, format = container.streams, av.ContainerFormat("matroska")

            def demux(self, _):
                return (Packet(pts) for pts in range(5000))

        monkeypatch.setattr(type(video), "_check_pixels", lambda *_: None)
        assert stream.frames == 2
        video._read_index(Container())
    assert len(video) == 5000 and most <= 2


FLIPS = {
    (1, 0, 0, 1): lambda p: p,
    (-1, 0, 0, 1): lambda p: p[:, ::-1],  # as the camera on the front of a phone has it
    (1, 0, 0, -1): lambda p: p[::-1],
    (-1, 0, 0, -1): lambda p: p[::-1, ::-1],
    (0, 1, 1, 0): lambda p: p.transpose(1, 0, 2),
    (0, -1, -1, 0): lambda p: p[::-1, ::-1].transpose(1, 0, 2),
    (0, 1, -1, 0): lambda p: np.rot90(p, -1),
    (0, -1, 1, 0): lambda p: np.rot90(p),
}


def with_matrix(path, frames, matrix):
    """A video whose track header has this display matrix (ISO 14496-12, 8.3.2)."""
    write_video(path, frames)
    data = bytearray(path.read_bytes())
    whole = np.array([65536, 0, 0, 0, 65536, 0, 0, 0, 1 << 30], ">i4").tobytes()
    at = data.index(whole, data.index(b"tkhd"))
    a, b, c, d = (round(65536 * number) for number in matrix)
    data[at : at + 36] = np.array([a, b, 0, c, d, 0, 0, 0, 1 << 30], ">i4").tobytes()
    path.write_bytes(bytes(data))
    return path


@pytest.mark.parametrize("matrix", FLIPS)
def test_pictures_are_mirrored_and_turned_as_the_file_says(matrix, tmp_path):
    film = [waves(number, 32, 64) for number in range(3)]
    video = VideoFrames(with_matrix(tmp_path / "a.mp4", film, matrix))
    expected = FLIPS[matrix](film[1])
    (picture,) = video.read([1])
    assert video.size == expected.shape[:2]
    assert np.abs(picture.astype(int) - expected).max() <= 4


def test_pictures_at_an_angle_or_of_oblong_pixels_are_refused(tmp_path):
    turned = np.array([np.cos(0.5), np.sin(0.5), -np.sin(0.5), np.cos(0.5)])
    path = with_matrix(tmp_path / "a.mp4", PICTURES[:2], turned)
    refused(path, "matrix 1.000, 0.546, -0.546, 1.000, expected quarter turns", "ffmpeg")
    wide = write_video(tmp_path / "wide.mp4", PICTURES[:2], aspect="4/3")
    refused(wide, "found pixels of 4:3, expected square ones", "setsar=1")


@pytest.mark.parametrize("pixels", ["yuv444p10le", "yuv420p10le"])
def test_colours_of_ten_bits_are_right(pixels, tmp_path):
    """Patches of plain colour, in the limited range that video has."""
    colours = np.uint8(
        [(0, 0, 0), (255, 255, 255), (128, 128, 128), (64, 64, 64), (255, 0, 0), (0, 255, 0),
         (0, 0, 255), (200, 120, 40)]
    )  # fmt: skip
    picture = np.broadcast_to(np.repeat(colours, 16, 0), (32, 128, 3))
    path = write_video(tmp_path / "a.mp4", [picture] * 2, pixels=pixels)
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).format.name == pixels
    (found,) = VideoFrames(path).read([1])
    middle = found[16, 8::16].astype(int)
    assert found.dtype == np.uint8 and np.abs(middle - colours).max() <= 3


def test_numbers_that_are_none_of_its_frames_are_refused(tmp_path):
    video = VideoFrames(write_video(tmp_path / "a.mp4", PICTURES[:4]))
    assert list(video.read([])) == []
    with pytest.raises(IndexError, match=r"frames 2 to 4 of 4"):
        list(video.read([2, 4]))
    for wanted in itertools.permutations((1, 2), 2):
        if list(wanted) != [1, 2]:
            with pytest.raises(ValueError, match="expected strictly increasing"):
                list(video.read(wanted))
