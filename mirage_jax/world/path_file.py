"""What a camera file holds beside poses: when each frame of a path was taken."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
from jaxtyping import Float

from mirage_jax.io import camera_files

SLOWEST, FASTEST = 0.01, 1000.0
"""Frames per second beyond which times are probably no seconds."""
UNEVEN = 0.1
"""Share of the mean by which gaps between frames may differ and count as even."""


@dataclasses.dataclass(frozen=True)
class PathFile:
    """What is known of a path that was read from a file, or (by default) that was not.

    Attributes:
      times: seconds of each frame on the file's clock, rising; None if it has none to go by.
      even: whether frames are evenly spaced.
      said: what was found and what becomes of it, a line for each, for people.
    """

    times: Float[np.ndarray, " f"] | None = None
    even: bool = True
    said: tuple[str, ...] = ()

    @property
    def fps(self) -> float | None:
        """Mean frames per second; None without times."""
        if self.times is None:
            return None
        return float((len(self.times) - 1) / (self.times[-1] - self.times[0]))


NO_FILE = PathFile()


def of_record(
    path: str | Path,
    record: camera_files.CameraRecord,
    frames: int = 0,
    *,
    fps: float | None = None,
    zooms: bool = False,
) -> PathFile:
    """What stands beside the poses of a camera file.

    Times that count frames (0, 1, 2, ...), as in TUM files of `trajectories.save`, are none. Others
    that cannot be used are not refused: the poses are good without them, and `said` says so.

    Args:
      path: of the file, for people.
      record: what it holds.
      frames: how many of the first are wanted; 0: all.
      fps: frames per second that are asked for in place of the file's times.
      zooms: whether its intrinsics are used, as they change from frame to frame.
    """
    found = NO_FILE
    if record.timestamps is not None:
        found = _of_times(path, record.timestamps[: frames or None], fps)
    if record.intrinsics is None or zooms:
        return found
    line = f"{path}: its intrinsics are not used: frames have the lens that the world began with"
    return dataclasses.replace(found, said=(*found.said, line))


def _of_times(path: str | Path, times: np.ndarray, fps: float | None) -> PathFile:
    if len(times) < 2 or np.array_equal(times, np.arange(len(times))):
        return NO_FILE
    gaps = np.diff(times)
    if fps is not None:
        reason = f"times, mean {gaps.mean():.3g} s apart, are not used: --fps={fps:g}"
    elif (gaps <= 0).any():
        reason = f"times are not used: they do not rise at frame {int(np.argmax(gaps <= 0)) + 1}"
    elif not 1 / FASTEST < gaps.mean() < 1 / SLOWEST:
        reason = (
            f"times are not used: found frames {gaps.mean():.3g} apart, expected seconds at "
            f"{SLOWEST:g} to {FASTEST:g} frames per second"
        )
    else:
        found = PathFile(times, bool(np.abs(gaps / gaps.mean() - 1).max() <= UNEVEN))
        line = f"{path}: its times give {found.fps:.4g} frames per second"
        if not found.even:
            line += (
                f"; frames lie {gaps.min():.3g} to {gaps.max():.3g} s apart, but the model and the "
                "video take them as evenly spaced"
            )
        return dataclasses.replace(found, said=(line,))
    return PathFile(said=(f"{path}: its {reason}",))
