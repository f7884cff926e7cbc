"""From judged views to numbers: shares, medians, curves over hidden time, bootstrap over worlds."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from jaxtyping import Float

from mirage_jax.evaluation.permanence.views import KINDS

HIDDEN = (4, 8, 16, 32, 64, 100)
"""Points of the curves, simulated frames; a view counts at the nearest on a logarithmic scale."""
DRAWS = 1000
LEAST_WORLDS = 3
"""Fewer worlds than these have no interval."""


@dataclasses.dataclass(frozen=True)
class Verdict:
    """What a method made of one judged view.

    Attributes:
      world: of the clip.
      hidden: simulated frames out of sight.
      kind: why; one of `views.KINDS`.
      present: whether the picture shows the body somewhere.
      who: whether it shows it as it looks; None where it is not present.
      metres: from where it shows it to where it is; None where it is not present.
      state_error: the same over the displacement while hidden; None where that is small, or the
        body is not present.
      order: pixels with the right one of body and what hides it, and all such; None where nothing
        hides it, or it is not present.
    """

    world: str
    hidden: int
    kind: str
    present: bool
    who: bool | None = None
    metres: float | None = None
    state_error: float | None = None
    order: tuple[int, int] | None = None


@dataclasses.dataclass(frozen=True)
class Place:
    """Whether a picture shows what is asked of it, such as a body in a place where there is none.

    Attributes:
      world: of the clip.
      shown: whether it does.
    """

    world: str
    shown: bool


Weights = Float[np.ndarray, "draws n"]
Reduce = Callable[[Float[np.ndarray, " n"], Weights], Float[np.ndarray, " draws"]]
Measure = tuple[str, Callable[[Any], float | None], Reduce]


def weighted_mean(values: Float[np.ndarray, " n"], weights: Weights) -> Float[np.ndarray, " draws"]:
    """Means of values that count as often as the weights say."""
    return weights @ values / weights.sum(1)


def weighted_median(
    values: Float[np.ndarray, " n"], weights: Weights
) -> Float[np.ndarray, " draws"]:
    """Medians of values that count as often as the weights say, whole numbers."""
    order = values.argsort()
    counted, half = weights[:, order].cumsum(1), weights.sum(1, keepdims=True) / 2
    low, high = (counted >= half).argmax(1), (counted > half).argmax(1)
    return (values[order][low] + values[order][high]) / 2


MEASURES: tuple[Measure, ...] = (
    ("present", lambda v: float(v.present), weighted_mean),
    ("who", lambda v: None if v.who is None else float(v.who), weighted_mean),
    ("state_error", lambda v: v.state_error, weighted_median),
    ("metres", lambda v: v.metres, weighted_median),
    ("order", lambda v: None if v.order is None else v.order[0] / v.order[1], weighted_mean),
)
"""Name, value of a verdict (None where it has none), and how values become a number."""


def summarise(verdicts: Sequence[Verdict], seed: int = 0) -> dict[str, Any]:
    """Numbers of one method, with curves over hidden time and by kind of hiding.

    Returns:
      For each of `MEASURES` `value`, `low` and `high` (a 95 % interval, worlds drawn anew; None for
      fewer than `LEAST_WORLDS`) and `views`; and under "hidden" and "kind" the same by bin.
    """
    whole: dict[str, Any] = _measure(verdicts, seed)
    whole["hidden"] = {
        str(point): _measure([v for v in verdicts if hidden_bin(v.hidden) == point], seed)
        for point in HIDDEN
    }
    whole["kind"] = {k: _measure([v for v in verdicts if v.kind == k], seed) for k in KINDS}
    return whole


def hidden_bin(hidden: int) -> int:
    """The point of the curves that a hidden time counts at."""
    return HIDDEN[int(np.abs(np.log(np.array(HIDDEN) / hidden)).argmin())]


def _measure(verdicts: Sequence[Verdict], seed: int) -> dict[str, Any]:
    found = {}
    for name, value_of, reduce in MEASURES:
        valued = [(v.world, value_of(v)) for v in verdicts]
        defined = [(world, value) for world, value in valued if value is not None]
        found[name] = interval(defined, reduce, seed)
    return found


def share_shown(places: Sequence[Place], seed: int = 0) -> dict[str, Any]:
    """Share of those that show what is asked of them, as an entry of `summarise`."""
    return interval([(place.world, float(place.shown)) for place in places], weighted_mean, seed)


def interval(valued: Sequence[tuple[str, float]], reduce: Reduce, seed: int = 0) -> dict[str, Any]:
    """A number with its 95 % interval by drawing worlds with replacement.

    Args:
      valued: world and value of each view.
      reduce: values, and how often each counts, to numbers.
      seed: of the draws.
    """
    entry: dict[str, Any] = {"value": None, "low": None, "high": None, "views": len(valued)}
    if not valued:
        return entry
    worlds, world = np.unique([name for name, _ in valued], return_inverse=True)
    values = np.array([value for _, value in valued], float)
    entry["value"] = float(reduce(values, np.ones((1, len(values))))[0])
    if len(worlds) >= LEAST_WORLDS:
        drawn = np.random.default_rng(seed).integers(len(worlds), size=(DRAWS, len(worlds)))
        times = (drawn[:, :, None] == np.arange(len(worlds))).sum(1).astype(float)
        found = reduce(values, times[:, world])
        entry["low"], entry["high"] = (float(q) for q in np.quantile(found, [0.025, 0.975]))
    return entry
