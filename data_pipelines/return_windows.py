"""Windows of long clips in which the camera comes back to a place it has seen before.

A window is what the denoiser trains on: a chunk to predict, the frames right before it, and a
history of earlier frames from anywhere in the clip, those first that saw what the chunk shows.
"""

import dataclasses
from typing import Any, NamedTuple

import numpy as np

from data_pipelines.loading import cut
from data_pipelines.shared_views import cover, returning_pairs, seen_samples


class Choice(NamedTuple):
    """A window of a clip.

    Attributes:
      frames: numbers of its frames, in its order.
      returns: whether the chunk shows what the history has seen, the camera having looked away.
    """

    frames: np.ndarray
    returns: bool


@dataclasses.dataclass(frozen=True)
class ReturnWindow:
    """A transform of `loading.batches`: cuts a clip to such a window.

    The first frames of a window are its history in groups of `stride`, each beginning with a frame
    whose number is a multiple of `stride` (the keyframe that a memory is written from), in order
    of time. Then follow at least `preceding` frames and the chunk, without a break. A clip as long
    as a window is taken whole.

    Attributes:
      frames: of a window, 1 + n `stride`.
      chunk_frames: of the chunk, 1 + n `stride`.
      preceding: frames right before the chunk that it is denoised beside.
      returns: share of windows that come back, in clips that do.
      gap: frames between the two sights of a place, at least.
      later: share of windows whose history may lie after the chunk as well.
      least: share of what a frame sees that an earlier one must have seen for a return.
      away: part of that share that is still seen when the camera has looked away, at most.
      stride: frames to a latent.
    """

    frames: int
    chunk_frames: int
    preceding: int = 0
    returns: float = 0.7
    gap: int = 16
    later: float = 0.3
    least: float = 0.3
    away: float = 0.5
    stride: int = 4

    def __post_init__(self) -> None:
        for name in ("frames", "chunk_frames"):
            if getattr(self, name) < 1 or (getattr(self, name) - 1) % self.stride:
                raise ValueError(
                    f"{name}: found {getattr(self, name)}, expected 1 + {self.stride} n"
                )
        if self._slots < 1:
            raise ValueError(
                f"frames: found {self.frames}, expected at least "
                f"{self.chunk_frames + self._recent + self.stride}: a chunk of "
                f"{self.chunk_frames}, {self.preceding} before it, and a history"
            )

    def __call__(self, element: dict[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        """The element's arrays of frames, and its bodies, at the frames of a window.

        Args:
          element: `cam2world`, `intrinsics` and `video` of a clip at least; `depth` or None.
          rng: chooses the window.

        Raises:
          ValueError: the clip is shorter than a window.
        """
        frames = self.choose(element, rng).frames
        return {key: cut(value, frames) for key, value in element.items()}

    def check(self, element: dict[str, Any]) -> dict[str, Any]:
        """The element, whatever parts it has; ValueError, naming it, if it is shorter."""
        length = len(element["cam2world"])
        if length < self.frames:
            raise ValueError(
                f"clip {element.get('name')!r}: found {length} frames, expected at least "
                f"{self.frames}"
            )
        return element

    def choose(self, element: dict[str, Any], rng: np.random.Generator) -> Choice:
        """The window of an element, chosen by `rng`; errors as for calling it."""
        self.check(element)
        length, stride = len(element["cam2world"]), self.stride
        # Keyframes before the chunk's first, so that there is a whole history.
        first = self.frames - self.chunk_frames
        starts = list(range(first, length - self.chunk_frames + 1, stride))
        keys = np.arange(0, length, stride)
        depth = element.get("depth")
        seen = seen_samples(
            element["cam2world"][keys],
            element["intrinsics"][keys],
            element["video"].shape[1:3],
            None if depth is None else depth[keys],
        )
        gap = max(1, -(-self.gap // stride))
        pairs = returning_pairs(seen.mean(2), gap=gap, least=self.least, away=self.away)
        both_ways, coming_back, place = rng.random(3)
        later = bool(both_ways < self.later)
        allowed = [self._allowed(start, length, later) for start in starts]
        back = np.array(
            [
                pairs[self._shown(start)][:, history].any()
                for start, history in zip(starts, allowed, strict=True)
            ]
        )
        come_back = bool(coming_back < self.returns and back.any())
        wanted = np.flatnonzero(back) if come_back else np.arange(len(starts))
        which = int(wanted[int(place * len(wanted))])
        start, candidates = starts[which], allowed[which]
        returning = np.zeros(len(candidates), bool)
        if come_back:
            returning |= pairs[self._shown(start)][:, candidates].any(axis=0)
        chosen = self._history(seen, start, candidates, returning, rng)
        history = (stride * chosen[:, None] + np.arange(stride)).ravel()
        rest = np.arange(start - self._recent, start + self.chunk_frames)
        returned = bool(pairs[self._shown(start)][:, chosen].any())
        return Choice(np.concatenate([history, rest]), returned)

    @property
    def _recent(self) -> int:
        """Frames right before the chunk, in whole groups."""
        return -(-self.preceding // self.stride) * self.stride

    @property
    def _slots(self) -> int:
        """Keyframes of the history."""
        return (self.frames - self.chunk_frames - self._recent) // self.stride

    def _shown(self, start: int) -> slice:
        """Keyframes of the chunk at frame `start` but for its first, which it starts from."""
        first = start // self.stride
        return slice(first + 1, first + 1 + (self.chunk_frames - 1) // self.stride)

    def _allowed(self, start: int, length: int, later: bool) -> np.ndarray:
        """Keyframes that may be the history of the chunk at frame `start`."""
        before = np.arange((start - self._recent) // self.stride)
        if not later:
            return before
        # Whole groups after the chunk.
        first = -(-(start + self.chunk_frames) // self.stride)
        return np.concatenate([before, np.arange(first, length // self.stride)])

    def _history(
        self,
        seen: np.ndarray,
        start: int,
        allowed: np.ndarray,
        first: np.ndarray,
        rng: np.random.Generator,
    ) -> np.ndarray:
        """Keyframes of the history: those that saw most of the chunk, then any others."""
        shown = seen[self._shown(start)][:, allowed].swapaxes(0, 1).reshape(len(allowed), -1)
        best = allowed[cover(shown, self._slots, first=first)]
        others = rng.permutation(np.setdiff1d(allowed, best))[: self._slots - len(best)]
        return np.sort(np.concatenate([best, others]).astype(int))
