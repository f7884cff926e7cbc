"""The Clip record: the one schema every source of worlds yields, validated.

A clip is a short video with everything geometry needs, and what else its source knows: z-depth,
what moves and how, times, words.  What a source does not know is absent (None), never made up of
zeros.  `clip_format` stores clips.  Nothing here imports jax, because recording and loading workers
are spawned by the dozen and must not pay for, or fight over, an accelerator.
"""

import dataclasses
import json
from collections.abc import Mapping
from typing import Any, NamedTuple, NoReturn

import numpy as np

from mirage_jax.pose_checks import check_cam2world, check_intrinsics


class Part(NamedTuple):
    """dtype and axes of one array of a clip: T frames of H x W pixels, N bodies."""

    dtype: type[np.generic]
    axes: str


PARTS = {
    "video": Part(np.uint8, "T H W 3"),
    "depth": Part(np.float32, "T H W"),
    "intrinsics": Part(np.float32, "T 4"),
    "cam2world": Part(np.float64, "T 4 4"),
    "mover_ids": Part(np.int32, "T H W"),
    "times": Part(np.float64, "T"),
    "bodies.ids": Part(np.int32, "N"),
    "bodies.extent": Part(np.float32, "N 3"),
    "bodies.body2world": Part(np.float64, "T N 4 4"),
    "bodies.velocity": Part(np.float64, "T N 3"),
    "bodies.angular_velocity": Part(np.float64, "T N 3"),
    "bodies.present": Part(np.bool_, "T N"),
    "bodies.visible": Part(np.bool_, "T N"),
}
REQUIRED_PARTS = ("video", "intrinsics", "cam2world")
# The arrays of a simulated world, and what loading gives unless told otherwise.
ARRAY_FIELDS = ("video", "depth", "intrinsics", "cam2world", "mover_ids")
REQUIRED_META = ("world", "source", "trajectory", "gamma", "fps", "name")
META_FIELDS = (*REQUIRED_META, "seed", "caption", "licence", "provenance")
FIELDS = (*ARRAY_FIELDS, "times", "bodies", *META_FIELDS)


@dataclasses.dataclass(frozen=True)
class Bodies:
    """The exact state, at every frame, of N bodies that may move, seen or not.

    A body's axes are x ahead, y to its left, z up, with the origin at the centre of its bounding
    box.  The world is that of the clip's `cam2world`.

    Attributes:
      ids: int32 [N], positive and unique; the ids that `Clip.mover_ids` shows.
      kinds: N names of what the bodies are, e.g. "capsule" or "DoomImp": one shape, one kind.
      looks: N names of how they look.  Bodies of one kind and look cannot be told apart; those of
        one kind and different looks are look-alikes.
      extent: float32 [N, 3], metres along the body's axes, from end to end.
      body2world: float64 [T, N, 4, 4], rigid, metres.
      velocity: float64 [T, N, 3], of the centre, metres per second, world axes.
      angular_velocity: float64 [T, N, 3], radians per second about the world axes.
      present: bool [T, N], whether the body exists in the world at that frame; the numbers of one
        that does not are finite and mean nothing.
      visible: bool [T, N], whether at least one pixel of the frame shows it.
    """

    ids: np.ndarray
    kinds: tuple[str, ...]
    looks: tuple[str, ...]
    extent: np.ndarray
    body2world: np.ndarray
    velocity: np.ndarray
    angular_velocity: np.ndarray
    present: np.ndarray
    visible: np.ndarray

    def cut(self, frames: slice | np.ndarray) -> "Bodies":
        """Returns the states at some of the frames."""
        timed = [name for name in _BODY_ARRAYS if PARTS[f"bodies.{name}"].axes.startswith("T")]
        return dataclasses.replace(self, **{name: getattr(self, name)[frames] for name in timed})


