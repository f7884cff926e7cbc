"""Sources of worlds by name.  A source's module and engine are imported when asked for."""

import difflib
import importlib
from collections.abc import Iterator
from typing import Any, Protocol, runtime_checkable

from data_pipelines.clip import Clip

SOURCES = {
    "freedoom": "data_pipelines.sources.vizdoom:FreedoomSource",
    "labmaze": "data_pipelines.sources.labmaze:LabmazeSource",
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


def source_class(name: str) -> type:
    """Returns the class of the source called `name`.

    Raises:
      ValueError: unknown name; the message has the nearest known one and the list.
    """
    if name not in SOURCES:
        near = difflib.get_close_matches(name, SOURCES, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ValueError(f"unknown source {name!r}, expected one of {', '.join(SOURCES)}{hint}")
    module, attribute = SOURCES[name].split(":")
    return getattr(importlib.import_module(module), attribute)


def make(name: str, **options: Any) -> Source:
    """Returns the source called `name`, built with `options` (its constructor's fields)."""
    return source_class(name)(**options)
