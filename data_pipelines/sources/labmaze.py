"""Textured mazes: DeepMind Lab's maze generator and pictures (`labmaze`), rendered by MuJoCo.

One maze gives as many clips as wanted from one compiled model. Pictures are rendered at twice the
size and averaged, which costs half of what multisampling does in a software renderer; depth comes
exact, in metres, from a second pass without textures, which also tells what is where.
"""

import contextlib
import dataclasses
import functools
import re
from collections.abc import Callable, Iterator
from importlib import util
from typing import Any, ClassVar

import numpy as np

from data_pipelines.clip import Clip
from data_pipelines.sources import living, paths
from data_pipelines.sources.body_kinds import KINDS, part_colours
from data_pipelines.sources.ground import Ground
from data_pipelines.sources.labmaze_model import (
    FAR,
    FIELD_OF_VIEW,
    MOVERS,
    NEAR,
    PARKED,
    PROP,
    maze_xml,
)
from data_pipelines.sources.labmaze_plan import CELL, make_plan
from data_pipelines.sources.offscreen import gl_backend, import_mujoco
from data_pipelines.sources.options import option
from data_pipelines.sources.rendered import AnyShape, RenderedSource
from data_pipelines.sources.stage import Placed, View, check_lens

EYE = 1.1  # metres
PITCH = (-10.0, 4.0)  # degrees, one value per clip
SUPERSAMPLING = 2
PLACES = 12  # tried for a clip with walking bodies
SHOWN, LEFT_OUT = 0, 3  # groups of geometry; MuJoCo draws the first, but not the other

TRAIN_WORLDS = tuple(f"labmaze/style_{1 + seed % 4:02d}-{seed:04d}" for seed in range(40))
# Other mazes, and every fifth in a style of pictures that training has not seen.
EVAL_WORLDS = tuple(f"labmaze/style_{1 + seed % 5:02d}-{seed:04d}" for seed in range(1000, 1015))
_WORLD = re.compile(r"labmaze/(style_\d\d)-(\d{4})")


@dataclasses.dataclass(frozen=True)
class LabmazeSource(living.LivingOptions, RenderedSource, AnyShape):
    """Clips of textured mazes, "labmaze/style_02-0013": pictures, then seed; with fixed props.

    In living clips bodies move about; only these have mover ids. With `bodies`, all clips are
    living, their bodies walk on the floor, and the clips have their states.
    """

    living: float = option(0.2, "share of clips in which bodies swing, without `bodies`", 0.0, 1.0)
    name: ClassVar[str] = "labmaze"
    train_worlds: ClassVar[tuple[str, ...]] = TRAIN_WORLDS
    eval_worlds: ClassVar[tuple[str, ...]] = EVAL_WORLDS

    @staticmethod
    def available() -> tuple[bool, str]:
        """Whether mazes can be rendered on this machine, and if not, why."""
        missing = [name for name in ("labmaze", "mujoco") if util.find_spec(name) is None]
        if missing:
            return False, f"not installed: {', '.join(missing)} (extra 'worlds')"
        backend, reason = gl_backend()
        if backend is None:
            return False, f"no offscreen OpenGL ({reason}); install libegl1 or libosmesa6"
        return True, ""

    @property
    def view_angle(self) -> float:
        """See `AnyShape`."""
        return FIELD_OF_VIEW

    @classmethod
    def with_lens(cls, height: int, width: int, intrinsics: np.ndarray) -> "LabmazeSource":
        """The source with these pictures; see `stage.StagedSource`."""
        source = cls(size=height, width=0 if width == height else width)
        check_lens(height, width, intrinsics, source.intrinsics)
        return source

    @contextlib.contextmanager
    def open_stage(self, world: str) -> Iterator["_Maze"]:
        """Opens a maze for rendering with walking bodies; see `stage.StagedSource`."""
        self.check_world(world)
        with _Maze(dataclasses.replace(self, bodies=self.bodies or living.MOST_BODIES), world) as m:
            yield m

    @contextlib.contextmanager
    def _open(self, world: str) -> Iterator[Callable[[int, str], Clip | str]]:
        with _Maze(self, world) as maze:
            yield maze.record


