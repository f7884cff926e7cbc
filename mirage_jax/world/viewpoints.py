"""Cameras of a world file from which its memory was written and read."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Float

from mirage_jax.chunks import TEMPORAL_STRIDE
from mirage_jax.geometry import Camera
from mirage_jax.world.world_file import WorldFile


@dataclasses.dataclass(frozen=True)
class Viewpoints:
    """Cameras of some frames of a world.

    Attributes:
      cam2world: poses, OpenCV axes, metres.
      intrinsics: fx, fy, cx, cy in pixels.
      size: (H, W) of the pictures.
      frames: numbers of the frames.
    """

    cam2world: Float[np.ndarray, "f 4 4"]
    intrinsics: Float[np.ndarray, "f 4"]
    size: tuple[int, int]
    frames: list[int]

    @property
    def camera(self) -> Camera:
        """The same, as devices take them."""
        return Camera(np.float32(self.intrinsics), self.cam2world.astype(np.float32), self.size)

    def at_most(self, count: int) -> Viewpoints:
        """So many of them, evenly spread, both ends among them."""
        last = len(self.frames) - 1
        kept = np.unique(np.round(np.linspace(0, last, min(count, last + 1))).astype(int))
        return dataclasses.replace(
            self,
            cam2world=self.cam2world[kept],
            intrinsics=self.intrinsics[kept],
            frames=[self.frames[number] for number in kept],
        )


def picture_size(file: WorldFile, size: tuple[int, int] | None = None) -> tuple[int, int]:
    """(H, W) of a world's pictures, from its camera path or as given.

    Raises:
      ValueError: if neither says.
    """
    if file.camera_path is not None:
        return file.camera_path.size
    if size is None:
        raise ValueError(
            "the world has no camera path, which would say how large its pictures are; expected "
            "--picture_size=HEIGHT,WIDTH"
        )
    return size


def viewpoints(
    file: WorldFile, size: tuple[int, int] | None = None, every: int = TEMPORAL_STRIDE
) -> Viewpoints:
    """The cameras that chunks were conditioned on: of every latent's last frame.

    Args:
      file: the world; without a camera path its last camera alone is known.
      size: (H, W) of the pictures, if there is no camera path.
      every: frames from one to the next; 1 for all.

    Raises:
      ValueError: if nothing says how large the pictures are.
    """
    path, size = file.camera_path, picture_size(file, size)
    if path is None:
        pose = np.asarray(file.world.cam2world, np.float64)
        lens = np.asarray(file.world.intrinsics, np.float64)
        return Viewpoints(pose[None], lens[None], size, [int(file.world.frames) - 1])
    frames = list(range(0, len(path.times), every))
    lenses = np.asarray(path.intrinsics, np.float64)
    return Viewpoints(np.asarray(path.cam2world, np.float64)[frames], lenses[frames], size, frames)
