"""Random-access sources made of others, and windows of their videos."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float


class Joined:
    """Several random-access sources, one after the other."""

    def __init__(self, sources: Sequence[Any]):
        self._sources = list(sources)
        self._ends = np.cumsum([len(source) for source in self._sources])

    def __len__(self) -> int:
        return int(self._ends[-1])

    @property
    def lengths(self) -> tuple[int, ...]:
        """Records of each source."""
        return tuple(len(source) for source in self._sources)

    def __getitem__(self, index: int) -> Any:
        source, own = self._place(index)
        return source[own]

    def title(self, index: int) -> str:
        """Names a record, as its source does."""
        source, own = self._place(index)
        return source.title(own)

    def _place(self, index: int) -> tuple[Any, int]:
        which = int(np.searchsorted(self._ends, index, side="right"))
        start = int(self._ends[which]) - len(self._sources[which])
        return self._sources[which], index - start

    def __repr__(self) -> str:
        return f"Joined({self._sources})"


def of_worlds(worlds: Sequence[str], make: Callable[[str], Any]) -> Any:
    """The sources that `make` makes of worlds as one."""
    made = [make(world) for world in worlds]
    return made[0] if len(made) == 1 else Joined(made)


class WithText:
    """Random access to the records of a source, all with the same text.

    Args:
      source: records, dicts by field name.
      tokens: embedded text, of any float type, that every record gets as `text`.
    """

    def __init__(self, source: Any, tokens: Float[np.ndarray, "l e"]):
        self._source, self._tokens = source, tokens

    def __len__(self) -> int:
        return len(self._source)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self._source[index], "text": self._tokens}

    def title(self, index: int) -> str:
        """Names a record, as the source does."""
        return self._source.title(index)

    def __repr__(self) -> str:
        return f"WithText({self._source}, {len(self._tokens)} tokens)"


@dataclasses.dataclass(frozen=True)
class VideoWindow:
    """A random run of frames of a video, cut to a random square at the latent grid.

    Attributes:
      frames, pixels: of the window.
      stride: pixels of a latent cell; squares start at multiples of it.
    """

    frames: int
    pixels: int
    stride: int

    def __call__(self, element: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        video = element["video"]
        start = int(rng.integers(len(video) - self.frames + 1))
        top, left = (
            self.stride * int(rng.integers((side - self.pixels) // self.stride + 1))
            for side in video.shape[1:3]
        )
        rows, columns = slice(top, top + self.pixels), slice(left, left + self.pixels)
        return {"video": video[start : start + self.frames, rows, columns]}
