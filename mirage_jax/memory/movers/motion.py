"""How a body moves by itself, and how sure its state stays: an extended Kalman filter.

The state is position, velocity and turn rate (constant turn; Bar-Shalom, Li & Kirubarajan 2001,
"Estimation with Applications to Tracking and Navigation", section 11.7), in world axes and on the
plane of the floor: nothing gives a body a velocity along `up`. Bodies stop, and turn back from what
the memory does not know, so that what is expected of their velocity dies away (an integrated
Ornstein-Uhlenbeck process; Johnson et al. 2008, "Continuous-time correlated random walk model for
animal telemetry data").
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from mirage_jax.memory.movers.state import (
    POSITION,
    STATE,
    TURN,
    VELOCITY,
    MoverOptions,
    Movers,
)

CLIMB = 0.05
"""White noise of the floor's height under a body, metres per square root of s."""


def turned(
    state: Float[Array, "7"], dt: Float[Array, ""], up: Float[Array, "3"], persistence: float
) -> Float[Array, "7"]:
    """The state that is expected after `dt` seconds: a spiral about `up`, of which the velocity is
    1/e of what it was after `persistence` seconds; a line where the turn rate is 0."""
    velocity, rate, decay = state[VELOCITY], state[TURN], 1.0 / persistence
    left = jnp.cross(up, velocity)
    kept, angle = jnp.exp(-decay * dt), rate * dt
    cosine, sine = kept * jnp.cos(angle), kept * jnp.sin(angle)
    # 1 - cosine, without the loss of digits at small steps.
    gone = 2.0 * kept * jnp.square(jnp.sin(0.5 * angle)) - jnp.expm1(-decay * dt)
    square = decay**2 + rate**2
    ahead, sideways = decay * gone + rate * sine, rate * gone - decay * sine
    position = state[POSITION] + (ahead * velocity + sideways * left) / square
    return jnp.concatenate([position, cosine * velocity + sine * left, rate[None]])


def process_noise(
    dt: Float[Array, ""], up: Float[Array, "3"], options: MoverOptions
) -> Float[Array, "7 7"]:
    """Covariance of what happens to a state in `dt` seconds that nothing foretells, for times that
    are short beside `MoverOptions.persistence`."""
    upright = up[:, None] * up[None]
    level = jnp.eye(3, dtype=jnp.float32) - upright
    push = options.acceleration**2
    noise = jnp.zeros((STATE, STATE), jnp.float32)
    noise = noise.at[POSITION, POSITION].set(push * dt**3 / 3 * level + CLIMB**2 * dt * upright)
    noise = noise.at[POSITION, VELOCITY].set(push * dt**2 / 2 * level)
    noise = noise.at[VELOCITY, POSITION].set(push * dt**2 / 2 * level)
    noise = noise.at[VELOCITY, VELOCITY].set(push * dt * level)
    return noise.at[TURN, TURN].set(options.turning**2 * dt)


def states(movers: Movers) -> Float[Array, "k 7"]:
    """Position, velocity and turn rate of every slot."""
    rate = movers.turn_rate[:, None]
    return jnp.concatenate([movers.position, movers.velocity, rate], axis=-1)


def with_states(movers: Movers, state: Array, covariance: Array) -> Movers:
    """The table with other states, where there are bodies."""
    there = movers.present[:, None]
    return movers.replace(  # type: ignore[attr-defined]
        position=jnp.where(there, state[:, POSITION], movers.position),
        velocity=jnp.where(there, state[:, VELOCITY], movers.velocity),
        turn_rate=jnp.where(movers.present, state[:, TURN], movers.turn_rate),
        covariance=jnp.where(there[..., None], covariance, movers.covariance),
    )


def predict(
    state: Float[Array, "7"],
    covariance: Float[Array, "7 7"],
    dt: Float[Array, ""],
    up: Float[Array, "3"],
    options: MoverOptions,
) -> tuple[Float[Array, "7"], Float[Array, "7 7"]]:
    """One body moved on by `dt` seconds, in open space."""
    after = turned(state, dt, up, options.persistence)
    slope = jax.jacfwd(turned)(state, dt, up, options.persistence)
    spread = product(product(slope, covariance), slope.T)
    return after, _symmetric(spread + process_noise(dt, up, options))


def correct(
    state: Float[Array, "7"],
    covariance: Float[Array, "7 7"],
    measured: Float[Array, "3"],
    error: Float[Array, "3 3"],
) -> tuple[Float[Array, "7"], Float[Array, "7 7"]]:
    """The state of one body after its position was measured, in the form of Joseph."""
    inverse, _ = inverse_3x3(covariance[POSITION, POSITION] + error)
    gain = product(covariance[:, POSITION], inverse)
    state = state + jnp.sum(gain * (measured - state[POSITION]), axis=-1)
    rest = jnp.eye(STATE, dtype=jnp.float32).at[:, POSITION].add(-gain)
    spread = product(product(rest, covariance), rest.T)
    return state, _symmetric(spread + product(product(gain, error), gain.T))


def distance(
    position: Float[Array, "3"],
    covariance: Float[Array, "3 3"],
    measured: Float[Array, "3"],
    error: Float[Array, "3 3"],
) -> Float[Array, ""]:
    """How badly a measured position fits an expected one: twice the negative log-likelihood.

    The squared Mahalanobis distance, plus by how much less likely any one place is for a body whose
    place is uncertain: the logarithm of the determinant over that of the measurement alone.
    """
    spread = covariance + error
    gap = measured - position
    inverse, determinant = inverse_3x3(spread)
    mahalanobis = jnp.sum(gap * jnp.sum(inverse * gap, axis=-1))
    dispersion = jnp.log(determinant) - jnp.log(inverse_3x3(error)[1])
    return mahalanobis + jnp.maximum(dispersion, 0.0)


def inverse_3x3(matrix: Float[Array, "3 3"]) -> tuple[Float[Array, "3 3"], Float[Array, ""]]:
    """Inverse and determinant of a covariance, which is kept from being singular."""
    a, b, c = matrix[0], matrix[1], matrix[2]
    rows = jnp.stack([jnp.cross(b, c), jnp.cross(c, a), jnp.cross(a, b)])
    determinant = jnp.maximum(jnp.sum(a * rows[0]), 1e-24)
    return rows.T / determinant, determinant


def product(a: Array, b: Array) -> Array:
    """Product of matrices in full float32."""
    # Not `@`, which accelerators would round to bfloat16 or TF32.
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def _symmetric(matrix: Array) -> Array:
    return 0.5 * (matrix + matrix.T)
