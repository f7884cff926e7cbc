"""Renderings of a judged view in which the body is in other places, or looks otherwise."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines.sources.body_kinds import KINDS, look_alikes
from data_pipelines.sources.counterfactual import Replay, State
from data_pipelines.sources.stage import View
from mirage_jax.evaluation.permanence.views import JudgedView

ALONG = np.linspace(0.0, 1.25, 11)
"""Times at which the body is placed along its track, as shares of the time it was hidden."""
STRAIGHT = (0.25, 0.5, 0.75, 1.0)
"""The same on the straight line that it set out on, whatever is in the way."""
AROUND = (0.5, 1.0)
"""Metres at which it is placed around the truth, in eight directions."""
CLOSE = 0.25
"""The same around a place that is asked for."""
APART = 0.12
"""Metres between places that are tried."""
LEAST_PIXELS = 20
"""Of a body in a placement that is tried."""


@dataclasses.dataclass(frozen=True, eq=False)
class Placements:
    """A judged view with the body in P places; the first is the true one.

    Attributes:
      replay: of the clip.
      view: which is judged.
      states: (x, y, heading) of the body in each place.
      there: renderings with it.
      absent: the rendering without it.
    """

    replay: Replay
    view: JudgedView
    states: list[State]
    there: UInt8[np.ndarray, "p height width 3"]
    absent: View
    _rendered: dict[tuple[int, str, bool], View] = dataclasses.field(
        default_factory=dict, init=False, repr=False
    )

    @property
    def errors(self) -> Float[np.ndarray, " p"]:
        """Metres between each place and the true one."""
        places = np.array(self.states)[:, :2]
        return np.linalg.norm(places - places[0], axis=-1)

    @property
    def look(self) -> str:
        """How the body looks."""
        return self.replay.bodies.looks[self.replay.index(self.view.body)]

    def looks(self, place: int) -> UInt8[np.ndarray, "k height width 3"]:
        """Renderings in a place: as the body looks, then as its look-alikes do."""
        views = [self._view(place, look) for look in (self.look, *look_alikes(self.look))]
        return np.stack([view.picture for view in views])

    def shown(self, place: int) -> tuple[View, View]:
        """The view with the body in a place, and the body alone."""
        return self._view(place, self.look), self._view(place, self.look, alone=True)

    def _view(self, place: int, look: str, *, alone: bool = False) -> View:
        key, body = (place, look, alone), self.view.body
        if key not in self._rendered:
            others = [n for n in self.replay.bodies.ids.tolist() if n != body] if alone else ()
            self._rendered[key] = self.replay.render(
                self.view.frame,
                without=others,
                moved={body: self.states[place]},
                looks={body: look},
                alone=alone,
            )
        return self._rendered[key]


def place_body(
    replay: Replay, view: JudgedView, near: Float[np.ndarray, "2"] | None = None
) -> Placements:
    """Renders a judged view with the body along its track, off it, and without it.

    Args:
      replay: of the clip.
      view: which is judged.
      near: a place (x, y), metres, at which it is placed too, and around it at `CLOSE`.
    """
    states: list[State] = []
    pictures = []
    for state in _possible(replay, view, near):
        places = np.array([known[:2] for known in states]).reshape(-1, 2)
        if (np.linalg.norm(places - state[:2], axis=-1) < APART).any():
            continue
        seen = replay.render(view.frame, moved={view.body: state})
        if states and (seen.mover_ids == view.body).sum() < LEAST_PIXELS:
            continue  # what can hardly be seen there cannot be told to be there
        states.append(state)
        pictures.append(seen.picture)
    absent = replay.render(view.frame, without=[view.body])
    return Placements(replay, view, states, np.stack(pictures), absent)


def _possible(replay: Replay, view: JudgedView, near: Float[np.ndarray, "2"] | None) -> list[State]:
    """States that may be tried, the true one first, in front of the camera."""
    true = replay.state(view.frame, view.body)
    steps = int(np.ceil(ALONG[-1] * view.hidden)) + 1
    track = replay.walk_on(view.last_seen, view.body, steps)
    numbers = np.unique(np.rint(ALONG * view.hidden).astype(int))
    states = [true, *(_state(track[number]) for number in numbers)]
    index = replay.index(view.body)
    velocity = replay.bodies.velocity[view.last_seen, index, :2]
    seconds = view.hidden / replay.clip.fps
    x, y, heading = track[0]
    states += [
        (
            float(x + share * seconds * velocity[0]),
            float(y + share * seconds * velocity[1]),
            heading,
        )
        for share in STRAIGHT
    ]
    states += _around(true, AROUND)
    if near is not None:
        asked = (float(near[0]), float(near[1]), true[2])
        states += [asked, *_around(asked, (CLOSE,))]
    pose = replay.clip.cam2world[view.frame]
    radius = KINDS[replay.bodies.kinds[index]].radius
    ahead = [(np.array(s[:2]) - pose[:2, 3]) @ pose[:2, 2] for s in states]
    return [s for s, far in zip(states, ahead, strict=True) if far > radius]


def _around(state: State, reaches: Sequence[float]) -> list[State]:
    """Places in eight directions, so many metres away."""
    x, y, heading = state
    angles = np.linspace(-np.pi, np.pi, 8, endpoint=False)
    return [
        (float(x + far * np.cos(a)), float(y + far * np.sin(a)), heading)
        for far in reaches
        for a in angles
    ]


def _state(row: Float[np.ndarray, "3"]) -> State:
    x, y, heading = row.tolist()
    return x, y, heading
