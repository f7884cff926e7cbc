"""Frames of a video file by number: seekable, exact to the frame, with their times.

Nothing here imports jax: recording and loading workers use it.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import Float, UInt8

_QUARTER_TURNS = {0: 0, 90: 1, 180: 2, -180: 2, -90: 3}


class VideoFrames:
    """Random access to the frames of a video, in the order in which they are shown.

    Frames are numbered by their timestamps, so that a variable frame rate is no special case, and
    turned the way up that the file says. 10-bit and limited-range colours become 8-bit RGB by the
    matrix that the file names; high dynamic range is not tone-mapped. Sound is not read.

    Attributes:
      path: of the file.
      times: float64 [frames], seconds since the first frame, strictly increasing.
      size: (H, W) of the frames as shown.
    """

    def __init__(self, path: str | os.PathLike[str]):
        """Reads the file's index; no picture but the first is decoded.

        Raises:
          ValueError: naming the file, if it does not exist, is not a video, is truncated, or has no
            or repeated timestamps.
        """
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(f"{path}: no such file, expected a video")
        if self.path.stat().st_size == 0:
            raise ValueError(f"{path}: found an empty file, expected a video")
        try:
            with av.open(os.fspath(path)) as container:
                self._read_index(container)
        except av.FFmpegError as error:
            raise ValueError(
                f"{path}: found no readable video, expected one ({error.strerror})"
            ) from error
        first = next(self.read([0]))
        self.size: tuple[int, int] = (first.shape[0], first.shape[1])

    def __len__(self) -> int:
        return len(self._stamps)

    def _read_index(self, container: Any) -> None:
        if not container.streams.video:
            raise ValueError(f"{self.path}: found no video stream, expected a video")
        stream = container.streams.video[0]
        packets = [packet for packet in container.demux(stream) if packet.size]
        broken = [number for number, packet in enumerate(packets) if packet.is_corrupt]
        # The header of an AVI file counts ticks, with or without a frame.
        expected = 0 if container.format.name == "avi" else stream.frames
        if broken or len(packets) < expected:
            found = broken[0] if broken else len(packets)
            raise ValueError(
                f"{self.path}: truncated, found {found} whole frames, expected {stream.frames} by "
                "its header"
            )
        # An edit list may leave out what comes before the first frame that is shown.
        shown = [packet for packet in packets if not packet.is_discard]
        if not shown:
            raise ValueError(f"{self.path}: found no frames, expected a video")
        if any(packet.pts is None for packet in shown):
            raise ValueError(
                f"{self.path}: found frames without timestamps, expected one for each: rewrite it, "
                "as with `ffmpeg -fflags +genpts -i in -c copy out.mp4`"
            )
        self._stamps = sorted(packet.pts for packet in shown)
        self._keys = sorted(packet.pts for packet in packets if packet.is_keyframe)
        repeated = np.flatnonzero(np.diff(self._stamps) == 0)
        if repeated.size:
            raise ValueError(
                f"{self.path}: found the time of frame {repeated[0]} again at frame "
                f"{repeated[0] + 1}, expected increasing times"
            )
        stamps = np.array(self._stamps, np.float64) - self._stamps[0]
        self.times: Float[np.ndarray, " frames"] = stamps * float(stream.time_base)

    def read(self, frames: Sequence[int]) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Yields the frames asked for, in increasing order of their numbers.

        Args:
          frames: numbers from 0, strictly increasing.

        Raises:
          IndexError: a number that the video does not have.
          ValueError: numbers that do not increase; a frame that cannot be decoded (names the file
            and the frame); a frame of another size than the first.
        """
        wanted = [int(frame) for frame in frames]
        if any(b <= a for a, b in itertools.pairwise(wanted)):
            raise ValueError(f"frames: found {wanted}, expected strictly increasing numbers")
        if wanted and not 0 <= wanted[0] <= wanted[-1] < len(self):
            raise IndexError(f"{self.path}: frames {wanted[0]} to {wanted[-1]} of {len(self)}")
        done = 0
        with av.open(os.fspath(self.path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for start in self._starts(self._stamps[wanted[0]] if wanted else 0):
                targets = [self._stamps[frame] for frame in wanted[done:]]
                if not targets:
                    return
                for picture in self._decode(container, stream, start, targets):
                    yield self._checked(picture, wanted[done])
                    done += 1
        if done < len(wanted):
            raise ValueError(
                f"{self.path}: found no frame {wanted[done]} of {len(self)} when decoding, "
                "expected a whole video"
            )

    def _starts(self, target: int) -> Iterator[int]:
        """Where to begin to decode: at the keyframe before, and if that will not do, before it."""
        before = [key for key in self._keys if key <= target]
        yield from reversed(before[-2:])
        # Not the first frame's own time: the decoder may need what lies before it.
        yield from [] if len(before) < 2 else [min(self._keys[0], self._stamps[0])]

    def _decode(
        self, container: Any, stream: Any, start: int, targets: list[int]
    ) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """The pictures with these times from a keyframe on, as many as come without a gap."""
        remaining = iter(targets)
        target = next(remaining)
        try:
            container.seek(start, stream=stream, backward=True)
            for frame in container.decode(stream):
                if frame.pts is None or frame.pts < target:
                    continue
                if frame.pts > target:
                    return
                yield np.rot90(
                    frame.to_ndarray(format="rgb24"), _QUARTER_TURNS.get(round(frame.rotation), 0)
                )
                following = next(remaining, None)
                if following is None:
                    return
                target = following
        except av.FFmpegError as error:
            frame_number = self._stamps.index(target)
            raise ValueError(
                f"{self.path}: damaged at or before frame {frame_number} ({error.strerror}), "
                "expected a whole video"
            ) from error

    def _checked(self, picture: np.ndarray, frame: int) -> np.ndarray:
        size = getattr(self, "size", picture.shape[:2])
        if picture.shape[:2] != size:
            raise ValueError(
                f"{self.path}: frame {frame}: found {picture.shape[0]} x {picture.shape[1]} "
                f"pixels, expected {size[0]} x {size[1]} as the first frame"
            )
        return np.ascontiguousarray(picture)
