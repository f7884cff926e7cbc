"""Reads damaged files by the thousand, in processes of their own that may die of it.

    python tests/helpers/fuzzing.py                          # 10,000 of every format, on two cores
    python tests/helpers/fuzzing.py --count=200 --format=export
    python tests/helpers/fuzzing.py --format=export --case=123   # one, with its traceback

A case is a number: the same number is the same damage. Odd cases of a format that has checksums of
its own are damaged below the checksums, which are right again. A case fails if reading it

- raises anything but ValueError or OSError, or one that does not name the file,
- takes longer than `SECONDS`, or asks for more than `MEMORY` at once, or ends the process,
- returns something else than was written (unsealed), or something that may not be taken.
"""

from __future__ import annotations

import argparse
import collections
import contextlib
import dataclasses
import gc
import importlib
import json
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

FORMATS = "helpers.formats"
SECONDS = 8
MEMORY = 2 << 30
_TOO_LONG = f"took longer than {SECONDS} s, twice"
_KILLED_AFTER = 60  # seconds of computing without a sign of a process
_GIVEN_UP_AFTER = 900  # seconds on the clock without one: a busy machine stops for long


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What came of the cases of one format.

    Attributes:
      format: its name.
      refused: cases that raised as documented.
      taken: cases that were read, rightly.
      findings: a line for every case that went wrong.
    """

    format: str
    refused: int
    taken: int
    findings: tuple[str, ...]

    @property
    def cases(self) -> int:
        return self.refused + self.taken + len(self.findings)


class Hang(BaseException):
    """Reading took too long."""


def _alarm(number: int, frame: Any) -> None:
    raise Hang


def catch_alarms() -> None:
    """Lets `Sample.judge` end what takes too long in this process."""
    signal.signal(signal.SIGALRM, _alarm)


class Sample:
    """An intact sample of a format in a folder, to be damaged and mended again and again."""

    def __init__(self, entry: Any, folder: Path) -> None:
        from helpers.format_entry import canonical

        self.entry, self.folder = entry, folder
        self.path = entry.make(folder)
        self.files = {p: p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}
        self.original = entry.read(self.path)
        self.expected = canonical(self.original)

    def damage(self, number: int) -> None:
        """Damages one file; odd numbers below the checksums, where there are any."""
        from helpers.mutations import damaged

        rng = random.Random(f"{self.entry.name} {number}")
        if self.entry.sealed is not None and number % 2:
            self.entry.sealed(self.path, lambda data: damaged(data, rng))
            return
        # Small files that say what lies where are as likely as large ones.
        path = rng.choice(list(self.files))
        path.write_bytes(damaged(self.files[path], rng))

    def mend(self) -> None:
        for path in [*self.folder.rglob("*")]:
            if path.is_file() and path not in self.files:
                path.unlink()
        for path, data in self.files.items():
            if not path.is_file() or path.read_bytes() != data:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(data)

    def judge(self, number: int) -> str:
        """Reads the sample as it is now: "refused", "taken", or what is wrong."""
        # A second time with more patience: a busy machine may stop for long, too.
        first = self._judge(number, SECONDS)
        return self._judge(number, 3 * SECONDS) if first == _TOO_LONG else first

    def _judge(self, number: int, seconds: float) -> str:
        from helpers.format_entry import canonical

        signal.setitimer(signal.ITIMER_REAL, seconds)
        try:
            found = self.entry.read(self.path)
            same = canonical(found) == self.expected
            may_differ = not self.entry.ours or (self.entry.sealed is not None and number % 2)
            if same:
                return "taken"
            if not may_differ:
                return "took changed content for the original"
            self.entry.accept(found, self.original)
            return "taken"
        except (ValueError, OSError) as error:
            named = os.fspath(self.folder) in str(error)
            return "refused" if named else f"does not name the file: {_line(error)}"
        except AssertionError as error:
            return f"took what it may not: {_line(error)}"
        except Hang:
            return _TOO_LONG
        except Exception as error:
            return f"raised {_line(error)} at {_where(error)}"
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)


def _line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:240]


def _where(error: BaseException) -> str:
    """The last line of the package that an error went through."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = [f for f in frames if "/mirage_jax/" in f.filename or "/data_pipelines/" in f.filename]
    last = (ours or frames)[-1]
    return f"{Path(last.filename).name}:{last.lineno}"


