"""One frame brought into the table: advance, assign, correct, doubt, give birth, evict."""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mirage_jax import geometry
from mirage_jax.memory.movers import association, motion, views
from mirage_jax.memory.movers.detections import Detections, measured_as
from mirage_jax.memory.movers.plan import Obstacles
from mirage_jax.memory.movers.state import (
    CONFIRMED,
    DEFAULT,
    LOST,
    POSITION,
    STATE,
    TENTATIVE,
    TURN,
    VELOCITY,
    MoverOptions,
    Movers,
    any_horizontal,
    emptied,
    horizontal,
    unit,
    with_rows,
)
from mirage_jax.memory.movers.unseen import advance

DUE = 0.5
"""Share of the places where a body may be that a frame must look through for it to be missed."""
BEYOND = 0.2
"""Share of a body's depth by which a frame must see past it; nothing that is nearer by less is in
front of it."""
HEADING_SPEED = 0.25
"""Metres per second from which on a body's motion tells its heading."""
VIEWS_OF_EXTENT = 8
"""Whole views after which a body's size follows new ones no slower."""


@flax.struct.dataclass
class MoverReport:
    """What a frame did to the table, int32.

    `found` = `matched` + `born` + `faint` + `merged` + `refused`.

    Attributes:
      found: bodies found in the frame.
      matched: of them, those that show a known body.
      born: that took a slot of their own.
      faint: left out, as they show too little for a body that nobody knows yet.
      merged: left out, as they stand within a body that another of them shows.
      refused: left out, as every slot holds a body that this frame shows.
      dropped: bodies that were not even measured, more than `MoverOptions.detections`.
      missed: bodies that were due and not there.
      lost: of them, those whose whereabouts are unknown from now on.
      gone: bodies that were not believed and were given up.
      evicted: bodies that made room for others, longest unseen first.
    """

    found: Any
    matched: Any
    born: Any
    faint: Any
    merged: Any
    refused: Any
    dropped: Any
    missed: Any
    lost: Any
    gone: Any
    evicted: Any


def observe(
    movers: Movers,
    found: Detections,
    depth: Float[Array, "height width"],
    moving: Bool[Array, "height width"],
    camera: geometry.Camera,
    time: Any,
    *,
    obstacles: Obstacles | None = None,
    options: MoverOptions = DEFAULT,
) -> tuple[Movers, MoverReport]:
    """Brings one frame into the table. Pure and jittable, of static shapes.

    Known bodies are moved on to the frame's time. Each detection then shows one of them or a new
    one, so that the sum of distance, in units of uncertainty, and difference of tokens is least. A
    faint one can show a known body but no new one: masks that a network tells are wrong in small
    places first (as Zhang et al. 2022, "ByteTrack", arXiv 2110.06864, do with scores).
    A body that none shows is doubted where it is due: in view, with nothing nearer in front of it,
    and with what lies behind it to be seen. What hides it, or the edge of the picture, is no
    evidence. One that is in view and not found in as many frames as it was found in is not
    believed, though nothing behind it is seen.

    Args:
      movers: the table.
      found: bodies of the frame, see `detect`.
      depth: z-depth of the frame in metres; 0 = unknown, inf = sky.
      moving: which of its pixels belong to bodies.
      camera: of the frame, no leading dimensions.
      time: seconds.
      obstacles: what stands in bodies' way since the frame before.
      options: the filter's numbers.
    """
    movers = advance(movers, time, obstacles, options)
    slot = association.assign(association.costs(movers, found, options), options.birth_cost)
    matched = found.valid & (slot >= 0)
    source, seen = _source_of_slots(slot, matched, movers.slots)
    movers = _correct(movers, found, source, seen, options)
    movers, missed, lost = _doubt(movers, seen, depth, moving, camera, options)
    stale = (movers.status == TENTATIVE) & ~seen
    stale &= movers.time - movers.last_seen > options.tentative
    gone = stale | ((movers.status == TENTATIVE) & lost)
    movers = emptied(movers, gone)

    unknown = found.valid & ~matched
    new = unknown & (found.pixels >= options.birth_pixels)
    merged = new & _inside_another(movers, found, seen)
    movers, born_at, evicted = _births(movers, found, new & ~merged, seen, options)
    born = born_at >= 0
    new_source, new_seen = _source_of_slots(born_at, born, movers.slots)
    source, seen = jnp.where(new_seen, new_source, source), seen | new_seen
    movers = views.add(movers, found, source, seen)

    def count(which: Array) -> Int[Array, ""]:
        return jnp.sum(which, dtype=jnp.int32)

    report = MoverReport(
        found=count(found.valid),
        matched=count(matched),
        born=count(born),
        faint=count(unknown & ~new),
        merged=count(merged),
        refused=count(new & ~merged & ~born),
        dropped=jnp.asarray(found.dropped, jnp.int32),
        missed=count(missed),
        lost=count(lost & ~gone),
        gone=count(gone),
        evicted=evicted,
    )
    return movers, report


