"""What is done to bodies that nobody sees: they go on, unless something is in their way.

A plain function of the table, so that a learned one can take its place.
"""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mirage_jax.memory.movers import motion
from mirage_jax.memory.movers.plan import Obstacles
from mirage_jax.memory.movers.state import (
    DEFAULT,
    POSITION,
    TURN,
    VELOCITY,
    MoverOptions,
    Movers,
    unit,
)

STEP = 0.1
"""Most seconds that are advanced at once: a body of 2 m/s then moves by one square of the plan."""
FEELERS = 16
"""Points around a body at which it meets things."""


def advance(
    movers: Movers,
    time: Any,
    obstacles: Obstacles | None = None,
    options: MoverOptions = DEFAULT,
) -> Movers:
    """All bodies moved on to another time, with the uncertainty that grows meanwhile.

    They keep their turn rate, and of their speed what `options.persistence` leaves. One that would
    come to stand where something is bounces off it, slides along it or stops (`options.contact`)
    instead.

    Args:
      movers: the table.
      time: seconds; one before `movers.time` changes nothing.
      obstacles: what is in the way; None = nothing.
      options: noise and contact.
    """
    left = jnp.maximum(jnp.asarray(time, jnp.float32) - movers.time, 0.0)
    steps = jnp.ceil(left / STEP - 1e-3).astype(jnp.int32)
    dt = left / jnp.maximum(steps, 1)
    radius = 0.5 * movers.extent[:, 1]

    def step(_: Any, carry: tuple[Array, Array]) -> tuple[Array, Array]:
        move = jax.vmap(motion.predict, in_axes=(0, 0, None, None, None))
        state, covariance = move(*carry, dt, movers.up, options)
        if obstacles is None:
            return state, covariance
        return _meet(carry[0], state, covariance, radius, obstacles, movers.up, options)

    start = motion.states(movers), movers.covariance
    state, covariance = jax.lax.fori_loop(0, steps, step, start)
    moved = motion.with_states(movers, state, covariance)
    speed = jnp.linalg.norm(moved.velocity, axis=-1)
    going = movers.present & movers.oriented & (speed > 1e-3)
    heading = unit(moved.velocity, moved.heading)
    return moved.replace(  # type: ignore[attr-defined]
        heading=jnp.where(going[:, None], heading, movers.heading),
        time=movers.time + left,
    )


def _meet(
    before: Float[Array, "k 7"],
    after: Float[Array, "k 7"],
    covariance: Float[Array, "k 7 7"],
    radius: Float[Array, " k"],
    obstacles: Obstacles,
    up: Float[Array, "3"],
    options: MoverOptions,
) -> tuple[Array, Array]:
    """States after a step in which some bodies met something."""
    angles = np.arange(FEELERS, dtype=np.float32) * np.float32(2 * np.pi / FEELERS)
    feelers = np.cos(angles)[:, None] * obstacles.first + np.sin(angles)[:, None] * obstacles.second
    around = after[:, None, POSITION] + radius[:, None, None] * feelers
    touching = obstacles.at(around)
    away = -jnp.sum(jnp.where(touching[..., None], feelers, 0.0), axis=1)
    velocity = after[:, VELOCITY]
    # Walled in from all sides it stops; there is no way out to be told.
    normal = unit(away, -unit(velocity, feelers[0]))
    into = jnp.sum(velocity * normal, axis=-1)
    met = touching.any(axis=1) & (into < 0)

    level = jnp.eye(3, dtype=jnp.float32)
    outward = normal[:, :, None] * normal[:, None, :]
    if options.contact == "bounce":
        change, turn = level - 2.0 * outward, -1.0
    elif options.contact == "slide":
        change, turn = level - outward, 1.0
    else:
        change, turn = jnp.zeros_like(outward), 0.0
    mirrored = jnp.sum(change * velocity[:, None, :], axis=-1)
    stays = jnp.concatenate(
        [before[:, POSITION], mirrored, turn * after[:, TURN : TURN + 1]], axis=-1
    )
    block = jnp.broadcast_to(jnp.eye(7, dtype=jnp.float32), covariance.shape)
    block = block.at[:, VELOCITY, VELOCITY].set(change).at[:, TURN, TURN].set(turn)
    turned = motion.product(motion.product(block, covariance), jnp.swapaxes(block, 1, 2))
    return (
        jnp.where(met[:, None], stays, after),
        jnp.where(met[:, None, None], turned, covariance),
    )
