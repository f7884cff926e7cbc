"""Counterfactual pairs: the same last sight of a body, another way to come there.

In both clips of a pair a body looks the same and is in the same place when it was last seen; the
way it walked before, and so its place when it is due, differ. A memory that keeps where a body was
gives the same picture twice; one that keeps how it moved gives each its own.
"""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import UInt8

from data_pipelines.clip import Clip
from data_pipelines.due_again import history_frames
from data_pipelines.sources import bodies as walking
from data_pipelines.sources.bodies import Walkers
from data_pipelines.sources.counterfactual import Replay
from mirage_jax.evaluation.permanence import scores
from mirage_jax.evaluation.permanence.views import JudgedView

Picture = UInt8[np.ndarray, "height width 3"]

TURNS = tuple(np.deg2rad([180.0, 90.0, -90.0, 135.0, -135.0]))
"""Turns of the heading at the last sight that are tried, one after the other."""
APART = 1.0
"""Metres between the two places where the body is due, at least."""


def other_way(replay: Replay, view: JudgedView, least_pixels: int) -> Clip | None:
    """The other clip of a pair, None where a turned way is in a wall, or shows no other outcome.

    Args:
      replay: of a clip.
      view: whose body comes another way; straight, as its turn rate is left out.
      least_pixels: that show the body in the other clip when it is last seen, not for the first
        time, and in which the frames of the judged view differ.
    """
    clip = replay.clip
    index = replay.index(view.body)
    numbers = np.rint((clip.timestamps - clip.timestamps[0]) * clip.fps).astype(int)
    now = walking.walkers_of(replay.bodies, view.last_seen)[index : index + 1]
    if now.speeds[0] == 0:
        return None
    kinds = (replay.bodies.kinds[index],)
    for turn in TURNS:
        turned = dataclasses.replace(now, headings=now.headings + turn, turn_rates=np.zeros(1))
        states = _through(replay, turned, kinds, numbers - numbers[view.last_seen])
        place = states.positions[view.frame, 0]
        true = np.array(replay.state(view.frame, view.body)[:2])
        if np.linalg.norm(place - true) < APART:
            continue
        made = _film(replay, index, states, kinds)
        given = made.require("mover_ids")[: history_frames(clip)] == view.body
        counts = given.sum((1, 2))
        differ = (made.video[view.frame] != clip.video[view.frame]).any(-1).sum()
        seen = counts[view.last_seen] >= least_pixels and counts[: view.last_seen].any()
        if seen and not counts[view.last_seen + 1 :].any() and differ >= least_pixels:
            return made
    return None


def told_apart(one: Picture, other: Picture, true_one: Picture, true_other: Picture) -> bool:
    """Whether each of two generated pictures is nearer to its own truth than to the other's."""
    truths = np.stack([true_one, true_other])
    first, second = scores.squared_error(one, truths), scores.squared_error(other, truths)
    return bool(first[0] < first[1] and second[1] < second[0])


def _through(replay: Replay, now: Walkers, kinds: tuple[str, ...], steps: np.ndarray) -> Walkers:
    """States at numbers of steps after (or, negative, before) a state of one body."""
    ground, radius, seconds = replay.stage.ground, walking.radii(kinds), 1.0 / replay.clip.fps
    later = walking.walk(ground, now, radius, int(steps.max()) + 1, seconds)
    turned = dataclasses.replace(now, headings=now.headings + np.pi)
    back = walking.walk(ground, turned, radius, int(-steps.min()) + 1, seconds)
    ahead = steps[:, None] >= 0
    then, before = later[np.maximum(steps, 0)], back[np.maximum(-steps, 0)]
    return Walkers(
        np.where(ahead[..., None], then.positions, before.positions),
        np.where(ahead, then.headings, before.headings + np.pi),
        then.speeds,
        np.zeros_like(then.speeds),
    )


def _film(replay: Replay, index: int, states: Walkers, kinds: tuple[str, ...]) -> Clip:
    """The clip with one body's states replaced, rendered anew."""
    clip, old = replay.clip, replay.bodies
    body2world, velocity = old.body2world.copy(), old.velocity.copy()
    turning = old.angular_velocity.copy()
    body2world[:, index] = walking.body2world(states, kinds)[:, 0]
    ways = walking.directions(states.headings[:, 0])
    velocity[:, index, :2] = states.speeds * ways
    turning[:, index] = 0.0
    bodies = dataclasses.replace(
        old, body2world=body2world, velocity=velocity, angular_velocity=turning
    )
    changed = Replay(dataclasses.replace(clip, bodies=bodies), replay.stage)
    rendered = [changed.render(frame) for frame in range(clip.frames)]
    video, depth, mover_ids = (np.stack(arrays) for arrays in zip(*rendered, strict=True))
    visible = np.stack([(mover_ids == number).any((1, 2)) for number in old.ids], 1)
    return dataclasses.replace(
        clip,
        video=video,
        depth=depth,
        mover_ids=mover_ids,
        bodies=dataclasses.replace(bodies, visible=visible),
        name=f"{clip.name}-other-way",
    )
