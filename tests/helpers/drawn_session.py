"""A session without a model: rooms drawn by casting rays, with the interface of `mirage.Session`.

For tests of the explorer's server and page, which then compile nothing. What it "remembers" are the
points that its pictures show.
"""

import copy
import dataclasses
import types
from pathlib import Path

import numpy as np

from helpers.tiny_world import stand_in
from mirage_jax import memory
from mirage_jax.explore import starts
from mirage_jax.explore.starts import Start
from mirage_jax.geometry import Camera
from mirage_jax.origin import Origin
from mirage_jax.world import session
from mirage_jax.world.editing import EditOutcome
from mirage_jax.world.plan import Plan, corners

SIZE = (48, 64)
LENS = np.array([40.0, 40.0, 32.0, 24.0])
CAPACITY = 100_000
HALF, HIGH, LOW = 4.0, -1.0, 1.0
"""The room: metres to the walls, of the ceiling and the floor (y points down)."""


@dataclasses.dataclass(frozen=True)
class Options:
    fps: float = 16.0
    chunk_frames: int = 5
    speed: float = 2.0
    turn: float = 90.0


def rays(pose):
    rows, columns = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    directions = np.stack(
        [(columns - LENS[2]) / LENS[0], (rows - LENS[3]) / LENS[1], np.ones(SIZE)], axis=-1
    )
    return directions @ pose[:3, :3].T


def drawn(pose):
    """The picture at a pose, and the points that its pixels show."""
    ways, centre = rays(pose), pose[:3, 3]
    low, high = np.array([-HALF, HIGH, -HALF]), np.array([HALF, LOW, HALF])
    with np.errstate(divide="ignore", invalid="ignore"):
        reach = np.where(ways > 0, (high - centre) / ways, (low - centre) / ways)
    reach = np.nan_to_num(reach, nan=np.inf)
    points = centre + ways * reach.min(-1, keepdims=True)
    side = reach.argmin(-1)
    checks = (np.floor(points[..., 0] * 1.5) + np.floor(points[..., 2] * 1.5)) % 2
    stripes = (np.floor(points[..., 0] + points[..., 2]) % 5) / 5
    tint = np.stack([0.35 + 0.6 * stripes, 0.6 + 0 * stripes, 0.85 - 0.6 * stripes], axis=-1)
    floor = (0.35 + 0.3 * checks)[..., None] * np.array([1.0, 0.85, 0.7])
    sky = np.broadcast_to([0.55, 0.6, 0.66], (*SIZE, 3))
    upper = points[..., 1] < 0
    colour = np.where((side == 1)[..., None], np.where(upper[..., None], sky, floor), tint)
    shade = 1 / (1 + 0.06 * reach.min(-1, keepdims=True))
    return np.uint8(255 * np.clip(colour * shade, 0, 1)), points