_BODY_ARRAYS = tuple(name.removeprefix("bodies.") for name in PARTS if name.startswith("bodies."))


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A tensor of a stored clip that this version does not know: bytes, and how to read them."""

    dtype: str  # safetensors' name, e.g. "F32"
    shape: tuple[int, ...]
    data: bytes
    codec: Mapping[str, Any] | None = None


@dataclasses.dataclass(frozen=True)
class Extra:
    """What a newer version stored with a clip; kept, so that rewriting a clip loses nothing."""

    tensors: Mapping[str, StoredTensor] = dataclasses.field(default_factory=dict)
    header: Mapping[str, Any] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Clip:
    """One recorded clip of T frames of H x W pixels.

    The fields are plain values here and `validate` states the full contract, so that a clip from a
    faulty source can be built, named in an error and counted instead of ending the recording.
    Fields that default to None are absent where the source does not know them.

    Attributes:
      video: uint8 [T, H, W, 3], RGB, already raised to `gamma`.
      depth: float32 [T, H, W], z-depth (not range) in metres; 0 = unknown, inf = sky.
      intrinsics: float32 [T, 4], `fx, fy, cx, cy` in pixels of H x W, pixel centres at +0.5.
      cam2world: float64 [T, 4, 4], OpenCV axes (x right, y down, z forward), metres.
      mover_ids: int32 [T, H, W], 0 = static, otherwise an id that is constant over the clip;
        absent: not known what moves.
      times: float64 [T], seconds, strictly increasing; absent: frame / fps (see `timestamps`).
      bodies: state of the bodies at every frame; absent: not known (no bodies at all: N = 0).
      world: the map, maze or place, e.g. "freedoom2/MAP07"; held-out worlds are told apart by it.
      source: the registry name of the source, e.g. "freedoom", "labmaze", "procedural".
      trajectory: kind of camera path, e.g. "easy" (exact return) or "parallax" (offset return).
      seed: the number the clip can be recorded again from; absent: it cannot be.
      gamma: exponent applied to linear 0..1 colours at recording (1 = none).
      fps: frames per second the clip should be played at.
      name: unique within a dataset.
      caption: what is to be seen, in words.
      licence: SPDX identifier, or the text, of what the clip may be used for.
      provenance: where it comes from, plain JSON (url, file, tool, version, ...).
      extra: parts that only a newer version knows. Whoever changes the frames drops them.
    """

    video: np.ndarray
    depth: np.ndarray | None = None
    intrinsics: np.ndarray
    cam2world: np.ndarray
    mover_ids: np.ndarray | None = None
    times: np.ndarray | None = None
    bodies: Bodies | None = None
    world: str
    source: str
    trajectory: str
    seed: int | None = None
    gamma: float
    fps: float
    name: str
    caption: str | None = None
    licence: str | None = None
    provenance: Mapping[str, Any] | None = None
    extra: Extra = dataclasses.field(default_factory=Extra)

    @property
    def frames(self) -> int:
        return self.video.shape[0]

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.video.shape[1], self.video.shape[2]

    @property
    def timestamps(self) -> np.ndarray:
        """float64 [T], seconds: `times`, or frame / fps where they are absent."""
        return np.arange(self.frames) / self.fps if self.times is None else self.times

    def part(self, name: str) -> np.ndarray | None:
        """Returns the array called `name` in `PARTS`, None if absent."""
        owner: Clip | Bodies | None = self.bodies if name.startswith("bodies.") else self
        return None if owner is None else getattr(owner, name.removeprefix("bodies."))

    def require(self, name: str) -> np.ndarray:
        """Returns the array called `name` in `PARTS`; ValueError, naming the clip, if absent."""
        array = self.part(name)
        if array is None:
            _refuse(self, name, "none", "it in this clip")
        return array


def _refuse(clip: Clip, field: str, found: object, expected: str) -> NoReturn:
    raise ValueError(f"clip {clip.name!r}, {field}: found {found}, expected {expected}")


def validate(clip: Clip) -> Clip:
    """Returns `clip` unchanged if it keeps the contract in the docstrings of `Clip` and `Bodies`.

    Raises:
      ValueError: names the clip, the field, what was found and what was expected, e.g. a wrong
        dtype or shape, NaN or negative depth, no usable depth at all, a pose that is not a rigid
        motion, times that do not increase, a body shown where it is said to be invisible.
    """
    _validate_meta(clip)
    _validate_shapes(clip)
    if clip.depth is not None:
        _validate_depth(clip, clip.depth)
    check_intrinsics(clip.intrinsics, clip.size, f"clip {clip.name!r}, intrinsics at frame")
    check_cam2world(clip.cam2world, f"clip {clip.name!r}, cam2world at frame")
    if clip.mover_ids is not None and (clip.mover_ids < 0).any():
        _refuse(clip, "mover_ids", int(clip.mover_ids.min()), "0 for static, positive ids")
    if clip.times is not None:
        _validate_times(clip, clip.times)
    if clip.bodies is not None:
        _validate_bodies(clip, clip.bodies)
    return clip


def _validate_meta(clip: Clip) -> None:
    for field in ("world", "source", "trajectory", "name"):
        text = getattr(clip, field)
        if not isinstance(text, str) or not text:
            _refuse(clip, field, repr(text), "a non-empty string")
    for field in ("caption", "licence"):
        text = getattr(clip, field)
        if text is not None and not (isinstance(text, str) and text.strip()):
            _refuse(clip, field, repr(text), "a non-empty string, or None")
    if clip.seed is not None and not isinstance(clip.seed, int | np.integer):
        _refuse(clip, "seed", repr(clip.seed), "an integer, or None")
    for field in ("gamma", "fps"):
        number = getattr(clip, field)
        if not np.isfinite(number) or number <= 0:
            _refuse(clip, field, number, "a positive number")
    if clip.provenance is not None and not _is_plain_json(clip.provenance):
        _refuse(clip, "provenance", repr(clip.provenance), "a dict of plain JSON, or None")


def _is_plain_json(value: object) -> bool:
    try:
        return isinstance(value, dict) and json.loads(json.dumps(value, allow_nan=False)) == value
    except (TypeError, ValueError):
        return False


def _validate_shapes(clip: Clip) -> None:
    video = clip.video
    if not isinstance(video, np.ndarray) or video.ndim != 4 or 0 in video.shape:
        _refuse(clip, "video", _describe(video), "uint8 [T, H, W, 3] with T, H, W > 0")
    sizes = dict(zip("THW", video.shape[:3], strict=True))
    if clip.bodies is not None:
        sizes["N"] = np.size(clip.bodies.ids)
    for name, part in PARTS.items():
        array = clip.part(name)
        if array is None and name not in REQUIRED_PARTS:
            continue
        axes = part.axes.split()
        shape = tuple(sizes[axis] if axis in sizes else int(axis) for axis in axes)
        expected = f"{np.dtype(part.dtype)} {list(shape)} as [{', '.join(axes)}]"
        if not isinstance(array, np.ndarray) or (array.dtype, array.shape) != (part.dtype, shape):
            _refuse(clip, name, _describe(array), expected)


def _describe(array: object) -> str:
    if isinstance(array, np.ndarray):
        return f"{array.dtype} {list(array.shape)}"
    return type(array).__name__


def _validate_depth(clip: Clip, depth: np.ndarray) -> None:
    if np.isnan(depth).any():
        frame, row, column = np.argwhere(np.isnan(depth))[0]
        where = f"NaN at frame {frame}, row {row}, column {column}"
        _refuse(clip, "depth", where, "metres, 0 for unknown, inf for sky")
    if (depth < 0).any():
        _refuse(clip, "depth", f"{depth.min():g}", "z-depth >= 0 metres")
    if not ((depth > 0) & np.isfinite(depth)).any():
        _refuse(clip, "depth", "only unknown or sky", "at least one pixel of known depth")


def _validate_times(clip: Clip, times: np.ndarray) -> None:
    if not np.isfinite(times).all():
        frame = int(np.flatnonzero(~np.isfinite(times))[0])
        _refuse(clip, "times", f"{times[frame]} at frame {frame}", "finite seconds")
    if (np.diff(times) <= 0).any():
        frame = int(np.flatnonzero(np.diff(times) <= 0)[0]) + 1
        found = f"{times[frame]:g} s after {times[frame - 1]:g} s at frame {frame}"
        _refuse(clip, "times", found, "strictly increasing seconds")


def _validate_bodies(clip: Clip, bodies: Bodies) -> None:
    ids = bodies.ids
    if (ids <= 0).any() or len(np.unique(ids)) != len(ids):
        _refuse(clip, "bodies.ids", ids.tolist(), "positive ids, each once")
    for field in ("kinds", "looks"):
        names = getattr(bodies, field)
        good = isinstance(names, tuple) and all(isinstance(n, str) and n for n in names)
        if not good or len(names) != len(ids):
            _refuse(clip, f"bodies.{field}", repr(names), f"a tuple of {len(ids)} names")
    if not (np.isfinite(bodies.extent) & (bodies.extent > 0)).all():
        _refuse(clip, "bodies.extent", bodies.extent.tolist(), "positive metres")
    for field in ("velocity", "angular_velocity"):
        finite = np.isfinite(getattr(bodies, field)).all(-1)
        if not finite.all():
            frame, body = np.argwhere(~finite)[0]
            where = f"a non-finite number at frame {frame}, body {body}"
            _refuse(clip, f"bodies.{field}", where, "finite numbers")
    check_cam2world(bodies.body2world, f"clip {clip.name!r}, bodies.body2world at frame and body")
    _refuse_frame(clip, bodies, bodies.visible & ~bodies.present, "visible, yet not present")
    if clip.mover_ids is not None:
        shown = [(clip.mover_ids == number).any((1, 2)) for number in ids]
        for body, seen in enumerate(shown):
            wrong = np.zeros_like(bodies.visible)
            wrong[:, body] = seen != bodies.visible[:, body]
            _refuse_frame(clip, bodies, wrong, "not as mover_ids shows it")


def _refuse_frame(clip: Clip, bodies: Bodies, wrong: np.ndarray, what: str) -> None:
    if wrong.any():
        frame, body = np.argwhere(wrong)[0]
        found = (
            f"{bodies.visible[frame, body]} at frame {frame} for body {bodies.ids[body]}, {what}"
        )
        _refuse(clip, "bodies.visible", found, "whether a pixel of the frame shows the body")