def _source_of_slots(
    slot: Int[Array, " d"], taken: Bool[Array, " d"], slots: int
) -> tuple[Int[Array, " k"], Bool[Array, " k"]]:
    """The detection of every slot, and whether there is one; each slot has at most one."""
    where = jnp.where(taken, slot, slots)
    numbers = jnp.arange(len(slot), dtype=jnp.int32)
    source = jnp.full(slots, -1, jnp.int32).at[where].set(numbers, mode="drop")
    return jnp.maximum(source, 0), source >= 0


def _correct(
    movers: Movers,
    found: Detections,
    source: Int[Array, " k"],
    seen: Bool[Array, " k"],
    options: MoverOptions,
) -> Movers:
    shown = jax.tree.map(lambda rows: rows[source] if rows.ndim else rows, found)
    measured, error = measured_as(shown, movers.extent[:, 1], movers.up), shown.covariance
    error = jnp.where(seen[:, None, None], error, jnp.eye(3, dtype=jnp.float32))
    state, covariance = jax.vmap(motion.correct)(
        motion.states(movers), movers.covariance, measured, error
    )
    state = jnp.where(seen[:, None], state, motion.states(movers))
    covariance = jnp.where(seen[:, None, None], covariance, movers.covariance)
    movers = motion.with_states(movers, state, covariance)
    hits = movers.hits + seen
    known = seen & (hits >= options.confirm) & (hits > movers.overlooked)
    whole = seen & found.whole[source]
    share = (1.0 / jnp.clip(hits, 1, VIEWS_OF_EXTENT))[:, None]
    size = _extent(found.extent[source])
    movers = movers.replace(  # type: ignore[attr-defined]
        hits=hits,
        misses=jnp.where(seen, 0, movers.misses),
        status=jnp.where(known, CONFIRMED, jnp.where(seen, TENTATIVE, movers.status)),
        last_seen=jnp.where(seen, movers.time, movers.last_seen),
        extent=jnp.where(whole[:, None], movers.extent + share * (size - movers.extent),
                         movers.extent),
    )  # fmt: skip
    speed = jnp.linalg.norm(movers.velocity, axis=-1)
    spread = jnp.trace(movers.covariance[:, VELOCITY, VELOCITY], axis1=1, axis2=2)
    going = seen & (speed > HEADING_SPEED) & (speed**2 > 2.0 * spread)
    return views.orient(movers, unit(movers.velocity, movers.heading), going)


def _extent(size: Float[Array, "n 2"]) -> Float[Array, "n 3"]:
    """Along heading, left and up: a body is taken to be as deep as it is wide."""
    return jnp.stack([size[:, 0], size[:, 0], size[:, 1]], axis=-1)


def _doubt(
    movers: Movers,
    seen: Bool[Array, " k"],
    depth: Float[Array, "height width"],
    moving: Bool[Array, "height width"],
    camera: geometry.Camera,
    options: MoverOptions,
) -> tuple[Movers, Bool[Array, " k"], Bool[Array, " k"]]:
    """Widens what is not where it was due, and believes no longer what is found in no more frames
    than it is overlooked in; also which were missed, and which are lost by that."""
    doubtful = movers.present & ~seen & (movers.status != LOST)
    through, bare = (share >= DUE for share in seen_at(movers, depth, moving, camera))
    missed = doubtful & through
    misses = movers.misses + missed
    overlooked = movers.overlooked + (movers.present & ~seen & bare)
    believed = movers.hits > overlooked
    lost = missed & (misses >= options.misses)
    level = jnp.eye(3, dtype=jnp.float32) - movers.up[:, None] * movers.up[None]
    wider = movers.covariance.at[:, POSITION, POSITION].add(options.miss_spread**2 * level)
    movers = movers.replace(  # type: ignore[attr-defined]
        misses=misses,
        covariance=jnp.where(missed[:, None, None], wider, movers.covariance),
        overlooked=overlooked,
        status=jnp.where(
            movers.status == CONFIRMED,
            jnp.where(lost, LOST, jnp.where(believed, CONFIRMED, TENTATIVE)),
            movers.status,
        ),
    )
    return movers, missed, lost


