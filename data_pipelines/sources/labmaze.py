"""Textured mazes: DeepMind Lab's maze generator and pictures (`labmaze`), rendered by MuJoCo.

One maze gives as many clips as wanted from one compiled model. Pictures are rendered at twice the
size and averaged, which costs half of what multisampling does in a software renderer; depth comes
exact, in metres, from a second pass without textures, which also tells what is where.
"""

import collections
import contextlib
import dataclasses
import functools
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Bool, Float

from data_pipelines.clip import Clip
from data_pipelines.sources import paths, screening

CELL = 2.0  # metres
WALL_HEIGHT = 2.6
EYE = 1.1
CELLS = 11  # along either side of a maze, an odd number
CLEARANCE = 0.4  # metres that the camera keeps from walls and props
FIELD_OF_VIEW = 80.0  # degrees
PITCH = (-10.0, 4.0)  # degrees, one value per clip
NEAR, FAR = 0.02, 60.0
OVERLAP = 1.002  # of neighbouring planes, so that no sky shines through the seams
PROPS, MOVERS = 9, 3
PARKED = -20.0  # height of movers in clips where nothing moves: below the floor
SUPERSAMPLING = 2
GL_BACKENDS = ("egl", "osmesa")

TRAIN_WORLDS = tuple(f"labmaze/style_{1 + seed % 4:02d}-{seed:04d}" for seed in range(40))
# Other mazes, and every fifth in a style of pictures that training has not seen.
EVAL_WORLDS = tuple(f"labmaze/style_{1 + seed % 5:02d}-{seed:04d}" for seed in range(1000, 1015))
_WORLD = re.compile(r"labmaze/(style_\d\d)-(\d{4})")

_PROBE = """
import mujoco
model = mujoco.MjModel.from_xml_string("<mujoco/>")
context = mujoco.GLContext(8, 8)
context.make_current()
renderer = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
renderer.free()
context.free()
"""


@functools.cache
def _probe(backend: str) -> str:
    """Empty where a picture can be rendered with this backend, else why not."""
    # In a process of its own: MuJoCo binds to the first backend imported, and a faulty GL
    # library ends the process instead of raising.
    environment = os.environ | {"MUJOCO_GL": backend, "PYOPENGL_PLATFORM": backend}
    try:
        result = subprocess.run(
            [sys.executable, "-c", _PROBE],
            env=environment,
            capture_output=True,
            text=True,
            timeout=120,
        )
    except subprocess.TimeoutExpired:
        return f"{backend}: no answer within 120 s"
    if result.returncode == 0:
        return ""
    lines = result.stderr.strip().splitlines() or [f"exit status {result.returncode}"]
    return f"{backend}: {lines[-1]}"


def gl_backend() -> tuple[str | None, str]:
    """The offscreen backend that works here, or None and the reasons why none does.

    Only the one that the environment variable MUJOCO_GL names is tried where it is set.
    """
    chosen = os.environ.get("MUJOCO_GL", "").lower()
    reasons = []
    for backend in (chosen,) if chosen else GL_BACKENDS:
        reason = _probe(backend)
        if not reason:
            return backend, ""
        reasons.append(reason)
    return None, "; ".join(reasons)


@dataclasses.dataclass(frozen=True)
class LabmazeSource:
    """Clips of textured mazes with fixed props and, in some clips, moving bodies.

    Attributes:
      size: pixels along either side of the square picture.
      frames: per clip; half of them leave, half come back (`paths`).
      living: share of clips in which bodies move about; only these have mover ids.
      fps: playing speed noted in the clips.
      rejected: how many clips were dropped, by reason (`screening`), since this object was made.
    """

    size: int = 64
    frames: int = 33
    living: float = 0.2
    fps: float = 16.0
    rejected: collections.Counter = dataclasses.field(
        default_factory=collections.Counter, compare=False, repr=False
    )

    def __post_init__(self) -> None:
        if self.size < 8 or not 0 <= self.living <= 1:
            raise ValueError(
                f"size {self.size} and living {self.living}, expected >= 8 and a share 0..1"
            )

    @property
    def name(self) -> str:
        """Name of the source in clips and datasets."""
        return "labmaze"

    @staticmethod
    def available() -> tuple[bool, str]:
        """Whether mazes can be rendered on this machine, and if not, why."""
        missing = [name for name in ("labmaze", "mujoco") if not _installed(name)]
        if missing:
            return False, f"not installed: {', '.join(missing)} (extra 'worlds')"
        backend, reason = gl_backend()
        if backend is None:
            return False, f"no offscreen OpenGL ({reason}); install libegl1 or libosmesa6"
        return True, ""

    def worlds(self, split: str) -> tuple[str, ...]:
        """Mazes of split "train" or "eval", as "labmaze/style_02-0013": pictures, then seed."""
        splits = {"train": TRAIN_WORLDS, "eval": EVAL_WORLDS}
        if split not in splits:
            raise ValueError(f"split {split!r}, expected one of {tuple(splits)}")
        return splits[split]

    def clips(self, world: str, count: int, seed: int) -> Iterator[Clip]:
        """`count` clips of one maze, easy and parallax returns in turn.

        Fewer, with a warning, where too many had to be rejected. ValueError for an unknown world,
        RuntimeError where this machine cannot render offscreen.
        """
        if world not in TRAIN_WORLDS + EVAL_WORLDS:
            raise ValueError(f"world {world!r}, expected one of {TRAIN_WORLDS + EVAL_WORLDS}")
        return self._clips(world, count, seed)

    def _clips(self, world: str, count: int, seed: int) -> Iterator[Clip]:
        with _Maze(self, world) as maze:
            yield from screening.collect(maze.record, world, count, seed, self.rejected)


