"""Textured box rooms with pillars, crates and a rolling ball or walking bodies, cast in numpy.

For tests, and for machines that have no engine.  Everything about a clip is known in closed form:
surfaces are axis-aligned planes, a sphere or the parts of bodies, depth is exact, and colours do
not depend on the view, so that a warped frame must agree with the next one wherever nothing moved.
"""

import contextlib
import dataclasses
import zlib
from collections.abc import Iterator
from typing import ClassVar

import numpy as np
from jaxtyping import Bool, Float, Int32, UInt8

from data_pipelines.clip import Clip
from data_pipelines.sources import body_rays, living
from data_pipelines.sources.ground import Ground
from data_pipelines.sources.options import check_options, option
from data_pipelines.sources.paths import KINDS, LEAST_FRAMES, level_cam2world, sample_path
from data_pipelines.sources.rendered import AnyShape, worlds_of_split
from data_pipelines.sources.stage import Placed, View, check_lens

EYE_HEIGHT = 1.5  # metres
CLEARANCE = 0.4  # metres between the camera and any surface
OPEN_AHEAD = 2.5  # metres in front of the first view
BALL_RADIUS = 0.4  # metres
TEXEL = 0.1  # metres
TEXELS = 64
LEVELS = 4
# Light from above and from one side; one factor per axis and direction of the surface normal.
_SHADE = np.array([[0.75, 0.95], [0.65, 0.85], [0.6, 1.0]])


@dataclasses.dataclass(frozen=True)
class Room:
    """A room between the origin and `extent`, in metres, z up.

    Attributes:
      extent: [3] size of the room.
      boxes: [n, 2, 3] lowest and highest corners of the solid boxes in it.
      textures: [k, LEVELS, TEXELS, TEXELS, 3] colours 0..1, each level twice as blurred.
      surfaces: [n + 1, 3] texture of each object (room, then boxes) by axis of its normal.
      ball: [2, 3] the two points between which the ball rolls to and fro.
    """

    extent: Float[np.ndarray, "3"]
    boxes: Float[np.ndarray, "n 2 3"]
    textures: Float[np.ndarray, "k l u v 3"]
    surfaces: np.ndarray
    ball: Float[np.ndarray, "2 3"]

    def is_free(self, points: Float[np.ndarray, "n 2"]) -> Bool[np.ndarray, " n"]:
        """Whether a camera may be at each (x, y), whatever its height; the ball is not minded."""
        inside = ((points > CLEARANCE) & (points < self.extent[:2] - CLEARANCE)).all(-1)
        low, high = self.boxes[:, 0, :2] - CLEARANCE, self.boxes[:, 1, :2] + CLEARANCE
        blocked = ((points[:, None] > low) & (points[:, None] < high)).all(-1).any(-1)
        return np.asarray(inside & ~blocked)

    def without(self, numbers: tuple[int, ...]) -> "Room":
        """The room with some of its boxes left out."""
        kept = [n for n in range(len(self.boxes)) if n not in numbers]
        surfaces = self.surfaces[[0, *(n + 1 for n in kept)]]
        return dataclasses.replace(self, boxes=self.boxes[kept], surfaces=surfaces)

    def ground(self) -> Ground:
        """What bodies walk into: the walls and the boxes; those up to the ceiling hide them."""
        (x, y), far = self.extent[:2], 1.0
        walls = [
            [[-far, -far], [0.0, y + far]],
            [[x, -far], [x + far, y + far]],
            [[-far, -far], [x + far, 0.0]],
            [[-far, y], [x + far, y + far]],
        ]
        hides = np.concatenate([np.ones(4, bool), self.boxes[:, 1, 2] >= self.extent[2]])
        return Ground(np.concatenate([np.array(walls), self.boxes[:, :, :2]]), hides)

    def ball_centre(self, phase: float) -> Float[np.ndarray, "3"]:
        """Centre of the ball at `phase` in turns: 0 and 1 at one end, 0.5 at the other."""
        return self.ball[0] + (self.ball[1] - self.ball[0]) * (
            0.5 - 0.5 * np.cos(2 * np.pi * phase)
        )


