"""Whether the memory itself has bodies where they are, without any picture of it.

The table of bodies (`memory.movers`) and the elements of what stands still are compared with the
exact states that a clip was stored with. So it can be asked in worlds that cannot be rendered again
with a body elsewhere, such as Freedoom, whose monsters go where they like.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from data_pipelines.clip import Clip
from data_pipelines.due_again import DueAgain, bodies_of, due_again, history_frames
from mirage_jax.evaluation.permanence import rollouts
from mirage_jax.evaluation.permanence.protocol import DISPLACED
from mirage_jax.evaluation.permanence.summary import (
    HIDDEN,
    hidden_bin,
    interval,
    weighted_mean,
    weighted_median,
)
from mirage_jax.geometry import project, resize_camera
from mirage_jax.memory import LatentMemory
from mirage_jax.memory.movers import MoverOptions, Movers, advance, obstacles
from mirage_jax.world import World, WorldModel

NEAR = 1.5
"""Metres from a body to the one in the table that is taken for it, at most."""
MATCHED = 1.0
"""Metres from a body in the table to a true one, beyond which there is none where it is."""
EACH = 2
"""Views of a body in a clip that count, at most, evenly spread."""
COVERED = 0.5
"""Share of a cell that what moves has to cover for what is stored of the cell to be a ghost."""


@dataclasses.dataclass(frozen=True)
class Kept:
    """What a memory has of a clip after its first half.

    Attributes:
      movers: the table of bodies, as of the last given frame.
      places: from a frame of the second half to where the table has them by then, metres, [K, 2].
      stored: of which cells of the given frames an element of what stands still is left.
    """

    movers: Movers
    places: Callable[[int], Float[np.ndarray, "k 2"]]
    stored: Bool[np.ndarray, "given h w"]


@dataclasses.dataclass(frozen=True)
class View:
    """A frame in which a body is due.

    Attributes:
      world: of the clip.
      hidden: simulated frames since it was last seen.
      moved: metres from where it was last seen.
      straight: metres from where its velocity of then would have led it, through walls too.
      off: metres from where the table has it; None if the table has not got it.
    """

    world: str
    hidden: int
    moved: float
    straight: float
    off: float | None

    @property
    def state_error(self) -> float | None:
        """`off` over `moved`; None for what is not in the table or has not moved."""
        return None if self.off is None or self.moved < DISPLACED else self.off / self.moved


@dataclasses.dataclass
class Scores:
    """What was found so far, each with the world of its clip.

    Attributes:
      views: of bodies that are due.
      hallucinated: by clip, bodies in the table with none within `MATCHED` at the last given frame.
      doubled: by clip, those that stand where another one of the table has the same body.
      covered: cells of given frames that what moves covers, and whether an element is left of them.
    """

    views: list[View] = dataclasses.field(default_factory=list)
    hallucinated: list[tuple[str, float]] = dataclasses.field(default_factory=list)
    doubled: list[tuple[str, float]] = dataclasses.field(default_factory=list)
    covered: list[tuple[str, float]] = dataclasses.field(default_factory=list)

    def summarise(self, seed: int = 0) -> dict[str, Any]:
        """Numbers with their 95 % intervals over worlds, and curves over hidden frames."""
        curves = {str(p): [v for v in self.views if hidden_bin(v.hidden) == p] for p in HIDDEN}
        return {
            "clips": len(self.hallucinated),
            **_numbers(self.views, seed),
            "hallucinated": interval(self.hallucinated, weighted_mean, seed),
            "doubled": interval(self.doubled, weighted_mean, seed),
            "ghosts": interval(self.covered, weighted_mean, seed),
            "hidden": {point: _numbers(views, seed) for point, views in curves.items()},
        }


def _numbers(views: list[View], seed: int) -> dict[str, Any]:
    def measured(value: Callable[[View], float | None]) -> list[tuple[str, float]]:
        found = [(view.world, value(view)) for view in views]
        return [(world, number) for world, number in found if number is not None]

    def nearer(view: View) -> float | None:
        return None if view.state_error is None else float(view.state_error < 1.0)

    return {
        "tracked": interval(measured(lambda v: float(v.off is not None)), weighted_mean, seed),
        "state_error": interval(measured(lambda v: v.state_error), weighted_median, seed),
        "metres": interval(measured(lambda v: v.off), weighted_median, seed),
        "frozen_metres": interval(measured(lambda v: v.moved), weighted_median, seed),
        "straight_metres": interval(measured(lambda v: v.straight), weighted_median, seed),
        "nearer": interval(measured(nearer), weighted_mean, seed),
    }


def score_clips(clips: Iterable[Clip], keep: Callable[[Clip], Kept]) -> Scores:
    """Scores clips with the states of their bodies.

    Args:
      clips: with mover ids; ValueError, naming the clip, without them or bodies.
      keep: gives a memory the first half of a clip, see `kept_by`.
    """
    found = Scores()
    for clip in clips:
        due, kept, last = due_again(clip), keep(clip), history_frames(clip) - 1
        slots = tracked(kept.movers, clip)
        true, bodies = _places(clip), bodies_of(clip)
        for view in _spread(due):
            body, now = view.body, true[view.frame, view.body]
            away = now - true[view.last_seen, body]
            went = bodies.velocity[view.last_seen, body, :2] * view.hidden / clip.fps
            off = None
            if body in slots:
                off = _length(kept.places(view.frame)[slots[body]] - now)
            found.views.append(
                View(clip.world, view.hidden, _length(away), _length(away - went), off)
            )
        shown = np.asarray(kept.movers.position)[np.asarray(kept.movers.shown), :2]
        there = true[last][bodies.present[last]]
        metres = np.linalg.norm(shown[:, None] - there[None], axis=-1)
        matched = nearest_pairs(metres, MATCHED)
        alone = int((metres.min(1, initial=np.inf) > MATCHED).sum())
        found.hallucinated.append((clip.world, float(alone)))
        found.doubled.append((clip.world, float(len(shown) - len(matched) - alone)))
        covered = cells_covered(clip, kept.stored.shape[1:])
        found.covered += [(clip.world, float(left)) for left in kept.stored[covered]]
    return found


def kept_by(model: WorldModel, clip: Clip, *, told: bool) -> Kept:
    """What a trained model keeps; `told` gives it true depth, and true masks of what moves.

    Raises:
      ValueError: if the model keeps no bodies; naming the clip, if it does not fit.
    """
    model = keeping_bodies(model, clip)
    world = rollouts.start(model, clip, told=told)
    bank, given = world.bank, history_frames(clip)
    valid, frame = np.asarray(bank.valid), np.asarray(bank.frame)
    stored = np.zeros((given, *model.grid), bool)
    camera = resize_camera(rollouts.camera_of(clip, slice(0, given)), model.grid)
    # An element lies on the ray through the middle of its cell.
    cells = np.asarray(project(bank.xyz, camera[np.where(valid, frame, 0)])[0])[valid]
    column, row = np.floor(cells).astype(int).T
    stored[frame[valid], row, column] = True
    return Kept(cast(Movers, world.movers), places_by(model, world, clip), stored)


def keeping_bodies(model: WorldModel, clip: Clip) -> WorldModel:
    """The model at the rate of a clip; ValueError if it keeps no bodies."""
    if model.movers is None:
        raise ValueError(
            "model: found none that keeps bodies, expected --bodies or weights that say so"
        )
    return rollouts.at_rate_of(model, clip)


def places_by(
    model: WorldModel, world: World, clip: Clip
) -> Callable[[int], Float[np.ndarray, "k 2"]]:
    """Where a world has its bodies at frames of the second half of a clip."""
    options, given = cast(MoverOptions, model.movers), history_frames(clip)

    def places(frame: int) -> Float[np.ndarray, "k 2"]:
        time = (world.frames + frame - given) / options.fps
        here = jnp.asarray(clip.cam2world[frame][:3, 3], jnp.float32)
        table = cast(Movers, world.movers)
        return np.asarray(_positions(table, world.bank, here, time, options))[:, :2]

    return places


@functools.partial(jax.jit, static_argnames="options")
def _positions(
    table: Movers,
    bank: LatentMemory,
    here: Float[Array, "3"],
    time: Any,
    options: MoverOptions,
) -> Float[Array, "k 3"]:
    """Where bodies are at another time, turned back by what stands around `here`."""
    plan = obstacles(table, bank, here, options)
    return advance(table, time, plan, options).position


def tracked(movers: Movers, clip: Clip) -> dict[int, int]:
    """Slots of a clip's bodies, by their places in `Clip.bodies`, after the first half."""
    kept = np.flatnonzero(np.asarray(movers.shown))
    shown = np.asarray(movers.position)[kept, :2]
    last = history_frames(clip) - 1
    metres = np.linalg.norm(_places(clip)[last][:, None] - shown[None], axis=-1)
    metres[~bodies_of(clip).present[last]] = np.inf
    return {body: int(kept[slot]) for body, slot in nearest_pairs(metres, NEAR).items()}


