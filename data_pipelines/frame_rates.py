"""Frame rates of footage, by the times of its frames."""

import numpy as np
from jaxtyping import Float, Int


def native_fps(times: Float[np.ndarray, " n"]) -> float:
    """Frames per second by the median step; 1 for a single frame."""
    return round(float(1.0 / np.median(np.diff(times))), 6) if len(times) > 1 else 1.0


def nearest_to_rate(times: Float[np.ndarray, " n"], fps: float) -> Int[np.ndarray, " m"]:
    """Which times lie nearest to a regular grid from the first on, each once."""
    count = int(np.floor((times[-1] - times[0]) * fps + 1e-6)) + 1
    grid = times[0] + np.arange(count) / fps
    after = np.clip(np.searchsorted(times, grid), 1, max(len(times) - 1, 1))
    if len(times) == 1:
        return np.zeros(1, int)
    before = after - 1
    nearer = np.where(grid - times[before] <= times[after] - grid, before, after)
    return np.unique(nearer)
