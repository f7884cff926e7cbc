"""Clips of real captures that come back: found from the cameras, read as clips to be scored.

A return is a clip whose last frames show a place near a view of its history, after a look away.
Frames may be taken in strides, so that a slow capture gives returns as well.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
from jaxtyping import Float, Int

from data_pipelines.clip import Clip
from data_pipelines.sources.footage.scene import Scene
from data_pipelines.sources.footage.source import FootageSource
from mirage_jax.evaluation.revisit import PARALLAX_METRES, pose_gap

NEAR = 1.0
"""`pose_gap` within which a view is seen again: less than 0.6 m and 15 degrees."""
AWAY = 2.0
"""`pose_gap` that a frame in between must reach: 1.2 m or 30 degrees."""
FASTEST = 1.5
"""`pose_gap` of neighbouring frames, at most."""
_STRIDES = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32)


@dataclasses.dataclass(frozen=True)
class Return:
    """Frames of a scene that leave a place and come back to it.

    Attributes:
      scene: its name.
      frames: numbers of the frames of the scene, increasing.
      away: the largest `pose_gap` between the last frame and one after the view it comes back to.
    """

    scene: str
    frames: tuple[int, ...]
    away: float


def find_returns(
    cam2world: Float[np.ndarray, "n 4 4"], frames: int, history: int, revisit: int
) -> list[tuple[Int[np.ndarray, " frames"], float]]:
    """Clips of one path that come back, the farthest first; no two share more than half.

    Args:
      cam2world: in metres, or of a unit in which `PARALLAX_METRES` mean as much.
      frames: of a clip.
      history: frames at its beginning that are seen before the return.
      revisit: frames at its end of which half must be near a view of the history.

    Returns:
      Numbers of the frames of each, and `Return.away`.
    """
    found: list[tuple[np.ndarray, float]] = []
    for stride in _STRIDES:
        last = len(cam2world) - (frames - 1) * stride
        for start in range(0, last, max(frames * stride // 8, 1)):
            numbers = start + stride * np.arange(frames)
            away = _away(cam2world[numbers], history, revisit)
            if away >= AWAY:
                found.append((numbers, away))
    found.sort(key=lambda one: -one[1])
    chosen: list[tuple[np.ndarray, float]] = []
    for numbers, away in found:
        shared = [
            min(numbers[-1], other[-1]) - max(numbers[0], other[0]) + 1 for other, _ in chosen
        ]
        if 2 * max(shared, default=0) <= np.ptp(numbers):
            chosen.append((numbers, away))
    return chosen


def _away(poses: np.ndarray, history: int, revisit: int) -> float:
    """How far a clip goes between a view and its return to it; 0 for one that does not return."""
    steps = np.diagonal(pose_gap(poses[1:], poses[:-1]))
    if steps.max() > FASTEST:
        return 0.0
    gap = pose_gap(poses[-revisit:], poses[:history])
    if (gap.min(axis=1) <= NEAR).mean() < 0.5:
        return 0.0
    seen = int(gap[-1].argmin())
    return float(pose_gap(poses[-1:], poses[seen:]).max())


def in_comparable_units(scene: Scene) -> Float[np.ndarray, "n 4 4"]:
    """Poses of the usable frames; of an arbitrary scale, a tenth of the extent is as 0.6 m."""
    poses = scene.cam2world[scene.good].copy()
    if scene.provenance.get("scale") == "arbitrary":
        extent = float(np.linalg.norm(np.ptp(poses[:, :3, 3], axis=0)))
        poses[:, :3, 3] *= 10 * PARALLAX_METRES / max(extent, 1e-9)
    return poses


@dataclasses.dataclass(frozen=True)
class ReturnsSource:
    """The returns of footage as a `FiniteSource` with a split "eval" alone.

    Attributes:
      footage: that is looked through, with pictures of a model's size.
      frames: of a clip.
      history: of them, at its beginning.
      revisit: of them, at its end.
      most: returns, the farthest of all scenes.
    """

    footage: FootageSource
    frames: int
    history: int
    revisit: int
    most: int = 16
    name: ClassVar[str] = "returns"

    @property
    def returns(self) -> tuple[Return, ...]:
        """By scene and time."""
        return self._looked_through[0]

    @property
    def unreadable(self) -> tuple[str, ...]:
        """Why scenes could not be looked through, naming their files."""
        return self._looked_through[1]

    @property
    def longest(self) -> int:
        """Most frames with poses that a scene has."""
        return self._looked_through[2]

    @functools.cached_property
    def _looked_through(self) -> tuple[tuple[Return, ...], tuple[str, ...], int]:
        found, unreadable, longest = [], [], 0
        for world in self.footage.scenes():
            try:
                scene = self.footage.open(world)
            except ValueError as error:
                unreadable.append(str(error))
                continue
            good = np.flatnonzero(scene.good)
            longest = max(longest, len(good))
            some = find_returns(in_comparable_units(scene), self.frames, self.history, self.revisit)
            found += [Return(world, tuple(good[n].tolist()), away) for n, away in some]
        farthest = sorted(found, key=lambda one: -one.away)[: self.most]
        in_order = sorted(farthest, key=lambda one: (one.scene, one.frames))
        return tuple(in_order), tuple(unreadable), longest

    def worlds(self, split: str) -> tuple[str, ...]:
        return tuple(dict.fromkeys(one.scene for one in self.returns)) if split == "eval" else ()

    def clip_counts(self, split: str) -> dict[str, int]:
        scenes = [one.scene for one in self.returns]
        return {world: scenes.count(world) for world in self.worlds(split)}

    def clip(self, world: str, index: int) -> Clip:
        """A return by its number within its scene; errors as `FootageSource.clip`."""
        one = [found for found in self.returns if found.scene == world][index]
        clip = self.footage.read(world, np.array(one.frames))
        # A return of each stride may begin at the same frame.
        return dataclasses.replace(clip, name=f"{clip.name}-{one.frames[-1]:06d}", source=self.name)

    def clips(self, world: str, count: int, seed: int) -> Iterator[Clip]:
        available = range(min(count, self.clip_counts("eval")[world]))
        return (self.clip(world, index) for index in available)
