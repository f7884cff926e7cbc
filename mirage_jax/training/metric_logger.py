"""Metrics of a run: fetched a step late, averaged, and passed on to files and the screen."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from mirage_jax.training.guard import SkipTracker
from mirage_jax.training.loop_settings import LoopSettings
from mirage_jax.training.metrics import TIME, Mean, MetricsWriter, ProgressLine
from mirage_jax.training.task import Samples
from mirage_jax.training.throughput import Throughput

STEP_FIELD, DATA_FIELD, ELAPSED_FIELD = f"{TIME}step", f"{TIME}data", f"{TIME}elapsed"


class MetricLogger:
    """Fetches the metrics of steps once they are done, and passes them on.

    Args:
      name: of the run.
      settings: of the run.
      writer: of files.
      line: on the screen.
      skips: counts the skipped steps.
      elapsed: seconds of the run so far, those before it was interrupted included.
      on_step: called with (step, metrics).
    """

    def __init__(
        self,
        name: str,
        settings: LoopSettings,
        *,
        writer: MetricsWriter,
        line: ProgressLine,
        skips: SkipTracker,
        elapsed: Callable[[], float],
        on_step: Callable[[int, dict[str, float]], None] | None = None,
    ) -> None:
        self._name, self._settings = name, settings
        self._writer, self._line, self._skips = writer, line, skips
        self._elapsed, self._on_step = elapsed, on_step
        self._pending: tuple[int, Any] | None = None
        self._throughput = Throughput("", 1, 0)
        self._last_tick = time.monotonic()
        self._waited = 0.0
        self.means = Mean()

    def compiled(self, work: Throughput, text: str) -> None:
        """The step is ready; time counts from here."""
        self._throughput = work
        self._line.rates = work.line
        self.say(text)
        self.restart_clock()
        self._waited = 0.0

    def restart_clock(self) -> None:
        """Time until here is not counted as part of a step."""
        self._last_tick = time.monotonic()

    def waited(self, seconds: float) -> None:
        """Seconds of the next step that were spent waiting for data."""
        self._waited += seconds

    def dispatched(self, step: int, metrics: Mapping[str, jax.Array]) -> None:
        """A step was dispatched; its metrics are still on the devices."""
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
        if self._skips.update(step, values):
            self.say(f"skipped {self._skips.last}")
        # Numbers of a skipped step would distort the means, and may not be finite.
        counted = {"skipped": 1.0} if skipped else values
        self.means.add({**counted, STEP_FIELD: seconds, DATA_FIELD: waited})
        loss = None if skipped else values["loss"]
        self._line.update(step, loss=loss, seconds=seconds, waited=waited)
        if step % self._settings.log_every == 0 or step == self._settings.steps:
            means = self.means.take()
            rates = self._throughput.rates(means[STEP_FIELD], means[DATA_FIELD])
            timed = {ELAPSED_FIELD: self._elapsed(), **{f"{TIME}{n}": v for n, v in rates.items()}}
            self._writer.scalars(step, {**means, **timed})
            self._line.report(step)
        if self._on_step is not None:
            self._on_step(step, values)

    def evaluation(self, step: int, results: Mapping[str, float]) -> None:
        """Results on held-out batches."""
        self._writer.scalars(step, {f"eval/{name}": value for name, value in results.items()})
        text = ", ".join(f"{name} {value:.4g}" for name, value in results.items())
        self.say(f"step {step}: held out {text or 'nothing, there are too few clips'}")

    def samples(self, step: int, drawn: Samples) -> Path | None:
        """A sample sheet, and a video where there is one."""
        path = self._writer.picture(step, np.asarray(drawn.sheet))
        if drawn.video is not None:
            self._writer.video(step, np.asarray(drawn.video), drawn.fps)
        self.say(f"step {step}: samples in {path}")
        return path

    def rewind(self, step: int, means: Mapping[str, Any]) -> None:
        """The run rolled back to a checkpoint: what came after it is removed."""
        self._pending = None
        self.means.restore(means)
        self._writer.rewind(step)
        self.restart_clock()

    def say(self, text: str) -> None:
        """A line of text above the progress line."""
        self._line.say(f"{self._name}: {text}")

    def close(self) -> None:
        self._line.close()
        self._writer.close()
