"""Freedoom's hand-made maps, recorded through the ViZDoom engine with exact depth and poses.

ViZDoom's own depth buffer has 8 bits (22 cm steps); here depth is cast from the map file instead,
and the camera is put anywhere by a small script (`doom_map.camera_pwad`). One map unit is 1/32 m.
Camera model, fitted to pictures: f = (W/2) / tan(fov/2), cx = W/2 + 0.25, cy = H/2 - 0.5 at the
resolution W x H of the engine, and heights seen 1.2 times as tall (Doom's pixels were not square).

The maps come from two data sets, Freedoom 1 and 2, which the `vizdoom` package ships. Two parts of
them are kept for benchmarks alone and refused here: Freedoom 2 MAP20-MAP32 and Freedoom 1 E4.
"""

import contextlib
import dataclasses
import functools
import re
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from data_pipelines import due_again
from data_pipelines.clip import Clip
from data_pipelines.sources import doom_map, monsters, paths
from data_pipelines.sources.doom_rays import cast_rays
from data_pipelines.sources.living import (
    MOST_BODIES,
    LivingOptions,
    frame_numbers,
    sample_camera,
    sample_skip,
)
from data_pipelines.sources.options import option
from data_pipelines.sources.rendered import RenderedSource

METRES = 1.0 / 32.0  # per map unit
STRETCH = 1.2  # seen height of a map unit over its seen width
EYE = 41.0  # above the feet, map units
FIELD_OF_VIEW = 90.0  # degrees, of the square picture, to the engine's whole degrees
LEAST_LIGHT = 112  # of 255: sector light at the start of a path
SETTLE_TICS = 3  # the view height follows a placement one tic late
ENGINE_HEIGHTS = (192, 240, 384, 480, 600, 768)  # of the engine's 4:3 resolutions
SPRITES_THAT_MOVE = ("Monster", "Projectile", "Player", "Unknown", "Effect")
MOVED_SECTOR_ID = 1_000_000  # mover ids of doors and lifts start here

