"""What a walk can begin from: pictures, a saved world, a picture from the page."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import UInt8

from mirage_jax.geometry import Camera
from mirage_jax.world import WorldModel
from mirage_jax.world.session import Session, SessionOptions


@dataclasses.dataclass(frozen=True)
class Start:
    """One of the server's own starts.

    Attributes:
      name: for people.
      begin: makes a session there.
    """

    name: str
    begin: Callable[[], Session]


@dataclasses.dataclass(frozen=True)
class Starts:
    """A model and where one can begin to walk with it.

    Attributes:
      model: that makes the frames.
      options: of all sessions.
      starts: the first of which is where a new page begins.
      fov: degrees across the shorter side of pictures from pages.
      denoise_steps: seconds of each denoising step, measured before anyone walks.
    """

    model: WorldModel
    options: SessionOptions
    starts: tuple[Start, ...]
    fov: float = 90.0
    denoise_steps: tuple[float, ...] = ()

    def begin(self, number: int) -> Session:
        """A session at a start; ValueError if there is none of that number."""
        if number >= len(self.starts):
            raise ValueError(f"start: found {number}, expected less than {len(self.starts)}")
        return self.starts[number].begin()

    def begin_from(self, picture: UInt8[np.ndarray, "h w 3"], camera: Camera) -> Session:
        """A session in a world that begins with a picture."""
        return Session(self.model, picture, options=self.options, camera=camera)

    def load(self, path: Path) -> Session:
        """A session in a saved world; ValueError or OSError if it cannot be read."""
        return Session.load(self.model, path, options=self.options)
