"""Heartbeat of processes that wait for each other: files in a folder that all of them share.

After the time-out JAX ends a process with a trace of C++ that does not name the missing ones.
"""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from mirage_jax.parallel.names import missing_hosts

_FRESH = 30.0
"""Seconds after which the file of a process that waits counts as stale."""


class Heartbeat:
    """Reports every `every` seconds which processes wait and which are missing, within a context.

    Args:
      folder: on a file system that all processes share.
      process: number of this one; -1: not known yet.
      processes: number of all; 0: not known yet, and only hosts are told apart.
      report: called with a line of text.
      every: seconds.
      hosts: of the run, where they are known; see `names.expected_hosts`.
    """

    def __init__(
        self,
        folder: Path,
        process: int,
        processes: int,
        report: Callable[[str], None],
        *,
        every: float = 20.0,
        hosts: tuple[str, ...] = (),
    ) -> None:
        self._hosts = hosts
        self._folder, self._report, self._every = folder, report, every
        self._processes = processes
        host = socket.gethostname()
        self._own = folder / (f"process {process} on {host}" if processes else host)
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._wait, daemon=True)
        self._since = time.monotonic()

    def __enter__(self) -> Heartbeat:
        self._folder.mkdir(parents=True, exist_ok=True)
        self._own.touch()
        self._thread.start()
        return self

    def __exit__(self, *_: Any) -> None:
        self._done.set()
        self._thread.join()
        self._own.unlink(missing_ok=True)

    def _wait(self) -> None:
        while not self._done.wait(self._every):
            self._own.touch()
            present = self.present()
            waited = time.monotonic() - self._since
            text = f"waiting for the other processes for {waited:.0f} s; here: {', '.join(present)}"
            if self._processes:
                numbers = {int(name.split()[1]) for name in present if name.startswith("process ")}
                missing = sorted(set(range(self._processes)) - numbers)
                text += f"; no sign of process {', '.join(map(str, missing))}" if missing else ""
            elif absent := missing_hosts(self._hosts, present):
                text += f"; no sign of {', '.join(absent)} ({len(absent)} of {len(self._hosts)})"
            self._report(text)

    def present(self) -> list[str]:
        """Names of the processes that wait, this one included."""
        now = self._own.stat().st_mtime  # by the clock of the file system, as the others'
        times = {}
        for path in self._folder.iterdir():
            try:
                times[path.name] = path.stat().st_mtime
            except FileNotFoundError:
                continue  # no longer waits
        return sorted(name for name, touched in times.items() if now - touched < _FRESH)
