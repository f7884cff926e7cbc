"""Where the time of a chunk goes, stage by stage."""

from __future__ import annotations

import collections
from collections.abc import Mapping

import numpy as np

KEPT = 256
"""Chunks of which times are kept."""


class Ledger:
    """Milliseconds of the newest chunks' stages: input, read, denoise, decode, geometry and write,
    encode, send, draw, or whatever is put in. Single denoising steps are measured once, before
    anyone walks, as no clock can look into the program that takes them all."""

    def __init__(self) -> None:
        self._times: dict[str, collections.deque[float]] = {}

    def add(self, stages: Mapping[str, float]) -> None:
        """Puts in what stages of one chunk took, milliseconds."""
        for name, milliseconds in stages.items():
            self._times.setdefault(name, collections.deque(maxlen=KEPT)).append(milliseconds)

    def summary(self) -> dict[str, dict[str, float]]:
        """By stage the median, the 95th percentile and how many there are, milliseconds."""
        return {
            name: {
                "median": round(float(np.median(times)), 3),
                "p95": round(float(np.percentile(times, 95)), 3),
                "count": len(times),
            }
            for name, times in self._times.items()
        }