@dataclasses.dataclass(frozen=True)
class ProceduralSource(living.LivingOptions, AnyShape):
    """Source of clips in generated rooms; see `sources.Source`."""

    frames: int = option(33, "per clip; half of them leave, half come back", LEAST_FRAMES)
    fov: float = option(90.0, "field of view along the longer side in degrees", 1.0, 179.0)
    fps: float = option(10.0, "playing speed noted in the clips, and pace of the ball", 1e-3)
    ball: bool = option(True, "whether a ball rolls in the rooms, where no bodies walk")
    train_worlds: int = option(24, "number of rooms to train on", 0)
    eval_worlds: int = option(8, "number of held-out rooms", 0)
    name: ClassVar[str] = "procedural"

    def __post_init__(self) -> None:
        check_options(self)

    @property
    def view_angle(self) -> float:
        """See `AnyShape`."""
        return self.fov

    @classmethod
    def with_lens(cls, height: int, width: int, intrinsics: np.ndarray) -> "ProceduralSource":
        """The source with these pictures; see `stage.StagedSource`."""
        half = max(height, width) / 2
        fov = float(np.rad2deg(2 * np.arctan(half / float(intrinsics[0]))))
        source = cls(size=height, width=0 if width == height else width, fov=fov)
        check_lens(height, width, intrinsics, source.intrinsics)
        return source

    @contextlib.contextmanager
    def open_stage(self, world: str) -> Iterator["_RoomStage"]:
        """Opens a room for rendering with walking bodies; see `stage.StagedSource`."""
        room = make_room(world)
        yield _RoomStage(self, room, room.ground())

    def worlds(self, split: str) -> tuple[str, ...]:
        """Returns the rooms of `split`; ValueError unless "train" or "eval"."""
        counts = {"train": self.train_worlds, "eval": self.eval_worlds}
        rooms = {
            name: tuple(f"procedural/{name}-{index:03d}" for index in range(count))
            for name, count in counts.items()
        }
        return worlds_of_split(rooms, split)

    def clips(self, world: str, count: int, seed: int) -> Iterator[Clip]:
        """Yields `count` clips of one room, returning easily and with parallax by turns."""
        room, intrinsics = make_room(world), self.intrinsics
        for index in range(count):
            rng = np.random.default_rng([seed, index, zlib.crc32(world.encode())])
            kind = KINDS[index % len(KINDS)]
            if self.bodies:
                scene = self._scene(room, rng, kind)
                yield living.film(
                    _RoomStage(self, room, room.ground()),
                    scene,
                    intrinsics,
                    world=world,
                    source=self.name,
                    seed=seed,
                    fps=self.fps,
                    name=f"{world}-{seed}-{index:04d}",
                )
                continue
            cam2world, phases = self._path(room, rng, kind)
            pictures = [
                render(room, pose, intrinsics, self.shape, phase if self.ball else None)
                for pose, phase in zip(cam2world, phases, strict=True)
            ]
            video, depth, mover_ids = (np.stack(arrays) for arrays in zip(*pictures, strict=True))
            yield Clip(
                video=video,
                depth=depth,
                intrinsics=np.tile(intrinsics, (self.frames, 1)),
                cam2world=cam2world,
                mover_ids=mover_ids,
                world=world,
                source=self.name,
                trajectory=kind,
                seed=seed,
                gamma=1.0,
                fps=self.fps,
                name=f"{world}-{seed}-{index:04d}",
            )

    def _scene(self, room: Room, rng: np.random.Generator, kind: str) -> living.Scene:
        ground = room.ground()
        half_angle = float(np.deg2rad(self.view_angles[1] / 2))
        for _ in range(1000):
            start = rng.uniform([0.0, 0.0], room.extent[:2])
            if not room.is_free(start[None])[0]:
                continue
            yaw = rng.uniform(-np.pi, np.pi)
            path = living.sample_camera(rng, self.frames, start, yaw, room.is_free, kind)
            if path is None:
                continue
            positions = np.column_stack([path.positions, np.full(self.frames, EYE_HEIGHT)])
            poses = level_cam2world(positions, path.yaws)
            scene = living.sample_scene(rng, self, ground, path, poses, self.fps, half_angle)
            if not isinstance(scene, str):
                return scene
        raise RuntimeError(f"no bodies for {self.frames} frames fit a room of {room.extent}")

    def _path(
        self, room: Room, rng: np.random.Generator, kind: str
    ) -> tuple[np.ndarray, np.ndarray]:
        for _ in range(1000):
            start = rng.uniform([0.0, 0.0], room.extent[:2])
            if not room.is_free(start[None])[0]:
                continue
            yaw = rng.uniform(-np.pi, np.pi)
            # The first view is the one to remember: not a wall at the nose.
            ahead = np.linspace(0, OPEN_AHEAD, 8)[:, None] * [np.cos(yaw), np.sin(yaw)]
            if not room.is_free(start + ahead).all():
                continue
            path = sample_path(rng, self.frames, start, yaw, room.is_free, kind)
            if path is None:
                continue
            phases = rng.random() + np.arange(self.frames) / self.fps * 0.25
            ball = np.array([room.ball_centre(phase)[:2] for phase in phases])
            gap = np.linalg.norm(ball - path.positions, axis=1).min()
            if self.ball and gap < BALL_RADIUS + CLEARANCE:
                continue
            positions = np.column_stack([path.positions, np.full(self.frames, EYE_HEIGHT)])
            return level_cam2world(positions, path.yaws), phases
        raise RuntimeError(f"no {kind} path of {self.frames} frames fits a room of {room.extent}")


