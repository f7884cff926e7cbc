"""What looking through all scenes finds, kept so that it need not be done again; and what is kept.

survey = describe(source, Survey(scenes, worlds))  # JSON
recall(source, survey)  # in another process: `recalled(source)` then has it
"""

import collections
import dataclasses
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

from data_pipelines.sources.footage.files import walk

T = TypeVar("T")

_SINGLY = 1000
"""Files of a folder that are listed one by one; more are one entry, of their sizes' sum."""

_WORLDS = "worlds"
_PARTS = (_WORLDS, "latents", "latents_rgb", "training", "model", "compilation_cache", "processes")
"""Folders of a work directory, in the first of which are the recordings; see `io.workdir`."""


class Found(NamedTuple):
    """What planning needs to know of a world.

    Attributes:
      clips: how many it has.
      left_out: how many frames of its files are in no scene, by reason.
    """

    clips: int
    left_out: Mapping[str, int]


class Survey(NamedTuple):
    """What looking through all scenes has found.

    Attributes:
      scenes: their names.
      worlds: what each is, by name, or the end of one.
    """

    scenes: tuple[str, ...]
    worlds: Mapping[str, Found]


_recalled: dict[Any, Survey] = {}


def recalled(source: Any) -> Survey | None:
    """What an earlier look through a source has found; None if there was none."""
    return _recalled.get(source)


def describe(source: Any, survey: Survey) -> dict[str, Any]:
    """A survey as JSON, with the options that it depends on."""
    worlds = {name: [found.clips, dict(found.left_out)] for name, found in survey.worlds.items()}
    return {"options": _options(source), "scenes": list(survey.scenes), "worlds": worlds}


def recall(source: Any, survey: Mapping[str, Any]) -> None:
    """Takes a survey for true, if it is of a source with equal options."""
    scenes, worlds = survey.get("scenes"), survey.get("worlds")
    if survey.get("options") != _options(source) or not isinstance(worlds, dict):
        return
    if not isinstance(scenes, list) or not scenes:
        return
    known = all(isinstance(name, str) and name in worlds for name in scenes)
    if known and all(map(_is_found, worlds.values())):
        found = {name: Found(*value) for name, value in worlds.items()}
        _recalled[source] = Survey(tuple(scenes), found)


def _is_found(value: Any) -> bool:
    """Whether JSON is of a `Found`."""
    if not isinstance(value, list) or len(value) != 2 or not isinstance(value[1], dict):
        return False
    return all(type(count) is int and count >= 0 for count in (value[0], *value[1].values()))


def _options(source: Any) -> dict[str, Any]:
    """All of them; of the place of the footage, which may differ from host to host, the name."""
    options = {f.name: getattr(source, f.name) for f in dataclasses.fields(source)}
    options["root"] = Path(source.root).resolve().name  # which the only scene may be called by
    return {name: str(value) for name, value in options.items()}


def files_below(root: Path, directory: Path) -> dict[str, list[int]]:
    """Bytes and time (ns) of the footage's files by their names below `root`.

    Of a folder of more than a thousand files the sum and the newest, by the folder's name. What a
    recording into `directory`, and other commands in its work directory, write is none of them.
    """
    if root.is_file():
        return dict([_stat(root, root.parent)])
    found: dict[str, list[int]] = {}
    for folder in walk(root, _written_to(root.resolve(), directory.resolve())):
        files = [path for path in sorted(folder.iterdir()) if path.is_file()]
        stats = dict(_stat(path, root) for path in files if not path.name.startswith("."))
        if len(stats) > _SINGLY:
            name = f"{folder.relative_to(root).as_posix()}/ ({len(stats)} files)"
            stats = {name: [sum(s for s, _ in stats.values()), max(t for _, t in stats.values())]}
        found |= stats
    return found


def _written_to(root: Path, directory: Path) -> frozenset[Path]:
    """Folders below `root` that have no footage, but what commands write beside a recording."""
    workdir = directory.parents[1]
    if directory.parent != workdir / _WORLDS:
        return frozenset([directory])
    if workdir.is_relative_to(root) and workdir != root:
        return frozenset([workdir])
    return frozenset(workdir / name for name in _PARTS)


def _stat(path: Path, root: Path) -> tuple[str, list[int]]:
    status = path.stat()
    return path.relative_to(root).as_posix(), [status.st_size, status.st_mtime_ns]


class WeightedCache(Generic[T]):
    """Results of a function of (source, name), the last that were asked for, up to a weight.

    Args:
      make: the function; nothing is kept of a call that raises.
      weigh: what a result weighs.
      most: of all that are kept; the last is kept whatever it weighs.
    """

    def __init__(self, make: Callable[[Any, str], T], weigh: Callable[[T], int], most: int):
        self._make, self._weigh, self._most = make, weigh, most
        self._found: collections.OrderedDict[tuple[Any, str], tuple[T, int]]
        self._found, self._weight = collections.OrderedDict(), 0
        self._lock = threading.Lock()

    def __call__(self, source: Any, name: str) -> T:
        key = (source, name)
        with self._lock:
            if key in self._found:
                self._found.move_to_end(key)
                return self._found[key][0]
        made = self._make(source, name)
        weight = max(self._weigh(made), 1)
        with self._lock:
            if key not in self._found:
                self._found[key] = made, weight
                self._weight += weight
            while self._weight > self._most and len(self._found) > 1:
                self._weight -= self._found.popitem(last=False)[1][1]
        return made

    def __len__(self) -> int:
        return len(self._found)

    def cache_clear(self) -> None:
        """Forgets all, as the cached functions of functools do."""
        with self._lock:
            self._found.clear()
            self._weight = 0
