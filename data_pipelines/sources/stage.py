"""A world that can be looked at from anywhere, with bodies put where one wants them."""

import dataclasses
from contextlib import AbstractContextManager
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, Int32, UInt8
from numpy import ndarray

from data_pipelines.sources.ground import Ground


@dataclasses.dataclass(frozen=True)
class Placed:
    """A body in a place.

    Attributes:
      number: what mover ids show it as, positive.
      kind, look: names in `body_kinds`.
      body2world: [4, 4], rigid, metres.
    """

    number: int
    kind: str
    look: str
    body2world: Float[ndarray, "4 4"]


class View(NamedTuple):
    """One frame: colours, z-depth in metres (inf = sky), and mover ids (0 = static)."""

    picture: UInt8[ndarray, "height width 3"]
    depth: Float[ndarray, "height width"]
    mover_ids: Int32[ndarray, "height width"]


@runtime_checkable
class Stage(Protocol):
    """A world opened for rendering."""

    @property
    def ground(self) -> Ground:
        """Its floor plan."""
        ...

    @property
    def props(self) -> Float[ndarray, "n 2 3"]:
        """Lowest and highest corner of each thing that can be left out, metres; there may be none.

        Where one is left out there is the floor that it stood on, and what was behind it.
        """
        ...

    def view(
        self,
        cam2world: Float[ndarray, "4 4"],
        bodies: tuple[Placed, ...] = (),
        *,
        without: tuple[int, ...] = (),
        alone: bool = False,
    ) -> View:
        """Renders it from a level camera, without some of its `props`.

        `alone` leaves out all but the bodies.

        Where nothing but bodies is drawn, only the pixels with a mover id mean something.
        """
        ...


@runtime_checkable
class StagedSource(Protocol):
    """A source whose worlds can be opened as stages."""

    @classmethod
    def with_lens(cls, height: int, width: int, intrinsics: Float[ndarray, "4"]) -> "StagedSource":
        """The source that renders pictures of this size with these `fx, fy, cx, cy`, in pixels.

        ValueError for a picture or a lens that the source does not have.
        """
        ...

    def open_stage(self, world: str) -> AbstractContextManager[Stage]:
        """Opens a world of the source for rendering with the source's size and lens."""
        ...


def check_lens(
    height: int, width: int, intrinsics: Float[ndarray, "4"], expected: Float[ndarray, "4"]
) -> None:
    """Raises ValueError unless a picture's lens is the expected one."""
    if not np.allclose(intrinsics, expected, rtol=1e-5):
        raise ValueError(
            f"lens: found {np.asarray(intrinsics).tolist()} of {height}x{width} pixels, expected "
            f"{expected.tolist()}"
        )
