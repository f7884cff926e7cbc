"""How a run ends early: signals, a time limit, and agreement between processes about both."""

from __future__ import annotations

import os
import signal
import threading
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

SYNC_EVERY = 10
"""Steps between two moments at which processes exchange whether they are to stop."""


class Terminated(SystemExit):
    """SIGTERM came; the state was saved. Exit status 143, as the shell gives for SIGTERM."""

    def __init__(self, message: str) -> None:
        super().__init__(128 + signal.SIGTERM)
        self.message = message

    def __str__(self) -> str:
        return self.message


class Preemption:
    """SIGTERM and SIGINT ask for a save and an orderly end; a second SIGINT ends at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    @property
    def name(self) -> str:
        return signal.Signals(self.signal).name if self.signal is not None else ""

    def __enter__(self) -> None:
        # Python allows handlers in the main thread only; elsewhere signals keep their meaning.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _handle(self, number: int, _: Any) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
        os.write(2, b"\nsaving after this step, then stopping\n")

    def requested(self, step: int) -> bool:
        """Whether any process was asked to stop; all then end the way that one was asked to.

        Several processes exchange this every `SYNC_EVERY` steps only.
        """
        if not _syncs_at(step):
            return False
        self.synchronise()
        return self.signal is not None

    def synchronise(self) -> None:
        """Takes over the signal of any process; to be called by all at the same point."""
        found = _largest(self.signal or 0)
        if found:  # else one may have come in the meantime, and must not be forgotten
            self.signal = found

    def exit(self, message: str) -> None:
        """Ends the way the signal asked for."""
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt(message)
        raise Terminated(message)


def out_of_time(elapsed: float, limit: float | None, step: int) -> bool:
    """Whether the time is up, on any process."""
    return limit is not None and _syncs_at(step) and _largest(int(elapsed >= limit)) > 0


def _syncs_at(step: int) -> bool:
    return jax.process_count() == 1 or step % SYNC_EVERY == 0


def _largest(value: int) -> int:
    """The largest value of all processes."""
    if jax.process_count() == 1:
        return value
    return int(np.max(multihost_utils.process_allgather(np.asarray(value))))
