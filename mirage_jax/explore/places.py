"""What the hub knows of pages, of walkers and of the model."""

from __future__ import annotations

import dataclasses
import time
from typing import Protocol, runtime_checkable

from mirage_jax.explore.walker import Walker


@runtime_checkable
class Page(Protocol):
    """A connected page, as the hub needs it."""

    def status_changed(self) -> None:
        """The model is further, or ready, or has failed."""

    def lists_changed(self) -> None:
        """There are other walkers or saved worlds."""

    def memory_changed(self) -> None:
        """Another walker wrote to the memory."""

    def dismiss(self, why: str) -> None:
        """Another page goes on with the walker."""


@dataclasses.dataclass
class Status:
    """How far the model is: "starting", "compiling", "ready" or "failed"."""

    state: str = "starting"
    text: str = "reading the weights"
    share: float = 0.0


@dataclasses.dataclass
class Place:
    """A walker, who may come back to it, and who walks in the same memory.

    Attributes:
      walker: the session and all beside.
      secret: by which its page finds it again.
      group: number that walkers of one memory share.
      page: its connection, None while there is none.
      left: when the last page went, of `time.monotonic`.
    """

    walker: Walker
    secret: str
    group: int
    page: Page | None = None
    left: float = dataclasses.field(default_factory=time.monotonic)
