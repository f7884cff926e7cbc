"""What needs no model: pictures of a judged view by rules, rendered in the true world.

Each is what a perfect generator would draw with a memory of that kind: the place is always right,
the judged body is where the rule has it.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines.clip import Clip
from data_pipelines.sources.bodies import Walkers, directions, walkers_of
from data_pipelines.sources.body_kinds import KINDS
from data_pipelines.sources.counterfactual import Replay, State
from mirage_jax.evaluation.permanence.views import JudgedView

Picture = UInt8[np.ndarray, "height width 3"]
Plane = Float[np.ndarray, "2"]
"""(x, y) on the floor."""

NOTICED = 6
"""Last sights of a body from which the velocity is measured."""


def oracle_state(replay: Replay, view: JudgedView) -> Picture:
    """The recorded frame."""
    return replay.clip.video[view.frame]


def nothing_remembered(replay: Replay, view: JudgedView) -> Picture:
    """The body is not there."""
    return replay.render(view.frame, without=[view.body]).picture


def frozen_at_last_sight(replay: Replay, view: JudgedView) -> Picture:
    """The body is where it was last seen, as it stood there."""
    return _moved(replay, view, replay.state(view.last_seen, view.body))


def last_view_pasted(replay: Replay, view: JudgedView) -> Picture:
    """The pixels that showed it last, in the same place of the picture."""
    clip = replay.clip
    picture = nothing_remembered(replay, view).copy()
    mask = clip.require("mover_ids")[view.last_seen] == view.body
    picture[mask] = clip.video[view.last_seen][mask]
    return picture


def constant_velocity(replay: Replay, view: JudgedView) -> Picture:
    """It went straight on, through walls too, as its true masks and depth had it go."""
    place, velocity = measured_motion(replay.clip, view)
    x, y = place + velocity * view.hidden / replay.clip.fps
    heading = replay.state(view.last_seen, view.body)[2]
    return _moved(replay, view, (float(x), float(y), heading))


def constant_velocity_and_walls(replay: Replay, view: JudgedView) -> Picture:
    """The same, but walls turn it back, as they do."""
    return _moved(replay, view, _walked_on(replay, view, *measured_motion(replay.clip, view)))


def true_velocity_and_walls(replay: Replay, view: JudgedView) -> Picture:
    """The same from its true place and velocity; bodies that walk in bows are still missed."""
    place, velocity = true_motion(replay, view)
    return _moved(replay, view, _walked_on(replay, view, place, velocity))


def _walked_on(replay: Replay, view: JudgedView, place: Plane, velocity: Plane) -> State:
    """Where a body is that set out straight on when it was last seen, and met walls."""
    kind = replay.bodies.kinds[replay.index(view.body)]
    if not replay.stage.ground.is_free(place[None], KINDS[kind].radius)[0]:
        # The measured place is in a wall by the error of measuring.
        place = np.array(replay.state(view.last_seen, view.body)[:2])
    start = Walkers(
        place[None],
        np.array([np.arctan2(velocity[1], velocity[0])]),
        np.array([np.linalg.norm(velocity)]),
        np.zeros(1),
    )
    x, y, heading = replay.simulate(start, kind, view.hidden + 1)[-1].tolist()
    return x, y, heading


def _moved(replay: Replay, view: JudgedView, state: State) -> Picture:
    return replay.render(view.frame, moved={view.body: state}).picture


BASELINES: dict[str, Callable[[Replay, JudgedView], Picture]] = {
    "oracle_state": oracle_state,
    "nothing_remembered": nothing_remembered,
    "frozen_at_last_sight": frozen_at_last_sight,
    "last_view_pasted": last_view_pasted,
    "constant_velocity": constant_velocity,
    "constant_velocity_and_walls": constant_velocity_and_walls,
    "true_velocity_and_walls": true_velocity_and_walls,
}
"""What needs no model, by name."""


def true_motion(replay: Replay, view: JudgedView) -> tuple[Plane, Plane]:
    """Where a body was when last seen, (x, y) in metres, and its velocity in metres per second."""
    bodies, index = walkers_of(replay.bodies, view.last_seen), replay.index(view.body)
    return bodies.positions[index], (bodies.speeds[:, None] * directions(bodies.headings))[index]


def measured_motion(clip: Clip, view: JudgedView) -> tuple[Plane, Plane]:
    """Where a body was when last seen and its velocity, from its masks and the depth there.

    Args:
      clip: with depth and mover ids.
      view: whose last sights are used, at most `NOTICED` and none that the picture's edge cuts,
        if there are others.

    Returns:
      (x, y) in metres and in metres per second, from a straight line through its places.
    """
    masks = clip.require("mover_ids")[: view.last_seen + 1] == view.body
    frames = np.flatnonzero(masks.sum((1, 2)) > 0)
    edges = masks[:, :, 0].any(1) | masks[:, :, -1].any(1)
    whole = frames[~edges[frames]]
    frames = (whole if len(whole) >= 2 else frames)[-NOTICED:]
    places = np.array([_place(clip, frame, masks[frame], view.body) for frame in frames.tolist()])
    times = clip.timestamps[frames] - clip.timestamps[view.last_seen]
    if len(frames) < 2:
        return places[-1], np.zeros(2)
    velocity, place = np.polyfit(times, places, 1)
    return place, velocity


def _place(clip: Clip, frame: int, mask: np.ndarray, body: int) -> Plane:
    """The middle of a mask's points on the floor plane, moved from the skin to the axis."""
    rows, columns = np.nonzero(mask)
    fx, _, cx, _ = clip.intrinsics[frame].astype(np.float64)
    depth = clip.require("depth")[frame][rows, columns].astype(np.float64)
    column = (columns.min() + columns.max() + 1) / 2
    pose = clip.cam2world[frame]
    across = np.array([pose[0, 0], pose[1, 0]]) * (column - cx) / fx
    ahead = pose[:2, 2] / np.linalg.norm(pose[:2, 2])
    way = ahead + across
    assert clip.bodies is not None
    kind = clip.bodies.kinds[clip.bodies.ids.tolist().index(body)]
    # A round body's nearest points lie a radius before its middle, along the ray.
    near = float(np.median(depth)) * np.linalg.norm(way)
    return pose[:2, 3] + way / np.linalg.norm(way) * (near + 0.8 * KINDS[kind].radius)