def _installed(package: str) -> bool:
    from importlib import util

    return util.find_spec(package) is not None


@dataclasses.dataclass(frozen=True)
class Plan:
    """Floor plan of a maze. Cell (row, column) spans CELL metres; rows run from north to south."""

    wall: Bool[np.ndarray, "rows columns"]
    floor_kind: np.ndarray  # number of the floor picture per cell
    props: Float[np.ndarray, "n 3"]  # x, y, radius in metres

    def centre(self, row: int, column: int) -> tuple[float, float]:
        """Position (x, y) of a cell's centre, metres."""
        return (column + 0.5) * CELL, (len(self.wall) - row - 0.5) * CELL

    def is_free(self, points: Float[np.ndarray, "n 2"]) -> Bool[np.ndarray, " n"]:
        """Whether a camera may be at each (x, y)."""
        corners = CLEARANCE * np.array([(0, 0), (1, 1), (1, -1), (-1, 1), (-1, -1)])
        cells = np.floor((np.asarray(points)[:, None] + corners) / CELL).astype(int)
        column, row = cells[..., 0], len(self.wall) - 1 - cells[..., 1]
        inside = (row >= 0) & (row < len(self.wall)) & (column >= 0)
        inside &= column < self.wall.shape[1]
        blocked = self.wall[np.where(inside, row, 0), np.where(inside, column, 0)] | ~inside
        gap = np.linalg.norm(np.asarray(points)[:, None] - self.props[None, :, :2], axis=-1)
        return ~blocked.any(1) & (gap > self.props[:, 2] + CLEARANCE).all(1)