class _Maze:
    """A compiled and loaded maze; a context manager that frees the renderer."""

    def __init__(self, source: LabmazeSource, world: str) -> None:
        match = _WORLD.fullmatch(world)
        assert match is not None  # the caller has checked the world
        self.source, self.world = source, world
        self.style, self.seed = match[1], int(match[2])
        self.plan = make_plan(self.seed)

    def __enter__(self) -> "_Maze":
        mujoco = import_mujoco()
        self.mujoco = mujoco
        self.stack = contextlib.ExitStack()
        height, width = self.fine = tuple(SUPERSAMPLING * side for side in self.source.shape)
        stock = living.MOST_BODIES if self.source.bodies else 0
        fovy = self.source.view_angles[0]
        xml = maze_xml(self.plan, self.style, self.seed, (height, width), stock, fovy)
        self.model = mujoco.MjModel.from_xml_string(xml)
        self.data = mujoco.MjData(self.model)
        context = mujoco.GLContext(width, height)
        self.stack.callback(context.free)
        context.make_current()
        self.context = mujoco.MjrContext(self.model, mujoco.mjtFontScale.mjFONTSCALE_100)
        self.stack.callback(self.context.free)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self.context)
        # A depth of zero then means the far plane, with float precision best far away.
        self.context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        self.scene = mujoco.MjvScene(self.model, maxgeom=self.model.ngeom + 16)
        for effect in ("mjRND_SHADOW", "mjRND_REFLECTION"):
            self.scene.flags[getattr(mujoco.mjtRndFlag, effect)] = False
        self.camera, self.options = mujoco.MjvCamera(), mujoco.MjvOption()
        self.camera.type, self.camera.distance = mujoco.mjtCamera.mjCAMERA_FREE, 1e-3
        return self

    def __exit__(self, *_: object) -> None:
        self.stack.close()

    def record(self, seed: int, kind: str) -> Clip | str:
        """A clip, or why there is none."""
        source, rng = self.source, np.random.default_rng(seed)
        if source.bodies:
            return self._record_walkers(rng, kind, seed)
        start = self._free_point(rng)
        yaw = paths.open_yaw(rng, start, self.plan.is_free, 3)
        path = paths.sample_path(rng, source.frames, start, yaw, self.plan.is_free, kind)
        if path is None:
            return "no room"
        pitch = float(np.deg2rad(rng.uniform(*PITCH)))
        living = bool(rng.random() < source.living)
        bodies = self._body_paths(rng, path) if living else None
        return self._film(path, pitch, bodies, seed)

    def _record_walkers(self, rng: np.random.Generator, kind: str, seed: int) -> Clip | str:
        """A clip of the first of a few places in which bodies come again."""
        source, reason = self.source, "no room"
        for _ in range(PLACES):
            start = self._free_point(rng)
            yaw = paths.open_yaw(rng, start, self.plan.is_free, 3)
            path = living.sample_camera(rng, source.frames, start, yaw, self.plan.is_free, kind)
            if path is None:
                continue
            poses = self._poses(path, float(np.deg2rad(rng.uniform(*PITCH))))
            half_angle = float(np.deg2rad(source.view_angles[1] / 2))
            scene = living.sample_scene(
                rng, source, self.ground, path, poses, source.fps, half_angle
            )
            if isinstance(scene, str):
                reason = scene
                continue
            return living.film(
                self,
                scene,
                source.intrinsics,
                world=self.world,
                source=source.name,
                seed=seed,
                fps=source.fps,
                name=f"{self.world.replace('/', '-')}-{seed:010d}",
            )
        return reason

    @functools.cached_property
    def ground(self) -> Ground:
        return self.plan.ground()

    @functools.cached_property
    def props(self) -> np.ndarray:
        """See `stage.Stage`."""
        corners = np.zeros((len(self._props), 2, 3))
        for row, number in zip(corners, self._props, strict=True):
            size, cylinder = self.model.geom_size[number], self.mujoco.mjtGeom.mjGEOM_CYLINDER
            half = size[[0, 0, 1]] if self.model.geom_type[number] == cylinder else size
            row[:] = self.model.geom_pos[number] + np.stack([-half, half])
        return corners

    @functools.cached_property
    def _props(self) -> list[int]:
        """MuJoCo's numbers of the props."""
        return [self.model.geom(f"{PROP}{n}").id for n in range(len(self.plan.props))]

    def view(
        self,
        cam2world: np.ndarray,
        bodies: tuple[Placed, ...] = (),
        *,
        without: tuple[int, ...] = (),
        alone: bool = False,
    ) -> View:
        """Renders the maze; see `stage.Stage`. At most MOST_BODIES bodies of a kind."""
        for number, geom in enumerate(self._props):
            self.model.geom_group[geom] = LEFT_OUT if number in without else SHOWN
        numbers = self._place(bodies)
        ahead = cam2world[:3, 2]
        self.camera.lookat[:] = cam2world[:3, 3] + 1e-3 * ahead
        self.camera.azimuth = np.rad2deg(np.arctan2(ahead[1], ahead[0]))
        self.camera.elevation = np.rad2deg(np.arcsin(np.clip(ahead[2], -1.0, 1.0)))
        self.options.geomgroup[SHOWN] = not alone
        picture = self._picture()
        depth, segments = self._depth_and_segments()
        return View(picture, depth, numbers[self._mover_ids(segments)])

    def _place(self, bodies: tuple[Placed, ...]) -> np.ndarray:
        """Puts bodies of the stock in their places; mover id by MuJoCo's number of a body."""
        kinds, used = list(KINDS), dict.fromkeys(KINDS, 0)
        numbers = np.zeros(self.model.nbody, np.int32)
        self.data.mocap_pos[:] = [0.0, 0.0, PARKED]
        for body in bodies:
            slot = kinds.index(body.kind) * living.MOST_BODIES + used[body.kind]
            used[body.kind] += 1
            if used[body.kind] > living.MOST_BODIES:
                raise ValueError(
                    f"bodies: found {used[body.kind]} or more of kind {body.kind!r}, expected at "
                    f"most {living.MOST_BODIES}"
                )
            pose = body.body2world
            half = np.arctan2(pose[1, 0], pose[0, 0]) / 2
            self.data.mocap_pos[slot] = pose[:3, 3]
            self.data.mocap_quat[slot] = [np.cos(half), 0.0, 0.0, np.sin(half)]
            row = slot + 1  # the world is body 0
            first = self.model.body_geomadr[row]
            self.model.geom_rgba[first : first + 3, :3] = part_colours(body.look)
            numbers[row] = body.number
        self.mujoco.mj_forward(self.model, self.data)
        return numbers

    def _poses(self, path: paths.Path, pitch: float) -> np.ndarray:
        centres = np.concatenate([path.positions, np.full((len(path.yaws), 1), EYE)], 1)
        return paths.level_cam2world(centres, path.yaws, pitch)

    def _free_point(self, rng: np.random.Generator) -> np.ndarray:
        extent = CELL * np.array(self.plan.wall.shape[::-1])
        while True:
            point = rng.uniform(0.0, extent)
            if self.plan.is_free(point[None])[0]:
                return point

    def _body_paths(self, rng: np.random.Generator, path: paths.Path) -> np.ndarray:
        """To and fro between two free points near the path, never within the camera's reach."""
        frames = len(path.yaws)
        positions = np.full((frames, MOVERS, 3), PARKED)
        for body in range(MOVERS):
            for _ in range(40):
                begin = path.positions[rng.integers(frames)] + rng.uniform(-4.0, 4.0, 2)
                way = begin + np.linspace(0.0, 1.0, 9)[:, None] * rng.uniform(-2.0, 2.0, 2)
                gap = np.linalg.norm(way[:, None] - path.positions[None], axis=-1).min()
                if gap < 1.0 or not self.plan.is_free(way).all():
                    continue
                phase = rng.uniform(0, 2 * np.pi) + np.linspace(0, rng.uniform(3, 8), frames)
                share = 0.5 + 0.5 * np.sin(phase)[:, None]
                positions[:, body, :2] = begin + share * (way[-1] - begin)
                positions[:, body, 2] = rng.uniform(0.4, 1.1)
                break
        return positions

    def _film(self, path: paths.Path, pitch: float, bodies: Any, seed: int) -> Clip:
        source, frames = self.source, len(path.yaws)
        shape = frames, *source.shape
        video = np.empty((*shape, 3), np.uint8)
        depth = np.empty(shape, np.float32)
        movers = np.zeros(shape, np.int32)
        centres = np.concatenate([path.positions, np.full((frames, 1), EYE)], 1)
        poses = paths.level_cam2world(centres, path.yaws, pitch)
        self.camera.elevation = np.rad2deg(pitch)
        self.data.mocap_pos[:] = PARKED
        for t in range(frames):
            if bodies is not None:
                self.data.mocap_pos[:] = bodies[t]
            if t == 0 or bodies is not None:
                self.mujoco.mj_forward(self.model, self.data)
            self.camera.lookat[:] = centres[t] + 1e-3 * poses[t, :3, 2]
            self.camera.azimuth = np.rad2deg(path.yaws[t])
            video[t] = self._picture()
            depth[t], segments = self._depth_and_segments()
            if bodies is not None:
                movers[t] = self._mover_ids(segments)
        return Clip(
            video=video,
            depth=depth,
            intrinsics=np.tile(source.intrinsics, (frames, 1)),
            cam2world=poses,
            mover_ids=movers,
            world=self.world,
            source=source.name,
            trajectory=path.kind,
            seed=seed,
            gamma=1.0,
            fps=source.fps,
            name=f"{self.world.replace('/', '-')}-{seed:010d}",
        )

    def _picture(self) -> np.ndarray:
        mujoco, (height, width) = self.mujoco, self.fine
        mujoco.mjv_updateScene(
            self.model,
            self.data,
            self.options,
            None,
            self.camera,
            mujoco.mjtCatBit.mjCAT_ALL,
            self.scene,
        )
        viewport = mujoco.MjrRect(0, 0, width, height)
        pixels = np.empty((height, width, 3), np.uint8)
        mujoco.mjr_render(viewport, self.scene, self.context)
        mujoco.mjr_readPixels(pixels, None, viewport, self.context)
        upright = pixels[::-1]  # OpenGL counts rows from below
        from PIL import Image

        return np.asarray(Image.fromarray(upright).reduce(SUPERSAMPLING))

    def _depth_and_segments(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the scene as last updated. The flat colours of this pass are geometry numbers."""
        mujoco, (height, width) = self.mujoco, self.source.shape
        flags = (mujoco.mjtRndFlag.mjRND_SEGMENT, mujoco.mjtRndFlag.mjRND_IDCOLOR)
        viewport = mujoco.MjrRect(0, 0, width, height)
        colours = np.empty((height, width, 3), np.uint8)
        buffer = np.empty((height, width), np.float32)
        for flag in flags:
            self.scene.flags[flag] = True
        mujoco.mjr_render(viewport, self.scene, self.context)
        mujoco.mjr_readPixels(colours, buffer, viewport, self.context)
        for flag in flags:
            self.scene.flags[flag] = False
        # The pass draws no sky, so the far plane (0 in this mapping) is sky.
        inverse = buffer[::-1].astype(np.float64)
        metres = NEAR * FAR / (NEAR + inverse * (FAR - NEAR))
        metres[inverse == 0.0] = np.inf
        return metres.astype(np.float32), colours[::-1]

    def _mover_ids(self, colours: np.ndarray) -> np.ndarray:
        number = colours.astype(np.int32) @ np.array(
            [1, 256, 65536]
        )  # 0 is background, n + 1 is segment n
        ids = np.zeros(self.scene.ngeom + 2, np.int32)
        for geom in self.scene.geoms[: self.scene.ngeom]:
            body = self.model.geom_bodyid[geom.objid]
            if geom.segid >= 0 and body > 0:
                ids[geom.segid + 1] = body
        return ids[np.minimum(number, len(ids) - 1)]