# -- one process -----------------------------------------------------------------------------------


def _serve(module: str) -> None:
    """Takes lines {format, start, stop} and answers each with one of {format, refused, ...}."""
    formats = importlib.import_module(module).FORMATS
    answers = os.fdopen(os.dup(1), "w")
    with open(os.devnull, "w") as nothing:  # libraries write to these what they dislike
        for descriptor in (1, 2):
            os.dup2(nothing.fileno(), descriptor)
    catch_alarms()
    shared = Path("/dev/shm") if os.access("/dev/shm", os.W_OK) else None
    samples: dict[str, Sample] = {}
    with tempfile.TemporaryDirectory(dir=shared) as folder:
        for line in sys.stdin:
            task = json.loads(line)
            name = task["format"]
            if name not in samples:
                place = Path(folder) / f"{len(samples)}"
                place.mkdir()
                try:
                    samples[name] = Sample(formats[name], place)
                except Exception:
                    answers.write(json.dumps({"broken": traceback.format_exc()}) + "\n")
                    answers.flush()
                    return
                _limit_memory()
                # Orbax collects garbage again and again, and would look through all of JAX.
                gc.collect()
                gc.freeze()
            counts: collections.Counter = collections.Counter()
            findings = []
            for number in range(task["start"], task["stop"]):
                answers.write(json.dumps({"case": number}) + "\n")
                answers.flush()
                samples[name].damage(number)
                outcome = samples[name].judge(number)
                samples[name].mend()
                counts[outcome] += 1
                if outcome not in ("refused", "taken"):
                    findings.append(f"{name}, case {number}: {outcome}")
            answers.write(
                json.dumps(
                    {"refused": counts["refused"], "taken": counts["taken"], "findings": findings}
                )
                + "\n"
            )
            answers.flush()


def _limit_memory() -> None:
    """No request for much more memory than is in use now is met."""
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    limit = pages * os.sysconf("SC_PAGE_SIZE") + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, resource.getrlimit(resource.RLIMIT_AS)[1]))


# -- many processes --------------------------------------------------------------------------------


class Worker:
    """A process that reads damaged files, started again when one of them ends it."""

    def __init__(self, module: str = FORMATS) -> None:
        self._module = module
        self._process: subprocess.Popen | None = None

    def run(self, name: str, start: int, stop: int) -> Iterator[Outcome]:
        while start < stop:
            self._ask(name, start, stop)
            last, answer = start, None
            for message in self._answers():
                if "broken" in message:
                    raise RuntimeError(f"{name}: its sample cannot be read\n{message['broken']}")
                if "case" in message:
                    last = message["case"]
                else:
                    answer = message
                    break
            if answer is not None:
                yield Outcome(name, answer["refused"], answer["taken"], tuple(answer["findings"]))
                return
            # What the process had counted is lost with it: those before are run once more, alone.
            code = self.close()
            if last > start:
                yield from self.run(name, start, last)
            yield Outcome(name, 0, 0, (f"{name}, case {last}: ended the process ({code})",))
            start = last + 1

    def _ask(self, name: str, start: int, stop: int) -> None:
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, __file__, "--serve", self._module],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(
                json.dumps({"format": name, "start": start, "stop": stop}) + "\n"
            )
            self._process.stdin.flush()

    def _answers(self) -> Iterator[dict[str, Any]]:
        assert self._process is not None and self._process.stdout is not None
        watch = _Watch(self._process)
        with watch:
            for line in self._process.stdout:
                watch.alive()
                yield json.loads(line)

    def close(self) -> str:
        process, self._process = self._process, None
        if process is None:
            return ""
        assert process.stdin is not None and process.stderr is not None
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
        said = process.stderr.read()
        process.wait()
        return f"{process.returncode}{': ' + said[-600:] if said else ''}"


