"""Clips that tell whether a thing that stands still was deleted, and what was behind it shows.

A camera walks round the thing, so that it sees what is behind it, turns away, and comes back by the
same way. The frames after the turn are rendered with and without the thing. A picture is judged in
the pixels that the thing covers and of which the memory can know what is behind it: a given frame
showed that.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import numpy as np
from jaxtyping import Array, Bool, Float, Float32, UInt8

from data_pipelines.clip import Bodies, Clip
from data_pipelines.due_again import history_frames
from data_pipelines.sources.paths import level_cam2world
from data_pipelines.sources.stage import Stage
from mirage_jax import geometry
from mirage_jax.evaluation.permanence.views import ViewOptions
from mirage_jax.memory import LatentMemory
from mirage_jax.memory.regions import Box, select, showing

WAYS, FILMED = 400, 4
"""Ways round a thing that are tried, and of the free ones those that are filmed, at most."""
DISTANCE = (1.6, 3.2)
"""Metres from the middle of a thing at which a way round it begins and ends."""
ROUND = (0.9, 1.8)
"""Radians, seen from there, between its two ends."""
CLEARANCE = 0.4
"""Metres that the camera keeps from what stands around."""
AWAY, TURN = 2.0, 0.4
"""Radians by which the camera turns away, and the share of the given frames that this takes."""
SURFACE = 0.02
"""Metres around a thing's corners within which a pixel's point is taken for one of its own."""
AROUND, ABOVE_FLOOR = 0.1, 0.05
"""Metres around a thing in which elements are its own, since depth is not exact, and above the
floor on which it stands from which on they are."""
SAME_DEPTH = 0.05
"""Share of the depth by which what one frame shows may differ from what another does there."""


@dataclasses.dataclass(frozen=True)
class PropCase:
    """A clip around a thing, and a frame of its second half in which it is due.

    Attributes:
      clip: in which nothing moves.
      frame: number within the clip.
      corners: lowest and highest corner of the thing, metres.
      absent: the frame without it.
      known_behind: pixels that it covers and in which that shows what a given frame has shown.
    """

    clip: Clip
    frame: int
    corners: Float[np.ndarray, "2 3"]
    absent: UInt8[np.ndarray, "height width 3"]
    known_behind: Bool[np.ndarray, "height width"]

    def shown_in(self, bank: LatentMemory) -> Bool[Array, " n"]:
        """Elements of a memory that show some of the thing, not the floor that it stands on."""
        (low, high), lift = self.corners, np.array([0.0, 0.0, ABOVE_FLOOR])
        around = np.array([AROUND, AROUND, 0.0])
        its_own = select(bank, Box(low + lift - around, high + AROUND))
        return its_own | showing(bank, Box(low + lift, high))


def prop_cases(stage: Stage, like: Clip, options: ViewOptions) -> Iterator[PropCase]:
    """At most one case for each thing of a world.

    Args:
      stage: the world.
      like: a clip of it, of which the cases have the size, lens, eye level, rate and length.
      options: pixels that a thing has to show with, as bodies have to; of those in which what is
        behind it is known, `known_pixels` are asked for too.
    """
    for number in range(len(stage.props)):
        rng = np.random.default_rng([number, *like.world.encode()])
        for cam2world in _ways_round(stage, number, like, rng):
            case = _case(stage, number, _film(stage, cam2world, like, number), options)
            if case is not None:
                yield case
                break


def _ways_round(
    stage: Stage, number: int, like: Clip, rng: np.random.Generator
) -> Iterator[Float[np.ndarray, "t 4 4"]]:
    """Ways on which nothing stands, from whose ends no wall hides the thing."""
    (low, high), given = stage.props[number], history_frames(like)
    middle = 0.5 * (low + high)[:2]
    turning = round(TURN * given)
    found = 0
    for _ in range(WAYS):
        angles = rng.uniform(-np.pi, np.pi) + np.array([0.0, rng.uniform(*ROUND)])
        rays = np.stack([np.cos(angles), np.sin(angles)], -1)[:: rng.choice([-1, 1])]
        ends = middle + rays * rng.uniform(*DISTANCE, (2, 1))
        way = ends[0] + np.linspace(0.0, 1.0, given - turning)[:, None] * (ends[1] - ends[0])
        beside = middle + rays * (0.5 * (high - low)[:2].max() + SURFACE)
        if not (
            stage.ground.is_free(way, CLEARANCE).all() and stage.ground.sees(ends, beside).all()
        ):
            continue
        yaws = np.arctan2(*(middle - way).T[::-1])
        turned = yaws[-1] + rng.choice([-1, 1]) * AWAY * np.linspace(0.0, 1.0, turning + 1)[1:]
        places = np.concatenate([way, np.repeat(way[-1:], turning, 0)])
        eyes = np.column_stack([places, np.full(given, like.cam2world[0, 2, 3])])
        there = level_cam2world(eyes, np.concatenate([np.unwrap(yaws), turned]))
        yield np.concatenate([there, there[::-1][1:]])[: like.frames]
        found += 1
        if found == FILMED:
            return


def _film(stage: Stage, cam2world: Float[np.ndarray, "t 4 4"], like: Clip, number: int) -> Clip:
    views, frames = [stage.view(pose) for pose in cam2world], len(cam2world)
    nobody = Bodies(
        ids=np.zeros(0, np.int32),
        kinds=(),
        looks=(),
        extent=np.zeros((0, 3), np.float32),
        body2world=np.zeros((frames, 0, 4, 4)),
        velocity=np.zeros((frames, 0, 3)),
        angular_velocity=np.zeros((frames, 0, 3)),
        present=np.zeros((frames, 0), bool),
        visible=np.zeros((frames, 0), bool),
    )
    return dataclasses.replace(
        like,
        video=np.stack([view.picture for view in views]),
        depth=np.stack([view.depth for view in views]),
        mover_ids=np.stack([view.mover_ids for view in views]),
        intrinsics=np.repeat(like.intrinsics[:1], frames, 0),
        cam2world=cam2world,
        times=None,
        bodies=nobody,
        name=f"{like.world}, round thing {number}",
    )


def _case(stage: Stage, number: int, clip: Clip, options: ViewOptions) -> PropCase | None:
    """The frame in which most pixels count, of those in which enough do."""
    given = history_frames(clip)
    camera = geometry.Camera(clip.intrinsics, clip.cam2world.astype(np.float32), clip.size)
    depth = clip.require("depth")
    depth = np.where(np.isfinite(depth), depth, 0.0).astype(np.float32)
    points = np.asarray(geometry.lift(depth, camera))
    low, high = corners = stage.props[number]
    own = ((points >= low - SURFACE) & (points <= high + SURFACE)).all(-1) & (depth > 0)
    pixels = own.sum((1, 2))
    if pixels[:given].max() < options.known_pixels or pixels[given - 1] >= options.seen_pixels:
        return None
    found, most = None, options.known_pixels - 1
    for frame in (given + np.flatnonzero(pixels[given:] >= options.pixels)).tolist():
        absent = stage.view(clip.cam2world[frame], without=(number,))
        behind = np.asarray(geometry.lift(absent.depth, camera[frame]))
        known = own[frame] & np.isfinite(absent.depth)
        known &= _seen(behind, depth[:given], camera[:given])
        if known.sum() > most:
            found = PropCase(clip, frame, corners, absent.picture, known)
            most = int(known.sum())
    return found


def _seen(
    points: Float32[np.ndarray, "height width 3"],
    depth: Float32[np.ndarray, "frames height width"],
    camera: geometry.Camera,
) -> Bool[np.ndarray, "height width"]:
    """Which points any frame shows: those that lie in its picture, on the surface that it shows."""
    seen = np.zeros(points.shape[:2], bool)
    height, width = depth.shape[1:]
    for number, surface in enumerate(depth):
        uv, z = (np.asarray(value) for value in geometry.project(points, camera[number]))
        u, v = uv[..., 0], uv[..., 1]
        inside = (z > 0) & (u >= 0) & (u < width) & (v >= 0) & (v < height)
        shown = surface[np.where(inside, v, 0).astype(int), np.where(inside, u, 0).astype(int)]
        seen |= inside & (shown > 0) & (np.abs(shown - z) <= SAME_DEPTH * z)
    return seen