@dataclasses.dataclass(frozen=True)
class _RoomStage:
    """A room for rendering; see `stage.Stage`."""

    source: ProceduralSource
    room: Room
    ground: Ground

    @property
    def props(self) -> np.ndarray:
        return self.room.boxes

    def view(
        self,
        cam2world: np.ndarray,
        bodies: tuple[Placed, ...] = (),
        *,
        without: tuple[int, ...] = (),
        alone: bool = False,
    ) -> View:
        room, source = self.room.without(without), self.source
        return View(
            *render(room, cam2world, source.intrinsics, source.shape, None, bodies, alone=alone)
        )


def make_room(world: str) -> Room:
    """Returns the room called `world`; the name is all it depends on."""
    rng = np.random.default_rng(zlib.crc32(world.encode()))
    extent = np.array([*rng.uniform(7.0, 10.0, 2), 3.0])
    boxes = []
    for index in range(int(rng.integers(3, 6))):
        half = rng.uniform(0.25, 0.6, 2)
        centre = rng.uniform(1.0, extent[:2] - 1.0)
        height = extent[2] if index % 2 else rng.uniform(0.6, 1.3)
        boxes.append([[*(centre - half), 0.0], [*(centre + half), height]])
    textures = np.stack([_texture(rng, pattern) for pattern in "tpbnbnpt"])
    surfaces = np.column_stack(
        [rng.integers(2, len(textures), (len(boxes) + 1, 2)), rng.integers(0, 2, len(boxes) + 1)]
    )
    room = Room(extent, np.array(boxes), textures, surfaces, np.zeros((2, 3)))
    while True:
        ends = rng.uniform(0.8, extent[:2] - 0.8, (2, 2))
        line = ends[0] + (ends[1] - ends[0]) * np.linspace(0, 1, 60)[:, None]
        if np.linalg.norm(ends[1] - ends[0]) > 1.5 and room.is_free(line).all():
            ball = np.column_stack([ends, [BALL_RADIUS, BALL_RADIUS]])
            return dataclasses.replace(room, ball=ball)


def render(
    room: Room,
    cam2world: Float[np.ndarray, "4 4"],
    intrinsics: Float[np.ndarray, "4"],
    shape: tuple[int, int],
    phase: float | None,
    bodies: tuple[Placed, ...] = (),
    *,
    alone: bool = False,
) -> tuple[
    UInt8[np.ndarray, "height width 3"],
    Float[np.ndarray, "height width"],
    Int32[np.ndarray, "height width"],
]:
    """Returns colour, z-depth in metres and mover ids (1 = the ball) of one view.

    `phase` places the ball (see `Room.ball_centre`); None leaves it out. `bodies` are shown with
    their numbers for ids; `alone` shows what else there is behind them.
    """
    fx, fy, cx, cy = intrinsics.astype(np.float64)
    v, u = np.mgrid[: shape[0], : shape[1]].reshape(2, -1) + 0.5
    # With 1 for its camera z, a ray's parameter is z-depth itself.
    rays = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones(len(u))], -1) @ cam2world[:3, :3].T
    rays = np.where(np.abs(rays) < 1e-12, 1e-12, rays)
    eye = cam2world[:3, 3]

    leave = np.where(rays > 0, room.extent - eye, -eye) / rays
    axis = leave.argmin(-1)
    depth = np.take_along_axis(leave, axis[:, None], -1)[:, 0]
    thing = np.zeros(len(u), int)
    for number, (low, high) in enumerate(room.boxes, 1):
        enter = np.where(rays > 0, low - eye, high - eye) / rays
        exit_ = np.where(rays > 0, high - eye, low - eye) / rays
        side = enter.argmax(-1)
        near = np.take_along_axis(enter, side[:, None], -1)[:, 0]
        hit = (near > 0) & (near < exit_.min(-1)) & (near < depth)
        depth, axis, thing = (
            np.where(hit, new, old) for new, old in ((near, depth), (side, axis), (number, thing))
        )
    points = eye + depth[:, None] * rays
    colour = _surface_colour(room, points, axis, thing, rays, depth / fx)

    mover_ids = np.zeros(len(u), np.int32)
    if phase is not None:
        centre = room.ball_centre(phase)
        near = _ball_depth(eye - centre, rays)
        hit = near < depth
        depth = np.where(hit, near, depth)
        mover_ids[hit] = 1
        normal = (eye + depth[hit, None] * rays[hit] - centre) / BALL_RADIUS
        band = 0.5 + 0.5 * np.tanh(6 * np.sin(5 * normal[:, :1] + 3 * normal[:, 2:]))
        paint = band * np.array([0.95, 0.85, 0.2]) + (1 - band) * np.array([0.75, 0.1, 0.15])
        colour[hit] = paint * (0.7 + 0.3 * normal[:, 2:])
    if bodies:
        near, numbers, paints = body_rays.meet(eye, rays, bodies)
        hit = (near < depth) | (alone & (numbers > 0))
        depth, mover_ids = np.where(hit, near, depth), np.where(hit, numbers, mover_ids)
        colour[hit] = paints[hit]
    return (
        (colour * 255 + 0.5).astype(np.uint8).reshape(*shape, 3),
        depth.astype(np.float32).reshape(shape),
        mover_ids.reshape(shape),
    )


