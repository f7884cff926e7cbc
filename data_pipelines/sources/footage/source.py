"""Footage of one's own as a `Source`: clips by number, read when they are asked for."""

import dataclasses
import functools
import importlib
import itertools
from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any, ClassVar, NamedTuple

import numpy as np
from jaxtyping import Int

from data_pipelines.clip import Clip, validate
from data_pipelines.sources.footage import splits, survey, too_short
from data_pipelines.sources.footage.cutting import native_fps, windows
from data_pipelines.sources.footage.formats import FORMATS, detect
from data_pipelines.sources.footage.scene import ReadOptions, Scene
from data_pipelines.sources.options import check_options, option
from data_pipelines.sources.rendered import worlds_of_split
from data_pipelines.sources.warp_check import residual_motion
from mirage_jax.io.framing import Framing, nearest_shape

_END = "/end"
"""What is put behind the name of the only scene for its last clips, which are held out."""


class _Cut(NamedTuple):
    """Frame numbers of a world's clips, or why there are none."""

    clips: tuple[np.ndarray, ...]
    problem: str = ""
    left_out: Mapping[str, int] = MappingProxyType({})


ORIENTATIONS = ("auto", "exif", "stored")
"""How pictures are turned: as the cameras speak of them, as their files say, or not at all."""
MOVERS = ("", "residual")
"""What says which pixels move where footage has no masks: nothing, or depth and poses."""
_CHOICES = {
    "format": ("auto", *FORMATS),
    "missing": ("refuse", "skip"),
    "orientation": ORIENTATIONS,
    "movers": MOVERS,
}


