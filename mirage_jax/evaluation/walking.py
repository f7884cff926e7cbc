"""How fast one walks: frames a second, where the time goes, and whether it stays so.

The walker goes ahead and turns, again and again, so that every chunk is a new one; frames that are
the same as the one before are not counted.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
import time
from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from mirage_jax.world.controls import Controls
from mirage_jax.world.session import Session
from mirage_jax.world.session_parts import Step
from mirage_jax.world.state import World
from mirage_jax.world.vector_environment import VectorEnvironment

PATTERN = (["w"],) * 5 + (["w", "right"],) * 3 + (["right"],) * 2 + (["w", "left"],) * 2
"""Keys of one chunk after the other, over and over."""
EARLY = 10
"""Chunks before those that later ones are compared with: a few for caches to fill."""


def measure(
    session: Session,
    *,
    chunks: int,
    fill: int = 0,
    advance: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Walks in a session whose programs have been compiled.

    Args:
      session: goes on from where it is.
      chunks: that are timed.
      fill: at most so many before, untimed, until the memory is full.
      advance: called after each chunk.

    Returns:
      A dict ready for JSON: `frames_per_second` (distinct ones, of all the time that steps take),
      `distinct` (share of the frames), `cpu_ms` (CPU time of a chunk, over all threads), `ledger`
      (milliseconds of each stage, median and 95th percentile), `early` and `late` (the same of the
      chunks from number `EARLY` on, and of as many at the end), `growth` (of the total, late by
      early), `key_to_picture_ms` (a key that is pressed while a chunk is made waits for it, then
      for the next), `memory`, and `compiled` (programs compiled while walking).

    Raises:
      ValueError: for fewer chunks than `2 * EARLY`.
    """
    if chunks < 2 * EARLY:
        raise ValueError(f"chunks: found {chunks}, expected at least {2 * EARLY}")
    with _Compilations() as compilations:
        filled = 0
        while filled < fill and not bool(np.asarray(session.world.bank.valid).all()):
            session.step(PATTERN[filled % len(PATTERN)])
            filled += 1
            advance()
        stages: list[dict[str, float]] = []
        distinct, last, cpu = 0, session.picture, time.process_time()
        for number in range(chunks):
            step = session.step(PATTERN[number % len(PATTERN)])
            stages.append(step.stages)
            distinct += _distinct(last, step)
            last = step.video[-1]
            advance()
        cpu = time.process_time() - cpu
    totals = np.array([each["total"] for each in stages])
    frames = chunks * (session.model.chunk_frames - 1)
    span = max(EARLY, min(chunks // 3, 100))
    early, late = stages[EARLY : EARLY + span], stages[-span:]
    # When in a chunk a key is pressed, evenly spread.
    waits = np.concatenate([totals[:-1] * share + totals[1:] for share in (0.0, 0.25, 0.5, 0.75)])
    return {
        "device": jax.devices()[0].device_kind,
        "size": list(session.model.size),
        "chunk_frames": session.model.chunk_frames,
        "chunks": chunks,
        "filled_by": filled,
        "frames_per_second": float(distinct / totals.sum()),
        "distinct": distinct / frames,
        "cpu_ms": 1e3 * cpu / chunks,
        "ledger": _ledger(stages),
        "early": _ledger(early),
        "late": _ledger(late),
        "growth": _ledger(late)["total"]["median_ms"] / _ledger(early)["total"]["median_ms"],
        "key_to_picture_ms": _summary(waits),
        "memory": session.statistics(),
        "compiled": compilations.count,
    }


def measure_together(
    model: Any, starts: Sequence[World], *, chunks: int, options: Any
) -> dict[str, Any]:
    """Frames a second of many walkers that take steps together; the first, which compiles, apart.

    Args:
      model: the trained parts.
      starts: where each begins.
      chunks: that are timed.
      options: how they walk.
    """
    together = VectorEnvironment(model, starts, options=options)

    def step(number: int) -> float:
        held = Controls.of_keys(PATTERN[number % len(PATTERN)])
        start = time.perf_counter()
        together.step(np.tile(dataclasses.astuple(held), (len(starts), 1)))
        return time.perf_counter() - start

    step(0)
    seconds = statistics.median(step(number) for number in range(1, chunks + 1))
    frames = len(starts) * (options.chunk_frames - 1)
    return {"walkers": len(starts), "step_ms": 1e3 * seconds, "frames_per_second": frames / seconds}


def _distinct(last: np.ndarray, step: Step) -> int:
    frames = [last, *step.video]
    return sum(not np.array_equal(a, b) for a, b in itertools.pairwise(frames))


def _ledger(stages: Sequence[dict[str, float]]) -> dict[str, dict[str, float]]:
    return {name: _summary(np.array([each[name] for each in stages])) for name in stages[0]}


def _summary(seconds: np.ndarray) -> dict[str, float]:
    return {
        "median_ms": float(1e3 * np.median(seconds)),
        "p95_ms": float(1e3 * np.percentile(seconds, 95)),
    }


class _Compilations:
    """Counts programs that are compiled inside of it."""

    def __init__(self) -> None:
        self.count = 0

    def __enter__(self) -> _Compilations:
        jax.monitoring.register_event_duration_secs_listener(self._note)
        return self

    def __exit__(self, *_: object) -> None:
        jax.monitoring.unregister_event_duration_listener(self._note)

    def _note(self, event: str, duration_secs: float, **kwargs: Any) -> None:
        self.count += event == "/jax/core/compile/backend_compile_duration"