class _Watch:
    """Kills a process that gives no sign, for one hangs where no signal of ours is looked at."""

    def __init__(self, process: subprocess.Popen) -> None:
        import threading

        self._process = process
        self.alive()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def alive(self) -> None:
        self._last, self._busy = time.monotonic(), self._computed()

    def _computed(self) -> float:
        """Seconds that the process has computed; those on the clock where nothing says it."""
        try:
            fields = Path(f"/proc/{self._process.pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            return time.monotonic()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def _watch(self) -> None:
        while not self._done.wait(1.0):
            waited, busy = time.monotonic() - self._last, self._computed() - self._busy
            if busy > _KILLED_AFTER or waited > _GIVEN_UP_AFTER:
                self._process.kill()

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()


def run(
    names: Sequence[str],
    count: int,
    *,
    start: int = 0,
    block: int = 250,
    worker: Worker | None = None,
) -> Iterator[Outcome]:
    """Reads `count` damaged files of every format named, in one worker process.

    Yields outcomes of up to `block` cases each. A worker that is given stays open.
    """
    own = worker or Worker()
    try:
        for name in names:
            for first in range(start, start + count, block):
                yield from own.run(name, first, min(first + block, start + count))
    finally:
        if worker is None:
            own.close()


def merged(outcomes: Sequence[Outcome]) -> dict[str, Outcome]:
    """One outcome for each format."""
    found: dict[str, Outcome] = {}
    for one in outcomes:
        before = found.get(one.format, Outcome(one.format, 0, 0, ()))
        found[one.format] = Outcome(
            one.format,
            before.refused + one.refused,
            before.taken + one.taken,
            before.findings + one.findings,
        )
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 1 if anything was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--count", type=int, default=10_000, help="damaged files of every format")
    parser.add_argument("--format", action="append", help="one of them; may be repeated")
    parser.add_argument("--case", type=int, help="read one case in this process")
    parser.add_argument("--processes", type=int, default=2, help="worker processes")
    parser.add_argument("--serve", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        _serve(options.serve)
        return 0
    formats = importlib.import_module(FORMATS).FORMATS
    names = options.format or list(formats)
    if unknown := sorted(set(names) - set(formats)):
        parser.error(f"--format: found {unknown}, expected some of {', '.join(formats)}")
    if options.case is not None:
        return _one(formats[names[0]], options.case)
    return _many(names, options.count, options.processes)


def _one(entry: Any, number: int) -> int:
    with tempfile.TemporaryDirectory() as folder:
        sample = Sample(entry, Path(folder))
        sample.damage(number)
        for path, data in sample.files.items():
            if not path.exists() or path.read_bytes() != data:
                kept = Path(tempfile.gettempdir()) / f"case-{number}-{path.name}"
                shutil.copyfile(path, kept)
                print(f"{path} was changed; a copy is {kept}")
        catch_alarms()
        print(sample.judge(number))
        try:
            entry.read(sample.path)
        except Exception:
            traceback.print_exc()
    return 0


def _many(names: Sequence[str], count: int, processes: int) -> int:
    from concurrent.futures import ThreadPoolExecutor

    from rich.console import Console
    from rich.progress import Progress

    console = Console(soft_wrap=True)
    workers = [Worker() for _ in range(processes)]
    found: list[Outcome] = []
    with Progress(console=console) as progress, ThreadPoolExecutor(processes) as pool:
        for name in names:
            bar, outcomes = progress.add_task(name, total=count), []

            def work(
                share: int, name: str = name, bar: Any = bar, outcomes: list[Outcome] = outcomes
            ) -> None:
                first, last = (count * n // processes for n in (share, share + 1))
                for one in run([name], last - first, start=first, worker=workers[share]):
                    outcomes.append(one)
                    progress.advance(bar, one.cases)

            list(pool.map(work, range(processes)))
            (one,) = merged(outcomes).values()
            found.append(one)
            progress.remove_task(bar)
            for finding in one.findings[:20]:
                console.print(finding, style="red", markup=False)
            console.print(
                f"{one.format:<20} {one.cases:>7,} damaged, {one.refused:>7,} refused, "
                f"{one.taken:>7,} rightly read, {len(one.findings):>5,} findings"
            )
        for worker in workers:
            worker.close()
    total = sum(len(one.findings) for one in found)
    console.print(f"{sum(one.cases for one in found):,} cases, {total:,} findings")
    return int(total > 0)


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.path.insert(0, str(Path(__file__).parents[1]))
    sys.exit(main())