class Session(stand_in(session.Session)):
    """See `mirage.Session`; `saved` files hold the poses as text."""

    def __init__(self, options=Options(), path=None, prompt=None):
        self.options = options
        self.model = types.SimpleNamespace(size=SIZE)
        self.memory_on = True
        self.prompt = prompt
        self.path = np.eye(4)[None] if path is None else path
        self._past, self._undone, self._marks = [], [], {}
        self.points = drawn(self.pose)[1][::6, ::6].reshape(-1, 3)

    @property
    def pose(self):
        return self.path[-1]

    @property
    def world(self):
        return types.SimpleNamespace(frames=len(self.path), intrinsics=LENS, origin=Origin())

    @property
    def timeline(self):
        return types.SimpleNamespace(marks={n: len(s[0]) for n, s in self._marks.items()})

    @property
    def picture(self):
        return drawn(self.pose)[0] if self.memory_on else 255 - drawn(self.pose)[0]

    def read_out(self):
        return drawn(self.pose)[0]

    def step(self, held):
        self._past.append((self.path, self.points))
        self._undone.clear()
        pose, frames, blocked = self.pose.copy(), [], False
        part = 1 / self.options.fps
        for _ in range(self.options.chunk_frames - 1):
            turn = np.radians(self.options.turn * part * held.yaw)
            c, s = np.cos(turn), np.sin(turn)
            pose[:3, :3] = np.array([[c, 0, s], [0, 1, 0], [-s, 0, c]]) @ pose[:3, :3]
            ahead = pose[:3, 2] * [1, 0, 1]
            right = np.array([ahead[2], 0, -ahead[0]])
            far = part * self.options.speed
            pose[:3, 3] += far * (held.forward * ahead + held.right * right)
            inside = np.clip(pose[:3, 3], -HALF + 0.5, HALF - 0.5)
            blocked |= bool(np.abs(inside - pose[:3, 3]).max() > 1e-9)
            pose[:3, 3] = inside
            frames.append(pose.copy())
        self.path = np.concatenate([self.path, frames])
        new = drawn(pose)[1][::6, ::6].reshape(-1, 3)
        self.points = np.concatenate([self.points, new])
        video = np.stack([drawn(p)[0] for p in frames])
        return types.SimpleNamespace(
            video=video if self.memory_on else 255 - video,
            poses=np.stack(frames),
            report={"written": len(new), "fused": 0},
            stages={"input": 0.0, "read": 0.002, "denoise": 0.008, "decode": 0.003, "total": 0.02},
            blocked=blocked,
            moved=True,
        )

    def _back(self, source, target, steps, name):
        if not 0 < steps <= len(source):
            raise ValueError(f"{name}: found {steps} steps, expected 1 to {len(source)}")
        for _ in range(steps):
            target.append((self.path, self.points))
            self.path, self.points = source.pop()

    def undo(self, steps=1):
        self._back(self._past, self._undone, steps, "undo")

    def redo(self, steps=1):
        self._back(self._undone, self._past, steps, "redo")

    def mark(self, name):
        self._marks[name] = (self.path, self.points)

    def go(self, name):
        self.path, self.points = self._marks[name]

    def branch(self):
        return copy.copy(self)

    share = branch

    def leave(self):
        pass

    def set_prompt(self, text, negative_text=None, guidance=1.0, *, words=None):
        self.told, self.prompt = (text, negative_text, guidance), words

    def add_keyframe(self):
        return 7

    def edit(self, change):
        bank = memory.create(len(self.points), 1).replace(
            xyz=np.float32(self.points), valid=np.ones(len(self.points), bool)
        )
        after, _ = change(bank)
        kept = np.asarray(after.valid)
        removed = int((~kept).sum())
        self.points = np.asarray(after.xyz, np.float64)[kept]
        return EditOutcome({"added": 0, "removed": removed, "changed": 0})

    def plan(self):
        count, floats = len(self.points), np.float32
        lens, pose = np.float32(LENS), np.float32(self.pose)
        return Plan(
            xyz=np.asarray(self.points, np.float64),
            colour=np.uint8(np.clip(140 + 25 * self.points, 0, 255)),
            age=np.linspace(count, 0, count, dtype=floats),
            confidence=np.ones(count, floats),
            pinned=np.zeros(count, bool),
            size=np.zeros(count, floats),
            slot=np.arange(count),
            capacity=CAPACITY,
            up=np.array([0.0, -1.0, 0.0]),
            pose=self.pose,
            frustum=corners(Camera(lens, pose, SIZE)),
            entities=({"name": "imp", "track": np.array([[-2.0, 0, 1], [-1, 0, 2]])},),
        )

    def statistics(self):
        return {
            "elements": len(self.points),
            "capacity": CAPACITY,
            "bytes": self.points.nbytes,
            "undo_bytes": sum(points.nbytes for _, points in self._past),
            "frames": len(self.path),
            "undoable": len(self._past),
            "redoable": len(self._undone),
        }

    def save(self, path):
        Path(path).write_bytes(np.ascontiguousarray(self.path).tobytes())

    @classmethod
    def load(cls, path):
        return cls(path=np.frombuffer(Path(path).read_bytes()).reshape(-1, 4, 4).copy())


class Starts(stand_in(starts.Starts)):
    """See `mirage_jax.explore.starts.Starts`."""

    def __init__(self, options=Options(), names=("a room", "the same"), prompts=None, adapts=False):
        self.options = options
        self.model = types.SimpleNamespace(size=SIZE)
        self.starts = tuple(Start(name, lambda: Session(options)) for name in names)
        self.fov = 90.0
        self.denoise_steps = (0.004, 0.003)
        self.prompts = prompts
        self.adapts = adapts
        self.kinds = {}

    begin, begun = starts.Starts.begin, starts.Starts.begun

    def begin_from(self, picture, camera):
        assert picture.shape == (*SIZE, 3)
        return Session(self.options)

    def load(self, path):
        return Session.load(path)
