"""Maps of OpenArena with their baked light, from the game's data files; the game is not needed.

A camera walks where a player could, at a player's height, over floors that rise and fall.  Doors,
lifts and whatever else moves in the game are not there; glows and fog are not drawn.
"""

import contextlib
import dataclasses
import functools
import logging
import zlib
from collections.abc import Callable, Iterator
from importlib import util
from typing import ClassVar

import numpy as np

from data_pipelines.clip import Clip
from data_pipelines.sources import offscreen, paths, screening
from data_pipelines.sources.openarena.bsp import Bsp, read_bsp
from data_pipelines.sources.openarena.files import GameFiles
from data_pipelines.sources.openarena.ground import Floor, floor_around
from data_pipelines.sources.openarena.renderer import Renderer
from data_pipelines.sources.openarena.shaders import read_shaders
from data_pipelines.sources.openarena.surfaces import Surfaces, curved_points, read_surfaces
from data_pipelines.sources.options import option
from data_pipelines.sources.rendered import RenderedSource, square_lens, worlds_of_split

FIELD_OF_VIEW = 75.0  # degrees
PITCH = (-12.0, 8.0)  # degrees, one value per clip
SUPERSAMPLING = 2
PLACES = 4  # tried for a clip
STANDS = ("info_player", "team_CTF", "item_", "weapon_", "ammo_", "holdable_")


@dataclasses.dataclass(frozen=True)
class OpenArenaSource(RenderedSource):
    """Clips of maps, "openarena/oa_dm1"; which ones are held out a hash of their names says."""

    root: str = option("", "folder of the game's .pk3 files, as Debian's openarena-data has them")
    eval_share: float = option(0.15, "share of the maps that are held out", 0.0, 1.0)
    living: float = option(0.0, "nothing moves in these maps", 0.0, 0.0)
    name: ClassVar[str] = "openarena"

    @staticmethod
    def available() -> tuple[bool, str]:
        """Whether maps can be rendered on this machine, and if not, why."""
        if util.find_spec("moderngl") is None:
            return False, "not installed: moderngl (extra 'openarena')"
        reason = offscreen.why_no_moderngl()
        if reason:
            return False, f"no offscreen OpenGL by EGL ({reason}); install libegl1"
        return True, ""

    @property
    def intrinsics(self) -> np.ndarray:
        """float32 [4], of every frame."""
        return square_lens(self.size, FIELD_OF_VIEW)

    @functools.cached_property
    def _files(self) -> GameFiles:
        if not self.root:
            raise ValueError("source 'openarena': found root '', expected a folder of .pk3 files")
        return GameFiles(self.root)

    def __getstate__(self) -> dict[str, object]:
        return {key: value for key, value in vars(self).items() if key != "_files"}

    def worlds(self, split: str) -> tuple[str, ...]:
        """The maps of split "train" or "eval"; ValueError for another, or without `root`."""
        names = self._files.names("maps", ".bsp")
        if not names:
            raise ValueError(f"{self.root}: found no maps/*.bsp in its .pk3 files, expected maps")
        held_out = {n for n in names if zlib.crc32(n.encode()) / 2**32 < self.eval_share}
        maps = {"train": [n for n in names if n not in held_out], "eval": sorted(held_out)}
        named = {key: tuple(f"openarena/{name}" for name in maps[key]) for key in maps}
        return worlds_of_split(named, split)

    def check_world(self, world: str) -> None:
        """Raises ValueError for what is no map of the game's files."""
        known = self.worlds("train") + self.worlds("eval")
        if world not in known:
            raise ValueError(f"world {world!r}, expected one of {', '.join(known)}")

    def read(self, world: str) -> tuple[Bsp, Surfaces]:
        """A map, and what is drawn of it; ValueError, naming the file, for a damaged one."""
        files, name = self._files, f"maps/{world.removeprefix('openarena/')}.bsp"
        level = read_bsp(files.read(name), files.where(name))
        return level, read_surfaces(level, read_shaders(files), files)

    @contextlib.contextmanager
    def _open(self, world: str) -> Iterator[Callable[[int, str], Clip | str]]:
        level, surfaces = self.read(world)
        if surfaces.missing:
            names = ", ".join(surfaces.missing)
            logging.warning("%s: no picture of %s: drawn grey", world, names)
        sizes = (self.size, SUPERSAMPLING * self.size)
        with Renderer(surfaces, level.lightmaps, sizes) as renderer:
            yield _Recorder(self, world, level, renderer).record


class _Recorder:
    """Records clips of one map."""

    def __init__(self, source: OpenArenaSource, world: str, level: Bsp, renderer: Renderer) -> None:
        self.source, self.world, self.level, self.renderer = source, world, level, renderer
        self.stands = level.places(*STANDS)
        if not len(self.stands):
            raise ValueError(f"world {world}: found no place for a player, expected some")
        self.curved = curved_points(level)
        self.floor = functools.lru_cache(maxsize=32)(self._floor)

    def _floor(self, stand: int) -> Floor | None:
        return floor_around(self.level, self.stands[stand], self.curved)

    def record(self, seed: int, kind: str) -> Clip | str:
        """A clip, or why there is none."""
        source, rng = self.source, np.random.default_rng(seed)
        for _ in range(PLACES):
            floor = self.floor(int(rng.integers(len(self.stands))))
            if floor is None:
                continue
            start = floor.draw_start(rng)
            yaws = rng.uniform(-np.pi, np.pi, 4)
            eye = floor.eyes(start[None])[0]
            yaw = float(max(yaws, key=lambda yaw: floor.open_way(eye, yaw)))
            path = paths.sample_path(rng, source.frames, start, yaw, floor.is_free, kind)
            if path is not None:
                return self._film(floor, path, float(np.deg2rad(rng.uniform(*PITCH))), seed)
        return "no room"

    def _film(self, floor: Floor, path: paths.Path, pitch: float, seed: int) -> Clip | str:
        from PIL import Image

        source, size = self.source, self.source.size
        poses = paths.level_cam2world(floor.eyes(path.positions), path.yaws, pitch)
        fine = SUPERSAMPLING * source.intrinsics
        video = np.empty((len(poses), size, size, 3), np.uint8)
        for frame, pose in enumerate(poses):
            picture, _ = self.renderer.draw(pose, fine, SUPERSAMPLING * size)
            video[frame] = np.asarray(Image.fromarray(picture).reduce(SUPERSAMPLING))
            if video[frame].mean() < screening.DARKEST:
                return "dark"
        depth = [self.renderer.draw(pose, source.intrinsics, size)[1] for pose in poses]
        return Clip(
            video=video,
            depth=np.stack(depth).astype(np.float32),
            intrinsics=np.tile(source.intrinsics, (len(poses), 1)),
            cam2world=poses,
            mover_ids=np.zeros((len(poses), size, size), np.int32),
            world=self.world,
            source=source.name,
            trajectory=path.kind,
            seed=seed,
            gamma=1.0,
            fps=source.fps,
            name=f"{self.world.replace('/', '-')}-{seed:010d}",
            licence="GPL-2.0-or-later",
        )
