"""Videos as files: mp4 (H.264) written and read with PyAV."""

from __future__ import annotations

import contextlib
import math
import os
import sys
from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.video.stream import VideoStream
from jaxtyping import UInt8

from mirage_jax.io.atomic import replacing
from mirage_jax.io.av_files import open_video

_SMALL = 256
_FASTEST = 1000
_CODECS = ("libx264", "libopenh264", "mpeg4")


def write_video(
    path: str | os.PathLike,
    frames: UInt8[np.ndarray, "T H W 3"],
    fps: float | int,
    *,
    scale: int | None = None,
    crf: int = 16,
) -> Path:
    """Writes an mp4, through a temporary file so that an existing one is not damaged by a failure.

    Args:
      path: where to; its folder must exist.
      frames: uint8 RGB.
      fps: frames per second.
      scale: enlarge by this whole factor without smoothing. The default enlarges small pictures
        to at least 256 pixels: players blur them otherwise, and H.264 stores colour at half
        resolution.
      crf: quality of the encoder, lower is better (x264: 18 is visually lossless).
    Raises:
      ValueError: if there are no frames, or fps or scale is not positive.
    """
    if len(frames) == 0:
        raise ValueError("video: found 0 frames, expected at least one")
    with VideoWriter(path, fps=fps, size=frames.shape[1:3], scale=scale, crf=crf) as video:
        video.write(frames)
    return Path(path)


class VideoWriter:
    """Writes a video part by part, as a rollout makes it, in constant memory.

        with VideoWriter("walk.mp4", fps=10, size=(64, 64)) as video:
            video.write(frames)

    The file appears under its name when the block ends without an error.
    """

    def __init__(
        self,
        path: str | os.PathLike,
        *,
        fps: float | int,
        size: tuple[int, int],
        scale: int | None = None,
        crf: int = 16,
    ):
        """Arguments as for `write_video`; `size` is (H, W) of the frames."""
        self.path = Path(path)
        self._options = (fps, size, scale, crf)

    def __enter__(self) -> VideoWriter:
        self._stack = contextlib.ExitStack()
        partial = self._stack.enter_context(replacing(self.path))
        self._encoder = _Encoder(str(partial), *self._options)
        return self

    def write(self, frames: UInt8[np.ndarray, "T H W 3"]) -> None:
        """Appends frames.

        Raises:
          ValueError: if they are not of the video's size.
        """
        self._encoder.add(frames)

    def __exit__(self, *error: Any) -> None:
        try:
            self._encoder.close(finish=error[0] is None)
        except BaseException:
            self._stack.__exit__(*sys.exc_info())
            raise
        self._stack.__exit__(*error)


def _frame_rate(fps: float | int) -> Fraction:
    """The rate as mp4 stores it; ValueError if that would be another one."""
    if not 0 < fps < math.inf:
        raise ValueError(f"fps: found {fps}, expected a positive number")
    rate = Fraction(fps).limit_denominator(1001)
    if abs(rate - Fraction(fps)) > Fraction(fps) / 100 or rate > _FASTEST:
        raise ValueError(f"fps: found {fps}, expected from 0.01 to {_FASTEST}")
    return rate


class _Encoder:
    """An open H.264 stream into a file."""

    def __init__(
        self,
        file: str,
        fps: float | int,
        size: tuple[int, int],
        scale: int | None,
        crf: int,
    ):
        rate = _frame_rate(fps)
        self._scale = max(1, -(-_SMALL // min(size))) if scale is None else scale
        if self._scale < 1:
            raise ValueError(f"scale: found {scale}, expected a positive whole number")
        height, width = size[0] * self._scale, size[1] * self._scale
        # H.264 with 4:2:0 colour needs even sizes; the last row or column is repeated.
        self._pad = ((0, height % 2), (0, width % 2), (0, 0))
        self._size = size
        # The index goes to the front, for players that stream.
        options = {"movflags": "+faststart"}
        # Absolute: FFmpeg takes what stands before a colon for a protocol.
        self._container = av.open(os.path.abspath(file), "w", format="mp4", options=options)
        codec = next(name for name in _CODECS if name in av.codecs_available)
        self._stream = stream = cast(VideoStream, self._container.add_stream(codec, rate=rate))
        stream.height, stream.width = height + height % 2, width + width % 2
        stream.pix_fmt = "yuv420p"
        if codec == "libx264":
            stream.options = {"crf": str(crf), "preset": "medium"}
        else:
            stream.bit_rate = int(4 * stream.height * stream.width * float(fps) / 8)

    def add(self, frames: UInt8[np.ndarray, "T H W 3"]) -> None:
        if tuple(frames.shape[1:3]) != tuple(self._size):
            raise ValueError(
                f"video: found frames of {frames.shape[1:3]}, expected {tuple(self._size)}"
            )
        for picture in frames:
            enlarged = picture.repeat(self._scale, axis=0).repeat(self._scale, axis=1)
            padded = np.pad(enlarged, self._pad, mode="edge")
            frame = av.VideoFrame.from_ndarray(padded, format="rgb24")
            self._container.mux(self._stream.encode(frame))

    def close(self, *, finish: bool) -> None:
        if finish:
            self._container.mux(self._stream.encode(None))
        self._container.close()


def read_video(
    path: str | os.PathLike, *, max_frames: int | None = None
) -> tuple[UInt8[np.ndarray, "T H W 3"], float]:
    """Reads a video file.

    Args:
      path: any container and codec FFmpeg knows.
      max_frames: stop after so many frames.
    Returns:
      Frames (uint8 RGB) and frames per second, 24 where the file does not say.
    Raises:
      ValueError: naming the file, if it does not exist, is not a video, or ends early.
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path}: no such file, expected a video")
    if max_frames is not None and max_frames < 1:
        raise ValueError(f"max_frames: found {max_frames}, expected at least 1")
    frames: list[np.ndarray] = []
    try:
        with open_video(path) as container:
            if not container.streams.video:
                raise ValueError(f"{path}: found no video stream, expected a video")
            stream = container.streams.video[0]
            declared = stream.frames
            fps = float(stream.average_rate or stream.base_rate or 0) or 24.0
            for frame in container.decode(stream):
                frames.append(frame.to_ndarray(format="rgb24"))
                if len(frames) == max_frames:
                    break
    except av.FFmpegError as error:
        if frames:
            raise ValueError(
                f"{path}: damaged after frame {len(frames)} ({error.strerror}), "
                "expected a whole video"
            ) from error
        raise ValueError(f"{path}: not a readable video ({error.strerror})") from error
    if not frames:
        raise ValueError(f"{path}: found no frames, expected a video")
    expected = declared if max_frames is None else min(declared, max_frames)
    if len(frames) < expected:
        raise ValueError(
            f"{path}: truncated, found {len(frames)} frames, expected {expected} by its header"
        )
    if len({frame.shape for frame in frames}) > 1:
        raise ValueError(f"{path}: frames differ in size, expected one size")
    return np.stack(frames), fps