def nearest_pairs(metres: Float[np.ndarray, "n m"], most: float) -> dict[int, int]:
    """Rows and columns in pairs, the nearest first, none farther apart than `most`."""
    pairs: dict[int, int] = {}
    for flat in np.argsort(metres, axis=None, kind="stable").tolist():
        row, column = divmod(flat, metres.shape[1])
        if metres[row, column] > most:
            break
        if row not in pairs and column not in pairs.values():
            pairs[row] = column
    return pairs


def cells_covered(clip: Clip, grid: tuple[int, ...]) -> Bool[np.ndarray, "given h w"]:
    """Cells of the given frames of which what moves covers at least `COVERED`."""
    moving = clip.require("mover_ids")[: history_frames(clip)] > 0
    frames, (height, width) = len(moving), grid
    cells = moving.reshape(frames, height, clip.size[0] // height, width, -1)
    return cells.mean((2, 4)) >= COVERED


def _spread(due: list[DueAgain]) -> list[DueAgain]:
    chosen = []
    for body in sorted({view.body for view in due}):
        views = [view for view in due if view.body == body]
        at = np.linspace(0, len(views) - 1, min(EACH, len(views))).round().astype(int)
        chosen += [views[number] for number in at]
    return chosen


def _length(vector: Float[np.ndarray, "2"]) -> float:
    return float(np.linalg.norm(vector))


def _places(clip: Clip) -> Float[np.ndarray, "frames bodies 2"]:
    return bodies_of(clip).body2world[..., :2, 3]
