"""Wall time of the stages of a run, kept in <workdir>/seconds.json."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mirage_jax.io import outputs
from mirage_jax.io.json_files import write_json
from mirage_jax.io.strict_json import read_object
from mirage_jax.io.workdir import Workdir

SECONDS = outputs.json_map_kind("file of wall times", int | float)


def check(workdir: Workdir) -> None:
    """Raises ValueError if the wall times cannot be written, or would replace another's file."""
    outputs.check_file("--workdir", workdir.seconds, SECONDS)


def booked(workdir: Workdir) -> dict[str, float]:
    """Seconds of each stage so far."""
    return read_object(workdir.seconds) if workdir.seconds.exists() else {}


@contextmanager
def timed(workdir: Workdir, stage: str, *outputs: Path) -> Iterator[None]:
    """Books the wall time of a stage, however it ends.

    Args:
      workdir: whose `seconds` file is written.
      stage: name in it.
      outputs: folders that the stage fills. Time is added to that of earlier calls, which it goes
        on from, and not at all if no file in them changed: the stage then found everything done.
        Without them the stage starts over each time, and its time replaces the last.
    """
    before = _files(outputs)
    start = time.monotonic()
    try:
        yield
    finally:
        seconds = booked(workdir)
        if not outputs or _files(outputs) != before:
            earlier = seconds.get(stage, 0.0) if outputs else 0.0
            seconds[stage] = round(earlier + time.monotonic() - start, 1)
            write_json(workdir.seconds, seconds)


def _files(folders: tuple[Path, ...]) -> dict[Path, tuple[int, int]]:
    """Size and time of every file but JSON cards, which are rewritten with nothing to do too."""
    return {
        path: (path.stat().st_size, path.stat().st_mtime_ns)
        for folder in folders
        for path in folder.rglob("*")
        if path.is_file() and path.suffix != ".json"
    }
