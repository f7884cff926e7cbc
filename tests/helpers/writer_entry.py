"""What `faults` must know of a writer."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from helpers.format_entry import canonical


@dataclasses.dataclass(frozen=True)
class Writer:
    """Something that is written into a folder, with content 0 or content 1.

    Attributes:
      name: what it is called.
      write: writes the content of a number.
      read: the number of the content that is there, read with all checks; raises if it is neither.
      fresh: it is only ever written where there is none yet, which reads as 0.
      alone: writers of one folder keep each other out, or are kept out by what calls them.
    """

    name: str
    write: Callable[[Path, int], Any]
    read: Callable[[Path], int]
    fresh: bool = False
    alone: bool = False


def which(found: Any, make: Callable[[int], Any]) -> int:
    """The number of the content that was found; ValueError if it is neither."""
    for number in (0, 1):
        if canonical(found) == canonical(make(number)):
            return number
    raise ValueError("found neither the old content nor the new")
