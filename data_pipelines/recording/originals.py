"""Whether the files that a finite source reads are still those that it was recorded from.

`footage.json` beside the shards has the size and the time of each of them, for each split, and what
looking through all of them has found, which a resumed recording takes from there while it is of
the same files.
"""

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

from rich.console import Console

from mirage_jax.io.atomic import write_atomically
from mirage_jax.io.strict_json import read_object

FILE = "footage.json"
_FORMAT, _OLDER = "mirage-footage-2", "mirage-footage-1"


@runtime_checkable
class ReadsFiles(Protocol):
    """A source that reads files, and can be told what it found in them."""

    def files(self, directory: Path) -> dict[str, list[int]]:
        """Bytes and time (ns) of every file, by its name, but those of a recording there."""
        ...

    def survey(self) -> dict[str, Any]:
        """What looking through all of them finds, as JSON."""
        ...

    def recall(self, survey: Mapping[str, Any]) -> None:
        """Takes the survey for true, if it is of a source with equal options."""
        ...


def recall_survey(source: object, directory: Path) -> None:
    """Spares a source looking through its files, if they are those that the survey is of."""
    if not isinstance(source, ReadsFiles):
        return
    before = _read(directory / FILE)
    if before.survey_of and before.survey_of == _digest(source.files(directory)):
        source.recall(before.survey)


def knows(source: object, directory: Path, split: str) -> bool:
    """Whether a source's files are compared with those that a split was recorded from."""
    return isinstance(source, ReadsFiles) and split in _read(directory / FILE).splits


def check_files(
    source: object,
    directory: Path,
    split: str,
    *,
    there: bool,
    mixes: bool,
    console: Console | None,
) -> None:
    """Compares a source's files with those that a split is of, and notes what is not known yet.

    Args:
      source: what is recorded.
      directory: of the recording.
      split: "train" or "eval".
      there: whether any shard of the split is: what it was recorded from then stays noted.
      mixes: whether clips of both would come into the split.
      console: where to say what has changed without harm; None is standard error.

    Raises:
      ValueError: naming a file of another size, or that is gone, if clips would be mixed.
    """
    if not isinstance(source, ReadsFiles):
        return
    path, files = directory / FILE, source.files(directory)
    before = _read(path)
    known = before.splits.get(split)
    if there and known is not None:
        others, touched = _changes(known, files)
        if others and mixes:
            raise ValueError(
                f"{path}: {others[0]}, and {len(others) - 1} other changes of the footage since "
                f"{split!r} was recorded in part; expected the same files: bring them back, or "
                "record into another folder"
            )
        if others or touched:
            first = (others or touched)[0]
            (console or Console(stderr=True)).print(
                f"{directory}: {first} ({len(others)} files changed in size or gone, "
                f"{len(touched)} in time, since {split!r} was recorded); finished shards are kept",
                markup=False,
                highlight=False,
                soft_wrap=True,
            )
    splits = before.splits if there and known is not None else {**before.splits, split: files}
    if splits == before.splits and before.survey_of == _digest(files):
        return
    survey = {"survey": source.survey(), "survey_of": _digest(files)}
    content = {"format": _FORMAT, "splits": splits, **survey}
    write_atomically(path, json.dumps(content, ensure_ascii=False))


def _digest(files: Mapping[str, list[int]]) -> str:
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


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


class _Noted(NamedTuple):
    """The content of the file.

    Attributes:
      splits: files that each split was recorded from.
      survey: what looking through files has found.
      survey_of: digest of those files.
    """

    splits: Mapping[str, dict[str, list[int]]]
    survey: Mapping[str, Any]
    survey_of: str


def _read(path: Path) -> _Noted:
    """What is noted; nothing where there is no file.

    Raises:
      ValueError: naming the file, if it is damaged.
    """
    if not path.exists():
        return _Noted({}, {}, "")
    content = read_object(path)
    if content.get("format") == _OLDER:  # which had one list for all splits
        files = _files(path, "files", content.get("files"))
        noted = {"splits": dict.fromkeys(("train", "eval"), files), "survey_of": _digest(files)}
        content |= noted
    elif content.get("format") != _FORMAT:
        raise _damaged(path, "format", content.get("format"), _FORMAT)
    splits, survey, survey_of = (content.get(name) for name in _Noted._fields)
    if not isinstance(splits, dict):
        raise _damaged(path, "splits", splits, "files of named splits")
    if not isinstance(survey, dict):
        raise _damaged(path, "survey", survey, "an object")
    if not isinstance(survey_of, str):
        raise _damaged(path, "survey_of", survey_of, "a digest")
    found = {name: _files(path, f"splits.{name}", part) for name, part in splits.items()}
    return _Noted(found, survey, survey_of)


def _files(path: Path, field: str, found: Any) -> dict[str, list[int]]:
    if not isinstance(found, dict):
        raise _damaged(path, field, found, "[bytes, time] of named files")
    for name, value in found.items():
        good = isinstance(value, list) and len(value) == 2
        if not good or not all(type(number) is int for number in value):
            raise _damaged(path, field, f"{name!r}: {value!r}", "[bytes, time]")
    return found


def _damaged(path: Path, field: str, found: Any, expected: str) -> ValueError:
    shown = found if isinstance(found, str) and field != "format" else repr(found)
    return ValueError(
        f"{path}: {field}: found {shown}, expected {expected}; remove it, and the footage is "
        "looked through again"
    )
