"""Depth of generated frames from elsewhere than the geometry head: for a rollout."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from mirage_jax.convert.networks import read_depth_anything
from mirage_jax.geometry import Camera
from mirage_jax.io.depth_maps import resample
from mirage_jax.io.geometry_npz import GeometryFile
from mirage_jax.memory import pool_depth
from mirage_jax.nn.depth_anything import estimate
from mirage_jax.world.rollout import DepthEstimator


def from_file(
    geometry: GeometryFile, start: int = 0, size: tuple[int, int] | None = None
) -> DepthEstimator:
    """The depths (and masks) of a file at the poses that are followed.

    True of a generated frame as far as it shows what was there; a depth of 0 is not remembered.

    Args:
      geometry: the file.
      start: number of its frame that the path begins with.
      size: of the maps; None for that of the file.
    """

    def estimate_depth(
        pictures: UInt8[np.ndarray, "k height width 3"],
        numbers: list[int],
        camera: Camera,
        remembered: Float[np.ndarray, "k h w"],
    ) -> tuple[Float[np.ndarray, "k dh dw"], Float[np.ndarray, "k dh dw"] | None]:
        frames = [start + number for number in numbers]
        depth, masks = geometry.depths[frames], geometry.masks
        static = None if masks is None else masks[frames].astype(np.float32)
        if size is None:
            return depth, static
        depth = np.stack([resample(one, size) for one in depth])
        return depth, None if static is None else np.stack([resample(one, size) for one in static])

    return estimate_depth


def from_network(
    depth_of: Callable[[UInt8[np.ndarray, "height width 3"]], np.ndarray],
) -> DepthEstimator:
    """A metric depth network, each chunk brought to the scale of what is remembered.

    Args:
      depth_of: z-depth of the pixels of a picture.
    """

    def estimate_depth(
        pictures: UInt8[np.ndarray, "k height width 3"],
        numbers: list[int],
        camera: Camera,
        remembered: Float[np.ndarray, "k h w"],
    ) -> tuple[Float[np.ndarray, "k dh dw"], None]:
        depth = np.stack([depth_of(picture) for picture in pictures]).astype(np.float32)
        return depth * scale_between(depth, remembered), None

    return estimate_depth


def scale_between(
    depth: Float[np.ndarray, "k dh dw"], remembered: Float[np.ndarray, "k h w"]
) -> np.float32:
    """What `depth` is to be multiplied by to fit the depth that is `remembered` of the same views.

    The median ratio of cells where something is known (above 0); 1 where nothing is. The size of
    `depth` is a multiple of that of `remembered`.
    """
    cells = np.asarray(pool_depth(depth, remembered.shape[1:])[0])
    known = (remembered > 0) & (cells > 0)
    return (
        np.float32(np.median(remembered[known] / cells[known])) if known.any() else np.float32(1.0)
    )


def depth_anything(path: Path, max_depth: float) -> DepthEstimator:
    """The network of `depth_anything_network` for a rollout; arguments and errors as there."""
    return from_network(depth_anything_network(path, max_depth))


def depth_anything_network(
    path: Path, max_depth: float
) -> Callable[[UInt8[np.ndarray, "height width 3"]], np.ndarray]:
    """Depth Anything V2, a metric network of any released size, from safetensors.

    Args:
      path: file or folder with the weights, as released or an export of `mirage convert`.
      max_depth: metres that it was trained up to: 20 indoors, 80 outdoors, as released.

    Raises:
      FileNotFoundError, ValueError: if they are no weights of such a network.

    Returns:
      What gives the z-depth, metres, of the pixels of a picture.
    """
    params, network = read_depth_anything(path)
    network = network.clone(max_depth=max_depth)
    return lambda picture: np.asarray(estimate(network, params, picture))
