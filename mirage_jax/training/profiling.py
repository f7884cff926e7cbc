"""A trace of some steps of a run, for xprof, TensorBoard or Perfetto."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax


def check_profile_steps(steps: tuple[int, int]) -> None:
    """Raises ValueError unless `steps` is (0, 0) or 1 <= first <= last."""
    first, last = steps
    if steps != (0, 0) and not 1 <= first <= last:
        raise ValueError(f"profile_steps: found {steps}, expected 1 <= first <= last")


class Profile:
    """Records steps `first` to `last`; leaving it as a context manager ends an unfinished trace.

    Args:
      folder: for the traces.
      steps: (first, last) by number, from 1; (0, 0): nothing is recorded.
      say: called with a line of text when the trace is written.

    Raises:
      ValueError: unless 1 <= first <= last.
    """

    def __init__(self, folder: Path, steps: tuple[int, int], say: Callable[[str], None]) -> None:
        self._folder, self._say = folder, say
        self._first, self._last = steps
        self._running = False
        check_profile_steps(steps)

    def __enter__(self) -> Profile:
        return self

    def __exit__(self, *_: object) -> None:
        self._stop()

    def before(self, step: int) -> None:
        """To be called before a step is dispatched."""
        if not self._running and self._first <= step <= self._last:
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def ends_with(self, step: int) -> bool:
        """Whether the trace ends after this step, which the caller then waits for."""
        return self._running and step >= self._last

    def after(self, step: int) -> None:
        """To be called once a step is done."""
        if self.ends_with(step):
            self._stop()
            self._say(f"trace of the steps up to {step} in {self._folder}")

    def _stop(self) -> None:
        if self._running:
            self._running = False
            jax.profiler.stop_trace()
