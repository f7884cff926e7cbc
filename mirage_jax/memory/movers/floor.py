"""Which way is up, and where the floor is."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mirage_jax import geometry
from mirage_jax.memory.movers.state import GIVEN, Movers

LOWEST = 0.1
"""Share of a frame's points below which the floor is looked for."""
FLOOR_SHARE = 0.08
"""Share of a frame's points that must lie at one height for it to be a floor."""
FLOOR_BAND = 0.07
"""How far from it they may lie, as a share of the camera's height above it."""
MOST_SCALE = 3.0
"""A frame's depth is not scaled by more than this, or by less than its inverse."""
MOST_WEIGHT = 20.0
"""Frames after which the floor's height follows new ones no slower."""


def estimate_up(cam2world: Float[Array | np.ndarray, "*n 4 4"]) -> Float[Array, "3"]:
    """Direction away from the floor, from cameras that are held upright.

    It is the direction most at right angles to all their horizontal axes; where that leaves a
    choice, as for a single camera, the one nearest to the upward axes of their pictures.
    """
    poses = jnp.asarray(cam2world, jnp.float32).reshape(-1, 4, 4)
    right, mean_up = poses[:, :3, 0], -jnp.mean(poses[:, :3, 1], axis=0)
    mean_up = mean_up / jnp.maximum(jnp.linalg.norm(mean_up), 1e-6)
    spread = jnp.sum(right[:, :, None] * right[:, None, :], axis=0) / len(poses)
    tilt = jnp.eye(3) - mean_up[:, None] * mean_up[None]
    _, axes = jnp.linalg.eigh(spread + 1e-5 * tilt)
    up = axes[:, 0]
    return up * jnp.where(jnp.sum(up * mean_up) < 0, -1.0, 1.0)


def update_floor(
    movers: Movers,
    depth: Float[Array, "height width"],
    moving: Bool[Array, "height width"],
    camera: geometry.Camera,
) -> tuple[Movers, Float[Array, ""]]:
    """Takes the floor that a frame shows into account.

    The tenth part of what stands still that is lowest ends there, if enough lies beside it and it
    is below the camera; else the frame shows no floor and nothing changes.

    Args:
      movers: the table.
      depth: z-depth in metres; 0, NaN and inf are unknown.
      moving: what is left out.
      camera: of the frame, no leading dimensions.

    Returns:
      The table, and what the frame's depth is to be multiplied by so that its floor lies where the
      table has it: 1 where it shows none.
    """
    known = jnp.isfinite(depth) & (depth > 0) & ~moving
    points = geometry.lift(jnp.where(known, depth, 1.0), camera)
    centre = jnp.sum(jnp.asarray(camera.centre, jnp.float32) * movers.up)
    below = centre - jnp.sum(points * movers.up, axis=-1)  # the camera's height above each
    count = jnp.sum(known, dtype=jnp.int32)
    rank = jnp.clip((count * LOWEST).astype(jnp.int32), 1, known.size)
    height = -jnp.sort(jnp.where(known, -below, jnp.inf).reshape(-1))[rank - 1]
    beside = known & (jnp.abs(below - height) <= FLOOR_BAND * height)
    share = jnp.sum(beside) / jnp.maximum(count, 1)
    mean = jnp.sum(jnp.where(beside, below, 0.0)) / jnp.maximum(jnp.sum(beside), 1)
    good = (count > 0) & (height > 0) & (share >= FLOOR_SHARE)
    weight = jnp.where(good, 1.0, 0.0)
    total = jnp.minimum(movers.floor_weight, MOST_WEIGHT) + weight
    moved = (centre - mean) - movers.floor
    given = movers.floor_weight >= GIVEN
    floor = movers.floor + jnp.where(given, 0.0, weight / jnp.maximum(total, 1.0)) * moved
    kept = jnp.where(given, movers.floor_weight, total)
    movers = movers.replace(  # type: ignore[attr-defined]
        floor=jnp.where(good, floor, movers.floor), floor_weight=kept
    )
    scale = (centre - movers.floor) / jnp.where(good, mean, 1.0)
    scale = jnp.where(good & (scale > 1.0 / MOST_SCALE) & (scale < MOST_SCALE), scale, 1.0)
    return movers, scale
