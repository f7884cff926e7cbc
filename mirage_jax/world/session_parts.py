"""What a session is told, and what a step of it gives."""

from __future__ import annotations

import dataclasses
import time
import weakref
from typing import TYPE_CHECKING, Any

import jax
import numpy as np
from jaxtyping import Float, UInt8

from mirage_jax.chunks import latents_of_frames
from mirage_jax.memory import LatentMemory
from mirage_jax.settings import setting
from mirage_jax.world.controls import WalkerOptions

if TYPE_CHECKING:
    from mirage_jax.world.session import Session


@dataclasses.dataclass(frozen=True)
class SessionOptions(WalkerOptions):
    """How a session walks, and how much of its past it keeps."""

    chunk_frames: int = setting(
        5, "Frames of a chunk, the one before it included: 1 + 4 n.", least=5
    )
    undo_steps: int = setting(32, "Steps that can be undone.", least=1)
    undo_bytes: int = setting(2**28, "Bytes for what can be undone; the oldest go first.", least=0)
    seed: int = setting(0, "Of all noise: the same keys give the same frames.", least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        try:
            latents_of_frames(self.chunk_frames)
        except ValueError as error:
            raise ValueError(f"chunk_frames: {error}") from error


@dataclasses.dataclass(frozen=True)
class Step:
    """What one chunk of walking gave.

    Attributes:
      video: the new frames, uint8 [f, H, W, 3].
      poses: float64 [f, 4, 4], their cam2world in the coordinates the world comes from.
      report: what was written, by the names of `memory.WriteReport`.
      stages: seconds of "input", "read", "denoise", "decode", "geometry_write" and "total".
      blocked: whether something was in the way.
      moved: whether the camera moved or turned.
      number: of the chunk, from the start of the world.
    """

    video: UInt8[np.ndarray, "f height width 3"]
    poses: Float[np.ndarray, "f 4 4"]
    report: dict[str, int]
    stages: dict[str, float]
    blocked: bool
    moved: bool
    number: int


class SharedMemory:
    """A memory and those who walk in it."""

    def __init__(self, bank: LatentMemory, walker: Session) -> None:
        self.bank = bank
        self.walkers = weakref.WeakSet((walker,))


class StageClock:
    """Seconds of each stage, waiting for what it computed."""

    def __init__(self) -> None:
        self.stages: dict[str, float] = {}
        self._start = self._last = time.perf_counter()

    def __call__(self, stage: str, arrays: Any) -> None:
        jax.block_until_ready(arrays)
        now = time.perf_counter()
        name = "geometry_write" if stage == "write" else stage
        since = self._start if stage == "total" else self._last
        self.stages[name] = now - since
        self._last = now
