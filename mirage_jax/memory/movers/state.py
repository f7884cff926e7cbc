"""The table of moving bodies, and the numbers it is kept by."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import flax.struct
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mirage_jax.settings import Settings, setting

FREE, TENTATIVE, CONFIRMED, LOST = -1, 0, 1, 2
"""Status of a slot: holds nothing, found too seldom to be believed, known, not where it was due."""

POSITION, VELOCITY, TURN = slice(0, 3), slice(3, 6), 6
"""Where the numbers of a body's state stand in its covariance."""
STATE = 7

CONTACTS = ("bounce", "slide", "stop")
"""What a body does that meets something which stands still."""


@dataclasses.dataclass(frozen=True)
class MoverOptions(Settings):
    """The table's size, and what is assumed of bodies and of how they are seen."""

    slots: int = setting(16, "Bodies that can be known at once.", least=1)
    detections: int = setting(8, "Bodies that can be found in one frame.", least=1)
    views: int = setting(4, "Views kept of each body.", least=1)
    view_cells: int = setting(4, "Cells of a view along each side.", least=1)
    fps: float = setting(10.0, "Frames a second of what is written.", above=0)
    least_pixels: int = setting(16, "Pixels below which nothing is taken for a body.", least=1)
    birth_pixels: int = setting(
        32,
        "Pixels of one that nobody knows yet: fewer can show a body that is known, not a new one.",
        least=1,
    )
    most_covered: float = setting(
        0.1,
        "Share of a cell that bodies may cover for the cell to be stored as standing still.",
        least=0,
        most=0.5,
    )
    most_height: float = setting(
        6.0, "Metres above which nothing is taken for a body, such as a part of the sky.", above=0
    )
    depth_error: float = setting(
        0.35, "Standard deviation of the depth of a body's pixels, relative.", above=0
    )
    given_depth_error: float = setting(
        0.1,
        "The same where depth is given, not told by the head; no less, since believing it more "
        "followed bodies no better.",
        above=0,
    )
    depth_step: float = setting(
        0.5,
        "Difference of the logarithm of depth between neighbours that does not lie in one body.",
        above=0,
    )
    given_depth_step: float = setting(0.2, "The same where depth is given.", above=0)
    hiding_depth: float = setting(
        0.7,
        "Share of a body's depth, or of the floor's below its foot, below which what is seen "
        "beside it or there hides some of it.",
        above=0,
        most=1,
    )
    given_hiding_depth: float = setting(0.85, "The same where depth is given.", above=0, most=1)
    pixel_error: float = setting(
        0.5, "Standard deviation of where a body's edges are found, pixels of the mask.", above=0
    )
    floor_error: float = setting(
        0.05, "Standard deviation of the floor's height under a body, metres.", above=0
    )
    acceleration: float = setting(
        0.3, "White noise of a body's acceleration, m/s^2 per square root of Hz.", above=0
    )
    turning: float = setting(
        0.15, "White noise of its turn rate, rad/s per square root of s.", above=0
    )
    persistence: float = setting(
        4.0, "Seconds after which 1/e is left of a velocity: bodies stop and turn.", above=0
    )
    speed: float = setting(1.0, "Standard deviation of a new body's velocity, m/s.", above=0)
    turn_rate: float = setting(0.4, "Standard deviation of its turn rate, rad/s.", above=0)
    birth_cost: float = setting(
        18.0,
        "Squared distance, in units of uncertainty, from which on what is found is another body.",
        above=0,
    )
    token_weight: float = setting(
        4.0, "Cost of a mean squared difference of 1 between tokens.", least=0
    )
    confirm: int = setting(2, "Frames that must show a body before it is believed.", least=1)
    tentative: float = setting(2.0, "Seconds after which one that is not goes again.", above=0)
    misses: int = setting(3, "Frames it is due in and not in, after which it is lost.", least=1)
    miss_spread: float = setting(0.5, "Metres added to its uncertainty by each.", least=0)
    step_height: float = setting(
        0.3, "Metres above the floor up to which nothing is in a body's way.", above=0
    )
    contact: str = setting("bounce", "What it does where it meets something.", choices=CONTACTS)


