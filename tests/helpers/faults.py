"""Writers whose disk is full or read-only, who meet an error or are killed, at any call.

    python tests/helpers/faults.py           # every call of every writer; needs a C compiler
    python tests/helpers/faults.py --writer=export --fault=killed
    python tests/helpers/faults.py --writer=export --fault=killed --at=7

faults.c is put before the C library (LD_PRELOAD), so that calls of libraries in C++ and Rust are
met too. A server that has imported everything forks a process for each case. Afterwards

- the old content or the new one is there, whole, and the new one if the writer said it was done;
- a file beside it that is nobody's business is as it was;
- the same writer, run once more without a fault, leaves what it leaves where nothing ever failed.
"""

from __future__ import annotations

import argparse
import collections
import ctypes
import dataclasses
import errno
import functools
import json
import os
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

OPEN, WRITE, RENAME, REMOVE, MKDIR, SYNC = (1 << bit for bit in range(6))
FAULTS = {
    "killed": (0, 0),
    "full disk": (errno.ENOSPC, OPEN | WRITE | MKDIR),
    "read-only": (errno.EROFS, OPEN | WRITE | RENAME | REMOVE | MKDIR | SYNC),
    "one error": (errno.EIO, 0),
}
"""errno (0: the process ends), and the kinds of call that fail from there on (0: this one)."""

SECONDS = 60
RACES = 8
_STEP = re.compile(r"checkpoints/\d+/")
_BYSTANDER = ("notes.txt", b"nobody's business")


@dataclasses.dataclass(frozen=True)
class Case:
    """A fault at the `at`-th call of a writer that changes a file."""

    writer: str
    fault: str
    at: int


def compiler() -> str | None:
    """The C compiler that there is."""
    return next(filter(None, map(shutil.which, ("cc", "gcc", "clang"))), None)


@functools.cache
def library() -> Path:
    """faults.c, compiled."""
    folder = Path(tempfile.mkdtemp())
    command = [compiler(), "-shared", "-fPIC", "-O1", "-o", folder / "faults.so"]
    source = Path(__file__).with_suffix(".c")
    subprocess.run([*command, source, "-ldl"], check=True)
    return folder / "faults.so"


# -- the server: forks, never starts JAX -----------------------------------------------------------


def _serve() -> None:
    """Takes lines {writer, folder, which, at, fault, times} and answers what became of it."""
    from helpers.writers import CONTROL, WRITERS

    writers = {**WRITERS, CONTROL.name: CONTROL}
    shim = ctypes.CDLL(None)
    shim.fault_arm.argtypes = [ctypes.c_char_p, ctypes.c_long, ctypes.c_int, ctypes.c_int]
    shim.fault_disarm.restype = ctypes.c_long
    answers = os.fdopen(os.dup(1), "w")
    with open(os.devnull, "w") as nothing:
        for descriptor in (1, 2):
            os.dup2(nothing.fileno(), descriptor)
    for line in sys.stdin:
        tasks = json.loads(line)
        children = [_fork(writers[task["writer"]], task, shim) for task in tasks]
        answers.write(json.dumps([_wait(*child) for child in children]) + "\n")
        answers.flush()


def _fork(writer: Any, task: dict[str, Any], shim: Any) -> tuple[int, int]:
    reading, writing = os.pipe()
    process = os.fork()
    if process:
        os.close(writing)
        return process, reading
    os.close(reading)
    try:
        result = _child(writer, task, shim)
        os.write(writing, json.dumps(result).encode())
    finally:
        os._exit(0)


def _child(writer: Any, task: dict[str, Any], shim: Any) -> dict[str, Any]:
    number, kinds = FAULTS.get(task["fault"], (0, 0))
    folder = Path(task["folder"])
    shim.fault_arm(os.fsencode(folder), task["at"], number, kinds)
    result: dict[str, Any] = {"error": "", "kind": ""}
    try:
        for _ in range(task["times"]):
            writer.write(folder, task["which"])
    except BaseException as error:
        result["kind"] = "OSError" if isinstance(error, OSError) else type(error).__name__
        result["error"] = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    result["calls"] = shim.fault_disarm()
    return result


def _wait(process: int, reading: int) -> dict[str, Any]:
    """What a child says at its end; "killed" or "hangs" where it says nothing."""
    end, status = time.monotonic() + SECONDS, 0
    ended = 0
    while not ended and time.monotonic() < end:
        ended, status = os.waitpid(process, os.WNOHANG)
        if not ended:
            time.sleep(0.002)
    if not ended:
        os.kill(process, signal.SIGKILL)
        os.waitpid(process, 0)
    with os.fdopen(reading, "rb") as pipe:
        said = pipe.read()
    if said:
        return json.loads(said)
    how = "hangs" if not ended else f"signal {os.WTERMSIG(status)}"
    return {"kind": how, "error": how, "calls": 0}


