"""Which views of a clip are judged: those in which a body is due that was out of sight."""

from __future__ import annotations

import dataclasses

import numpy as np
from jaxtyping import Bool, Float, Int

from data_pipelines.clip import Clip
from data_pipelines.due_again import bodies_of, frame_numbers, history_frames, pixel_counts
from data_pipelines.sources import bodies as walking
from data_pipelines.sources.ground import OPEN_GROUND, Ground
from mirage_jax.settings import Settings, setting

BEHIND, LEFT, LOOKED_AWAY = "behind a wall", "left the view", "camera looked away"
KINDS = (BEHIND, LEFT, LOOKED_AWAY)


@dataclasses.dataclass(frozen=True)
class ViewOptions(Settings):
    """Which views are judged."""

    pixels: int = setting(80, "Of a body, at least, in a view that is judged.", least=1)
    known_pixels: int = setting(40, "Of it in the best view before, at least.", least=1)
    seen_pixels: int = setting(10, "Of it in what counts as the last sight of it.", least=1)
    hidden: int = setting(4, "Simulated frames out of sight, at least.", least=1)
    each: int = setting(2, "Judged views of a body in a clip, at most, evenly spread.", least=1)


@dataclasses.dataclass(frozen=True)
class JudgedView:
    """A frame in which a body is due.

    Attributes:
      frame: number within the clip.
      body: id.
      last_seen: frame of the last sight of it in the first half.
      hidden: simulated frames from then to now, in which nothing was given.
      kind: why it was out of sight for most of that time.
      travelled: metres walked since.
      displacement: metres from where it was last seen, as the crow flies.
      pixels: that show it.
    """

    frame: int
    body: int
    last_seen: int
    hidden: int
    kind: str
    travelled: float
    displacement: float
    pixels: int


def judged_views(clip: Clip, ground: Ground, options: ViewOptions) -> list[JudgedView]:
    """The judged views of a clip, body by body.

    Args:
      clip: with bodies, their pixels and times.
      ground: floor plan of its world.
      options: what is judged.

    Raises:
      ValueError: naming the clip, if it has no bodies or no mover ids.
    """
    bodies, counts, given = bodies_of(clip), pixel_counts(clip), history_frames(clip)
    numbers = frame_numbers(clip)
    found = []
    for index, body in enumerate(bodies.ids.tolist()):
        seen = np.flatnonzero(counts[:given, index] >= options.seen_pixels)
        if not len(seen) or counts[:given, index].max() < options.known_pixels:
            continue
        last = int(seen[-1])
        due = given + np.flatnonzero(counts[given:, index] >= options.pixels)
        walked, why = _out_of_sight(clip, ground, index, last, numbers)
        good = []
        for frame in due.tolist():
            hidden = int(numbers[frame] - numbers[last])
            reasons = why[1:hidden]
            away = [reason for reason in reasons if reason]
            if hidden >= options.hidden and 2 * len(away) >= len(reasons) > 0:
                kind = max(KINDS, key=away.count)
                path = walked[: hidden + 1]
                view = JudgedView(
                    frame=frame,
                    body=body,
                    last_seen=last,
                    hidden=hidden,
                    kind=kind,
                    travelled=float(np.linalg.norm(np.diff(path, axis=0), axis=-1).sum()),
                    displacement=float(np.linalg.norm(path[-1] - path[0])),
                    pixels=int(counts[frame, index]),
                )
                good.append(view)
        chosen = np.linspace(0, len(good) - 1, min(options.each, len(good))).round().astype(int)
        found += [good[number] for number in chosen]
    return found


def _out_of_sight(
    clip: Clip, ground: Ground, index: int, last: int, numbers: Int[np.ndarray, " frames"]
) -> tuple[Float[np.ndarray, "t 2"], list[str]]:
    """Where a body is at each simulated frame since `last`, and why it is not seen ("" if it is).

    While frames are left out, the camera stays as it was before.
    """
    bodies = bodies_of(clip)
    start = walking.walkers_of(bodies, last)[index : index + 1]
    steps = int(numbers[-1] - numbers[last]) + 1
    radius = walking.radii(bodies.kinds[index : index + 1])
    walked = walking.walk(ground, start, radius, steps, 1.0 / clip.fps).positions
    shown = np.searchsorted(numbers, numbers[last] + np.arange(steps), side="right") - 1
    width = clip.size[1]
    half_angle = float(np.arctan(width / 2 / clip.intrinsics[0, 0]))
    poses = clip.cam2world[shown]
    # Walls apart: what a camera with open ground in front of it would see.
    in_view = walking.visible_from(OPEN_GROUND, poses, walked, half_angle, np.inf)[:, 0]
    sight = ground.sees(poses[:, None, :2, 3], walked)[:, 0]
    before = np.broadcast_to(clip.cam2world[last], poses.shape)
    in_old_view = walking.visible_from(OPEN_GROUND, before, walked, half_angle, np.inf)[:, 0]
    return walked[:, 0], _reasons(in_view, sight, in_old_view)


def _reasons(
    in_view: Bool[np.ndarray, " t"], sight: Bool[np.ndarray, " t"], in_old: Bool[np.ndarray, " t"]
) -> list[str]:
    outside = np.where(in_old, LOOKED_AWAY, LEFT)
    inside = np.where(sight, "", BEHIND)
    return np.where(in_view, inside, outside).tolist()