TRAIN_WORLDS = (
    *(f"freedoom2/MAP{number:02d}" for number in range(1, 14)),
    *(f"freedoom1/E{episode}M{number}" for episode in (1, 2) for number in range(1, 10)),
)
EVAL_WORLDS = (
    *(f"freedoom2/MAP{number:02d}" for number in range(14, 20)),
    *(f"freedoom1/E3M{number}" for number in range(1, 10)),
)
_RESERVED = re.compile(r"freedoom2/MAP(2\d|3\d)|freedoom1/E4M\d", re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Level:
    """One map as the engine and the ray caster take it.

    Attributes:
      wad: data set that the engine starts with.
      map: of that data set, or of `lumps`.
      lumps: of a map that is not in it, by name, its marker first.
    """

    wad: Path
    map: doom_map.DoomMap
    lumps: tuple[tuple[str, bytes], ...] = ()


@dataclasses.dataclass(frozen=True)
class FreedoomSource(LivingOptions, RenderedSource):
    """Clips of Freedoom maps, "freedoom2/MAP07" or "freedoom1/E1M3"; ValueError for reserved ones.

    In living clips monsters act; in the others time stands still. Monsters, acting or not, carry
    mover ids, and so does a door or lift that has moved. With `bodies`, all clips are living and
    have the states of the monsters that they show.
    """

    size: int = option(64, "pixels along either side of the picture", 8, ENGINE_HEIGHTS[-1])
    living: float = option(0.15, "share of clips in which monsters act, without `bodies`", 0.0, 1.0)
    bodies: int = option(
        0, "other than 0: monsters act in every clip, with their states", 0, MOST_BODIES
    )
    gamma: float = option(0.6, "exponent of colours; below 1 brightens the dark maps", 0.01, 100.0)
    name: ClassVar[str] = "freedoom"
    train_worlds: ClassVar[tuple[str, ...]] = TRAIN_WORLDS
    eval_worlds: ClassVar[tuple[str, ...]] = EVAL_WORLDS

    @staticmethod
    def available() -> tuple[bool, str]:
        """Whether the engine can be used on this machine, and if not, why."""
        try:
            import vizdoom  # noqa: F401
        except ImportError as error:  # not installed, or without a library that it needs
            return False, f"vizdoom cannot be imported: {error} (extra 'worlds')"
        return True, ""

    def check_world(self, world: str) -> None:
        """Raises ValueError for a world that is reserved for benchmarks or not known here."""
        if _RESERVED.match(world.strip()):
            raise ValueError(f"world {world!r} is reserved for benchmarks and never recorded")
        super().check_world(world)

    def level(self, world: str) -> Level:
        """The map of a world."""
        wad, map_name = world.split("/")
        return Level(wad_path(wad), doom_map.read_map(wad_path(wad), map_name))

    @contextlib.contextmanager
    def _open(self, world: str) -> Iterator[Callable[[int, str], Clip | str]]:
        with contextlib.ExitStack() as stack:
            yield _Recorder(self, world, stack).record


class _Recorder:
    """Records clips of one map; the engines start when first needed."""

    def __init__(self, source: FreedoomSource, world: str, stack: contextlib.ExitStack) -> None:
        self.source, self.world, self.stack = source, world, stack
        self.level = source.level(world)
        self.map = self.level.map
        self.grid = doom_map.navigation_grid(self.map)
        cells = np.argwhere(self.grid.free)
        lit = self.map.light[self.grid.sector[tuple(cells.T)]] >= LEAST_LIGHT
        self.starts = self.grid.centres(cells[lit] if lit.any() else cells)
        if not len(self.starts):
            raise ValueError(f"world {world}: no place on the map is free for a camera")
        linear = np.arange(256) / 255.0
        self.gamma_table = np.round(255.0 * linear**source.gamma).astype(np.uint8)

    @functools.cached_property
    def frozen_engine(self) -> "_Engine":
        return self.stack.enter_context(_Engine(self, living=False))

    @functools.cached_property
    def living_engine(self) -> "_Engine":
        return self.stack.enter_context(_Engine(self, living=True))

    def record(self, seed: int, kind: str) -> Clip | str:
        """A clip, or why there is none."""
        rng = np.random.default_rng(seed)
        start = self.starts[rng.integers(len(self.starts))]
        acting = bool(rng.random() < self.source.living)
        yaw = self._open_yaw(rng, start)
        known = self.source.bodies > 0
        sample = sample_camera if known else paths.sample_path
        path = sample(rng, self.source.frames, start * METRES, yaw, self._is_free, kind)
        if path is None:
            return "no room"
        engine = self.living_engine if acting or known else self.frozen_engine
        skip = sample_skip(rng, self.source) if known else 0
        wanted = known and bool(rng.random() < self.source.due)
        places = path.positions / METRES
        feet = np.concatenate([places, self._feet(places)[:, None]], 1)
        clip = engine.film(feet, path, seed, skip)
        if wanted and not isinstance(clip, str) and not due_again.due_again(clip):
            return "no monster comes again"
        return clip

    def _is_free(self, points: np.ndarray) -> np.ndarray:
        return self.grid.is_free(points / METRES)

    def _open_yaw(self, rng: np.random.Generator, start: np.ndarray) -> float:
        """The more open of a few directions: most directions in a room face a wall."""
        yaws = rng.uniform(-np.pi, np.pi, 3)
        eye = [*start, self.map.floor[self.grid.sector_at(start[None])[0]] + EYE]
        ahead = np.array([4.0, 4.0 * STRETCH, 4.0, 0.5])
        depth = cast_rays(self.map, np.tile(eye, (3, 1)), yaws, ahead, (1, 8)).depth
        return float(yaws[np.median(depth.reshape(3, -1), axis=1).argmax()])

    def _feet(self, positions: np.ndarray) -> np.ndarray:
        """Height of the feet: over the floor, ramped where the floor steps."""
        # Imported here, so that listing worlds needs numpy only.
        from scipy import ndimage

        floor = self.map.floor[self.grid.sector_at(positions)]
        ramped = ndimage.gaussian_filter1d(
            ndimage.maximum_filter1d(floor, 5, mode="nearest"), 2.0, mode="nearest"
        )
        return np.maximum(ramped, floor) + 1.0


class _Engine:
    """One running engine on one map; a context manager that ends it."""

    def __init__(self, recorder: _Recorder, *, living: bool) -> None:
        self.recorder, self.living = recorder, living
        size = recorder.source.size
        fitting = [h for h in ENGINE_HEIGHTS if h % size == 0 and h >= 2 * size]
        larger = [h for h in ENGINE_HEIGHTS if h >= 2 * size] or [ENGINE_HEIGHTS[-1]]
        self.height = (fitting or larger)[0]
        self.width = self.height * 4 // 3

    def __enter__(self) -> "_Engine":
        self.folder = tempfile.TemporaryDirectory()
        self.game = _start_game(
            self.recorder, self.width, self.height, self.living, Path(self.folder.name)
        )
        commands = ["god", "noclip", f"fov {self._engine_fov():.0f}"]
        for command in commands + ([] if self.living else ["notarget", "freeze"]):
            self.game.send_game_command(command)
        self.game.advance_action(8)  # the engine widens its field of view step by step
        return self

    def __exit__(self, *_: object) -> None:
        self.game.close()
        self.folder.cleanup()

    def _engine_fov(self) -> float:
        half = np.tan(np.deg2rad(FIELD_OF_VIEW / 2)) * self.width / self.height
        return float(2 * np.rad2deg(np.arctan(half)))

    def film(self, feet: np.ndarray, path: paths.Path, seed: int, skip: int = 0) -> Clip | str:
        """Put the camera at each (x, y, feet height) in turn and keep what the engine shows.

        After the frame in the middle the camera waits for `skip` frames that are left out.
        """
        source, size = self.recorder.source, self.recorder.source.size
        for _ in range(SETTLE_TICS):
            self._place(feet[0], path.yaws[0])
        video = np.empty((len(feet), size, size, 3), np.uint8)
        camera = np.empty((len(feet), 5))
        numbers = frame_numbers(len(feet), skip)
        sprites, heights, states = [], [], []
        for t, (position, yaw) in enumerate(zip(feet, path.yaws, strict=True)):
            for _ in range(numbers[t] - numbers[t - 1] - 1 if t else 0):
                self._place(feet[t - 1], path.yaws[t - 1])
            self._place(position, yaw)
            state = self.game.get_state()
            if state is None:
                raise RuntimeError(f"{self.recorder.world}: the engine ended the episode")
            video[t] = self._picture(state.screen_buffer)
            camera[t] = state.game_variables
            if np.abs(camera[t, :2] - position[:2]).max() > 1.0:
                return "misplaced"  # the engine found no room there
            sprites.append(self._sprites(state, camera[t]))
            if source.bodies:
                states.append(monsters.states(state.objects))
            if self.living:
                heights.append([(s.floor_height, s.ceiling_height) for s in state.sectors])
        intrinsics = self._intrinsics(camera[0, 4])
        depth, movers = self._depth(camera, intrinsics, np.array(heights, float))
        for t, (sprite_depth, sprite_ids) in enumerate(sprites):
            shown = sprite_depth > 0
            depth[t][shown] = sprite_depth[shown]
            movers[t][shown] = sprite_ids[shown]
        centres = camera[:, :3] * [METRES, METRES, METRES * STRETCH]
        times = bodies = None
        if source.bodies:
            times = numbers / source.fps
            bodies = monsters.to_bodies(states, movers, times, (METRES, METRES * STRETCH))
        return Clip(
            video=self.recorder.gamma_table[video],
            depth=(depth * METRES).astype(np.float32),
            intrinsics=np.tile(intrinsics.astype(np.float32), (len(feet), 1)),
            cam2world=paths.level_cam2world(centres, np.deg2rad(camera[:, 3])),
            mover_ids=movers,
            times=times,
            bodies=bodies,
            world=self.recorder.world,
            source=source.name,
            trajectory=path.kind,
            seed=seed,
            gamma=source.gamma,
            fps=source.fps,
            name=f"{source.name}-{self.recorder.world.replace('/', '-')}-{seed:010d}",
        )

    def _place(self, position: np.ndarray, yaw: float) -> None:
        turns = (yaw / (2 * np.pi)) % 1.0
        fixed = [round(float(value) * 65536) for value in (*position, turns)]
        self.game.send_game_command("puke -1 {} {} {} {}".format(*fixed))
        self.game.advance_action(1)

    def _picture(self, screen: np.ndarray) -> np.ndarray:
        """The square middle of the screen, averaged down to the size wanted."""
        from PIL import Image

        size, left = self.recorder.source.size, (self.width - self.height) // 2
        image = Image.fromarray(screen)
        box = (left, 0, left + self.height, self.height)
        if self.height % size == 0:
            return np.asarray(image.reduce(self.height // size, box))
        return np.asarray(image.resize((size, size), Image.Resampling.BOX, box))

    def _intrinsics(self, fov: float) -> np.ndarray:
        """Of the clip's picture, from the engine's whole-degree field of view."""
        focal = self.width / 2 / np.tan(np.deg2rad(fov) / 2)
        left, scale = (self.width - self.height) // 2, self.recorder.source.size / self.height
        centre = (self.width / 2 + 0.25 - left, self.height / 2 - 0.5)
        return np.array([focal, focal, *centre]) * scale

    def _depth(
        self, camera: np.ndarray, intrinsics: np.ndarray, heights: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Depth of the map in map units, and ids of doors and lifts that have moved."""
        size = self.recorder.source.size
        floor, ceiling = (heights[..., 0], heights[..., 1]) if len(heights) else (None, None)
        hits = cast_rays(
            self.recorder.map,
            camera[:, :3],
            np.deg2rad(camera[:, 3]),
            intrinsics * [1.0, STRETCH, 1.0, 1.0],
            (size, size),
            floor=floor,
            ceiling=ceiling,
        )
        movers = np.zeros(hits.depth.shape, np.int32)
        if len(heights):
            sector = hits.sector
            moved = (heights != heights[:1]).any((0, 2))
            on_moved = (sector >= 0) & moved[np.maximum(sector, 0)]
            movers[on_moved] = MOVED_SECTOR_ID + sector[on_moved]
        return hits.depth, movers

    def _sprites(self, state: Any, camera: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Depth (map units, 0 where none) and mover id of things: pictures that face the camera."""
        size, left = self.recorder.source.size, (self.width - self.height) // 2
        index = ((np.arange(size) + 0.5) * self.height / size).astype(int)
        labels = state.labels_buffer[index[:, None], left + index]
        depth_of = np.zeros(256)
        id_of = np.zeros(256, np.int32)
        yaw = np.deg2rad(camera[3])
        for label in state.labels:
            offset = (label.object_position_x - camera[0], label.object_position_y - camera[1])
            depth_of[label.value] = offset[0] * np.cos(yaw) + offset[1] * np.sin(yaw)
            if label.object_category in SPRITES_THAT_MOVE:
                id_of[label.value] = label.object_id + 1
        return depth_of[labels], id_of[labels]


def wad_path(name: str) -> Path:
    """File of "freedoom1" or "freedoom2" in the installed vizdoom package."""
    import vizdoom

    return Path(vizdoom.__file__).parent / f"{name}.wad"


def _start_game(recorder: _Recorder, width: int, height: int, acting: bool, folder: Path) -> Any:
    import vizdoom as vzd

    game = vzd.DoomGame()
    game.set_doom_game_path(str(recorder.level.wad))
    game.set_doom_map(recorder.map.name)
    game.set_window_visible(False)
    game.set_screen_format(vzd.ScreenFormat.RGB24)
    game.set_screen_resolution(getattr(vzd.ScreenResolution, f"RES_{width}X{height}"))
    game.set_labels_buffer_enabled(True)
    game.set_sectors_info_enabled(acting)  # costs more than the rendering
    game.set_objects_info_enabled(recorder.source.bodies > 0)
    variables = ("POSITION_X", "POSITION_Y", "POSITION_Z", "ANGLE", "FOV")
    game.set_available_game_variables(
        [getattr(vzd.GameVariable, f"CAMERA_{variable}") for variable in variables]
    )
    for layer in (
        *("hud", "weapon", "crosshair", "messages", "screen_flashes"),
        *("decals", "particles", "effects_sprites"),
    ):
        getattr(game, f"set_render_{layer}")(False)
    game.set_mode(vzd.Mode.PLAYER)
    game.set_doom_skill(3)
    game.set_seed(1)
    game.set_episode_timeout(0)
    game.add_game_args(
        # "A SECRET IS REVEALED" would otherwise be written across the picture.
        "+movebob 0 +stillbob 0 +sv_cheats 1 +cl_showsecretmessage 0 +con_midtime 0 "
        "+show_messages 0"
    )
    script = folder / "camera.wad"
    script.write_bytes(doom_map.camera_pwad(recorder.level.lumps))
    game.set_doom_scenario_path(str(script))
    game.set_doom_config_path(str(folder / "engine.ini"))
    # The engine makes a folder where it starts; two engines in one place would race for it.
    with contextlib.chdir(folder):
        game.init()
    return game
