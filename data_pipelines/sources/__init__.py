"""Sources of clips by name.  A source's module and engine are imported when asked for.

Worlds are rendered clip by clip from seeds; footage is there, and its clips have numbers
(`FiniteSource`).  A new layout of footage is a module of `footage`, see `footage.formats`.

To add a source:

1. Write a module here with a frozen dataclass that keeps the `Source` protocol.  If an engine
   renders its worlds, derive from `rendered.RenderedSource`, which leaves three things to it: the
   names of the worlds, starting the engine, and one clip from a seed.
2. Make each option a field by `options.option(default, help, low, high)`, and call
   `options.check_options(self)` in `__post_init__`.  Commands show them by `describe_options`.
3. Yield clips that `clip.validate` accepts.  What the source does not know stays None.
4. Import the engine inside functions, and say in `available()` when it is not there.
5. Enter the class in `SOURCES`, and test in tests/data_pipelines that equal seeds give equal clips
   and that depth and poses predict other views (`warp_check`).
"""

import dataclasses
import difflib
import importlib
from collections.abc import Collection, Iterator
from typing import Any, Protocol, runtime_checkable

from data_pipelines.clip import Clip
from data_pipelines.sources.options import describe_options

SOURCES = {
    "footage": "data_pipelines.sources.footage.source:FootageSource",
    "freedoom": "data_pipelines.sources.vizdoom:FreedoomSource",
    "freedoom_generated": "data_pipelines.sources.freedoom_generated:FreedoomGeneratedSource",
    "labmaze": "data_pipelines.sources.labmaze:LabmazeSource",
    "miniworld": "data_pipelines.sources.miniworld:MiniworldSource",
    "openarena": "data_pipelines.sources.openarena.source:OpenArenaSource",
    "procedural": "data_pipelines.sources.procedural:ProceduralSource",
}


@runtime_checkable
class Source(Protocol):
    """What `recording.record` needs of a source; instances must be picklable.

    Neither importing the module nor unpickling an instance may import jax or start an engine:
    recording workers are spawned processes.  Engines start inside `clips`.  A source that drops
    clips itself may count them in a `collections.Counter` attribute `rejected`, by reason.  One
    that needs an engine may have a static `available()`: whether it can run here, and if not, why.
    """

    @property
    def name(self) -> str:
        """Registry name, stored in every clip."""
        ...

    def worlds(self, split: str) -> tuple[str, ...]:
        """Names of the worlds of split "train" or "eval"; no world is in both."""
        ...

    def clips(self, world: str, count: int, seed: int) -> Iterator[Clip]:
        """Yields at most `count` clips of one world; equal arguments give equal clips."""
        ...


@runtime_checkable
class FiniteSource(Source, Protocol):
    """A source of clips that are there, such as footage, rather than made from a seed.

    It is recorded by number: each clip once, none in the place of one that cannot be read.
    """

    def clip_counts(self, split: str) -> dict[str, int]:
        """How many clips each world of a split has."""
        ...

    def clip(self, world: str, index: int) -> Clip:
        """Returns a clip by its number from 0; ValueError, naming the file, where it cannot."""
        ...


def source_class(name: str) -> type:
    """Returns the class of the source called `name`.

    Raises:
      ValueError: unknown name; the message has the nearest known one and the list.
    """
    if name not in SOURCES:
        raise ValueError(f"unknown source {_unknown(name, SOURCES)}")
    module, attribute = SOURCES[name].split(":")
    return getattr(importlib.import_module(module), attribute)


def source_options(name: str) -> dict[str, dataclasses.Field]:
    """Returns the options of the source called `name`: fields with help and range as metadata.

    Raises:
      ValueError: unknown name, as for `source_class`.
    """
    return describe_options(source_class(name))


def make(name: str, **options: Any) -> Source:
    """Returns the source called `name`, built with `options` (see `source_options`).

    Raises:
      ValueError: an unknown name or option, or a value outside of its range.
    """
    known = source_options(name)
    for option in options:
        if option not in known:
            raise ValueError(f"source {name!r}: unknown option {_unknown(option, known)}")
    return source_class(name)(**options)


def _unknown(name: str, known: Collection[str]) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    return f"{name!r}, expected one of {', '.join(known)}{hint}"
