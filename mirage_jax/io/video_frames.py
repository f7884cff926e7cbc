"""Frames of a video file by number: seekable, exact to the frame, with their times.

Nothing here imports jax: recording and loading workers use it.
"""

from __future__ import annotations

import itertools
import math
import os
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import av
import numpy as np
from jaxtyping import Float, UInt8

from mirage_jax.io.av_files import open_video

_ASKEW = 0.01
"""How far from 0 and 1 the numbers of a display matrix may be: half a degree."""
_CLOCK = re.compile(r"(\d+):(\d+):(\d+(?:\.\d+)?)")


class VideoFrames:
    """Random access to the frames of a video, in the order in which they are shown.

    Frames are numbered by their timestamps, so that a variable frame rate is no special case, and
    turned or mirrored as the file says. 10-bit and limited-range colours become 8-bit RGB by the
    matrix that the file names; high dynamic range is not tone-mapped. Sound is not read.

    Attributes:
      path: of the file.
      times: float64 [frames], seconds since the first frame, strictly increasing.
      size: (H, W) of the frames as shown.
    """

    def __init__(self, path: str | os.PathLike[str]):
        """Reads the file's index; no picture but the first is decoded.

        Raises:
          ValueError: naming the file, if it does not exist, is not a video, is truncated, has no or
            repeated timestamps, pixels that are not square, or is shown at an angle.
        """
        self.path = Path(path)
        if not self.path.is_file():
            raise ValueError(f"{path}: no such file, expected a video")
        if self.path.stat().st_size == 0:
            raise ValueError(f"{path}: found an empty file, expected a video")
        try:
            with open_video(path) as container:
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
        self._check_pixels(stream)
        shown: list[int | None] = []
        keys: list[int] = []
        count, broken = 0, -1
        for packet in container.demux(stream):  # times alone are kept, not the packets
            if not packet.size:
                continue
            if packet.is_corrupt and broken < 0:
                broken = count
            count += 1
            if packet.is_keyframe and packet.pts is not None:
                keys.append(packet.pts)
            # An edit list may leave out what comes before the first frame that is shown.
            if not packet.is_discard:
                shown.append(packet.pts)
        # The header of an AVI file counts ticks, with or without a frame.
        expected = 0 if container.format.name == "avi" else stream.frames
        if broken >= 0 or count < expected:
            found = broken if broken >= 0 else count
            raise ValueError(
                f"{self.path}: truncated, found {found} whole frames, expected {stream.frames} by "
                "its header"
            )
        if not shown:
            raise ValueError(f"{self.path}: found no frames, expected a video")
        self._stamps = sorted(stamp for stamp in shown if stamp is not None)
        if len(self._stamps) < len(shown):
            raise ValueError(
                f"{self.path}: found frames without timestamps, expected one for each: rewrite it, "
                "as with `ffmpeg -fflags +genpts -i in -c copy out.mp4`"
            )
        self._keys = sorted(keys)
        repeated = np.flatnonzero(np.diff(self._stamps) == 0)
        if repeated.size:
            raise ValueError(
                f"{self.path}: found the time of frame {repeated[0]} again at frame "
                f"{repeated[0] + 1}, expected increasing times"
            )
        stamps = np.array(self._stamps, np.float64) - self._stamps[0]
        self.times: Float[np.ndarray, " frames"] = stamps * float(stream.time_base)
        self._check_duration(_stated_seconds(container, stream), float(stream.time_base))

    def _check_pixels(self, stream: Any) -> None:
        ratio = stream.sample_aspect_ratio
        if ratio and abs(math.log(ratio)) > _ASKEW:
            raise ValueError(
                f"{self.path}: found pixels of {ratio.numerator}:{ratio.denominator}, expected "
                "square ones: rewrite it, as with `ffmpeg -i in -vf scale=iw*sar:ih,setsar=1 "
                "out.mp4`"
            )

    def _check_duration(self, stated: float, tick: float) -> None:
        """Refuses a file without a count of its frames that ends before its header says."""
        end = self._stamps[-1] * tick
        # How long the last frame is shown is not known; two of the longest before it are.
        slack = 2 * max(float(np.diff(self.times).max(initial=0.0)), 0.05)
        if stated - end > slack:
            raise ValueError(
                f"{self.path}: truncated, found {len(self)} frames that end at {end:.2f} s, "
                f"expected {stated:.2f} s by its header"
            )

    def read(self, frames: Sequence[int]) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Yields the frames asked for, in increasing order of their numbers.

        Args:
          frames: numbers from 0, strictly increasing.

        Raises:
          IndexError: a number that the video does not have.
          ValueError: numbers that do not increase; a frame that cannot be decoded, or of which the
            decoder had to make up a part (names the file and the frame); a frame of another size
            than the first.
        """
        wanted = [int(frame) for frame in frames]
        if any(b <= a for a, b in itertools.pairwise(wanted)):
            raise ValueError(f"frames: found {wanted}, expected strictly increasing numbers")
        if wanted and not 0 <= wanted[0] <= wanted[-1] < len(self):
            raise IndexError(f"{self.path}: frames {wanted[0]} to {wanted[-1]} of {len(self)}")
        done, damage = 0, [f"found no frame {{}} of {len(self)} when decoding"]
        with open_video(self.path) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            for start in self._starts(self._stamps[wanted[0]] if wanted else 0):
                targets = [self._stamps[frame] for frame in wanted[done:]]
                if not targets:
                    return
                for picture in self._decode(container, stream, start, targets, damage):
                    yield self._checked(picture, wanted[done])
                    done += 1
        if done < len(wanted):
            said = damage[-1].format(wanted[done])
            raise ValueError(f"{self.path}: {said}, expected a whole video")

    def _starts(self, target: int) -> Iterator[int]:
        """Where to begin to decode: at the keyframe before, and if that will not do, before it."""
        before = [key for key in self._keys if key <= target]
        yield from reversed(before[-2:])
        # Not the first frame's own time: the decoder may need what lies before it.
        yield from [] if len(before) < 2 else [min(self._keys[0], self._stamps[0])]

    def _decode(
        self, container: Any, stream: Any, start: int, targets: list[int], damage: list[str]
    ) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """The pictures with these times from a keyframe on, as many as come whole without a gap.

        Decoders hide damage: they fill what is lost with what was there before, and mark the frame.
        What it was that ended the pictures is added to `damage`.
        """
        remaining = iter(targets)
        target = next(remaining)
        damaged: int | None = None
        try:
            container.seek(start, stream=stream, backward=True)
            for frame in container.decode(stream):
                if frame.pts is None:
                    continue
                if frame.is_corrupt and frame.pts >= start:
                    damaged = frame.pts
                elif frame.key_frame:
                    damaged = None
                if frame.pts < target:
                    continue
                if damaged is not None:
                    damage.append(self._damage_of(damaged, target))
                    return
                if frame.pts > target:
                    return
                yield self._as_shown(frame)
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

    def _damage_of(self, stamp: int, target: int) -> str:
        """What to say of a frame that is damaged, or made from one that is."""
        frame = self._stamps.index(target)
        said = f"frame {frame}: damaged, its decoder made up a part of it"
        if stamp == target or stamp not in self._stamps:
            return said
        return f"frame {frame}: made from frame {self._stamps.index(stamp)}, which is damaged"

    def _as_shown(self, frame: Any) -> np.ndarray:
        """A picture turned and mirrored by the display matrix of its file."""
        picture = frame.to_ndarray(format="rgb24")
        matrix = frame.side_data.get("DISPLAYMATRIX")
        if matrix is None:
            return picture
        return self._placed(picture, np.frombuffer(bytes(matrix)[:36], np.int32))

    def _placed(self, picture: np.ndarray, matrix: np.ndarray) -> np.ndarray:
        """A picture whose pixel (x, y) is shown at (a x + c y, b x + d y), y downward."""
        a, b, _, c, d = (matrix[:5] / max(float(np.abs(matrix[:5]).max()), 1.0)).tolist()
        small = _ASKEW
        if max(abs(b), abs(c)) < small and min(abs(a), abs(d)) > 1 - small:
            columns, rows = a, d
        elif max(abs(a), abs(d)) < small and min(abs(b), abs(c)) > 1 - small:
            picture = picture.transpose(1, 0, 2)
            columns, rows = c, b
        else:
            numbers = ", ".join(f"{number:.3f}" for number in (a, b, c, d))
            raise ValueError(
                f"{self.path}: found pictures shown by the matrix {numbers}, expected quarter "
                "turns and mirrorings: rewrite it, as with `ffmpeg -i in out.mp4`"
            )
        return picture[:: -1 if rows < 0 else 1, :: -1 if columns < 0 else 1]

    def _checked(self, picture: np.ndarray, frame: int) -> np.ndarray:
        size = getattr(self, "size", picture.shape[:2])
        if picture.shape[:2] != size:
            raise ValueError(
                f"{self.path}: frame {frame}: found {picture.shape[0]} x {picture.shape[1]} "
                f"pixels, expected {size[0]} x {size[1]} as the first frame"
            )
        return np.ascontiguousarray(picture)


def _stated_seconds(container: Any, stream: Any) -> float:
    """When Matroska's tags say that a stream ends; 0.0 where they do not."""
    found = _CLOCK.match(stream.metadata.get("DURATION", ""))
    if found is None or "matroska" not in container.format.name:
        return 0.0
    return 3600 * int(found[1]) + 60 * int(found[2]) + float(found[3])
