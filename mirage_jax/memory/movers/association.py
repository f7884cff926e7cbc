"""Which detection shows which body."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int
from optax import assignment

from mirage_jax.memory.movers import motion
from mirage_jax.memory.movers.detections import Detections
from mirage_jax.memory.movers.state import POSITION, MoverOptions, Movers

OUT_OF_QUESTION = 1e6
LEAST_OVERLAP = 0.5
"""Cells, counted by how much both views cover, that two views must share to be compared."""
UNLIKE = 0.5
"""Difference that is assumed where two views cannot be compared."""


def dissimilarity(movers: Movers, found: Detections) -> Float[Array, "d k"]:
    """Least mean squared difference between the tokens of a detection and the views of a body.

    Cells count by how much of them both cover. 0 where tokens are not kept.
    """
    if found.tokens.shape[-1] == 0 or movers.view_tokens.shape[-1] == 0:
        return jnp.zeros((found.valid.shape[0], movers.slots), jnp.float32)

    def one(tokens: Array, alpha: Array) -> Array:
        gap = movers.view_tokens.astype(jnp.float32) - tokens.astype(jnp.float32)
        square = jnp.mean(jnp.square(gap), axis=-1)
        weight = alpha * movers.view_alpha
        total = jnp.sum(weight, axis=(-2, -1))
        mean = jnp.sum(square * weight, axis=(-2, -1)) / jnp.maximum(total, 1e-6)
        mean = jnp.where(total >= LEAST_OVERLAP, mean, UNLIKE)
        least = jnp.min(jnp.where(movers.view_valid, mean, jnp.inf), axis=-1)
        return jnp.where(movers.view_valid.any(axis=-1), least, UNLIKE)

    return jax.vmap(one)(found.tokens, found.alpha)


def costs(movers: Movers, found: Detections, options: MoverOptions) -> Float[Array, "d k"]:
    """What it costs to say that a detection shows a body: distance, then appearance."""

    def one(measured: Array, error: Array) -> Array:
        each = jax.vmap(motion.distance, in_axes=(0, 0, None, None))
        return each(movers.position, movers.covariance[:, POSITION, POSITION], measured, error)

    safe = jnp.where(found.valid[:, None, None], found.covariance, jnp.eye(3, dtype=jnp.float32))
    cost = jax.vmap(one)(found.position, safe)
    cost = cost + options.token_weight * dissimilarity(movers, found)
    possible = found.valid[:, None] & movers.present[None]
    return jnp.where(possible, jnp.minimum(cost, OUT_OF_QUESTION), OUT_OF_QUESTION)


def assign(cost: Float[Array, "d k"], birth_cost: float | Float[Array, ""]) -> Int[Array, " d"]:
    """Slot of every detection, -1 for a body of its own, so that the total cost is least.

    A body of its own costs `birth_cost`.
    """
    count, slots = cost.shape
    own = jnp.full((count, count), birth_cost, jnp.float32)
    rows, columns = assignment.hungarian_algorithm(jnp.concatenate([cost, own], axis=1))
    chosen = jnp.zeros(count, jnp.int32).at[rows].set(columns.astype(jnp.int32))
    good = (chosen < slots) & (
        jnp.take_along_axis(cost, jnp.minimum(chosen, slots - 1)[:, None], 1)[:, 0] < birth_cost
    )
    return jnp.where(good, chosen, -1)
