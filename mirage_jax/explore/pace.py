"""Frames a second of a walk: as many as server and page make in time, and no more.

Above that chunks come late, and the walk goes on in jerks; below it one waits longer for a key than
one had to, as a chunk lasts longer.
"""

from __future__ import annotations

import collections

import numpy as np

LEAST, MOST = 8.0, 30.0
"""Bounds of a pace that is chosen: slower, a chunk of four frames lasts over half a second; faster,
one gains little, and the same way takes more chunks, each with its own errors."""

WINDOW = 32
"""Newest chunks that are looked at."""
IN_TIME = 0.8
"""Share of them that is to come in time: what takes long once in a while changes nothing."""
PATIENCE = 16
"""Chunks between two changes, at least."""
LESS, MORE = 0.9, 1.2
"""Ratios of the possible pace to the present one from which on it changes: what lies between is
left alone, so that times that vary do not make it swing."""
UNKNOWN = 1.5
"""What sending and drawing may add to a chunk's time, as a factor, before anyone walked."""


class Pace:
    """A walk's frames a second.

    Attributes:
      fps: frames a second now.
      fixed: whether it stays.
    """

    def __init__(self, fps: float, *, fixed: bool = True) -> None:
        self.fps, self.fixed = fps, fixed
        self._seconds: collections.deque[float] = collections.deque(maxlen=WINDOW)

    def took(self, seconds: float, frames: int) -> None:
        """Brings in a chunk.

        Args:
          seconds: from when the page was ready for it until it was drawn.
          frames: new ones in it.
        """
        if self.fixed or seconds <= 0:
            return
        self._seconds.append(seconds)
        if len(self._seconds) < PATIENCE:
            return
        possible = bounded(frames / float(np.quantile(self._seconds, IN_TIME)))
        if not LESS <= possible / self.fps <= MORE:
            # Up by half of the way, as faster pages and servers are busier and so get slower.
            way = 1.0 if possible < self.fps else 0.5
            self.fps = bounded(float(round(self.fps * (possible / self.fps) ** way)))
            self._seconds.clear()


def first(seconds: float, frames: int) -> float:
    """The pace to begin with, where making a chunk of so many frames takes so long."""
    return bounded(float(round(frames / (UNKNOWN * seconds))))


def bounded(fps: float) -> float:
    """The nearest pace that can be chosen."""
    return min(max(fps, LEAST), MOST)