def seen_at(
    movers: Movers,
    depth: Float[Array, "height width"],
    moving: Bool[Array, "height width"],
    camera: geometry.Camera,
) -> tuple[Float[Array, " k"], Float[Array, " k"]]:
    """Shares of the places where each body may be at which a frame shows what is behind it, and at
    which it shows nothing in front of it; where something moves, neither.

    The places are its position and those one standard deviation away along the two main axes of
    its uncertainty on the floor; looked at is the body's middle.
    """
    grid = (int(depth.shape[0]), int(depth.shape[1]))
    first = any_horizontal(movers.up)
    axes = jnp.stack([first, jnp.cross(movers.up, first)])
    spread = movers.covariance[:, POSITION, POSITION]
    precision = jax.lax.Precision.HIGHEST
    flat = jnp.einsum("ia,kab,jb->kij", axes, spread, axes, precision=precision)
    # The two main axes of an ellipse, by the angle of the first.
    xx, xy, yy = flat[:, 0, 0], flat[:, 0, 1], flat[:, 1, 1]
    angle = 0.5 * jnp.arctan2(2.0 * xy, xx - yy)
    half = jnp.hypot(0.5 * (xx - yy), xy)
    reach = jnp.sqrt(
        jnp.maximum(0.5 * (xx + yy)[:, None] + half[:, None] * np.array([1, -1], np.float32), 0)
    )
    cosine, sine = jnp.cos(angle), jnp.sin(angle)
    main = jnp.stack([jnp.stack([cosine, sine], -1), jnp.stack([-sine, cosine], -1)], axis=1)
    offsets = jnp.einsum("kij,jc->kic", reach[..., None] * main, axes, precision=precision)
    around = jnp.concatenate([jnp.zeros_like(offsets[:, :1]), offsets, -offsets], axis=1)
    middle = movers.position + 0.5 * movers.extent[:, 2:] * movers.up
    uv, z = geometry.project(middle[:, None] + around, geometry.resize_camera(camera, grid))
    u, v = uv[..., 0], uv[..., 1]
    inside = (z > 0) & (u >= 0) & (u < grid[1]) & (v >= 0) & (v < grid[0])
    row = jnp.where(inside, v, 0.0).astype(jnp.int32)
    column = jnp.where(inside, u, 0.0).astype(jnp.int32)
    still, metres = inside & ~moving[row, column], depth[row, column]
    width = movers.extent[:, 1:2]
    behind = still & (metres > z * (1.0 + BEYOND) + width)
    bare = still & (metres > 0) & (metres > z * (1.0 - BEYOND) - width)
    return jnp.mean(behind, axis=1, dtype=jnp.float32), jnp.mean(bare, axis=1, dtype=jnp.float32)


def _inside_another(
    movers: Movers, found: Detections, seen: Bool[Array, " k"]
) -> Bool[Array, " d"]:
    """Detections that stand within a body which this frame shows already: parts of it."""
    gap = horizontal(found.position[:, None] - movers.position[None], movers.up)
    reach = 0.5 * (movers.extent[None, :, 1] + found.extent[:, None, 0])
    return jnp.any(seen[None] & (jnp.linalg.norm(gap, axis=-1) < 0.5 * reach), axis=1)


def _births(
    movers: Movers,
    found: Detections,
    new: Bool[Array, " d"],
    seen: Bool[Array, " k"],
    options: MoverOptions,
) -> tuple[Movers, Int[Array, " d"], Int[Array, ""]]:
    """Gives slots to new bodies, free ones first, then those of bodies unseen for longest.

    Returns:
      The table, the slot of every detection (-1: none), and how many bodies made room.
    """
    free = ~movers.present
    # Free slots first, those seen now never, of equals the lowest.
    waiting = jnp.where(free, -jnp.inf, jnp.where(seen, jnp.inf, movers.last_seen))
    order = jnp.argsort(waiting, stable=True).astype(jnp.int32)
    rank = jnp.cumsum(new, dtype=jnp.int32) - 1
    room = jnp.sum(free | ~seen, dtype=jnp.int32)
    born = new & (rank < room)
    slot = jnp.where(born, order[jnp.minimum(rank, movers.slots - 1)], -1)
    source, here = _source_of_slots(slot, born, movers.slots)
    evicted = jnp.sum(here & movers.present, dtype=jnp.int32)
    movers = emptied(movers, here)

    up = movers.up
    level = jnp.eye(3, dtype=jnp.float32) - up[:, None] * up[None]
    covariance = jnp.zeros((movers.slots, STATE, STATE), jnp.float32)
    covariance = covariance.at[:, POSITION, POSITION].set(found.covariance[source])
    covariance = covariance.at[:, VELOCITY, VELOCITY].set(options.speed**2 * level)
    covariance = covariance.at[:, TURN, TURN].set(options.turn_rate**2)
    facing = unit(horizontal(found.direction[source], up), any_horizontal(up))
    one = jnp.ones(movers.slots, jnp.int32)
    status = one * (CONFIRMED if options.confirm == 1 else TENTATIVE)
    values = {
        "id": movers.next_id + rank[source],
        "status": status,
        "position": found.position[source],
        "covariance": covariance,
        "heading": facing,
        "extent": _extent(found.extent[source]),
        "last_seen": jnp.broadcast_to(movers.time, movers.last_seen.shape),
        "hits": one,
    }
    movers = with_rows(movers, here, values)
    movers = movers.replace(  # type: ignore[attr-defined]
        next_id=movers.next_id + jnp.sum(born, dtype=jnp.int32),
        evicted=movers.evicted + evicted,
    )
    return movers, slot, evicted
