"""Whether generated video obeys edits of what the memory keeps.

A body is deleted, put elsewhere, or exchanged with another after the first half of a clip, while
nobody looks, and the second half is made with and without the edit, by the same noise. The
simulator renders the judged frame as it would be if the edit was obeyed, as it was, and with
nobody there; a picture says which of them it is nearest to. Things that stand still are deleted in
clips of their own: what the memory knows behind one has to show.

A case is judged where the picture without the edit shows the body, and the memory has it near
there: what a memory or a generator does not show cannot be edited, and what is shown by chance is
no doing of the memory.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, cast

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, UInt8

from data_pipelines.clip import Clip
from data_pipelines.due_again import history_frames
from data_pipelines.sources.counterfactual import Replay, State, open_world
from mirage_jax.evaluation.image_metrics import ROUNDING_MSE
from mirage_jax.evaluation.permanence import rollouts, scores, tracks
from mirage_jax.evaluation.permanence.placements import Placements, place_body
from mirage_jax.evaluation.permanence.props import PropCase, prop_cases
from mirage_jax.evaluation.permanence.protocol import empty_places
from mirage_jax.evaluation.permanence.summary import Place, share_shown
from mirage_jax.evaluation.permanence.views import (
    JudgedView,
    ViewOptions,
    judged_views,
)
from mirage_jax.memory.edit import delete
from mirage_jax.memory.movers import Movers, edits
from mirage_jax.memory.regions import translation
from mirage_jax.world import WorldModel

Picture = UInt8[np.ndarray, "height width 3"]

PROP_DELETED = "thing deleted"
KINDS = ("deleted", "moved", "swapped", PROP_DELETED)
"""Edits: of bodies, and of what stands still."""
SHOWN_NEAR = 0.75
"""Metres from where a picture shows a body to where the table has it by then, at most."""

Videos = Mapping[str, UInt8[np.ndarray, "frames height width 3"]]
"""By method, the frames of a clip after those that are given."""


@dataclasses.dataclass(frozen=True)
class Told:
    """A memory that was given the first half of a clip.

    Attributes:
      movers: the bodies it keeps, as of the last given frame.
      places: from a frame of the second half to where it has them by then, metres, [K, 2].
      show: the second half with other bodies in its place, and without a thing, by method.
    """

    movers: Movers
    places: Callable[[int], Float[np.ndarray, "k 2"]]
    show: Callable[[Movers, PropCase | None], Videos]


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What one edit did to one method's picture.

    Attributes:
      place: the world, and whether the edit was obeyed.
      rest: dB that the rest of the picture came nearer to the truth; None if there is no rest.
    """

    place: Place
    rest: float | None


@dataclasses.dataclass
class Found:
    """What was found so far.

    Attributes:
      outcomes: by method and kind of edit.
      not_shown: by the same, cases that are not judged, as the picture without the edit does not
        show the body where the memory has it.
      untracked: judged views of bodies that the table does not have.
      clips: clips looked at.
    """

    outcomes: dict[str, dict[str, list[Outcome]]] = dataclasses.field(default_factory=dict)
    not_shown: dict[str, dict[str, int]] = dataclasses.field(default_factory=dict)
    untracked: int = 0
    clips: int = 0

    def shown(self, told: Told) -> Videos:
        """What is shown without an edit, by the methods that there are."""
        videos = told.show(told.movers, None)
        for method in videos:
            self.outcomes.setdefault(method, {kind: [] for kind in KINDS})
            self.not_shown.setdefault(method, dict.fromkeys(KINDS, 0))
        return videos

    def summarise(self, seed: int = 0) -> dict[str, Any]:
        """By method and kind: `obeyed` as `summary.share_shown`, `not_shown`, and `rest`, dB."""
        methods: dict[str, Any] = {}
        for method, kinds in self.outcomes.items():
            methods[method] = {}
            for kind, outcomes in kinds.items():
                rest = [o.rest for o in outcomes if o.rest is not None]
                methods[method][kind] = {
                    "obeyed": share_shown([outcome.place for outcome in outcomes], seed),
                    "not_shown": self.not_shown[method][kind],
                    "rest": float(np.mean(rest)) if rest else None,
                }
        return {"clips": self.clips, "untracked": self.untracked, "methods": methods}


