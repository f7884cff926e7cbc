"""Records that cannot be read, and loader processes that fail or hang: skipped or named.

Both work across processes by what they leave behind: an element says which record it stands for,
and a file by the loader's processes says what each is at.
"""

import contextlib
import dataclasses
import json
import os
import shutil
import tempfile
import threading
import time
import weakref
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from pathlib import Path
from typing import Any

import numpy as np

from mirage_jax.io.atomic import write_atomically
from mirage_jax.io.strict_json import read_object

Element = dict[str, Any]

SKIPPED = "_skipped"
"""Field of an element: number of the record that could not be read, in whose place it is, or -1."""

_MOST_IN_A_ROW = 64
_NOWHERE = "no clip"


class LoaderError(OSError):
    """A loader failed, ended or does not answer; says which clips it was at."""


class Checked:
    """Random access to records that a transform takes: others are as those that cannot be read.

    Args:
      source: random access to records; `title(index)`, if it has one, names a record.
      check: of the transform, raises ValueError for a record that it does not take.
    """

    def __init__(self, source: Any, check: Callable[[Element], Any]):
        self._source, self._check = source, check

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Element:
        element = self._source[index]
        try:
            self._check(element)
        except ValueError as error:
            title = getattr(self._source, "title", None)
            if title is None:
                raise
            raise ValueError(f"{title(index)}: {error}") from error
        return element

    def __repr__(self) -> str:
        return f"Checked({self._source})"


@dataclasses.dataclass(frozen=True)
class KeepingSkipped:
    """A transform that leaves what `Substituting` adds to an element as it is.

    What it raises says of which clip, if elements have names.
    """

    transform: Callable[[Element, np.random.Generator], Element]

    def __call__(self, element: Element, rng: np.random.Generator) -> Element:
        plain = {key: value for key, value in element.items() if key != SKIPPED}
        try:
            made = self.transform(plain, rng)
        except Exception as error:
            # The boundary to the loader's processes, in which nobody else knows the clip.
            name = element.get("name")
            if name is None or isinstance(error, LoaderError) or repr(name) in str(error):
                raise
            if isinstance(error, ValueError):
                raise ValueError(f"clip {name!r}: {error}") from error
            raise LoaderError(f"clip {name!r}: {type(error).__name__}: {error}") from error
        return {**made, SKIPPED: element[SKIPPED]} if SKIPPED in element else made


class Substituting:
    """Random access in which a record that cannot be read is replaced by the next one that can.

    Which one that is depends on the records alone, so that the stream of a loader is the same for
    any number of processes and hosts. What cannot be read for a moment is read a second time.

    Args:
      source: random access to records.
      lengths: of the sets that it is made of, which may have pictures of other shapes: the next
        one is of the same set, whose first follows its last. () for one set.
    """

    def __init__(self, source: Any, lengths: Sequence[int] = ()):
        self._source = source
        self._ends = np.cumsum(lengths or (len(source),))

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Element:
        """The record and `SKIPPED`.

        Raises:
          ValueError: of the record itself, where none of the next 64 can be read either.
        """
        try:
            return {**self._read(index), SKIPPED: np.int64(-1)}
        except ValueError:
            own = int(np.searchsorted(self._ends, index, side="right"))
            first = int(self._ends[own - 1]) if own else 0
            length = int(self._ends[own]) - first
            for step in range(1, min(_MOST_IN_A_ROW, length) + 1):
                try:
                    found = self._source[first + (index - first + step) % length]
                except ValueError:
                    continue
                return {**found, SKIPPED: np.int64(index)}
            raise

    def _read(self, index: int) -> Element:
        with contextlib.suppress(ValueError):
            return self._source[index]
        return self._source[index]

    def __repr__(self) -> str:
        return f"Substituting({self._source})"


class Skipped:
    """The records that a loader has skipped so far, each once, and when they are too many.

    Args:
      source: that they are of.
      share: of its records that may be skipped, 0 to 1.
      say: called with a line of text for each.
      told: file that says which this host has skipped, see `told_file`; those of other hosts lie
        beside it and count too. What it says of an earlier run, and is so still, counts on. None:
        nothing is written, and this host's alone count.
    """

    def __init__(
        self, source: Any, share: float, say: Callable[[str], None], told: Path | None = None
    ):
        self._source, self._share, self._say, self._told = source, share, say, told
        self.reasons: dict[int, str] = {}
        if told is not None and told.exists():
            before = map(int, read_object(told))
            still = ((number, self._reason(number)) for number in before if number < len(source))
            self.reasons = {number: reason for number, reason in still if reason}
            self._tell(told)

    def add(self, numbers: np.ndarray) -> None:
        """Counts the records of a batch's `SKIPPED`.

        Raises:
          ValueError: if more than the share are skipped by now; lists the first of them.
        """
        found = sorted({int(n) for n in numbers if n >= 0} - self.reasons.keys())
        for number in found:
            passed = f"clip {number}: could not be read once, and now can"
            self.reasons[number] = self._reason(number) or passed
            self._say(f"skipped: {self.reasons[number]}")
        everywhere = self.reasons
        if found and self._told is not None:
            self._tell(self._told)
            everywhere = skipped_by(self._told)
        check_share(everywhere, len(self._source), self._share)

    def _tell(self, told: Path) -> None:
        told.parent.mkdir(parents=True, exist_ok=True)
        reasons = {str(number): reason for number, reason in self.reasons.items()}
        write_atomically(told, json.dumps(reasons, indent=1) + "\n")

    def _reason(self, number: int) -> str:
        """Why a record cannot be read; "" if it can."""
        try:
            self._source[number]
        except ValueError as error:
            return str(error)
        return ""


