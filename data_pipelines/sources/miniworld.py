"""Rooms, mazes and things of MiniWorld (`miniworld`), rendered by OpenGL without a screen.

Pictures are rendered at twice the size and averaged; depth comes exact, in metres, from a pass of
the picture's own size.  The package's files are under Apache-2.0.
"""

import contextlib
import dataclasses
import functools
import io
import re
from collections.abc import Callable, Iterator
from importlib import util
from typing import Any, ClassVar

import numpy as np
from jaxtyping import Bool, Float

from data_pipelines.clip import Clip
from data_pipelines.sources import body_rays, living, offscreen, paths
from data_pipelines.sources.ground import Ground
from data_pipelines.sources.miniworld_gl import FrameBuffer
from data_pipelines.sources.miniworld_rooms import DRAWN_PLANS, FIXED_PLANS, open_rooms
from data_pipelines.sources.options import option
from data_pipelines.sources.rendered import RenderedSource, square_lens, worlds_of_split
from data_pipelines.sources.stage import Placed, View, check_lens

EYE = 1.4  # metres
PITCH = (-10.0, 4.0)  # degrees, one value per clip
FIELD_OF_VIEW = 75.0  # degrees
SUPERSAMPLING = 2
CLEARANCE = 0.4  # metres that the camera keeps from walls and things
WALL = 0.02  # metres that walls are thick for what walks
PLACES = 12  # tried for a clip
BODIES = 2  # of a clip in which something moves, where `bodies` does not say

MOST_WORLDS = 1_000_000
"""Seeds from here on are of held-out worlds."""
_WORLD = re.compile(r"miniworld/([a-z]+)-(\d{7})")


@dataclasses.dataclass(frozen=True)
class MiniworldSource(living.LivingOptions, RenderedSource):
    """Clips of MiniWorld, "miniworld/rooms-0000012": the plan of the rooms, then the seed.

    Held-out worlds are of other seeds, and half of them of plans that training never sees.
    In living clips bodies walk about. With `bodies`, all clips are living.
    """

    living: float = option(0.0, "share of clips in which bodies walk, without `bodies`", 0.0, 1.0)
    maps: int = option(200, "worlds to train on", 1, MOST_WORLDS)
    eval_maps: int = option(16, "held-out worlds", 1, MOST_WORLDS)
    name: ClassVar[str] = "miniworld"

    @staticmethod
    def available() -> tuple[bool, str]:
        """Whether MiniWorld can be rendered on this machine, and if not, why."""
        if util.find_spec("miniworld") is None:
            return False, "not installed: miniworld (extra 'miniworld')"
        reason = offscreen.why_no_miniworld()
        if reason:
            return False, f"no offscreen OpenGL by EGL ({reason}); install libegl1"
        return True, ""

    @property
    def intrinsics(self) -> np.ndarray:
        """float32 [4], of every frame."""
        return square_lens(self.size, FIELD_OF_VIEW)

    @classmethod
    def with_lens(cls, height: int, width: int, intrinsics: np.ndarray) -> "MiniworldSource":
        """The source with these pictures; see `stage.StagedSource`."""
        source = cls(size=height)
        check_lens(height, width, intrinsics, source.intrinsics)
        return source

    def worlds(self, split: str) -> tuple[str, ...]:
        """Worlds of split "train" or "eval"; ValueError for another."""
        plans: dict[str, tuple[int, int, tuple[str, ...]]] = {
            "train": (self.maps, 0, DRAWN_PLANS),
            "eval": (self.eval_maps, MOST_WORLDS, (*DRAWN_PLANS, *FIXED_PLANS)),
        }
        named = {
            name: tuple(f"miniworld/{kinds[i % len(kinds)]}-{first + i:07d}" for i in range(count))
            for name, (count, first, kinds) in plans.items()
        }
        return worlds_of_split(named, split)

    def check_world(self, world: str) -> None:
        """Raises ValueError for no plan and seed; those beyond `maps` are worlds too."""
        match, plans = _WORLD.fullmatch(world), (*DRAWN_PLANS, *FIXED_PLANS)
        if match is None or match[1] not in plans:
            raise ValueError(
                f"world {world!r}, expected miniworld/PLAN-SSSSSSS with a plan of {plans} and "
                "seven digits"
            )

    @contextlib.contextmanager
    def open_stage(self, world: str) -> Iterator["_Rooms"]:
        """Opens a world for rendering with walking bodies; see `stage.StagedSource`."""
        self.check_world(world)
        with contextlib.ExitStack() as stack:
            yield _Rooms(self, world, stack)

    @contextlib.contextmanager
    def _open(self, world: str) -> Iterator[Callable[[int, str], Clip | str]]:
        with self.open_stage(world) as rooms:
            yield rooms.record


