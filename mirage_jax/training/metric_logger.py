"""What a run says about itself while it runs: metrics a step late, their means, lines of text."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mirage_jax.training.guard import Watch
from mirage_jax.training.metrics import TIME, Mean, MetricsWriter, ProgressLine
from mirage_jax.training.task import Samples
from mirage_jax.training.throughput import Gauges

STEP_FIELD, DATA_FIELD, ELAPSED_FIELD = f"{TIME}step", f"{TIME}data", f"{TIME}elapsed"


class Journal:
    """Fetches the metrics of steps once they are done, and passes them on.

    Args:
      name: of the run.
      steps: its last one.
      log_every: steps between lines of metrics.
      writer: of files.
      line: on the screen.
      watch: is told of every step.
      elapsed: seconds of the run so far, those before it was interrupted included.
      on_step: called with (step, metrics).
    """

    def __init__(
        self,
        name: str,
        steps: int,
        *,
        log_every: int,
        writer: MetricsWriter,
        line: ProgressLine,
        watch: Watch,
        elapsed: Callable[[], float],
        on_step: Callable[[int, dict[str, float]], None] | None = None,
    ) -> None:
        self._name, self._steps, self._log_every = name, steps, log_every
        self._writer, self._line, self._watch = writer, line, watch
        self._elapsed, self._on_step = elapsed, on_step
        self._pending: tuple[int, Any] | None = None
        self._gauges = Gauges("", 1, 0)
        self._last_tick = time.monotonic()
        self._waited = 0.0
        self.means = Mean()

    def compiled(self, gauges: Gauges, text: str) -> None:
        """The step is ready; time counts from here."""
        self._gauges = gauges
        self._line.rates = gauges.line
        self.say(text)
        self.tick()
        self._waited = 0.0

    def tick(self) -> None:
        """What took time until here was no part of a step."""
        self._last_tick = time.monotonic()

    def waited(self, seconds: float) -> None:
        """Time of the next step that went by waiting for data."""
        self._waited += seconds

    def dispatched(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """A step is on its way, and so are its metrics."""
        self._pending = (step, metrics)

    def fetch(self) -> None:
        """Takes in the metrics of the last dispatched step; blocks until it is done."""
        if self._pending is None:
            return
        (step, on_device), self._pending = self._pending, None
        values = {name: float(value) for name, value in jax.device_get(on_device).items()}
        now = time.monotonic()
        seconds, self._last_tick = now - self._last_tick, now
        waited, self._waited = self._waited, 0.0
        skipped = bool(values["skipped"])
        if self._watch.step(step, values):
            self.say(f"skipped {self._watch.last}")
        # Numbers of a skipped step would spoil the means, and may be none.
        counted = {"skipped": 1.0} if skipped else values
        self.means.add({**counted, STEP_FIELD: seconds, DATA_FIELD: waited})
        loss = None if skipped else values["loss"]
        self._line.update(step, loss=loss, seconds=seconds, waited=waited)
        if step % self._log_every == 0 or step == self._steps:
            means = self.means.take()
            rates = self._gauges.rates(means[STEP_FIELD], means[DATA_FIELD])
            timed = {ELAPSED_FIELD: self._elapsed(), **{f"{TIME}{n}": v for n, v in rates.items()}}
            self._writer.scalars(step, {**means, **timed})
            self._line.report(step)
        if self._on_step is not None:
            self._on_step(step, values)

    def evaluated(self, step: int, results: Mapping[str, float]) -> None:
        """Results on held-out batches."""
        self._writer.scalars(step, {f"eval/{name}": value for name, value in results.items()})
        text = ", ".join(f"{name} {value:.4g}" for name, value in results.items())
        self.say(f"step {step}: held out {text or 'nothing, there are too few clips'}")

    def drew(self, step: int, samples: Samples) -> Path | None:
        """A sample sheet, and a video where there is one."""
        path = self._writer.picture(step, np.asarray(samples.sheet))
        if samples.video is not None:
            self._writer.video(step, np.asarray(samples.video), samples.fps)
        self.say(f"step {step}: samples in {path}")
        return path

    def rewind(self, step: int, means: Mapping[str, Any]) -> None:
        """The run went back to a checkpoint: what came after it is taken back."""
        self._pending = None
        self.means.restore(means)
        self._writer.rewind(step)
        self.tick()

    def say(self, text: str) -> None:
        """A line of text above the progress line."""
        self._line.say(f"{self._name}: {text}")

    def close(self) -> None:
        self._line.close()
        self._writer.close()
