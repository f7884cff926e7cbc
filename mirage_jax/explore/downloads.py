"""Exported files that wait to be fetched."""

from __future__ import annotations

import secrets


class Downloads:
    """Files that pages asked for, by ids that cannot be guessed, until newer ones need the room."""

    def __init__(self, kept: int, max_bytes: int) -> None:
        self._kept, self._max_bytes = kept, max_bytes
        self._files: dict[str, tuple[str, bytes]] = {}

    def add(self, name: str, data: bytes) -> str:
        """The id of a file."""
        key = secrets.token_urlsafe(16)
        self._files[key] = (name, data)
        while len(self._files) > self._kept or self._bytes > self._max_bytes:
            del self._files[next(iter(self._files))]
        return key

    @property
    def _bytes(self) -> int:
        return sum(len(data) for _, data in self._files.values())

    def get(self, key: str) -> tuple[str, bytes] | None:
        """Name and content, None if there is none (any more)."""
        return self._files.get(key)