def score_clips(
    clips: Iterable[Clip], begin: Callable[[Clip], Told], options: ViewOptions | None = None
) -> Found:
    """Scores clips, those of one world best after each other: it is opened once.

    Args:
      clips: recorded, with walking bodies.
      begin: gives a memory the first half of a clip, see `told_by`.
      options: which views are judged; of each body the first is.

    Raises:
      ValueError: naming the clip, if it has no bodies, or whatever `begin` raises.
    """
    options, found = options or ViewOptions(), Found()
    for _, group in itertools.groupby(clips, key=lambda clip: (clip.source, clip.world)):
        first = next(group)
        with open_world(first) as stage:
            for clip in itertools.chain([first], group):
                _score_clip(found, Replay(clip, stage), begin, options)
            for case in prop_cases(stage, first, options):
                _score_prop(found, begin(case.clip), case)
    return found


def told_by(model: WorldModel, clip: Clip, *, seed: int) -> Told:
    """A trained model's memory, given true depth and masks: the edit alone is judged.

    Raises:
      ValueError: if the model keeps no bodies; naming the clip, if it does not fit.
    """
    model = tracks.keeping_bodies(model, clip)
    world = rollouts.start(model, clip, told=True)
    places = tracks.places_by(model, world, clip)

    def show(movers: Movers, thing: PropCase | None) -> Videos:
        bank = world.bank
        if thing is not None:
            bank, _ = delete(bank, thing.shown_in(bank))
        edited = world.replace(bank=bank, movers=movers)  # type: ignore[attr-defined]
        return rollouts.second_half(model, edited, clip, seed=seed)

    return Told(cast(Movers, world.movers), places, show)


def _score_clip(
    found: Found, replay: Replay, begin: Callable[[Clip], Told], options: ViewOptions
) -> None:
    clip = replay.clip
    found.clips += 1
    views = {view.body: view for view in reversed(judged_views(clip, replay.stage.ground, options))}
    if not views:
        return
    told = begin(clip)
    ids, before = replay.bodies.ids.tolist(), found.shown(told)
    slots = {ids[body]: slot for body, slot in tracks.tracked(told.movers, clip).items()}
    for body, view in sorted(views.items()):
        if body not in slots:
            found.untracked += 1
            continue
        number = view.frame - history_frames(clip)
        kept = told.places(view.frame)[slots[body]]
        placements = place_body(replay, view, kept)
        for edit in _edits(replay, view, slots, options):
            after: Videos = {}
            for method, video in before.items():
                place = scores.best_placement(video[number], placements.there)
                case = edit.case(placements, place)
                far = np.linalg.norm(kept - placements.states[place][:2]) > SHOWN_NEAR
                if far or case.nearest(video[number]) != _AS_IT_WAS:
                    found.not_shown[method][edit.kind] += 1
                    continue
                after = after or told.show(edit.change(told.movers), None)
                pictures, rest = (video[number], after[method][number]), ~case.differ
                outcome = _outcome(clip, view.frame, case, pictures, rest & ~edit.elsewhere)
                found.outcomes[method][edit.kind].append(outcome)


def _score_prop(found: Found, told: Told, prop: PropCase) -> None:
    """Whether what was behind a thing shows in its place."""
    clip = prop.clip
    case = _Case(np.stack([clip.video[prop.frame], prop.absent]), prop.known_behind)
    number = prop.frame - history_frames(clip)
    after: Videos = {}
    for method, video in found.shown(told).items():
        if case.nearest(video[number]) != _AS_IT_WAS:
            found.not_shown[method][PROP_DELETED] += 1
            continue
        after = after or told.show(told.movers, prop)
        pictures = video[number], after[method][number]
        outcome = _outcome(clip, prop.frame, case, pictures, ~case.differ)
        found.outcomes[method][PROP_DELETED].append(outcome)


_AS_IT_WAS, _OBEYED = 0, 1


