"""How well the memory knows where a body is that nobody sees: no network, true masks.

A ball rolls through a made-up room (`data_pipelines.sources.procedural`), straight or in a bow, and
bounces off walls and boxes; its path is computed here, so that its state is known exactly at every
moment. A camera has looked round in the room, watches the ball for a while and then looks away.
What the memory holds (`memory.movers`) is compared with where the ball is after N frames, in units
of the way that it has gone meanwhile: 0 is exact, and a ball left where it was last seen scores 1
unless it came back.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Int

from data_pipelines.sources.paths import level_cam2world
from data_pipelines.sources.procedural import BALL_RADIUS, EYE_HEIGHT, Room, make_room, render
from mirage_jax import memory
from mirage_jax.geometry import Camera, field_of_view
from mirage_jax.memory import movers

SIZE, CELLS = 64, 8
FPS = 10.0
WATCHED = 17
"""Frames for which the ball is in view, as the first chunk of a rollout."""
LOOKS = 8
"""Directions that the camera looked in before the ball came."""
HIDDEN = (4, 8, 16, 32, 64, 100)
SUBSTEPS = 20
UP = np.array([0.0, 0.0, 1.0], np.float32)
LEAST_PIXELS = 12
"""Of a ball that is in sight. Masks are true: that is enough to begin one, too."""
METHODS = ("ours", "no obstacles", "constant velocity", "frozen")


class Scene(NamedTuple):
    """A room, a camera in it, and a ball's path.

    Attributes:
      room: the room.
      eye: where the camera is, metres.
      yaw: radians from x to y that it looks in.
      centres: of the ball at every frame.
      bounces: how often it has bounced by each frame.
    """

    room: Room
    eye: Float[np.ndarray, "3"]
    yaw: float
    centres: Float[np.ndarray, "f 3"]
    bounces: Int[np.ndarray, " f"]


def rolling(
    room: Room, start: np.ndarray, velocity: np.ndarray, turn_rate: float, frames: int
) -> tuple[Float[np.ndarray, "f 3"], Int[np.ndarray, " f"]]:
    """Centres of a ball that starts at `start` (x, y), and how often it has bounced by then."""
    position, velocity = np.array(start, float), np.array(velocity, float)
    centres, bounces, count = np.empty((frames, 3)), np.zeros(frames, int), 0
    dt = 1.0 / FPS / SUBSTEPS
    turn = np.array([[np.cos(turn_rate * dt), -np.sin(turn_rate * dt)],
                     [np.sin(turn_rate * dt), np.cos(turn_rate * dt)]])  # fmt: skip
    for frame in range(frames):
        centres[frame] = *position, BALL_RADIUS
        bounces[frame] = count
        for _ in range(SUBSTEPS):
            velocity = turn @ velocity
            normal = _touches(room, position + dt * velocity)
            if normal is not None and velocity @ normal < 0:
                velocity = velocity - 2 * (velocity @ normal) * normal
                turn, count = turn.T, count + 1
            position = position + dt * velocity
    return centres, bounces


def _touches(room: Room, position: np.ndarray) -> np.ndarray | None:
    """Normal of the wall or box that a ball at `position` reaches into."""
    walls = [
        (np.array([1.0, 0.0]), position[0]),
        (np.array([-1.0, 0.0]), room.extent[0] - position[0]),
        (np.array([0.0, 1.0]), position[1]),
        (np.array([0.0, -1.0]), room.extent[1] - position[1]),
    ]
    for low, high in room.boxes[:, :, :2]:
        gap = position - np.clip(position, low, high)
        length = float(np.linalg.norm(gap))
        if length > 0:
            walls.append((gap / length, length))
    normal, gap = min(walls, key=lambda wall: wall[1])
    return normal if gap < BALL_RADIUS else None


def make_scene(world: str, seed: int, *, turn_rate: float, frames: int) -> Scene:
    """A ball that the camera watches for `WATCHED` frames without anything in between."""
    room, rng = make_room(world), np.random.default_rng([seed, 7])
    for _ in range(2000):
        eye, start = (rng.uniform([0.0, 0.0], room.extent[:2]) for _ in range(2))
        angle, speed = rng.uniform(-np.pi, np.pi), rng.uniform(0.5, 1.2)
        velocity = speed * np.array([np.cos(angle), np.sin(angle)])
        apart = np.linalg.norm(start - eye)
        free = room.is_free(np.stack([eye, start])).all() and 2.0 < apart < 5.0
        if not free or _touches(room, start) is not None:
            continue
        centres, bounces = rolling(room, start, velocity, turn_rate, frames)
        middle = centres[WATCHED // 2, :2] - eye
        scene = Scene(
            room, np.array([*eye, EYE_HEIGHT]), np.arctan2(*middle[::-1]), centres, bounces
        )
        if all(_in_sight(scene, frame) for frame in range(0, WATCHED, 4)):
            return scene
    raise RuntimeError(f"found no way for a ball to be watched in {world}, expected one")


def _in_sight(scene: Scene, frame: int) -> bool:
    ball = picture(scene, scene.yaw, frame)[1]
    return int(ball.sum()) >= LEAST_PIXELS and not (ball[:, [0, -1]].any() or ball[[0, -1]].any())


def intrinsics() -> Float[np.ndarray, "4"]:
    """Of all pictures here: 90 degrees across."""
    return field_of_view(90.0, (SIZE, SIZE))


def pose(scene: Scene, yaw: float) -> Float[np.ndarray, "4 4"]:
    """cam2world of the camera that looks level in the direction `yaw`."""
    return level_cam2world(scene.eye[None], np.array([yaw]))[0]


def picture(scene: Scene, yaw: float, frame: int | None) -> tuple[np.ndarray, np.ndarray]:
    """Depth and the mask of the ball, of one look; without the ball for frame None."""
    ball = scene.room.ball if frame is None else np.stack([scene.centres[frame]] * 2)
    room = dataclasses.replace(scene.room, ball=ball)
    phase = None if frame is None else 0.0
    _, depth, ids = render(room, pose(scene, yaw), intrinsics(), (SIZE, SIZE), phase)
    return depth, ids != 0


@functools.partial(jax.jit, static_argnames="options")
def _see(
    table: movers.Movers,
    mask: Any,
    depth: Any,
    camera: Camera,
    time: Any,
    plan: movers.Obstacles,
    options: movers.MoverOptions,
) -> tuple[movers.Movers, movers.Detections]:
    table, scale = movers.update_floor(table, depth, mask, camera)
    depth = depth * scale
    found = movers.detect(table, mask, depth, camera, options)
    table, _ = movers.observe(
        table, found, depth, mask, camera, time, obstacles=plan, options=options
    )
    return table, found


_update_floor = jax.jit(movers.update_floor)
_write = jax.jit(memory.write)
_plan = jax.jit(movers.obstacles, static_argnames="options")
_advance = jax.jit(movers.advance, static_argnames="options")


def follow(
    scene: Scene,
    hidden: Sequence[int],
    *,
    every: int,
    depth_error: float,
    rng: np.random.Generator,
) -> dict[str, Float[np.ndarray, "n 3"]]:
    """Where each method places the ball after so many hidden frames.

    Args:
      scene: what there is.
      hidden: frames for which the camera looks away.
      every: of the watched frames one in so many is brought into memory.
      depth_error: standard deviation of the log of each frame's depth as a whole.
      rng: of those errors.

    Raises:
      ValueError: if the ball is not found.
    """
    options = movers.MoverOptions(
        fps=FPS,
        depth_error=max(depth_error, 0.03),
        hiding_depth=movers.MoverOptions().given_hiding_depth,
        least_pixels=LEAST_PIXELS,
        birth_pixels=LEAST_PIXELS,
    )
    lens = jnp.asarray(intrinsics())

    def camera(yaw: float) -> Camera:
        return Camera(lens, jnp.asarray(pose(scene, yaw), jnp.float32), (SIZE, SIZE))

    def seen(yaw: float, frame: int | None) -> tuple[np.ndarray, np.ndarray]:
        depth, mask = picture(scene, yaw, frame)
        return (depth * np.exp(depth_error * rng.normal())).astype(np.float32), mask

    # The floor's height sets the scale of the memory; every frame's depth is aligned to it.
    table = movers.create(0, UP, options, floor=0.0)
    bank = memory.create(LOOKS * CELLS * CELLS, 1)
    for look in range(LOOKS):
        yaw = scene.yaw + 2 * np.pi * look / LOOKS
        depth, mask = seen(yaw, None)
        view = jax.tree.map(lambda leaf: leaf[None], camera(yaw))
        table, scale = _update_floor(table, depth, mask, camera(yaw))
        bank, _ = _write(bank, jnp.zeros((1, CELLS, CELLS, 1)), scale * depth[None], view)
    plan = _plan(table, bank, scene.eye.astype(np.float32), options)

    measured, times = [], []
    for frame in range(0, WATCHED, every):
        depth, mask = seen(scene.yaw, frame)
        table, found = _see(table, mask, depth, camera(scene.yaw), frame / FPS, plan, options)
        measured.append(np.asarray(found.position[0]))
        times.append(frame / FPS)
    body = int(np.argmax(np.asarray(table.hits)))
    if not np.isfinite(measured).all() or not bool(table.shown[body]):
        raise ValueError(
            f"ball: found in {int(table.hits[body])} of {len(times)} frames, expected one that is "
            "measured in all of them and known"
        )

    last = times[-1]
    placed: dict[str, list[np.ndarray]] = {name: [] for name in METHODS}
    slope = np.polyfit(times, np.stack(measured), 1)[0]
    for frames in hidden:
        until = (WATCHED - 1 + frames) / FPS
        for name, way in (("ours", plan), ("no obstacles", None)):
            later = _advance(table, until, way, options)
            placed[name].append(np.asarray(later.position[body]))
        placed["constant velocity"].append(measured[-1] + (until - last) * slope)
        placed["frozen"].append(measured[-1])
    return {name: np.stack(values) for name, values in placed.items()}


def state_errors(
    scene: Scene, placed: dict[str, Float[np.ndarray, "n 3"]], hidden: Sequence[int]
) -> dict[str, Float[np.ndarray, " n"]]:
    """Distance on the floor between where a method says and the truth, over the way gone."""
    steps = np.linalg.norm(np.diff(scene.centres[:, :2], axis=0), axis=1)
    errors = {}
    for name, positions in placed.items():
        rows = []
        for frames, position in zip(hidden, positions, strict=True):
            end = WATCHED - 1 + frames
            gap = np.linalg.norm(position[:2] - scene.centres[end, :2])
            rows.append(gap / steps[WATCHED - 1 : end].sum())
        errors[name] = np.array(rows)
    return errors


def measure(
    *,
    rooms: int = 8,
    balls: int = 3,
    hidden: Sequence[int] = HIDDEN,
    every: int = 4,
    depth_errors: Sequence[float] = (0.0, 0.3),
    turn_rate: float = 0.4,
    seed: int = 0,
    advance: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """State errors of all methods in held-out rooms.

    Half of the balls roll straight, the others in bows to either side.

    Args:
      rooms: of the procedural source's held-out ones.
      balls: per room.
      hidden: numbers of frames to look away for.
      every: of the watched frames one in so many is brought into memory.
      depth_errors: standard deviations to try, of the log of each frame's depth as a whole.
      turn_rate: radians per second, of those that do not roll straight.
      seed: of everything.
      advance: called after each ball, `rooms * balls * len(depth_errors)` times.

    Returns:
      A dict ready for JSON: `errors` by depth error, method and hidden frames (`median`, `mean` and
      the `quartiles`), and the `scenes`, with the share that had `bounced` by then.
    """
    longest = max(hidden)
    scenes = [
        make_scene(
            f"procedural/eval-{room:03d}",
            seed * 1000 + ball,
            turn_rate=0.0 if (room + ball) % 2 else turn_rate * (-1.0) ** ball,
            frames=WATCHED + longest,
        )
        for room in range(rooms)
        for ball in range(balls)
    ]
    outcome: dict[str, Any] = {
        "scenes": len(scenes),
        "fps": FPS,
        "every": every,
        "hidden": list(hidden),
        "bounced": {
            str(n): float(np.mean([_bounces_hidden(scene, n) > 0 for scene in scenes]))
            for n in hidden
        },
        "errors": {},
    }
    for error in depth_errors:
        rng = np.random.default_rng([seed, 11])
        rows: dict[str, list[np.ndarray]] = {name: [] for name in METHODS}
        for scene in scenes:
            placed = follow(scene, hidden, every=every, depth_error=error, rng=rng)
            for name, values in state_errors(scene, placed, hidden).items():
                rows[name].append(values)
            advance()
        outcome["errors"][str(error)] = {
            name: {str(n): _summary(np.stack(values)[:, column]) for column, n in enumerate(hidden)}
            for name, values in rows.items()
        }
    return outcome


def _bounces_hidden(scene: Scene, frames: int) -> int:
    return int(scene.bounces[WATCHED - 1 + frames] - scene.bounces[WATCHED - 1])


def _summary(values: Float[np.ndarray, " n"]) -> dict[str, Any]:
    low, middle, high = np.quantile(values, [0.25, 0.5, 0.75])
    return {
        "median": float(middle),
        "mean": float(values.mean()),
        "quartiles": [float(low), float(high)],
    }