def told_file(folder: Path, host: int, hosts: int) -> Path:
    """Where a host says which records it has skipped, in a folder that all hosts share."""
    return folder / f"skipped-{host}-of-{hosts}.json"


def skipped_by(told: Path) -> dict[int, str]:
    """Why records were skipped, by their number: by the host of `told` and all others."""
    hosts = told.name.rpartition("-of-")[2]
    files = sorted(told.parent.glob(f"skipped-*-of-{hosts}"))
    return {int(n): why for file in files for n, why in read_object(file).items()}


def check_share(reasons: Mapping[int, str], total: int, share: float) -> None:
    """Raises ValueError where more than a share of `total` records cannot be read.

    Args:
      reasons: why, by the number of the record; the first three are named.
      total: all there are.
      share: of them, 0 to 1.
    """
    if len(reasons) > share * total:
        shown = "; ".join([reason for _, reason in sorted(reasons.items())][:3])
        raise ValueError(
            f"found {len(reasons)} of {total} clips that cannot be read, expected at most "
            f"{share:.2%}: {shown}"
        )


class Watched:
    """Random access that leaves in a folder which record each thread has begun to read last.

    What reading raises is a ValueError or names the record.
    """

    def __init__(self, source: Any, folder: Path):
        self._source, self._folder = source, folder

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> Any:
        (self._folder / f"{os.getpid()}-{threading.get_ident()}").write_text(str(index))
        try:
            return self._source[index]
        except (ValueError, LoaderError):  # which name the clip
            raise
        except Exception as error:
            # The boundary to the loader's processes: what a decoder raised is told with its clip.
            raise LoaderError(
                f"clip {index} of {self._source}: {type(error).__name__}: {error}"
            ) from error

    def __repr__(self) -> str:
        return f"Watched({self._source})"


class Watch:
    """Draws from an iterator and says which clips a process was at that died or does not answer.

    `close()`, or the end of the program, removes what the watched source has left.

    Args:
      source: of the loader.
      seconds: how long a batch may take.
      title: names a record by its number; None for one that has no name.
    """

    def __init__(self, source: Any, seconds: float, title: Callable[[int], str] | None = None):
        self._source, self._seconds, self._named = source, seconds, title
        self._folder = Path(tempfile.mkdtemp(prefix="mirage-loader-"))
        self.source = Watched(source, self._folder)
        self.close = weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)

    def draw(self, iterator: Any) -> Any:
        """The next of the iterator.

        Raises:
          LoaderError: naming the clips.
        """
        asked: futures.Future[Any] = futures.Future()
        # Not a pool's: the interpreter would wait for a thread that hangs before it ends.
        threading.Thread(target=_settle, args=(asked, iterator), daemon=True).start()
        try:
            return asked.result(self._seconds)
        except futures.TimeoutError:
            if asked.done():  # an error of the loader's own
                raise
            at = self._at(lambda _, age: age > 0.5 * self._seconds)
            raise LoaderError(
                f"no batch in {self._seconds:g} s (config.loading.seconds); still at {at}"
            ) from None
        except RuntimeError as error:
            at = self._at(lambda process, _: not _alive(process))
            if at == _NOWHERE:
                raise
            raise LoaderError(f"{error} It was at {at}") from error

    def _at(self, concerned: Callable[[int, float], bool]) -> str:
        """Titles of the records that some processes were at, by process and age in seconds."""
        found = []
        for mark in sorted(self._folder.iterdir()):
            process, age = int(mark.name.split("-")[0]), time.time() - mark.stat().st_mtime
            if concerned(process, age) and (text := mark.read_text()):
                found.append(int(text))
        return ", ".join(self._title(index) for index in sorted(set(found))) or _NOWHERE

    def _title(self, index: int) -> str:
        """The title, if reading it does not hang as well."""
        plain = f"clip {index} of {self._source}"
        title = self._named
        if title is None:
            return plain
        found: list[str] = []

        def read() -> None:
            found.append(title(index))

        reader = threading.Thread(target=read, daemon=True)
        reader.start()
        reader.join(5.0)
        return found[0] if found else plain


def _settle(asked: futures.Future[Any], iterator: Any) -> None:
    """Gives a future the next of an iterator, or the error of drawing it."""
    try:
        asked.set_result(next(iterator))
    except BaseException as error:
        asked.set_exception(error)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    # One that has ended and whose end nobody has asked for yet still has a number.
    state = Path(f"/proc/{process}/stat")
    return not (state.exists() and state.read_text().rsplit(")", 1)[1].split()[0] == "Z")
