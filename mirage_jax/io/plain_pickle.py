"""Pickles read without running what is in them: any name that was not allowed is refused."""

from __future__ import annotations

import io
import pickle
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any


def unpickle(
    data: bytes,
    path: Path,
    names: Mapping[tuple[str, str], Any],
    expected: str,
    persistent: Callable[[Any], Any] | None = None,
) -> Any:
    """What a pickle holds: lists, dicts, tuples, plain values, and what `names` makes of the rest.

    Args:
      data: the pickle.
      path: the file it is of, for messages.
      names: by (module, name), what stands in for a name in it; nothing else is ever called.
      expected: what the file should hold, in words.
      persistent: from the pickle's references to what lies elsewhere; None: there are none.

    Raises:
      ValueError: naming the file, for any other name, and what `names` and `persistent` raise with
        the file's name first.
      pickle.UnpicklingError: if it is damaged.
    """
    try:
        return _Reader(data, path, names, expected, persistent).load()
    except pickle.UnpicklingError:
        raise
    except Exception as error:  # what pickle raises for damaged data has no common base
        if isinstance(error, ValueError) and str(error).startswith(str(path)):
            raise
        raise pickle.UnpicklingError(repr(error)) from error


class _Reader(pickle.Unpickler):
    def __init__(
        self,
        data: bytes,
        path: Path,
        names: Mapping[tuple[str, str], Any],
        expected: str,
        persistent: Callable[[Any], Any] | None,
    ) -> None:
        super().__init__(io.BytesIO(data))
        self._path, self._names, self._expected = path, names, expected
        self._persistent = persistent

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._names:
            raise ValueError(
                f"{self._path}: found {module}.{name}, expected {self._expected} alone"
            )
        return self._names[module, name]

    def persistent_load(self, pid: Any) -> Any:
        if self._persistent is None:
            raise pickle.UnpicklingError(f"a reference to what lies elsewhere, {pid!r}")
        return self._persistent(pid)
