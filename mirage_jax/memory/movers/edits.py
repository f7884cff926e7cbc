"""Edits of bodies that a memory keeps: deleted, moved, halted, or two of them exchanged.

`memory.edit` does the same to what stands still. All functions are pure and jittable.
"""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mirage_jax.memory.edit import Pose
from mirage_jax.memory.movers.motion import product
from mirage_jax.memory.movers.state import Movers, emptied, with_rows
from mirage_jax.memory.regions import transform

STATE_FIELDS = ("position", "velocity", "turn_rate", "covariance", "heading", "oriented")
"""Where a body is, how it goes and how sure that is: what two bodies exchange."""

Slots = Bool[Array, " k"]


def delete(movers: Movers, slots: Slots) -> Movers:
    """The table without the bodies in these slots, which are free again."""
    return emptied(movers, slots)


def move(movers: Movers, slots: Slots, by: Pose) -> Movers:
    """Bodies moved by a rigid transform of world coordinates that leaves `up` as it is.

    They go on from there, turned with it.

    Args:
      movers: the table.
      slots: which bodies.
      by: `[4, 4]`.
    """
    turn = jnp.asarray(by, jnp.float32)[:3, :3]
    # Position, velocity, and the turn rate, which a turn about `up` does not change.
    jacobian = jnp.eye(7, dtype=jnp.float32).at[:3, :3].set(turn).at[3:6, 3:6].set(turn)
    along = product(product(jacobian, movers.covariance), jacobian.T)
    values = {
        "position": transform(by, movers.position),
        "velocity": transform(_turn_alone(turn), movers.velocity),
        "heading": transform(_turn_alone(turn), movers.heading),
        "covariance": along,
    }
    return with_rows(movers, slots, values)


def halt(movers: Movers, slots: Slots) -> Movers:
    """Bodies that stand where they are; how sure their position is stays."""
    return with_rows(movers, slots, {"velocity": 0.0, "turn_rate": 0.0})


def swap(movers: Movers, one: int | Array, other: int | Array) -> Movers:
    """Two bodies in each other's place, each going on as the other did; looks and ids stay.

    Args:
      movers: the table.
      one: slot of a body.
      other: slot of the other; free slots are exchanged like any.
    """
    order = jnp.arange(movers.slots).at[jnp.stack([one, other])].set(jnp.stack([other, one]))
    rows = {name: getattr(movers, name)[order] for name in STATE_FIELDS}
    return movers.replace(**rows)  # type: ignore[attr-defined]


def _turn_alone(turn: Float[Array, "3 3"]) -> Float[Array, "4 4"]:
    return jnp.eye(4, dtype=jnp.float32).at[:3, :3].set(turn)
