"""Batches of held-out clips, the same at every evaluation and shared evenly by the devices."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import jax
import numpy as np


def spread_over(count: int, wanted: int) -> list[int]:
    """At most `wanted` indices spread evenly over `count`."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(int)).tolist()


def clip_batches(
    source: Any, least: int = 16, *, apart: Sequence[int] = ()
) -> Iterator[dict[str, np.ndarray]]:
    """Whole batches of a held-out source of cached clips, spread over its worlds.

    A batch has `least` clips, or as many more as the devices can share evenly; where there are
    fewer, as many of them as can be shared. None at all where there are fewer than devices.

    Args:
      source: the clips.
      least: of a batch.
      apart: clips of each set that the source joins, where a batch is to be of one set alone, as
        for pictures of several shapes; batches of all sets are of the size that the smallest has.
    """
    lengths = apart or (len(source),)
    batch = _shared_evenly(least, min(lengths))
    rng, first = np.random.default_rng(0), 0
    for length in lengths:
        order = first + rng.permutation(length)
        first += length
        for start in range(0, length - batch + 1, batch):
            records = [source[int(i)] for i in order[start : start + batch]]
            yield {name: np.stack([r[name] for r in records]) for name in records[0]}


def common_middle(videos: Sequence[np.ndarray]) -> np.ndarray:
    """Videos [T, H, W, 3] as one array, those of several shapes cut to the middle that all have."""
    height, width = (min(video.shape[axis] for video in videos) for axis in (1, 2))
    starts = [((v.shape[1] - height) // 2, (v.shape[2] - width) // 2) for v in videos]
    cut = zip(videos, starts, strict=True)
    return np.stack([v[:, top : top + height, left : left + width] for v, (top, left) in cut])


def window_batches(source: Any, frames: int, least: int = 8) -> Iterator[dict[str, np.ndarray]]:
    """The last window of held-out clips of every world, where the camera comes back.

    Batches are as those of `clip_batches`.
    """
    batch = _shared_evenly(least, len(source))
    chosen = spread_over(len(source), min(len(source), 64) // batch * batch)
    for start in range(0, len(chosen), batch):
        clips = [source[i]["video"] for i in chosen[start : start + batch]]
        yield {"video": common_middle([video[-frames:] for video in clips])}


def _shared_evenly(least: int, available: int) -> int:
    devices = jax.device_count()
    return max(min(-(-least // devices), available // devices), 1) * devices
