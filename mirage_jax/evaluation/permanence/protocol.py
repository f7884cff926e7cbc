"""The permanence protocol: the first half of a clip is given, the second judged body by body.

Methods give pictures of frames; what they know, and how, is their own business. Everything is
scored clip by clip, while its world is open for rendering.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from jaxtyping import UInt8

from data_pipelines.clip import Clip
from data_pipelines.due_again import history_frames
from data_pipelines.sources.bodies import visible_from
from data_pipelines.sources.body_kinds import KINDS
from data_pipelines.sources.counterfactual import Replay, State, open_world
from mirage_jax.evaluation.permanence import pairs, scores, summary
from mirage_jax.evaluation.permanence.baselines import BASELINES
from mirage_jax.evaluation.permanence.placements import Placements, place_body
from mirage_jax.evaluation.permanence.summary import Place, Verdict
from mirage_jax.evaluation.permanence.views import (
    JudgedView,
    ViewOptions,
    judged_views,
)

Picture = UInt8[np.ndarray, "height width 3"]
Videos = Mapping[str, UInt8[np.ndarray, "frames height width 3"]]
"""By method, the frames of a clip after those that are given."""

RECONSTRUCTION = "reconstruction"
"""Method whose failures exclude a view: the truth, encoded and decoded."""
DISPLACED = 0.5
"""Metres that a body has to be from its last sight for its state error to mean something."""
GONE = 1.0
"""Metres between a place where a body is not, and where it is."""
OVERLAP = 0.2
"""Share of the pixels of such a place that the body itself may cover."""
EMPTY = 2
"""Empty places of each judged view."""
HIDDEN_PIXELS = 10
"""Of a body that something hides, at least, where the order of the two is judged."""


@dataclasses.dataclass
class Scores:
    """What was found so far; one object for all clips.

    Attributes:
      verdicts: of each method.
      ghosts: by method, whether bodies are shown where they were last seen and are no longer.
      hallucinated: by method, whether bodies are shown in empty places.
      pairs: by method, whether the clips of counterfactual pairs are told apart (`pairs`).
      excluded: views whose reconstruction fails, by reason; what they are of is not judged.
      views: judged views.
      clips: clips looked at.
    """

    verdicts: dict[str, list[Verdict]] = dataclasses.field(default_factory=dict)
    ghosts: dict[str, list[Place]] = dataclasses.field(default_factory=dict)
    hallucinated: dict[str, list[Place]] = dataclasses.field(default_factory=dict)
    pairs: dict[str, list[Place]] = dataclasses.field(default_factory=dict)
    excluded: dict[str, int] = dataclasses.field(default_factory=lambda: {"absent": 0, "other": 0})
    views: int = 0
    clips: int = 0

    def summarise(self, seed: int = 0) -> dict[str, Any]:
        """`summary.summarise` of every method, with its ghosts and hallucinations."""
        methods = {}
        for method, verdicts in self.verdicts.items():
            methods[method] = summary.summarise(verdicts, seed)
            for name in ("ghosts", "hallucinated", "pairs"):
                places = getattr(self, name).get(method, [])
                methods[method][name] = summary.share_shown(places, seed)
        out = sum(self.excluded.values())
        share = out / (out + self.views) if out + self.views else None
        return {
            "clips": self.clips,
            "views": self.views,
            "excluded": {**self.excluded, "share": share},
            "methods": methods,
        }


def score_clips(
    clips: Iterable[tuple[Clip, Videos]],
    options: ViewOptions | None = None,
    *,
    baselines: bool = True,
    again: Callable[[Clip], Videos] | None = None,
    each: Callable[[Clip, JudgedView, Mapping[str, Picture]], None] | None = None,
) -> Scores:
    """Scores clips, those of one world best after each other: it is opened once.

    Args:
      clips: recorded clips with walking bodies, and what methods generated for them.
      options: which views are judged.
      baselines: whether to score `baselines.BASELINES` too.
      again: what the same methods make of the other clip of a counterfactual pair; without it there
        are none.
      each: called with every judged view and the pictures of all methods.

    Raises:
      ValueError: naming the clip, if it has no bodies, or frames that do not fit.
    """
    options, found = options or ViewOptions(), Scores()
    for _, group in itertools.groupby(clips, key=lambda pair: _world(pair[0])):
        first = next(group)
        with open_world(first[0]) as stage:
            for clip, videos in itertools.chain([first], group):
                replay = Replay(clip, stage)
                judged = _score_clip(found, replay, videos, options, baselines, each)
                if again is not None and judged:
                    _score_pair(found, replay, judged, videos, options, baselines, again)
    return found


def _world(clip: Clip) -> tuple[Any, ...]:
    """What clips of one opened world have in common."""
    return clip.source, clip.world, clip.size, tuple(clip.intrinsics[0].tolist())


def _score_clip(
    found: Scores,
    replay: Replay,
    videos: Videos,
    options: ViewOptions,
    baselines: bool,
    each: Callable[[Clip, JudgedView, Mapping[str, Picture]], None] | None,
) -> list[JudgedView]:
    """Scores the judged views of a clip; returns those that are not excluded."""
    clip, scored = replay.clip, []
    given = history_frames(clip)
    for method, video in videos.items():
        expected = clip.video[given:].shape
        if video.shape != expected:
            raise ValueError(
                f"clip {clip.name!r}, {method}: found frames {video.shape}, expected {expected}"
            )
    found.clips += 1
    for view in judged_views(clip, replay.stage.ground, options):
        placements = place_body(replay, view)
        pictures = {method: video[view.frame - given] for method, video in videos.items()}
        if RECONSTRUCTION in pictures:
            ceiling = judge(pictures[RECONSTRUCTION], placements)
            if not ceiling.present or not ceiling.who:
                found.excluded["other" if ceiling.present else "absent"] += 1
                continue
        if baselines:
            pictures |= {name: draw(replay, view) for name, draw in BASELINES.items()}
        found.views += 1
        scored.append(view)
        empty = [
            *((found.ghosts, place) for place in _left_places(replay, view, options)),
            *((found.hallucinated, place) for place in empty_places(replay, view)),
        ]
        rendered = [(kind, _with_body(placements, place)) for kind, place in empty]
        for method, picture in pictures.items():
            found.verdicts.setdefault(method, []).append(judge(picture, placements))
            for kind, there in rendered:
                if (shown := _shows(picture, placements, there, options.pixels)) is not None:
                    kind.setdefault(method, []).append(Place(clip.world, shown))
        if each is not None:
            each(clip, view, pictures)
    return scored


def _score_pair(
    found: Scores,
    replay: Replay,
    judged: list[JudgedView],
    videos: Videos,
    options: ViewOptions,
    baselines: bool,
    again: Callable[[Clip], Videos],
) -> None:
    """Scores the first pair that can be made of a clip, if any."""
    clip, given = replay.clip, history_frames(replay.clip)
    for view in judged:
        other = pairs.other_way(replay, view, options.known_pixels)
        if other is None:
            continue
        moved, frame = Replay(other, replay.stage), view.frame
        others = again(other)
        drawn = {
            name: (video[frame - given], others[name][frame - given])
            for name, video in videos.items()
        }
        if baselines:
            drawn |= {
                name: (draw(replay, view), draw(moved, view)) for name, draw in BASELINES.items()
            }
        for method, (one, two) in drawn.items():
            apart = pairs.told_apart(one, two, clip.video[frame], other.video[frame])
            found.pairs.setdefault(method, []).append(Place(clip.world, apart))
        return


def judge(picture: Picture, placements: Placements) -> Verdict:
    """What a picture of a judged view shows of its body."""
    view, world = placements.view, placements.replay.clip.world
    place = scores.best_placement(picture, placements.there)
    shown = placements.there[place : place + 1]
    if scores.presence(picture, shown, placements.absent.picture)[0] <= 0:
        return Verdict(world, view.hidden, view.kind, present=False)
    metres = float(placements.errors[place])
    far = view.displacement >= DISPLACED
    with_body, alone = placements.shown(place)
    silhouette = alone.mover_ids == view.body
    in_front = with_body.mover_ids == view.body
    order = None
    if (silhouette & ~in_front).sum() >= HIDDEN_PIXELS:
        right, counted = scores.occlusion_order(
            picture,
            alone.picture,
            placements.absent.picture,
            with_body.picture,
            silhouette,
            in_front,
        )
        order = (right, counted) if counted else None
    return Verdict(
        world,
        view.hidden,
        view.kind,
        present=True,
        who=scores.nearest_look(picture, placements.looks(place)) == 0,
        metres=metres,
        state_error=metres / view.displacement if far else None,
        order=order,
    )


def _left_places(replay: Replay, view: JudgedView, options: ViewOptions) -> list[State]:
    """Where the judged body was last seen, if it is no longer there."""
    return [replay.state(view.last_seen, view.body)] if view.displacement >= GONE else []


def empty_places(replay: Replay, view: JudgedView) -> list[State]:
    """Places on the floor in view where nobody is or was last seen; the same for every method."""
    rng = np.random.default_rng([view.frame, view.body, replay.clip.seed or 0])
    pose = replay.clip.cam2world[view.frame]
    bodies = replay.bodies
    index = replay.index(view.body)
    taken = [state[:2] for n in bodies.ids.tolist() for state in (
        replay.state(view.frame, n), replay.state(history_frames(replay.clip) - 1, n),
        replay.state(view.last_seen, n),
    )]  # fmt: skip
    half_angle = float(np.arctan(replay.clip.size[1] / 2 / replay.clip.intrinsics[0, 0]))
    places: list[State] = []
    for _ in range(100):
        angle = np.arctan2(pose[1, 2], pose[0, 2]) + rng.uniform(-0.8, 0.8) * half_angle
        point = pose[:2, 3] + rng.uniform(1.5, 4.0) * np.array([np.cos(angle), np.sin(angle)])
        free = replay.stage.ground.is_free(point[None], KINDS[bodies.kinds[index]].radius)[0]
        seen = visible_from(replay.stage.ground, pose[None], point[None, None], half_angle, 9.0)
        apart = np.linalg.norm(np.array(taken) - point, axis=-1).min() >= GONE
        if free and seen[0, 0] and apart:
            places.append((float(point[0]), float(point[1]), float(rng.uniform(-3.0, 3.0))))
            taken.append(places[-1][:2])
        if len(places) == EMPTY:
            break
    return places


def _with_body(placements: Placements, place: State) -> Picture:
    view = placements.view
    return placements.replay.render(view.frame, moved={view.body: place}).picture


def _shows(picture: Picture, placements: Placements, there: Picture, least: int) -> bool | None:
    """Whether a picture shows the body in a place where it is not; None where one cannot tell."""
    absent, true = placements.absent.picture, placements.there[0]
    pixels = (there != absent).any(-1)
    clear = pixels & (true == absent).all(-1)
    if clear.sum() < max(least, (1 - OVERLAP) * pixels.sum()):
        return None
    return bool(scores.presence(picture, there[None], absent, clear)[0] > 0)