DEFAULT = MoverOptions()

GIVEN = 1e9
"""Weight of a floor whose height is given, and does not change."""


@flax.struct.dataclass
class Movers:
    """K slots for moving bodies; leading dimensions may be added by `vmap`.

    A body's position is where its middle meets the floor; its own axes are its heading, the left of
    it, and up. Slots that hold none have status `FREE`, id -1 and zeros.

    Attributes:
      up: `[3]` unit vector away from the floor.
      floor: height of the floor along `up`, metres.
      floor_weight: how often it was seen so far; 0 = unknown, `GIVEN` = given, and stays.
      time: seconds, what the state is an estimate for.
      id: `[K]` int32, never used twice.
      status: `[K]` int32, `FREE`, `TENTATIVE`, `CONFIRMED` or `LOST`.
      position: `[K, 3]` metres.
      velocity: `[K, 3]` metres per second, at right angles to `up`.
      turn_rate: `[K]` radians per second about `up`, right-handed.
      covariance: `[K, 7, 7]` of position, velocity and turn rate.
      heading: `[K, 3]` unit vector it faces along.
      oriented: `[K]` bool, whether the heading was seen, from its motion, or is a guess.
      extent: `[K, 3]` metres along heading, left and up.
      last_seen: `[K]` seconds.
      hits: `[K]` int32, frames that showed it.
      misses: `[K]` int32, frames since then that showed what is behind it.
      overlooked: `[K]` int32, frames since the first that had it in view, nothing in front of it,
        and did not find it.
      view_valid: `[K, V]` bool.
      view_tokens: `[K, V, a, a, C]`, of masked crops on neutral ground.
      view_alpha: `[K, V, a, a]` share of each cell that the body covers.
      view_direction: `[K, V, 3]` unit vector from it to the camera, in its own axes.
      view_size: `[K, V]` metres along each side of the crop, the middle of whose lower edge is at
        the position.
      view_pixels: `[K, V]` pixels of the mask it was cut out with.
      view_time: `[K, V]` seconds.
      next_id: int32, the next body's.
      evicted: int32, bodies that had to make room, in total.
    """

    up: Any
    floor: Any
    floor_weight: Any
    time: Any
    id: Any
    status: Any
    position: Any
    velocity: Any
    turn_rate: Any
    covariance: Any
    heading: Any
    oriented: Any
    extent: Any
    last_seen: Any
    hits: Any
    misses: Any
    overlooked: Any
    view_valid: Any
    view_tokens: Any
    view_alpha: Any
    view_direction: Any
    view_size: Any
    view_pixels: Any
    view_time: Any
    next_id: Any
    evicted: Any

    @property
    def slots(self) -> int:
        """Number of slots K."""
        return self.id.shape[-1]

    @property
    def present(self) -> Bool[Array, "*b k"]:
        """Which slots hold a body, believed or not."""
        return self.status != FREE

    @property
    def shown(self) -> Bool[Array, "*b k"]:
        """Which slots hold one that is known and whose whereabouts are."""
        return self.status == CONFIRMED

    @property
    def uncertainty(self) -> Float[Array, "*b k"]:
        """Standard deviation of each position, metres: root of the covariance's trace."""
        variances = jnp.diagonal(self.covariance[..., POSITION, POSITION], axis1=-2, axis2=-1)
        return jnp.sqrt(jnp.maximum(jnp.sum(variances, axis=-1), 0.0))


TABLE = ("up", "floor", "floor_weight", "time", "next_id", "evicted")
"""Fields of `Movers` that belong to all bodies; the others have a row for every slot."""
SLOT_FIELDS = tuple(f.name for f in dataclasses.fields(Movers) if f.name not in TABLE)


