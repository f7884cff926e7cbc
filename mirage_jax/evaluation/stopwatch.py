"""Times of calls that take turns, for benchmarks on machines that do other things too."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax


class Times(NamedTuple):
    """Milliseconds of wall time, and of CPU time over all threads.

    Attributes:
      ms, cpu_ms: medians.
      spread: first and third quartile of the wall time.
    """

    ms: float
    cpu_ms: float
    spread: tuple[float, float] = (0.0, 0.0)


def median_times(calls: Sequence[Callable[[], Any]], repeats: int) -> list[Times]:
    """Medians of warm runs of each call; the calls take turns in every round."""
    for call in calls:
        jax.block_until_ready(call())
    samples: list[list[tuple[float, float]]] = [[] for _ in calls]
    for _ in range(repeats):
        for times, call in zip(samples, calls, strict=True):
            wall, cpu = time.perf_counter(), time.process_time()
            jax.block_until_ready(call())
            wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
            times.append((1e3 * wall, 1e3 * cpu))
    return [_summary(*zip(*times, strict=True)) for times in samples]


def _summary(wall: Sequence[float], cpu: Sequence[float]) -> Times:
    # At least two are asked for.
    low, _, high = statistics.quantiles([*wall, *wall], n=4, method="inclusive")
    return Times(statistics.median(wall), statistics.median(cpu), (low, high))