@dataclasses.dataclass(frozen=True)
class FootageSource:
    """Clips of the footage in a folder; see `sources.FiniteSource`.

    A world is a scene: a video, or a folder of pictures. Scenes that cannot be read count as one
    clip, whose reading says why.
    """

    root: str = option("", "folder of the footage, or a single file of it")
    format: str = option("auto", "layout of the folder, by name; auto = as it looks")
    size: int = option(64, "height of the pictures", 1)
    width: int = option(0, "width of the pictures; 0 = as the height", 0)
    frames: int = option(33, "frames of a clip", 1)
    fps: float = option(0.0, "frames per second, by timestamp; 0 = every frame there is", 0.0)
    hop: int = option(0, "frames between the starts of clips; 0 = no overlap", 0)
    eval_share: float = option(0.1, "share of the scenes held out; of one, of its clips", 0.0, 0.9)
    missing: str = option("refuse", "footage that lacks pictures: refuse, or skip their frames")
    ground: int = option(255, "grey under transparent pictures", 0, 255)
    picture_fps: float = option(30.0, "frames per second of pictures without times", 1e-3)
    orientation: str = option("auto", "of pictures: exif, stored, or auto = as the cameras are")
    register: bool = option(True, "bring depth of another lens into the colour picture")
    lens: tuple[float | int, ...] = option((), "fx, fy, cx, cy in pixels, in place of the files'")
    direction: str = option("", "of camera files that do not say it: c2w or w2c")
    axes: str = option("", "of camera files that do not say them: opencv, opengl, llff, unreal")
    units: str = option("", "of camera files that do not say them: m, cm, mm")
    depth_metres: float = option(0.001, "metres of a step of 16-bit depth pictures", 1e-9)
    shapes: tuple[tuple[int, int], ...] = option(
        (), "(height, width) of sets that share the scenes; this one has those nearest to its own"
    )
    movers: str = option("", "what moves, where no masks say it: '' = unknown, or residual")
    name: ClassVar[str] = "footage"

    def __post_init__(self) -> None:
        check_options(self)
        for name, choices in _CHOICES.items():
            found = getattr(self, name)
            if found not in choices:
                known = ", ".join(choice or "''" for choice in choices)
                raise ValueError(f"footage, {name}: found {found!r}, expected one of {known}")
        if self.shapes and self.shape not in self.shapes:
            raise ValueError(
                f"footage, shapes: found {self.shapes}, expected {self.shape} among them"
            )
        if len(self.lens) not in (0, 4):
            raise ValueError(f"footage, lens: found {self.lens}, expected fx, fy, cx, cy")

    @property
    def shape(self) -> tuple[int, int]:
        """(height, width) of the pictures."""
        return self.size, self.width or self.size

    def worlds(self, split: str) -> tuple[str, ...]:
        """Scenes of "train" or "eval"; the only scene is in both, its end in "eval" alone.

        None at all where all scenes are nearer to another of the `shapes`.

        Raises:
          ValueError: another split, a folder without footage of the format.
        """
        names = _scenes(self)
        held_out = splits.held_out(names, self.eval_share)
        if len(names) == 1 and self.eval_share:
            held_out = (names[0] + _END,) if _found(self, names[0] + _END).clips else ()
        apart = set(held_out)
        train = tuple(name for name in names if name not in apart)
        return worlds_of_split({"train": train, "eval": held_out}, split)

    def clip_counts(self, split: str) -> dict[str, int]:
        """How many clips each scene of a split has; 1 for one that cannot be read."""
        return {world: max(_found(self, world).clips, 1) for world in self.worlds(split)}

    def clip(self, world: str, index: int) -> Clip:
        """Clip `index` of a scene, validated.

        Raises:
          ValueError: naming the file and the frame, for what is damaged, missing or no geometry.
          IndexError: a clip that the scene does not have.
        """
        cut = _cut(self, world)
        if cut.problem:
            raise ValueError(cut.problem)
        if not 0 <= index < len(cut.clips):
            raise IndexError(f"clip {index} of {len(cut.clips)} of {world}")
        return self._valid(_open(self, _scene_of(self, world)), world, cut.clips[index])

    def clips(self, world: str, count: int, seed: int) -> Iterator[Clip]:
        """At most `count` clips of a scene, each once, in an order that the seed decides."""
        available = self.clip_counts("train") | self.clip_counts("eval")
        order = np.random.default_rng(seed).permutation(available[world])[:count]
        return (self.clip(world, int(index)) for index in order)

    def scenes(self) -> tuple[str, ...]:
        """Names of all scenes, held out or not; ValueError for a folder without footage."""
        return _scenes(self)

    def open(self, scene: str) -> Scene:
        """A scene, none of its pictures read; ValueError, naming the file, where it cannot."""
        return _open(self, scene)

    def read(self, scene: str, frames: Int[np.ndarray, " n"]) -> Clip:
        """Some frames of a scene, increasing, as a clip; errors as `clip`."""
        return self._valid(_open(self, scene), scene, frames)

    def chosen(self, scene: str = "") -> str:
        """The scene of that name, or the only one; ValueError naming the scenes otherwise."""
        names = self.scenes()
        if (scene or names[0]) not in names or not (scene or len(names) == 1):
            shown = ", ".join(names[:5]) + (", ..." if len(names) > 5 else "")
            found = repr(scene) if scene else f"{len(names)} scenes"
            raise ValueError(f"{self.root}: found {found}, expected one of {shown}")
        return scene or names[0]

    def capture(self, scene: str = "", most: int = 0) -> Clip:
        """All that one scene shows as a single clip, whatever gaps in time it has.

        Args:
          scene: its name; "" for the only one.
          most: frames at most, spread evenly over those there are; 0 for all.

        Raises:
          ValueError: naming the scenes where it is not said which, or as `clip`.
        """
        scene = self.chosen(scene)
        opened = self.open(scene)
        frames = np.flatnonzero(opened.good)
        if not len(frames):
            raise ValueError(f"{opened.file}: found no frame with a pose, expected some")
        if 0 < most < len(frames):
            frames = frames[np.linspace(0, len(frames) - 1, most).round().astype(int)]
        clip = self.read(scene, frames)
        return dataclasses.replace(clip, fps=native_fps(opened.times))

    def left_out(self) -> dict[str, int]:
        """How many frames of the files are in no scene, by reason, over all readable scenes."""
        total: dict[str, int] = {}
        for name in _scenes(self):
            for reason, count in _found(self, name).left_out.items():
                total[reason] = total.get(reason, 0) + count
        return {reason: count for reason, count in total.items() if count}

    def files(self, directory: Path) -> dict[str, list[int]]:
        """Bytes and time of the files below the root, see `recording.originals`."""
        return survey.files_below(Path(self.root), directory)

    def survey(self) -> dict[str, Any]:
        """What looking through all scenes finds, as JSON for `recall`."""
        names = _scenes(self)
        ends = (names[0] + _END,) if len(names) == 1 else ()
        found = {name: _found(self, name) for name in (*names, *ends)}
        return survey.describe(self, survey.Survey(names, found))

    def recall(self, found: Mapping[str, Any]) -> None:
        """Takes a survey of equal options for true; the files must be those it was made of."""
        survey.recall(self, found)

    def _valid(self, scene: Scene, world: str, frames: np.ndarray) -> Clip:
        clip = self._read(scene, world, frames)
        try:
            clip = validate(clip)
        except ValueError as error:
            raise ValueError(f"{scene.file}: {error}") from error
        if self.movers != "residual" or clip.depth is None or clip.mover_ids is not None:
            return clip
        return dataclasses.replace(
            clip,
            mover_ids=residual_motion(clip).astype(np.int32),
            provenance={**(clip.provenance or {}), "movers": self.movers},
        )

    def _read(self, scene: Scene, world: str, frames: np.ndarray) -> Clip:
        numbers = frames.tolist()
        framing = Framing(scene.size, self.shape)
        video = np.stack([framing.picture(one) for one in scene.pictures(numbers)])
        depth = movers = None
        if scene.depth is not None:
            depth = np.stack([framing.nearest(one) for one in scene.depth(numbers)])
            _check_depth(depth, scene, frames)
        if scene.movers is not None:
            movers = np.stack([framing.nearest(one) for one in scene.movers(numbers)])
        for part, array in {"pictures": video, "depth": depth, "masks": movers}.items():
            if array is not None and len(array) != len(frames):
                raise ValueError(
                    f"{scene.name}: found {len(array)} {part} of frames {frames[0]} to "
                    f"{frames[-1]}, expected {len(frames)}"
                )
        times = scene.times[frames]
        return Clip(
            video=video,
            depth=depth,
            intrinsics=framing.intrinsics(scene.intrinsics[frames]).astype(np.float32),
            cam2world=scene.cam2world[frames].astype(np.float64),
            mover_ids=movers,
            times=times,
            world=world,
            source=self.name,
            trajectory="footage",
            gamma=1.0,
            fps=self.fps or native_fps(times),
            name=f"{scene.name}/{frames[0]:06d}",
            caption=scene.caption,
            licence=scene.licence,
            provenance={
                "format": _format(self),
                "frames": [int(frames[0]), int(frames[-1])],
                "picture_size": list(scene.size),
                **scene.provenance,
            },
        )

    def read_options(self) -> ReadOptions:
        """What readers of formats go by."""
        own = [field.name for field in fields(ReadOptions) if field.name != "fps"]
        options: dict[str, Any] = {name: getattr(self, name) for name in own}
        return ReadOptions(**options, fps=self.picture_fps)