def _ball_depth(offset: np.ndarray, rays: np.ndarray) -> np.ndarray:
    """Ray parameter of the ball's near side, inf where it is missed."""
    a = (rays**2).sum(-1)
    b = rays @ offset
    discriminant = b**2 - a * (offset @ offset - BALL_RADIUS**2)
    near = (-b - np.sqrt(np.maximum(discriminant, 0))) / a
    return np.where((discriminant > 0) & (near > 0), near, np.inf)


def _surface_colour(
    room: Room,
    points: np.ndarray,
    axis: np.ndarray,
    thing: np.ndarray,
    rays: np.ndarray,
    footprint: np.ndarray,
) -> np.ndarray:
    """Colours of surface points; `footprint` is the width of a pixel there in metres."""
    across = np.array([[1, 2], [0, 2], [0, 1]])[axis]
    uv = np.take_along_axis(points, across, -1) / TEXEL - 0.5
    base = np.floor(uv).astype(int)
    weight = uv - base
    level = np.clip(np.log2(footprint / TEXEL).round() + 1, 0, LEVELS - 1).astype(int)
    start = (room.surfaces[thing, axis] * LEVELS + level) * TEXELS
    texels = room.textures.reshape(-1, 3)
    colour = np.zeros((len(points), 3))
    for du in (0, 1):
        for dv in (0, 1):
            # u runs along x or y, v along z or y: rows of a texture are v, so that bricks lie.
            row, column = (base[:, 1] + dv) % TEXELS, (base[:, 0] + du) % TEXELS
            share = (weight[:, 0] if du else 1 - weight[:, 0]) * (
                weight[:, 1] if dv else 1 - weight[:, 1]
            )
            colour += share[:, None] * texels[(start + row) * TEXELS + column]
    facing = (np.take_along_axis(rays, axis[:, None], -1)[:, 0] < 0).astype(int)
    return colour * _SHADE[axis, facing][:, None]


def _texture(rng: np.random.Generator, pattern: str) -> np.ndarray:
    """Tiles, planks, bricks or noise in two random colours, with its blurred levels."""
    rows, columns = np.mgrid[:TEXELS, :TEXELS]
    if pattern == "t":
        value = ((rows // 8 + columns // 8) % 2).astype(float)
    elif pattern == "p":
        value = rng.random(TEXELS // 4)[columns // 4]
    elif pattern == "b":
        shifted = (columns + 8 * (rows // 4 % 2)) % TEXELS
        value = rng.random((TEXELS // 4, TEXELS // 16))[rows // 4, shifted // 16]
        value = np.where((rows % 4 == 0) | (shifted % 16 == 0), 1.2, value)
    else:
        value = 0.5 + 6 * (_blur(rng.random((TEXELS, TEXELS)), 2) - 0.5)
    value = value + 0.8 * (_blur(rng.random((TEXELS, TEXELS)), 1) - 0.5)
    dark, light = rng.uniform(0.05, 0.5, 3), rng.uniform(0.45, 1.0, 3)
    picture = np.clip(dark + value[..., None] * (light - dark), 0, 1)
    return np.stack([_blur(picture, level) for level in range(LEVELS)])


def _blur(picture: np.ndarray, times: int) -> np.ndarray:
    """Periodic box blur of 2^times texels, without shifting the picture by half a texel."""
    for step in range(times):
        for axis in (0, 1):
            reach = 2**step
            ends = np.roll(picture, reach, axis) + np.roll(picture, -reach, axis)
            picture = (2 * picture + ends) / 4
    return picture
