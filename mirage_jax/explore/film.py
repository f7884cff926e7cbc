"""The pictures of a walk as they were sent, so that it can be shown again and exported."""

from __future__ import annotations

import dataclasses

MAX_BYTES = 256 * 10**6


@dataclasses.dataclass
class Film:
    """Encoded pictures of a walk's frames, which follow what is undone.

    Attributes:
      first: number of the first frame that is kept.
      pictures: those kept, oldest first.
      max_bytes: of all pictures; the oldest go first.
      dropped: how many went.
      nbytes: of the pictures that are kept.
    """

    first: int = 0
    pictures: list[bytes] = dataclasses.field(default_factory=list)
    max_bytes: int = MAX_BYTES
    dropped: int = 0
    _undone: list[bytes] = dataclasses.field(default_factory=list)
    nbytes: int = dataclasses.field(init=False)

    def __post_init__(self) -> None:
        self.nbytes = sum(map(len, self.pictures))

    @property
    def end(self) -> int:
        """Number after the last frame."""
        return self.first + len(self.pictures)

    def append(self, pictures: list[bytes]) -> None:
        """Adds the next frames; what was undone is forgotten."""
        self._undone.clear()
        self._extend(pictures)
        gone = 0
        while self.nbytes > self.max_bytes and gone < len(self.pictures) - 1:
            self.nbytes -= len(self.pictures[gone])
            gone += 1
        del self.pictures[:gone]
        self.first += gone
        self.dropped += gone

    def go_to(self, end: int) -> None:
        """Goes back, or forth again, to where so many frames there are; as far as they are kept."""
        while self.end > end and self.pictures:
            picture = self.pictures.pop()
            self.nbytes -= len(picture)
            self._undone.append(picture)
        if not self.pictures:
            self.first = min(self.first, end)
        while self.end < end and self._undone:
            self._extend([self._undone.pop()])

    def copy(self) -> Film:
        """A film that goes on by itself; the pictures are shared."""
        return dataclasses.replace(self, pictures=list(self.pictures), _undone=list(self._undone))

    def _extend(self, pictures: list[bytes]) -> None:
        self.pictures += pictures
        self.nbytes += sum(map(len, pictures))