# -- the other side: looks at what is left ---------------------------------------------------------


class Server:
    """The process that forks; use as a context manager."""

    def __enter__(self) -> Server:
        environment = {**os.environ, "LD_PRELOAD": str(library()), "JAX_PLATFORMS": "cpu"}
        self._process = subprocess.Popen(
            [sys.executable, __file__, "--serve"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=environment,
        )
        return self

    def __exit__(self, *_: object) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def write(
        self, writer: str, folder: Path, which: int, *, at: int = 0, fault: str = ""
    ) -> dict[str, Any]:
        """Lets a process write; returns its error, of which kind it is, and its calls."""
        self.ask(writer, folder, [which], at=at, fault=fault)
        return self.answer()[0]

    def ask(
        self,
        writer: str,
        folder: Path,
        which: Sequence[int],
        *,
        at: int = 0,
        fault: str = "",
        times: int = 1,
    ) -> None:
        """Lets one process for each number of `which` write at once."""
        shared = {"writer": writer, "folder": str(folder), "at": at, "fault": fault}
        assert self._process.stdin is not None
        tasks = [{**shared, "which": number, "times": times} for number in which]
        self._process.stdin.write(json.dumps(tasks) + "\n")
        self._process.stdin.flush()

    def answer(self) -> list[dict[str, Any]]:
        assert self._process.stdout is not None
        return json.loads(self._process.stdout.readline())


class Trial:
    """One writer, and a folder for each of its cases."""

    def __init__(self, server: Server, name: str, root: Path) -> None:
        from helpers.writers import CONTROL, WRITERS

        self.writer = CONTROL if name == CONTROL.name else WRITERS[name]
        self.server, self.root = server, root / name.replace(" ", "-")
        self.root.mkdir()
        self._number = 0
        clean = self._folder()
        said = self._write(clean, 1)
        assert not said["error"], said
        assert self.writer.read(clean) == 1
        self.calls: int = said["calls"]
        assert self.calls > 1, f"{name}: found {said}, expected calls that change files"
        if not self.writer.fresh:
            again = self._write(clean, 1)
            assert not again["error"], again
        self._expected = _listing(clean)

    def _folder(self) -> Path:
        """A new folder with the old content in it, and a file of somebody's."""
        self._number += 1
        folder = self.root / str(self._number)
        if self._number == 1 or self.writer.fresh:
            folder.mkdir()
            (folder / _BYSTANDER[0]).write_bytes(_BYSTANDER[1])
        else:
            shutil.copytree(self.root / "1.old", folder)
        if self._number == 1 and not self.writer.fresh:
            said = self._write(folder, 0)
            assert not said["error"] and self.writer.read(folder) == 0, said
            shutil.copytree(folder, self.root / "1.old")
        return folder

    def _write(self, folder: Path, which: int, **fault: Any) -> dict[str, Any]:
        return self.server.write(self.writer.name, folder, which, **fault)

    def judge(self, fault: str, at: int) -> str:
        """What is wrong after a fault; "" if nothing is."""
        folder = self._folder()
        said = self._write(folder, 1, at=at, fault=fault)
        if problem := self._after(folder, said, fault):
            return problem
        there = self.writer.fresh and self._read(folder) == 1
        said = self._write(folder, 1)
        if said["error"] and not (there and said["error"].startswith("FileExistsError")):
            return f"cannot be written after it: {said['error']}"
        if (number := self._read(folder)) != 1:
            return f"found {number} when written once more"
        if left := sorted(_listing(folder) - self._expected):
            return f"left behind: {left}"
        if lost := sorted(self._expected - _listing(folder)):
            return f"lost: {lost}"
        shutil.rmtree(folder)
        return ""

    def _after(self, folder: Path, said: dict[str, Any], fault: str) -> str:
        if said["kind"] not in ("", "OSError", "signal 9"):
            return f"{said['error']}, expected an OSError"
        number = self._read(folder)
        if number not in (0, 1):
            return f"found {number} after {said['error'] or 'no error'}"
        if not said["error"] and number != 1:
            return "said to be written, and the old content is there"
        if said["kind"] == "OSError" and str(folder) not in said["error"]:
            return f"does not name the file: {said['error']}"
        if fault != "killed" and said["kind"] == "signal 9":
            return "ended by a signal"
        name, content = _BYSTANDER
        if (folder / name).read_bytes() != content:
            return "another file was changed"
        return ""

    def _read(self, folder: Path) -> Any:
        try:
            return self.writer.read(folder)
        except (ValueError, OSError, AssertionError, StopIteration, KeyError) as error:
            return f"neither old nor new ({' '.join(str(error).split())[:200]})"

    def race(self) -> str:
        """Two processes write at once, again and again, while a third reads."""
        folder = self._folder()
        self.server.ask(self.writer.name, folder, [0, 1], times=RACES)
        reads = 0
        process = self.server
        import threading

        found: list[Any] = []
        waiter = threading.Thread(target=lambda: found.extend(process.answer()))
        waiter.start()
        while waiter.is_alive() or not reads:
            number, reads = self._read(folder), reads + 1
            if number not in (0, 1):
                waiter.join()
                return f"a reader found {number}"
        waiter.join()
        wrong = [said["error"] for said in found if said["kind"] not in ("", "OSError")]
        wrong += [said["error"] for said in found if said["error"] and not self.writer.fresh]
        if wrong:
            return f"two at once: {wrong[0]}"
        if left := sorted(_listing(folder) - self._expected):
            return f"two at once left behind: {left}"
        shutil.rmtree(folder)
        return ""


def _listing(folder: Path) -> set[str]:
    """Names of the files, but for what a library names by chance."""
    names = set()
    for path in folder.rglob("*"):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and "/d/" not in name and "events.out" not in name:
            names.add(_STEP.sub("checkpoints/N/", name))
    steps = list(folder.glob("run/checkpoints/*"))
    return names | {f"{len(steps)} checkpoints"}


def cases(trials: dict[str, Trial], faults: Sequence[str] = tuple(FAULTS)) -> list[Case]:
    """Every fault at every call."""
    return [
        Case(name, fault, at)
        for name, trial in trials.items()
        for fault in faults
        for at in range(1, trial.calls + 1)
    ]


def run(
    server: Server,
    root: Path,
    names: Sequence[str],
    most: int = 0,
    raced: Sequence[str] | None = None,
    kinds: Sequence[str] = tuple(FAULTS),
) -> Iterator[tuple[Case, str]]:
    """Yields cases, each with what is wrong after it or "".

    Args:
      server: the process that forks.
      root: an empty folder.
      names: of writers.
      most: cases of each, drawn at random; 0: all.
      raced: writers that two processes run at once, too; None: all that may be.
      kinds: of faults.
    """
    for name in names:
        trial = Trial(server, name, root)
        chosen = cases({name: trial}, kinds)
        if most and most < len(chosen):
            chosen = random.Random(name).sample(chosen, most)
        for case in chosen:
            yield case, trial.judge(case.fault, case.at)
        if not trial.writer.alone and (raced is None or name in raced):
            yield Case(name, "two at once", RACES), trial.race()


def main(arguments: Sequence[str] | None = None) -> int:
    """Exit status: 1 if anything was found."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--writer", action="append", help="one of them; may be repeated")
    parser.add_argument("--fault", choices=FAULTS, help="one kind of fault")
    parser.add_argument("--at", type=int, help="one call")
    parser.add_argument("--most", type=int, default=0, help="cases of each writer; 0: all")
    parser.add_argument("--serve", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.serve:
        _serve()
        return 0
    if compiler() is None:
        parser.error("found no C compiler (cc, gcc, clang), expected one")
    from rich.progress import Progress

    from helpers.writers import WRITERS

    names = options.writer or list(WRITERS)
    counts: collections.Counter = collections.Counter()
    findings: list[str] = []
    with tempfile.TemporaryDirectory() as folder, Server() as server, Progress() as progress:
        if options.fault and options.at:
            trial = Trial(server, names[0], Path(folder))
            print(trial.judge(options.fault, options.at) or "nothing wrong")
            return 0
        bar = progress.add_task("writers", total=len(names))
        for name in names:
            tried: collections.Counter = collections.Counter()
            wrong = []
            kinds = [options.fault] if options.fault else list(FAULTS)
            for case, finding in run(server, Path(folder), [name], options.most, kinds=kinds):
                tried[case.fault] += 1
                if finding:
                    wrong.append(f"{case.writer}, {case.fault} at call {case.at}: {finding}")
                    progress.console.print(wrong[-1], style="red", markup=False, soft_wrap=True)
            progress.advance(bar)
            counts.update(tried)
            findings += wrong
            how = ", ".join(f"{count} {fault}" for fault, count in sorted(tried.items()))
            progress.console.print(
                f"{name:<18} {how}: {len(wrong)} findings", highlight=False, soft_wrap=True
            )
    print(f"{counts.total():,} cases, {len(findings)} findings")
    return int(bool(findings))


if __name__ == "__main__":
    os.environ.setdefault("JAX_PLATFORMS", "cpu")
    sys.path.insert(0, str(Path(__file__).parents[1]))
    sys.exit(main())
