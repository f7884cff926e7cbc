"""Whether the files that a finite source reads are still those that it was recorded from.

`footage.json` beside the shards has the size and the time of each of them, and what looking through
all of them has found, which a resumed recording takes from there while the files are the same.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from rich.console import Console

from mirage_jax.io.atomic import write_atomically
from mirage_jax.io.strict_json import read_object

FILE = "footage.json"
_FORMAT = "mirage-footage-1"


@runtime_checkable
class ReadsFiles(Protocol):
    """A source that reads files, and can be told what it found in them."""

    def files(self) -> dict[str, list[int]]:
        """Bytes and time (ns) of every file, by its name."""
        ...

    def survey(self) -> dict[str, Any]:
        """What looking through all of them finds, as JSON."""
        ...

    def recall(self, survey: Mapping[str, Any]) -> None:
        """Takes the survey for true, if it is of a source with equal options."""
        ...


def recall(source: object, directory: Path) -> None:
    """Spares a source looking through its files, if they are those of an earlier recording."""
    if not isinstance(source, ReadsFiles):
        return
    before = _read(directory / FILE)
    if before is not None and before["files"] == source.files():
        source.recall(before["survey"])


def check(source: object, directory: Path, *, mixes: bool, console: Console | None) -> None:
    """Compares a source's files with those of an earlier recording, and notes what they are now.

    Args:
      source: what is recorded.
      directory: of the recording.
      mixes: whether clips of both would come into one split.
      console: where to say what has changed without harm; None is standard error.

    Raises:
      ValueError: naming a file of another size, or that is gone, if clips would be mixed.
    """
    if not isinstance(source, ReadsFiles):
        return
    path, files = directory / FILE, source.files()
    before = _read(path)
    if before is not None and before["files"] == files:
        return
    if before is not None:
        others, touched = _changes(before["files"], files)
        if others and mixes:
            raise ValueError(
                f"{path}: {others[0]}, and {len(others) - 1} other changes of the footage since it "
                "was recorded in part; expected the same files: bring them back, or record into "
                "another folder"
            )
        if others or touched:
            first = (others or touched)[0]
            (console or Console(stderr=True)).print(
                f"{directory}: {first} ({len(others)} files changed in size or gone, "
                f"{len(touched)} in time, since they were recorded); finished shards are kept",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
    content = {"format": _FORMAT, "files": files, "survey": source.survey()}
    write_atomically(path, json.dumps(content, ensure_ascii=False))


def _changes(
    before: Mapping[str, list[int]], now: Mapping[str, list[int]]
) -> tuple[list[str], list[str]]:
    """What is of another size or gone, and what is of another time, in words."""
    others, touched = [], []
    for name, (size, time) in before.items():
        if name not in now:
            others.append(f"{name} is gone")
        elif now[name][0] != size:
            others.append(f"{name}: found {now[name][0]:,} bytes, expected {size:,}")
        elif now[name][1] != time:
            touched.append(f"{name} was written to or copied")
    return others, touched


def _read(path: Path) -> dict[str, Any] | None:
    """The content; None where there is none.

    Raises:
      ValueError: naming the file, if it is damaged.
    """
    if not path.exists():
        return None
    content = read_object(path)
    files = content.get("files")
    good = content.get("format") == _FORMAT and isinstance(content.get("survey"), dict)
    if not good or not isinstance(files, dict) or not all(map(_is_file, files.values())):
        raise ValueError(
            f"{path}: found format {content.get('format')!r}, expected {_FORMAT} with files and a "
            "survey; remove it, and the footage is looked through again"
        )
    return content


def _is_file(value: Any) -> bool:
    return isinstance(value, list) and len(value) == 2 and all(type(n) is int for n in value)
