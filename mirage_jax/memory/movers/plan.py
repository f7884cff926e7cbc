"""What stands in a body's way: a plan of the static memory, seen from above."""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mirage_jax.memory.bank import LatentMemory
from mirage_jax.memory.movers.state import (
    DEFAULT,
    MoverOptions,
    Movers,
    any_horizontal,
    horizontal,
    unit,
)

CELLS, CELL = 160, 0.2
"""Cells of the plan along each side, and metres of one."""
BODY_HEIGHT = 2.0
"""Metres above the floor from which on bodies pass below."""
SPREAD, MOST_WIDTH = 5, 0.4
"""Points that stand for an element, and how wide it is taken to be at most: far away a cell spans
more than a metre, and what it shows of a wall seen at a slant does not lie across its ray."""


@flax.struct.dataclass
class Obstacles:
    """Squares of the floor that are taken.

    Attributes:
      taken: `[n, n]` bool, by steps along `first`, then along `second`.
      corner: `[3]` metres, where the first square begins.
      first, second: `[3]` unit vectors of the floor.
    """

    taken: Any
    corner: Any
    first: Any
    second: Any

    def at(self, points: Float[Array | np.ndarray, "*n 3"]) -> Bool[Array, "*n"]:
        """Whether points, at any height, lie over a square that is taken; outside none is."""
        place, inside = self._place(points)
        return self.taken[place[..., 0], place[..., 1]] & inside

    def without(
        self,
        points: Float[Array, "*n 3"],
        radius: Float[Array, "*n"],
        counted: Bool[Array, "*n"],
    ) -> Obstacles:
        """The plan in which squares within a radius of the points that count are free: where a body
        is seen to stand nothing else does, whatever the memory has taken it for.
        """
        size = self.taken.shape[0]
        middle = (jnp.arange(size, dtype=jnp.float32) + 0.5) * CELL
        offset = points.reshape(-1, 3) - self.corner
        reach = jnp.where(counted, radius, -1.0).reshape(-1, 1, 1)
        first, second = (jnp.sum(offset * a, axis=-1) for a in (self.first, self.second))
        gaps = jnp.hypot(
            middle[:, None] - first[:, None, None], middle[None] - second[:, None, None]
        )
        return dataclasses.replace(self, taken=self.taken & ~jnp.any(gaps < reach, axis=0))

    def _place(self, points: Any) -> tuple[Array, Array]:
        offset = points - self.corner
        along = jnp.stack([jnp.sum(offset * a, axis=-1) for a in (self.first, self.second)], -1)
        along = along / CELL
        size = self.taken.shape[0]
        inside = jnp.all((along >= 0) & (along < size), axis=-1)
        place = jnp.where(inside[..., None], along, 0.0).astype(jnp.int32)
        return place, inside


def _empty(movers: Movers, here: Float[Array | np.ndarray, "3"]) -> Obstacles:
    """A plan around a place on which nothing is taken."""
    first = any_horizontal(movers.up)
    second = jnp.cross(movers.up, first)
    corner = jnp.asarray(here, jnp.float32) - 0.5 * CELLS * CELL * (first + second)
    return Obstacles(jnp.zeros((CELLS, CELLS), bool), corner, first, second)


def obstacles(
    movers: Movers,
    bank: LatentMemory,
    here: Float[Array | np.ndarray, "3"],
    options: MoverOptions = DEFAULT,
) -> Obstacles:
    """The plan of a memory around a place.

    Elements between `step_height` and `BODY_HEIGHT` above the floor are in the way, each as wide
    as its cell, up to `MOST_WIDTH`, at right angles to the line it was seen along. Where the floor
    is not known nothing is in the way.

    Args:
      movers: the table, for its floor.
      bank: what stands still.
      here: middle of the plan, e.g. the camera.
      options: heights.
    """
    plan = _empty(movers, here)
    height = jnp.sum(bank.xyz * movers.up, axis=-1) - movers.floor
    in_way = bank.valid & (height > options.step_height) & (height < BODY_HEIGHT)
    in_way &= movers.floor_weight > 0
    line = horizontal(bank.xyz - bank.origin, movers.up)
    across = jnp.cross(unit(line, plan.first), movers.up)
    steps = np.linspace(-0.5, 0.5, SPREAD, dtype=np.float32)[:, None, None]
    points = bank.xyz + steps * jnp.minimum(bank.size, MOST_WIDTH)[:, None] * across
    place, inside = plan._place(points)
    hit = inside & in_way
    # A maximum: unlike other scatters it does not depend on the order.
    taken = plan.taken.at[place[..., 0], place[..., 1]].max(hit)
    return dataclasses.replace(plan, taken=taken)