def _check_depth(depth: np.ndarray, scene: Scene, frames: np.ndarray) -> None:
    wrong = ~(depth >= 0)
    if wrong.any():
        place = np.argwhere(wrong)[0]
        raise ValueError(
            f"{scene.file}: depth of frame {frames[place[0]]}: found {depth[tuple(place)]} in "
            f"{int(wrong[place[0]].sum())} pixels, expected metres >= 0, 0 unknown, inf sky"
        )


# Sources are values: what was found for one need not be looked for again, in each process.


@functools.lru_cache(maxsize=8)
def _format(source: FootageSource) -> str:
    return detect(Path(source.root)) if source.format == "auto" else source.format


def _reader(source: FootageSource) -> ModuleType:
    return importlib.import_module(FORMATS[_format(source)])


@functools.lru_cache(maxsize=8)
def _listed(source: FootageSource) -> tuple[str, ...]:
    return tuple(_own_scenes(source))


def _scenes(source: FootageSource) -> tuple[str, ...]:
    known = survey.recalled(source)
    return _listed(source) if known is None else known.scenes


@functools.lru_cache(maxsize=1_000_000)
def _counted(source: FootageSource, world: str) -> survey.Found:
    cut = _cut(source, world)
    return survey.Found(len(cut.clips), dict(cut.left_out))


