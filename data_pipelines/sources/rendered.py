"""What sources have in common whose worlds an engine renders, clip by clip."""

import collections
import contextlib
import dataclasses
from collections.abc import Callable, Iterator
from typing import ClassVar

import numpy as np

from data_pipelines.clip import Clip
from data_pipelines.sources import screening
from data_pipelines.sources.options import check_options, option
from data_pipelines.sources.paths import LEAST_FRAMES


@dataclasses.dataclass(frozen=True)
class AnyShape:
    """What sources have in common whose pictures need not be square: a lens with square pixels."""

    size: int = option(64, "pixels along either side of a square picture, or down it", 1)
    width: int = option(0, "pixels across the picture; 0 = as many as down", 0)

    @property
    def view_angle(self) -> float:
        """Degrees along the longer side."""
        raise NotImplementedError

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the pictures."""
        return self.size, self.width or self.size

    @property
    def intrinsics(self) -> np.ndarray:
        """float32 [4], of every frame."""
        return lens(*self.shape, self.view_angle)

    @property
    def view_angles(self) -> tuple[float, float]:
        """Field of view down and across."""
        return field_of_view(*self.shape, self.view_angle)


@dataclasses.dataclass(frozen=True)
class RenderedSource:
    """A base class for a `Source`, which names its worlds and opens them.

    Attributes:
      rejected: how many clips were dropped, by reason (`screening`), since this object was made.
    """

    size: int = option(64, "pixels along either side of a square picture, or down it", 8)
    width: int = option(0, "pixels across the picture; 0 = as many as down", 0)
    frames: int = option(33, "per clip; half of them leave, half come back", LEAST_FRAMES)
    living: float = option(0.2, "share of clips in which something moves", 0.0, 1.0)
    fps: float = option(16.0, "playing speed noted in the clips", 1e-3)
    rejected: collections.Counter = dataclasses.field(
        default_factory=collections.Counter, init=False, compare=False, repr=False
    )
    name: ClassVar[str]
    train_worlds: ClassVar[tuple[str, ...]]
    eval_worlds: ClassVar[tuple[str, ...]]

    def __post_init__(self) -> None:
        check_options(self)

    def worlds(self, split: str) -> tuple[str, ...]:
        """Worlds of split "train" or "eval"; ValueError for another."""
        return worlds_of_split({"train": self.train_worlds, "eval": self.eval_worlds}, split)

    def clips(self, world: str, count: int, seed: int) -> Iterator[Clip]:
        """`count` clips of one world, easy and parallax returns in turn.

        Fewer, with a warning, where too many had to be rejected. ValueError for a world that is not
        one of this source, RuntimeError where the engine cannot run here.
        """
        self.check_world(world)
        if self.width in (0, self.size) or isinstance(self, AnyShape):
            return self._clips(world, count, seed)
        return self._middles(world, count, seed)

    def check_world(self, world: str) -> None:
        """Raises ValueError for a world that is not one of this source."""
        known = self.train_worlds + self.eval_worlds
        if world not in known:
            raise ValueError(f"world {world!r}, expected one of {known}")

    def _clips(self, world: str, count: int, seed: int) -> Iterator[Clip]:
        with self._open(world) as record:
            yield from screening.collect(record, world, count, seed, self.rejected)

    def _middles(self, world: str, count: int, seed: int) -> Iterator[Clip]:
        """The middle of the square pictures that the engine draws."""
        square = dataclasses.replace(self, size=max(self.size, self.width), width=0)
        try:
            for clip in square.clips(world, count, seed):
                yield middle(clip, self.size, self.width)
        finally:
            self.rejected.update(square.rejected)

    def _open(
        self, world: str
    ) -> contextlib.AbstractContextManager[Callable[[int, str], Clip | str]]:
        """Starts the engine; inside, `record(seed, kind)` gives a clip or why there is none."""
        raise NotImplementedError


def middle(clip: Clip, height: int, width: int) -> Clip:
    """A clip with the middle of its pictures."""
    top, left = ((side - kept) // 2 for side, kept in zip(clip.size, (height, width), strict=True))
    rows, columns = slice(top, top + height), slice(left, left + width)
    depth, ids, bodies = clip.depth, clip.mover_ids, clip.bodies
    ids = None if ids is None else ids[:, rows, columns]
    if bodies is not None and ids is not None:
        visible = (ids[..., None] == bodies.ids).any((1, 2))
        bodies = dataclasses.replace(bodies, visible=visible)
    return dataclasses.replace(
        clip,
        video=clip.video[:, rows, columns],
        depth=None if depth is None else depth[:, rows, columns],
        mover_ids=ids,
        bodies=bodies,
        intrinsics=clip.intrinsics - np.array([0, 0, left, top], np.float32),
    )


def square_lens(size: int, degrees: float) -> np.ndarray:
    """Intrinsics float32 [4] of square pictures of a field of view, as wide as it is high."""
    return lens(size, size, degrees)


def lens(height: int, width: int, degrees: float) -> np.ndarray:
    """Intrinsics float32 [4] of pictures whose longer side has a field of view."""
    focal = max(height, width) / 2 / np.tan(np.deg2rad(degrees) / 2)
    return np.array([focal, focal, width / 2, height / 2], np.float32)


def field_of_view(height: int, width: int, degrees: float) -> tuple[float, float]:
    """Degrees down and across of pictures whose longer side has so many."""
    half = np.tan(np.deg2rad(degrees) / 2) / max(height, width)
    down, across = (
        degrees if side == max(height, width) else float(2 * np.rad2deg(np.arctan(half * side)))
        for side in (height, width)
    )
    return down, across


def worlds_of_split(worlds: dict[str, tuple[str, ...]], split: str) -> tuple[str, ...]:
    """Returns `worlds[split]`; ValueError for an unknown split."""
    if split not in worlds:
        raise ValueError(f"found split {split!r}, expected {' or '.join(worlds)}")
    return worlds[split]