@dataclasses.dataclass(frozen=True)
class _Case:
    """What a picture is compared with.

    Attributes:
      renderings: of the judged frame: as it was, as it is if the edit is obeyed, and, of bodies,
        with nobody.
      among: pixels of which those are judged in which the renderings differ; None = all.
    """

    renderings: UInt8[np.ndarray, "n height width 3"]
    among: Bool[np.ndarray, "height width"] | None = None

    @property
    def differ(self) -> Bool[np.ndarray, "height width"]:
        """Pixels in which the renderings are not all the same."""
        return (self.renderings != self.renderings[:1]).any((0, -1))

    def nearest(self, picture: Picture) -> int:
        """Which rendering a picture is nearest to; the first of equals."""
        judged = self.differ if self.among is None else self.differ & self.among
        return int(scores.squared_error(picture, self.renderings, judged).argmin())


def _outcome(
    clip: Clip,
    frame: int,
    case: _Case,
    pictures: tuple[Picture, Picture],
    rest: Bool[np.ndarray, "height width"],
) -> Outcome:
    """Of an edit, from a frame without and with it, and the pixels that it does not concern."""
    obeyed = Place(clip.world, case.nearest(pictures[1]) == _OBEYED)
    return Outcome(obeyed, _gain(clip.video[frame], *pictures, rest))


@dataclasses.dataclass(frozen=True)
class _Edit:
    """An edit of one body.

    Attributes:
      kind: of `KINDS`.
      change: of the table.
      case: from the placements of the body, and where it is shown, to what is compared.
      elsewhere: further pixels that the edit may change.
    """

    kind: str
    change: Callable[[Movers], Movers]
    case: Callable[[Placements, int], _Case]
    elsewhere: Bool[np.ndarray, "height width"]


def _edits(
    replay: Replay, view: JudgedView, slots: Mapping[int, int], options: ViewOptions
) -> list[_Edit]:
    """The edits of a judged view's body that can be told from what was."""
    body, slot = view.body, slots[view.body]
    shape = replay.clip.size
    nowhere = np.zeros(shape, bool)

    def deleted(placements: Placements, place: int) -> _Case:
        return _Case(np.stack([placements.there[place], placements.absent.picture]))

    made = [_Edit("deleted", lambda m: edits.delete(m, _only(m, slot)), deleted, nowhere)]

    target = _target(replay, view, options)
    if target is not None:
        state, there = target

        def put(movers: Movers) -> Movers:
            here = np.asarray(movers.position)[slot]
            by = translation(np.array([state[0] - here[0], state[1] - here[1], 0.0]))
            return edits.halt(edits.move(movers, _only(movers, slot), by), _only(movers, slot))

        def moved(placements: Placements, place: int) -> _Case:
            return _Case(np.stack([placements.there[place], there, placements.absent.picture]))

        made.append(_Edit("moved", put, moved, nowhere))

    other = next((one for one in sorted(slots) if one != body), None)
    if other is not None:
        frame = view.frame

        def swapped(placements: Placements, place: int) -> _Case:
            state = placements.states[place]
            rendered = (
                replay.render(frame, without=[other], moved={body: state}),
                replay.render(frame, without=[body], moved={other: state}),
                replay.render(frame, without=[body, other]),
            )
            return _Case(np.stack([one.picture for one in rendered]))

        one = replay.render(frame, without=[other])
        elsewhere = [one, replay.render(frame), replay.render(frame, swapped=(body, other))]
        partner = _Case(np.stack([view.picture for view in elsewhere])).differ
        change = lambda m: edits.swap(m, slot, slots[other])  # noqa: E731
        made.append(_Edit("swapped", change, swapped, partner))
    return made


def _only(movers: Movers, slot: int) -> Any:
    return jnp.arange(movers.slots) == slot


def _target(replay: Replay, view: JudgedView, options: ViewOptions) -> tuple[State, Picture] | None:
    """A free place in view, away from everybody, and the frame with the body there."""
    for state in empty_places(replay, view):
        seen = replay.render(view.frame, moved={view.body: state})
        if (seen.mover_ids == view.body).sum() >= options.pixels:
            return state, seen.picture
    return None


def _gain(
    truth: Picture, old: Picture, new: Picture, where: Bool[np.ndarray, "height width"]
) -> float | None:
    """dB by which a picture is nearer to the truth than another, over some pixels, if any."""
    if not where.any():
        return None
    values = 3 * where.sum()
    errors = [scores.squared_error(one, truth[None], where)[0] / values for one in (old, new)]
    before, after = (max(float(error), ROUNDING_MSE) for error in errors)
    return float(10.0 * np.log10(before / after))