def _found(source: FootageSource, world: str) -> survey.Found:
    known = survey.recalled(source)
    return known.worlds[world] if known and world in known.worlds else _counted(source, world)


@functools.lru_cache(maxsize=8)
def _only_scene(source: FootageSource) -> str:
    """The name of the only scene; "" where there are others, of which one is looked for."""
    known = survey.recalled(source)
    first = list(itertools.islice(_own_scenes(source) if known is None else _scenes(source), 2))
    return first[0] if len(first) == 1 else ""


def _own_scenes(source: FootageSource) -> Iterator[str]:
    """Scenes that are nearest to the source's shape, where others are recorded as well."""
    names = _all_scenes(source)
    if not source.shapes:
        return iter(names)
    files = dataclasses.replace(source, size=1, width=0, shapes=())  # whose sizes all sets share
    chosen = functools.partial(nearest_shape, source.shapes)
    return (name for name in names if chosen(_size_of(files, name)) == source.shape)


@functools.lru_cache(maxsize=8)
def _all_scenes(source: FootageSource) -> tuple[str, ...]:
    names = _reader(source).scenes(Path(source.root))
    if not names:
        layout = _reader(source).LAYOUT
        raise ValueError(f"{source.root}: found no {_format(source)} footage, expected {layout}")
    return names


@functools.lru_cache(maxsize=200_000)
def _size_of(source: FootageSource, name: str) -> tuple[int, int] | None:
    try:
        return _open(source, name).size
    except ValueError:
        return None  # its clip says why


def _scene_of(source: FootageSource, world: str) -> str:
    """The scene that a world is, or is the end of."""
    name = world.removesuffix(_END)
    return name if name != world and name == _only_scene(source) else world


def _read(source: FootageSource, name: str) -> Scene:
    return _reader(source).open_scene(Path(source.root), name, source.read_options())


_open = survey.WeightedCache(_read, lambda scene: len(scene.times), 100_000)
"""Scenes of so many frames in all, each of which takes about a kilobyte: cameras, names, places."""


def _make_cut(source: FootageSource, world: str) -> _Cut:
    name = _scene_of(source, world)
    try:
        scene = _open(source, name)
        found = windows(
            scene.times,
            scene.good,
            frames=source.frames,
            fps=source.fps,
            hop=source.hop,
            takes=scene.takes,
        )
    except ValueError as error:
        message = str(error)
        where = "" if source.root in message else f"{source.root}: {name}: "
        return _Cut((), where + message)
    if not found:
        short = too_short.described(scene.times, scene.good, source.frames, source.fps, scene.takes)
        return _Cut((), f"{scene.file}: {short}", scene.left_out)
    if not source.eval_share or len(found) < 2 or not _only_scene(source):
        return _Cut(tuple(found) if world == name else (), "", scene.left_out)
    # The only scene: its end is held out, and nothing that overlaps it is trained on.
    held_out = found[-max(1, round(source.eval_share * len(found))) :]
    if world != name:
        return _Cut(tuple(held_out))
    kept = tuple(one for one in found if one[-1] < held_out[0][0])
    problem = (
        f"{scene.file}: found {int(scene.good.sum())} frames in the only scene, expected "
        f"{2 * source.frames} or more, so that its end can be held out: more footage, shorter "
        "clips, or --config.data.eval_share=0"
    )
    return _Cut(kept, "" if kept else problem, scene.left_out)


_cut = survey.WeightedCache(_make_cut, lambda cut: sum(map(len, cut.clips)), 1_000_000)
