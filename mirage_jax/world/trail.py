"""The cameras that a walker has been at, as far back as they are known."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Mapping

import numpy as np
from jaxtyping import Float, UInt8

from mirage_jax.world.state import World
from mirage_jax.world.walk import Walk, extended_path
from mirage_jax.world.world_file import Branch, CameraPath


@dataclasses.dataclass(frozen=True)
class Trail:
    """Where someone has walked; a new one for each step, sharing what came before.

    Attributes:
      blocks: poses one after another, in the coordinates the world comes from; the first of all is
        where the walk began.
      known: cameras of the frames up to there, from a file; None where there are none.
      new: whether the walk began with the world's only frame.
      picture: the last frame; None if it is not known.
    """

    blocks: tuple[Float[np.ndarray, "_ 4 4"], ...]
    known: CameraPath | None = None
    new: bool = False
    picture: UInt8[np.ndarray, "height width 3"] | None = None

    @classmethod
    def of(
        cls,
        world: World,
        known: CameraPath | None = None,
        picture: UInt8[np.ndarray, "height width 3"] | None = None,
    ) -> Trail:
        """A walk that begins where a world is."""
        return cls((world.pose[None],), known, int(world.frames) == 1, picture)

    def walked(
        self, poses: Float[np.ndarray, "f 4 4"], picture: UInt8[np.ndarray, "height width 3"]
    ) -> Trail:
        """The walk so many frames later."""
        return dataclasses.replace(self, blocks=(*self.blocks, poses), picture=picture)

    @property
    def pose(self) -> Float[np.ndarray, "4 4"]:
        """The last one."""
        return self.blocks[-1][-1]

    @property
    def path(self) -> Float[np.ndarray, "f 4 4"]:
        """All of them."""
        return np.concatenate(self.blocks)

    def camera_path(self, world: World, size: tuple[int, int], fps: float) -> CameraPath | None:
        """Cameras of all frames, for a file; None where the first ones are not known."""
        return extended_path(self.known, Walk(world, self.path), size, fps, self.new)


def branches_along(
    branches: Iterable[Branch], trails: Mapping[str, Trail], size: tuple[int, int], fps: float
) -> tuple[Branch, ...]:
    """A file's branches, those that were walked to with the cameras of the way."""
    return tuple(
        branch
        if branch.world is None or branch.name not in trails
        else dataclasses.replace(
            branch, camera_path=trails[branch.name].camera_path(branch.world, size, fps)
        )
        for branch in branches
    )
