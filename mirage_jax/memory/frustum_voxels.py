"""Reference frames by overlap of frusta, as Mirage's released code and Spatia choose them.

A frame covers the elements of the memory that project into its picture, hidden ones included. Its
overlap with the frames to be generated is the intersection over union of the voxels of covered
elements. `retrieval` is the choice that accounts for occlusion and for overlap among its frames.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from mirage_jax import geometry
from mirage_jax.memory import readout
from mirage_jax.memory.bank import LatentMemory
from mirage_jax.parallel.explicit_axes import compiler_splits

THRESHOLD = 0.04
"""Least intersection over union of a reference frame."""

VOXEL = 0.1
"""Side of a voxel, metres."""

BORDER = 1e-4
"""Share of a picture's width and height that rounding may move a projection by."""


def in_frustum(
    xyz: Float[Array, "n 3"], valid: Bool[Array, " n"], cameras: geometry.Camera
) -> Bool[Array, "v n"]:
    """Which elements lie in front of each camera and project into its picture.

    A picture includes its upper and left border and excludes the others. All are moved up and left
    by `BORDER`: elements lifted through the corners of cells (`released`) lie on the border of
    their own picture, where the rounding of float32 would decide.
    """
    uv, z = geometry.project(xyz[None], readout.flatten(cameras))
    height, width = cameras.size
    u, v = uv[..., 0] + BORDER * width, uv[..., 1] + BORDER * height
    return valid[None] & (z > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)


def number_voxels(xyz: Float[Array, "n 3"], side: float) -> Int[Array, " n"]:
    """A number below N for every point, equal for points of one voxel and for no others."""
    voxel = jnp.floor(xyz / side)
    order = jnp.lexsort((voxel[:, 2], voxel[:, 1], voxel[:, 0]))
    in_order = voxel[order]
    begins = jnp.any(in_order[1:] != in_order[:-1], axis=1)
    numbers = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(begins, dtype=jnp.int32)])
    return jnp.zeros(len(xyz), jnp.int32).at[order].set(numbers)


@compiler_splits(lambda *_, **__: PartitionSpec())
def overlaps(
    bank: LatentMemory,
    targets: geometry.Camera,
    frames: geometry.Camera,
    elements: Int[Array, " k"],
    *,
    side: float = VOXEL,
) -> Float[Array, " k"]:
    """Intersection over union of the voxels of each frame with those of all targets together.

    Args:
      bank: the memory.
      targets: cameras of the frames to be generated, any leading dimensions.
      frames: cameras of earlier frames, one leading dimension.
      elements: elements in the memory when each frame was stored; it covers no later ones.
      side: of a voxel, metres.
    """
    number = number_voxels(bank.xyz, side)

    def occupied(seen: Bool[Array, " n"]) -> Bool[Array, " n"]:
        return jnp.zeros(seen.shape, bool).at[number].max(seen)

    target = occupied(jnp.any(in_frustum(bank.xyz, bank.valid, targets), axis=0))
    slots = jnp.arange(bank.capacity, dtype=jnp.int32)

    def overlap(frame: tuple[Array, Array, Array]) -> Array:
        intrinsics, cam2world, count = frame
        camera = geometry.Camera(intrinsics[None], cam2world[None], frames.size)
        covered = occupied(in_frustum(bank.xyz, bank.valid & (slots < count), camera)[0])
        both, either = (
            jnp.sum(x, dtype=jnp.int32).astype(jnp.float32)
            for x in (covered & target, covered | target)
        )
        return both / jnp.maximum(either, 1)

    # One frame at a time: K x N booleans would outgrow the memory they ask about.
    return jax.lax.map(overlap, (frames.intrinsics, frames.cam2world, elements))


@compiler_splits(lambda *_, **__: PartitionSpec())
def choose(
    bank: LatentMemory,
    targets: geometry.Camera,
    frames: geometry.Camera,
    elements: Int[Array, " k"],
    count: int,
    *,
    side: float = VOXEL,
    threshold: float = THRESHOLD,
) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
    """The frames that overlap most with the targets, greatest first, the earliest at a tie.

    Args:
      bank, targets, frames, elements, side: see `overlaps`; a frame with 0 `elements` is never
        chosen.
      count: at most so many.
      threshold: least overlap of a frame that is chosen.

    Returns:
      `(numbers, overlaps)`: `count` of each (or as many as there are frames); -1 and 0 where no
      frame is left.
    """
    found = overlaps(bank, targets, frames, elements, side=side)
    found = jnp.where((elements > 0) & (found >= threshold), found, 0.0)
    order = jnp.argsort(-found, stable=True)[:count]
    best = found[order]
    return jnp.where(best > 0, order, -1).astype(jnp.int32), best
