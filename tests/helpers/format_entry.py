"""What `fuzzing` must know of a format, and content that compares by its bits."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

Damage = Callable[[bytes], bytes]


@dataclasses.dataclass(frozen=True)
class Format:
    """A kind of file, or of folder, that is read.

    Attributes:
      name: what it is called.
      make: writes a sample into an empty folder; returns the path that is read.
      read: reads it with all checks; raises, or returns its whole content.
      accept: raises AssertionError unless content that was read from a changed file may be taken:
        of the original's names, shapes, types and finite where that is. None: nothing but the very
        content of the original may be.
      sealed: changes a sample so that all its own checksums are right; `accept` judges what is
        then read. None: it has no checksums that one could put right.
      readers: names of the public functions that this is a sample of.
    """

    name: str
    make: Callable[[Path], Path]
    read: Callable[[Path], Any]
    accept: Callable[[Any, Any], None]
    readers: tuple[str, ...]
    ours: bool = False
    sealed: Callable[[Path, Damage], None] | None = None


def canonical(content: Any) -> Any:
    """Content as plain values that compare by their bits."""
    if isinstance(content, np.ndarray | jax.Array | np.generic):
        if jax.dtypes.issubdtype(content.dtype, jax.dtypes.prng_key):
            content = jax.random.key_data(content)
        array = np.asarray(content)
        return str(array.dtype), array.shape, array.tobytes()
    if isinstance(content, Mapping):
        return {key: canonical(content[key]) for key in sorted(content)}
    if dataclasses.is_dataclass(content) and not isinstance(content, type):
        return {f.name: canonical(getattr(content, f.name)) for f in dataclasses.fields(content)}
    if isinstance(content, list | tuple):
        return [canonical(item) for item in content]
    return content if isinstance(content, bytes) else repr(content)