def create(
    channels: int,
    up: Float[Array | np.ndarray, "3"],
    options: MoverOptions = DEFAULT,
    *,
    floor: float | None = None,
) -> Movers:
    """A table without bodies.

    Args:
      channels: of a token of their views; 0 where appearance is not kept.
      up: direction away from the floor, of any length but 0.
      options: sizes.
      floor: height of the floor along `up`, where it is known; else `update_floor` finds it.
    """
    k, v, a = options.slots, options.views, options.view_cells
    up = jnp.asarray(up, jnp.float32)

    def zeros(*shape: int) -> Array:
        return jnp.zeros(shape, jnp.float32)

    return Movers(
        up=up / jnp.linalg.norm(up),
        floor=jnp.asarray(0.0 if floor is None else floor, jnp.float32),
        floor_weight=jnp.asarray(0.0 if floor is None else GIVEN, jnp.float32),
        time=zeros(),
        id=jnp.full(k, -1, jnp.int32),
        status=jnp.full(k, FREE, jnp.int32),
        position=zeros(k, 3),
        velocity=zeros(k, 3),
        turn_rate=zeros(k),
        covariance=zeros(k, STATE, STATE),
        heading=zeros(k, 3),
        oriented=jnp.zeros(k, bool),
        extent=zeros(k, 3),
        last_seen=zeros(k),
        hits=jnp.zeros(k, jnp.int32),
        misses=jnp.zeros(k, jnp.int32),
        overlooked=jnp.zeros(k, jnp.int32),
        view_valid=jnp.zeros((k, v), bool),
        view_tokens=zeros(k, v, a, a, channels),
        view_alpha=zeros(k, v, a, a),
        view_direction=zeros(k, v, 3),
        view_size=zeros(k, v),
        view_pixels=zeros(k, v),
        view_time=zeros(k, v),
        next_id=jnp.zeros((), jnp.int32),
        evicted=jnp.zeros((), jnp.int32),
    )


def emptied(movers: Movers, slots: Bool[Array, " k"]) -> Movers:
    """The table with the chosen slots free again."""
    free = dict.fromkeys(SLOT_FIELDS, 0) | {"id": -1, "status": FREE}
    return with_rows(movers, slots, free)


def with_rows(movers: Movers, chosen: Bool[Array, " k *v"], values: Mapping[str, Any]) -> Movers:
    """The table with other values, by field, where they are chosen: slots, or views of slots."""
    rows = {}
    for name, value in values.items():
        row = getattr(movers, name)
        here = chosen.reshape(*chosen.shape, *(1,) * (row.ndim - chosen.ndim))
        rows[name] = jnp.where(here, jnp.asarray(value, row.dtype), row)
    return movers.replace(**rows)  # type: ignore[attr-defined]


def horizontal(vectors: Float[Array, "*n 3"], up: Float[Array, "3"]) -> Float[Array, "*n 3"]:
    """What is left of vectors without their part along `up`."""
    return vectors - jnp.sum(vectors * up, axis=-1, keepdims=True) * up


def unit(vectors: Float[Array, "*n 3"], otherwise: Float[Array, "*#n 3"]) -> Float[Array, "*n 3"]:
    """Vectors of length 1; `otherwise` in place of those that have next to no length."""
    square = jnp.sum(vectors * vectors, axis=-1, keepdims=True)
    good = square > 1e-12
    return jnp.where(good, vectors / jnp.sqrt(jnp.where(good, square, 1.0)), otherwise)


def any_horizontal(up: Float[Array, "3"]) -> Float[Array, "3"]:
    """Some unit vector at right angles to `up`, a continuous function of it almost everywhere."""
    axis = jnp.where(jnp.arange(3) == jnp.argmin(jnp.abs(up)), 1.0, 0.0)
    return unit(horizontal(axis, up), axis)


def own_axes(movers: Movers) -> Float[Array, "k 3 3"]:
    """Rows: heading, left and up of every body."""
    up = jnp.broadcast_to(movers.up, movers.heading.shape)
    return jnp.stack([movers.heading, jnp.cross(up, movers.heading), up], axis=-2)
