"""Recording in this process, or in several that are spawned and watched."""

import contextlib
import errno
import multiprocessing
import os
import queue
import signal
import sys
import tempfile
import traceback
import types
from collections.abc import Generator, Iterator
from pathlib import Path
from typing import Any

from data_pipelines.recording.planning import Shard
from data_pipelines.recording.shards import Event, Recording, record_shard
from data_pipelines.sources import Source

_PATIENCE = 10  # seconds for a worker to close its engine


class RecordingError(OSError):
    """The source, or a process that recorded it, failed; finished shards are kept."""


def record_events(
    recording: Recording, shards: list[Shard], workers: int
) -> Generator[Event, None, None]:
    """Records shards in `workers` processes, 0 = in this one, and yields what happens.

    Raises:
      RecordingError: the source, or a process, failed.
      OSError: with `errno.ENOSPC` when the disk is full.
    """
    if workers == 0 or not shards:
        for shard in shards:
            try:
                yield from record_shard(recording, shard)
            except RuntimeError as error:  # how sources say that they cannot go on
                raise RecordingError(f"{_where(shard)}: {error}") from error
    else:
        yield from _parallel_events(recording, shards, min(workers, len(shards)))


def _parallel_events(
    recording: Recording, shards: list[Shard], workers: int
) -> Generator[Event, None, None]:
    context = multiprocessing.get_context("spawn")
    tasks: Any = context.Queue()
    events: Any = context.Queue()
    for shard in [*shards, *[None] * workers]:
        tasks.put(shard)
    with tempfile.TemporaryDirectory(prefix="recording-") as scratch:
        processes = [
            context.Process(
                target=_work,
                args=(recording, Path(scratch) / str(number), tasks, events),
                daemon=True,
            )
            for number in range(workers)
        ]
        try:
            with _hidden_main(recording.source):
                for process in processes:
                    process.start()
            remaining = len(shards)
            while remaining:
                try:
                    event = events.get(timeout=0.5)
                except queue.Empty:
                    _check_alive(processes)
                    continue
                if event.kind == "failed":
                    _raise_failure(*event.value)
                remaining -= event.kind == "done"
                yield event
            for process in processes:
                process.join()
        finally:
            for process in processes:
                if process.is_alive():
                    process.terminate()
            for process in processes:
                if process.pid is not None:
                    process.join(_PATIENCE)
                    process.kill()
                    process.join()
            tasks.cancel_join_thread()


@contextlib.contextmanager
def _hidden_main(source: Source) -> Iterator[None]:
    """Keeps spawned workers from importing the program that called us, and with it jax.

    multiprocessing imports the parent's `__main__` in every child, so that objects defined there
    can be unpickled; only a source that is itself defined there needs it.
    """
    main = sys.modules["__main__"]
    if type(source).__module__ == "__main__":
        yield
        return
    sys.modules["__main__"] = types.ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def _check_alive(processes: list[Any]) -> None:
    codes = [process.exitcode for process in processes]
    died = [code for code in codes if code not in (None, 0)]
    if died or None not in codes:
        raise RecordingError(
            f"recording workers ended early with exit codes {codes} (negative: killed by that "
            "signal); finished shards are kept, the same command goes on from there"
        )


def _raise_failure(number: int | None, message: str, trace: str) -> None:
    error: Exception
    if number is not None:
        error = OSError(number, message)
    else:
        error = RecordingError(message)
    error.add_note(f"In the recording worker:\n{trace}")
    raise error


def _work(recording: Recording, scratch: Path, tasks: Any, events: Any) -> None:
    """The body of a worker process."""
    # Engines drop files where they start; two in one folder race for them.
    scratch.mkdir()
    os.chdir(scratch)
    # Leave through the `with` blocks of the source, which stop its engine.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    parent = multiprocessing.parent_process()
    shard: Shard | None = None
    try:
        while (shard := tasks.get()) is not None:
            for event in record_shard(recording, shard):
                events.put(event)
                if parent is not None and not parent.is_alive():
                    return
    except KeyboardInterrupt:
        pass  # The parent got it too and stops the recording.
    except OSError as error:
        number = error.errno if error.errno == errno.ENOSPC else None
        message = error.strerror or str(error) if number else f"{_where(shard)}: {error}"
        events.put(Event("failed", -1, (number, message, traceback.format_exc())))
    except Exception as error:
        # The boundary between processes: whatever the source raised is told to the parent.
        message = f"{_where(shard)}: {type(error).__name__}: {error}"
        events.put(Event("failed", -1, (None, message, traceback.format_exc())))


def _where(shard: Shard | None) -> str:
    return f"recording {shard.file}" if shard else "starting a recording worker"