def make_plan(seed: int) -> Plan:
    """The maze of a seed: corridors and rooms one cell wide and more, props beside the walls."""
    import labmaze

    maze = labmaze.RandomMaze(
        height=CELLS,
        width=CELLS,
        max_rooms=4,
        room_min_size=3,
        room_max_size=5,
        random_seed=seed + 1,  # the generator refuses 0
        spawns_per_room=1,
        objects_per_room=1,
        max_variations=26,
        has_doors=False,
        simplify=True,
    )
    wall = np.array([list(row) for row in str(maze.entity_layer).strip("\n").split("\n")]) == "*"
    rooms = np.array([list(row) for row in str(maze.variations_layer).strip("\n").split("\n")])
    kind = np.array([[ord(room) - ord("A") if room.isalpha() else 31 for room in r] for r in rooms])
    plan = Plan(wall, kind, np.zeros((0, 3)))
    rng = np.random.default_rng(seed)
    cells = np.argwhere(~wall)
    picked = cells[rng.choice(len(cells), min(PROPS, len(cells) // 4), replace=False)]
    centres = np.array([plan.centre(*cell) for cell in picked.tolist()])
    shift = rng.choice([-0.55, 0.55], centres.shape)
    radius = rng.uniform(0.15, 0.4, (len(centres), 1))
    return dataclasses.replace(plan, props=np.concatenate([centres + shift, radius], 1))


class _Maze:
    """A compiled and loaded maze; a context manager that frees the renderer."""

    def __init__(self, source: LabmazeSource, world: str) -> None:
        match = _WORLD.fullmatch(world)
        assert match is not None  # the caller has checked the world
        self.source, self.world = source, world
        self.style, self.seed = match[1], int(match[2])
        self.plan = make_plan(self.seed)

    def __enter__(self) -> "_Maze":
        mujoco = _import_mujoco()
        self.mujoco, size = mujoco, self.source.size
        self.stack = contextlib.ExitStack()
        xml = maze_xml(self.plan, self.style, self.seed, SUPERSAMPLING * size)
        self.model = mujoco.MjModel.from_xml_string(xml)
        self.data = mujoco.MjData(self.model)
        context = mujoco.GLContext(SUPERSAMPLING * size, SUPERSAMPLING * size)
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
        start = self._free_point(rng)
        yaw = self._open_yaw(rng, start)
        path = paths.sample_path(rng, source.frames, start, yaw, self.plan.is_free, kind)
        if path is None:
            return "no room"
        pitch = float(np.deg2rad(rng.uniform(*PITCH)))
        living = bool(rng.random() < source.living)
        bodies = self._body_paths(rng, path) if living else None
        clip = self._film(path, pitch, bodies, seed)
        return screening.why_rejected(clip) or clip

    def _free_point(self, rng: np.random.Generator) -> np.ndarray:
        extent = CELL * np.array(self.plan.wall.shape[::-1])
        while True:
            point = rng.uniform(0.0, extent)
            if self.plan.is_free(point[None])[0]:
                return point

    def _open_yaw(self, rng: np.random.Generator, start: np.ndarray) -> float:
        """The direction with the longest free way among a few."""
        yaws = rng.uniform(-np.pi, np.pi, 3)
        ways = np.linspace(0.0, 8.0, 33)[:, None, None] * np.stack([np.cos(yaws), np.sin(yaws)], 1)
        free = self.plan.is_free((start + ways).reshape(-1, 2)).reshape(33, 3)
        return float(yaws[np.cumprod(free, axis=0).sum(0).argmax()])

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
        source, size, frames = self.source, self.source.size, len(path.yaws)
        video = np.empty((frames, size, size, 3), np.uint8)
        depth = np.empty((frames, size, size), np.float32)
        movers = np.zeros((frames, size, size), np.int32)
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
        focal = size / 2 / np.tan(np.deg2rad(FIELD_OF_VIEW) / 2)
        return Clip(
            video=video,
            depth=depth,
            intrinsics=np.tile(
                np.array([focal, focal, size / 2, size / 2], np.float32), (frames, 1)
            ),
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
        mujoco, fine = self.mujoco, SUPERSAMPLING * self.source.size
        mujoco.mjv_updateScene(
            self.model,
            self.data,
            self.options,
            None,
            self.camera,
            mujoco.mjtCatBit.mjCAT_ALL,
            self.scene,
        )
        viewport, pixels = mujoco.MjrRect(0, 0, fine, fine), np.empty((fine, fine, 3), np.uint8)
        mujoco.mjr_render(viewport, self.scene, self.context)
        mujoco.mjr_readPixels(pixels, None, viewport, self.context)
        upright = pixels[::-1]  # OpenGL counts rows from below
        from PIL import Image

        return np.asarray(Image.fromarray(upright).reduce(SUPERSAMPLING))

    def _depth_and_segments(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the scene as last updated. The flat colours of this pass are geometry numbers."""
        mujoco, size = self.mujoco, self.source.size
        flags = (mujoco.mjtRndFlag.mjRND_SEGMENT, mujoco.mjtRndFlag.mjRND_IDCOLOR)
        viewport = mujoco.MjrRect(0, 0, size, size)
        colours = np.empty((size, size, 3), np.uint8)
        buffer = np.empty((size, size), np.float32)
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


def _import_mujoco() -> Any:
    """MuJoCo bound to a backend that works; it reads the environment when first imported."""
    # Recording runs one process per core: a thread pool in each Mesa would only get in the way.
    os.environ.setdefault("LP_NUM_THREADS", "0")
    if "mujoco" not in sys.modules:
        ok, reason = LabmazeSource.available()
        if not ok:
            raise RuntimeError(f"labmaze cannot be rendered here: {reason}")
        backend = gl_backend()[0] or ""
        os.environ["MUJOCO_GL"] = os.environ["PYOPENGL_PLATFORM"] = backend
    import mujoco

    return mujoco


# --- the model -----------------------------------------------------------------------------------


def maze_xml(plan: Plan, style: str, seed: int, pixels: int) -> str:
    """MuJoCo model of a maze: one plane per cell of floor and per visible face of wall.

    style: of labmaze's pictures, "style_01" to "style_05". pixels: side of the largest picture.
    """
    rng = np.random.default_rng(seed)
    textures, walls, floors = _textures(style, f"sky_{1 + seed % 3:02d}")
    geometry = [*_floors(plan, floors), *_walls(plan, walls, rng), *_props(plan, walls, rng)]
    return f"""<mujoco>
  <visual>
    <map znear="{NEAR}" zfar="{FAR}"/>
    <headlight ambient=".62 .62 .62" diffuse="0 0 0" specular="0 0 0"/>
    <quality offsamples="0" shadowsize="0"/>
    <global offwidth="{pixels}" offheight="{pixels}" fovy="{FIELD_OF_VIEW}"/>
  </visual>
  <statistic extent="1" center="0 0 0"/>
  <asset>{"".join(textures)}</asset>
  <worldbody>
    <light directional="true" dir=".5 .3 -1" diffuse=".4 .4 .4" castshadow="false"/>
    <light directional="true" dir="-.4 -.7 -.6" diffuse=".25 .25 .25" castshadow="false"/>
    {"".join(geometry)}{"".join(_movers(rng))}
  </worldbody>
</mujoco>"""


def _textures(style: str, sky: str) -> tuple[list[str], int, int]:
    """Asset elements, and how many wall and floor materials ("w0", "f0" and so on) they define."""
    from labmaze import assets

    box = assets.get_sky_texture_paths(sky)
    sides = " ".join(
        f'file{side}="{getattr(box, side)}"'
        for side in ("left", "right", "up", "down", "front", "back")
    )
    elements = [f'<texture name="sky" type="skybox" {sides}/>']
    files = {
        "w": list(assets.get_wall_texture_paths(style).values()),
        "f": list(assets.get_floor_texture_paths(style).values()),
    }
    for letter, names in files.items():
        for number, file in enumerate(names):
            name = f"{letter}{number}"
            elements.append(
                f'<texture name="{name}" type="2d" file="{file}"/>'
                f'<material name="{name}" texture="{name}" texrepeat="1 1" specular="0"/>'
            )
    return elements, len(files["w"]), len(files["f"])


def _floors(plan: Plan, kinds: int) -> Iterator[str]:
    half = OVERLAP * CELL / 2
    for row, column in np.argwhere(~plan.wall).tolist():
        x, y = plan.centre(row, column)
        yield (
            f'<geom type="plane" pos="{x} {y} 0" size="{half} {half} .1" '
            f'material="f{plan.floor_kind[row, column] % kinds}"/>'
        )


def _walls(plan: Plan, kinds: int, rng: np.random.Generator) -> Iterator[str]:
    rows, columns = plan.wall.shape
    half = OVERLAP * CELL / 2
    for row, column in np.argwhere(~plan.wall).tolist():
        x, y = plan.centre(row, column)
        for down, right in ((0, 1), (0, -1), (1, 0), (-1, 0)):
            r, c = row + down, column + right
            if not (0 <= r < rows and 0 <= c < columns and plan.wall[r, c]):
                continue
            # Runs of wall share a picture; now and then one differs and marks the place.
            kind = rng.integers(kinds) if rng.random() < 0.25 else (3 * r + c) // 4 % kinds
            yield (
                f'<geom type="plane" material="w{kind}" '
                f'pos="{x + right * CELL / 2} {y - down * CELL / 2} {WALL_HEIGHT / 2}" '
                f'size="{half} {WALL_HEIGHT / 2} .1" xyaxes="{-down} {-right} 0 0 0 1"/>'
            )


def _props(plan: Plan, kinds: int, rng: np.random.Generator) -> Iterator[str]:
    for x, y, radius in plan.props:
        height = rng.uniform(0.2, 0.9)
        shape = rng.choice(["box", "cylinder"])
        across = radius * (0.7 if shape == "box" else 1.0)
        size = f"{across} {across} {height}" if shape == "box" else f"{across} {height}"
        yield (
            f'<geom type="{shape}" pos="{x} {y} {height}" size="{size}" '
            f'material="w{rng.integers(kinds)}" rgba="{_colour(rng)}"/>'
        )


def _movers(rng: np.random.Generator) -> Iterator[str]:
    for number in range(MOVERS):
        radius = rng.uniform(0.2, 0.35)
        shape = ("sphere", "ellipsoid", "capsule")[number % 3]
        size = {
            "sphere": f"{radius}",
            "ellipsoid": f"{radius} {radius * 0.7} {radius * 1.2}",
            "capsule": f"{radius * 0.7} {radius * 0.6}",
        }[shape]
        yield (
            f'<body mocap="true" pos="0 0 {PARKED}"><geom type="{shape}" size="{size}" '
            f'rgba="{_colour(rng)}" contype="0" conaffinity="0"/></body>'
        )


def _colour(rng: np.random.Generator) -> str:
    red, green, blue = rng.uniform(0.35, 1.0, 3)
    return f"{red:.3f} {green:.3f} {blue:.3f} 1"
