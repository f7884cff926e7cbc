"""The folder of saved worlds. Names of files are made here and never come from a page."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import os
import re
import secrets
from collections.abc import Callable
from pathlib import Path

from mirage_jax.io.atomic import write_atomically

_ID = re.compile(r"[0-9a-f]{16}")
MAX_LISTED = 100


class NoRoom(ValueError):
    """There is no room for another saved world; the message says why."""


@dataclasses.dataclass(frozen=True)
class SavedWorld:
    """A saved world.

    Attributes:
      id: by which the page asks for it.
      written: when, ISO 8601 to the second in UTC.
      picture: the last frame, encoded; empty if it is missing.
    """

    id: str
    written: str
    picture: bytes


class SavedWorlds:
    """Worlds in one folder, `<id>.world` with a picture `<id>.jpg` beside it."""

    def __init__(self, folder: Path, most: int = 1000, max_bytes: int = 10**10) -> None:
        """Opens the folder, which need not exist yet.

        Args:
          folder: of the worlds.
          most: worlds there may be, to write another.
          max_bytes: that they may take, to write another.
        """
        self.folder = folder
        self.most = most
        self.max_bytes = max_bytes

    def write(self, write: Callable[[Path], None], picture: bytes, *, last: bool = False) -> str:
        """Writes a world under a new id.

        Args:
          write: writes the file.
          picture: of the place, encoded.
          last: whether it would be lost otherwise: it is then written beyond the limits, too.

        Returns:
          The id.

        Raises:
          NoRoom: if there are too many.
          OSError: if that fails, e.g. on a full disk.
        """
        if not last:
            self._check_room()
        self.folder.mkdir(parents=True, exist_ok=True)
        world = secrets.token_hex(8)
        write(self.folder / f"{world}.world")
        with contextlib.suppress(OSError):  # it is saved, without its picture
            write_atomically(self.folder / f"{world}.jpg", picture)
        return world

    def path_of(self, world: str) -> Path:
        """The file of an id; ValueError if there is none."""
        path = self.folder / f"{world}.world"
        if not _ID.fullmatch(world) or not path.is_file():
            raise ValueError(f"world: found {world[:20]!r}, expected one of the saved worlds")
        return path

    def _check_room(self) -> None:
        worlds = self._worlds()
        held = sum(status.st_size for status, _ in worlds)
        if len(worlds) >= self.most:
            found = f"{len(worlds)} saved worlds, expected fewer than {self.most}"
        elif held >= self.max_bytes:
            allowed = f"expected less than {self.max_bytes / 1e6:,.0f} MB"
            found = f"{held / 1e6:,.0f} MB of saved worlds, {allowed}"
        else:
            return
        raise NoRoom(f"save: found {found}; some have to be removed from the server's folder")

    def _worlds(self) -> list[tuple[os.stat_result, Path]]:
        found = []
        for path in self.folder.glob("*.world"):
            if _ID.fullmatch(path.stem):
                with contextlib.suppress(FileNotFoundError):  # removed meanwhile
                    found.append((path.stat(), path))
        return found

    def newest(self) -> list[SavedWorld]:
        """The newest worlds, newest first, at most `MAX_LISTED`."""
        found = self._worlds()
        found.sort(key=lambda entry: entry[0].st_mtime, reverse=True)
        return [
            SavedWorld(
                path.stem,
                datetime.datetime.fromtimestamp(status.st_mtime, datetime.UTC).isoformat(
                    timespec="seconds"
                ),
                _picture(path.with_suffix(".jpg")),
            )
            for status, path in found[:MAX_LISTED]
        ]


def _picture(path: Path) -> bytes:
    with contextlib.suppress(OSError):
        return path.read_bytes()
    return b""