class _Rooms:
    """A world with its frame buffers, which `stack` frees; a `stage.Stage`.

    MiniWorld has y up; here z is up, x as there and y the other way than z there.
    """

    def __init__(self, source: MiniworldSource, world: str, stack: contextlib.ExitStack) -> None:
        match = _WORLD.fullmatch(world)
        assert match is not None  # the caller has checked the world
        self.source, self.world = source, world
        with contextlib.redirect_stdout(io.StringIO()):  # how many samples a driver has
            self.environment: Any = open_rooms(match[1], int(match[2]))
        stack.callback(self.environment.shadow_window.close)
        self.environment.agent.cam_fov_y = FIELD_OF_VIEW
        self.environment.agent.cam_fwd_disp = self.environment.agent.cam_height = 0.0
        self.fine, self.exact = (FrameBuffer(n * source.size) for n in (SUPERSAMPLING, 1))
        for buffer in (self.fine, self.exact):
            stack.callback(buffer.free)

    def record(self, seed: int, kind: str) -> Clip | str:
        """A clip, or why there is none."""
        source, rng, reason = self.source, np.random.default_rng(seed), "no room"
        walking = source
        if not source.bodies and rng.random() < source.living:
            walking = dataclasses.replace(source, bodies=BODIES, skip=0, skip_spread=0, due=0.0)
        for _ in range(PLACES):
            start = self.free_point(rng)
            yaw = paths.open_yaw(rng, start, self.is_free, 4)
            sample = living.sample_camera if source.bodies else paths.sample_path
            path = sample(rng, source.frames, start, yaw, self.is_free, kind)
            if path is None:
                continue
            centres = np.column_stack([path.positions, np.full(source.frames, EYE)])
            pitch = float(np.deg2rad(rng.uniform(*PITCH)))
            poses = paths.level_cam2world(centres, path.yaws, pitch)
            scene = living.sample_scene(
                *(rng, walking, self.ground, path, poses, source.fps),
                half_angle=float(np.deg2rad(FIELD_OF_VIEW / 2)),
            )
            if isinstance(scene, str):
                reason = scene
                continue
            clip = living.film(
                *(self, scene, source.intrinsics),
                world=self.world,
                source=source.name,
                seed=seed,
                fps=source.fps,
                name=f"{self.world.replace('/', '-')}-{seed:010d}",
            )
            return dataclasses.replace(clip, licence="Apache-2.0")
        return reason

    def is_free(self, points: Float[np.ndarray, "n 2"]) -> Bool[np.ndarray, " n"]:
        """Whether a camera may be at each (x, y)."""
        at = points[:, None]
        inside = np.all((at > self._rooms[:, 0]) & (at < self._rooms[:, 1]), -1)
        return np.any(inside, 1) & self.ground.is_free(points, CLEARANCE)

    @functools.cached_property
    def ground(self) -> Ground:
        """The walls, which hide bodies, and the things, which do not."""
        walls = self.environment.wall_segs[..., [0, 2]] * [1.0, -1.0]
        low, high = walls.min(1) - WALL / 2, walls.max(1) + WALL / 2
        everything, agent = self.environment.entities, self.environment.agent
        things = [thing for thing in everything if thing is not agent]
        middles = np.array([(thing.pos[0], -thing.pos[2]) for thing in things]).reshape(-1, 2)
        reach = np.array([thing.radius for thing in things]).reshape(-1, 1)
        blocks = np.stack(
            [np.concatenate([low, middles - reach]), np.concatenate([high, middles + reach])], 1
        )
        return Ground(blocks, np.arange(len(blocks)) < len(walls))

    @functools.cached_property
    def _rooms(self) -> np.ndarray:
        """Lowest and highest corner (x, y) of every room and passage, [n, 2, 2]."""
        rooms = self.environment.rooms
        return np.array([[[r.min_x, -r.max_z], [r.max_x, -r.min_z]] for r in rooms])

    @property
    def props(self) -> np.ndarray:
        """None: MiniWorld draws all that stands still as one; see `stage.Stage`."""
        return np.zeros((0, 2, 3))

    def view(
        self,
        cam2world: np.ndarray,
        bodies: tuple[Placed, ...] = (),
        *,
        without: tuple[int, ...] = (),
        alone: bool = False,
    ) -> View:
        """Renders it; see `stage.Stage`. Bodies are met by rays, as finely as the picture is."""
        size, fine = self.source.size, SUPERSAMPLING * self.source.size
        picture = np.zeros((fine, fine, 3), np.uint8)
        fine_depth, depth = np.full((fine, fine), np.inf), np.full((size, size), np.inf, np.float32)
        if not alone:
            self._stand(cam2world)
            picture = self.environment.render_obs(self.fine)
            fine_depth = self.fine.depth()
            self.environment.render_obs(self.exact)
            depth = self.exact.depth()
        numbers = np.zeros((size, size), np.int32)
        if bodies:
            rays = _rays(self.source.intrinsics * SUPERSAMPLING, fine) @ cam2world[:3, :3].T
            met, _, colours = body_rays.meet(cam2world[:3, 3], rays, bodies)
            nearer = (met < fine_depth.ravel()).reshape(fine, fine)
            picture[nearer] = np.rint(255 * colours.reshape(fine, fine, 3)[nearer])
            rays = _rays(self.source.intrinsics, size) @ cam2world[:3, :3].T
            met, who, _ = body_rays.meet(cam2world[:3, 3], rays, bodies)
            nearer = met < depth.ravel()
            numbers = np.where(nearer, who, 0).reshape(size, size).astype(np.int32)
            depth = np.where(nearer, met, depth.ravel()).reshape(size, size).astype(np.float32)
        from PIL import Image

        return View(np.asarray(Image.fromarray(picture).reduce(SUPERSAMPLING)), depth, numbers)

    def _stand(self, cam2world: np.ndarray) -> None:
        agent, (x, y, z), ahead = self.environment.agent, cam2world[:3, 3], cam2world[:3, 2]
        agent.pos = np.array([x, z, -y])
        agent.dir = float(np.arctan2(ahead[1], ahead[0]))
        agent.cam_pitch = float(np.rad2deg(np.arcsin(np.clip(ahead[2], -1.0, 1.0))))

    def free_point(self, rng: np.random.Generator) -> Float[np.ndarray, "2"]:
        """A point (x, y) where a camera may be."""
        low, high = self._rooms[:, 0].min(0), self._rooms[:, 1].max(0)
        while True:
            point = rng.uniform(low, high)
            if self.is_free(point[None])[0]:
                return point


def _rays(intrinsics: Float[np.ndarray, "4"], size: int) -> Float[np.ndarray, "p 3"]:
    """Directions through the pixel centres, of z-depth 1, row by row, in the camera's axes."""
    fx, fy, cx, cy = intrinsics
    v, u = np.mgrid[:size, :size] + 0.5
    return np.stack([(u - cx) / fx, (v - cy) / fy, np.ones((size, size))], -1).reshape(-1, 3)
