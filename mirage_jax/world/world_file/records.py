"""What a world file holds, as plain records."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from mirage_jax.origin import Origin
from mirage_jax.world.state import World

MINOR = 0
"""Version within "mirage-world-2": raised by what is added without changing what is there."""


@dataclasses.dataclass(frozen=True)
class CameraPath:
    """Cameras of all frames generated so far.

    Attributes:
      cam2world: float64 [F, 4, 4], OpenCV axes, metres from the origin.
      intrinsics: float32 [F, 4], fx, fy, cx, cy in pixels of pictures of `size`.
      times: float64 [F], seconds from the origin, increasing.
      size: (H, W) of the pictures.
    """

    cam2world: np.ndarray
    intrinsics: np.ndarray
    times: np.ndarray
    size: tuple[int, int]


@dataclasses.dataclass(frozen=True)
class Branch:
    """A named place in the course of a world; with a world of its own, one that can be continued.

    Attributes:
      name: what it is called; without '/'.
      frame: number of the frame at which it was made.
      parent: name of the branch it was made on; None for the file's own world.
      created_from: what made it, in words.
      world: its state; None for a mark that only names a frame.
      camera_path: its own; None if not recorded.
      entities: its own, see `WorldFile`; None without.
    """

    name: str
    frame: int
    parent: str | None = None
    created_from: str = ""
    world: World | None = None
    camera_path: CameraPath | None = None
    entities: Mapping[str, np.ndarray] | None = None


@dataclasses.dataclass(frozen=True)
class Extras:
    """What a newer minor version put into a file, to be written again as it was.

    Attributes:
      tensors: by full name.
      parts: entries of the header's `parts`.
      header: further fields of the header.
      minor: version of the file.
    """

    tensors: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)
    parts: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    header: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    minor: int = MINOR


@dataclasses.dataclass(frozen=True)
class WorldFile:
    """All that a world file holds.

    Attributes:
      world: the state of the rollout.
      camera_path: cameras of the frames so far; None if not recorded.
      entities: moving things, arrays by the names of the part "entities"; None without.
      branches: marks and branches, each after its parent.
      provenance: where the world comes from; any JSON object.
      extras: what this version does not know.
    """

    world: World
    camera_path: CameraPath | None = None
    entities: Mapping[str, np.ndarray] | None = None
    branches: tuple[Branch, ...] = ()
    provenance: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    extras: Extras = dataclasses.field(default_factory=Extras)

    @property
    def origin(self) -> Origin:
        """What positions and times are relative to: the world's, and that of all branches."""
        return self.world.origin
