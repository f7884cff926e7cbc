"""Elements of a tiled memory in files that are mapped into memory.

A folder holds a file `NAME.bin` for each field of an element, rows of little-endian numbers in the
order of slots, and `memory.json`: how many rows count, and what they are.
"""

from __future__ import annotations

import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from mirage_jax.io.atomic import write_atomically
from mirage_jax.memory.bank import COUNTERS, LatentMemory
from mirage_jax.memory.rows import TILE, HostRows

_FORMAT = "mirage_jax tiled memory 1"


class FileRows(HostRows):
    """Rows in files; what was written counts once `save` has returned."""

    def __init__(self, layout: LatentMemory, folder: str | os.PathLike[str]) -> None:
        """Opens the files of `folder`, or makes it.

        Raises:
          ValueError: naming the file, if it holds something else than rows of the `layout`.
        """
        self._folder = Path(folder)
        self._folder.mkdir(parents=True, exist_ok=True)
        super().__init__(layout)
        self.saved = self._saved()
        """Counters as they were saved; zeros for a new folder."""
        count = self.saved["count"]
        for name in self._layout:
            rows = len(self._arrays[name])
            if rows < count:
                raise ValueError(
                    f"{self._path(name)}: found {rows} whole rows in tiles, expected {count}"
                )
        rest = slice(count, -(-count // TILE) * TILE)
        self._arrays["valid"][rest] = False  # of writes that were never saved

    def reserve(self, rows: int) -> None:
        rows = -(-rows // TILE) * TILE
        if rows > self.room:
            self._arrays = {name: self._allocate(name, rows) for name in self._layout}

    def save(self, counters: dict[str, int]) -> None:
        """Brings rows to the disk, then the counters that say how many there are."""
        for array in self._arrays.values():
            if isinstance(array, np.memmap):
                array.flush()
        header = {"format": _FORMAT, "fields": self._fields(), "counters": counters}
        write_atomically(self._header, json.dumps(header, indent=1) + "\n", sync=True)

    @property
    def _header(self) -> Path:
        return self._folder / "memory.json"

    def _path(self, name: str) -> Path:
        return self._folder / f"{name}.bin"

    def _fields(self) -> dict[str, Any]:
        return {name: [str(dtype), list(shape)] for name, (dtype, shape) in self._layout.items()}

    def _saved(self) -> dict[str, int]:
        if not self._header.exists():
            return dict.fromkeys(COUNTERS, 0)
        try:
            header = json.loads(self._header.read_text(encoding="utf-8"))
            found = header["format"], header["fields"]
            counters = {name: int(header["counters"][name]) for name in COUNTERS}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self._header}: no header of a tiled memory ({error!r})") from error
        if found != (_FORMAT, self._fields()) or min(counters.values()) < 0:
            raise ValueError(
                f"{self._header}: found {found} and counters {counters}, expected "
                f"{(_FORMAT, self._fields())}"
            )
        return counters

    def _allocate(self, name: str, rows: int) -> np.ndarray:
        """The file, lengthened if it has fewer rows; all of it in whole tiles."""
        dtype, shape = self._layout[name]
        width = dtype.itemsize * math.prod(shape)
        path = self._path(name)
        with path.open("ab") as file:
            size = file.tell()
            if size < rows * width:
                file.truncate(rows * width)
        rows = max(rows, size // width // TILE * TILE)
        if not rows:
            return np.zeros((0, *shape), dtype)
        return np.memmap(path, dtype, "r+", shape=(rows, *shape))
