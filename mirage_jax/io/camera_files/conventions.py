"""From the conventions of a file to this project's, and back: direction, axes, units, intrinsics.

What a file does not say and nobody told is refused, never guessed: a wrong guess gives a video that
moves the other way, which is seen long after.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from jaxtyping import Float

from mirage_jax.io.camera_files.record import CameraRecord, checked

DIRECTIONS = ("c2w", "w2c")
UNITS = {"m": 1.0, "cm": 0.01, "mm": 0.001}

_FLIP = np.diag([1.0, -1.0, -1.0, 1.0])
# Columns are OpenCV's axes (right, down, forward) in the axes of the file.
_CAMERA = {
    "opencv": np.eye(4),
    "opengl": _FLIP,  # right, up, back
    "llff": np.array([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]]),
    "unreal": np.array([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]]),
}
AXES = {
    "opencv": "x right, y down, z forward",
    "opengl": "x right, y up, z back",
    "llff": "x down, y right, z back",
    "unreal": "x forward, y right, z up, left-handed; world too",
}
NORMALISED_BELOW = 4.0
"""Focal lengths and principal points that are all below this are fractions, not pixels."""

_FAR = 100.0  # metres between neighbouring frames that nobody goes
_UNSTATED_FAR = 3.0
"""The same where nothing says that they are metres: 5 cm, a walker's step at 30 frames a second, is
5 and 50 in centimetres and millimetres; 3 m are a car's at 10."""
_FEWEST = 4  # frames that show how far a camera moves; fewer may be photos from afar


@dataclasses.dataclass(frozen=True)
class Told:
    """What the caller knows about a file; None where the file is to say it.

    Attributes:
      direction: "c2w" or "w2c".
      axes: one of `AXES`.
      units: one of `UNITS`.
      size: (H, W) of the pictures.
      camera: which of several paths in the file.
      bare: direction and axes of matrices about which neither file nor caller says anything.
    """

    direction: str | None = None
    axes: str | None = None
    units: str | None = None
    size: tuple[int, int] | None = None
    camera: str | None = None
    bare: tuple[str, str] | None = None

    def __post_init__(self) -> None:
        for name, allowed in (("direction", DIRECTIONS), ("axes", AXES), ("units", UNITS)):
            value = getattr(self, name)
            if value is not None and value not in allowed:
                raise ValueError(f"{name}: found {value!r}, expected {' or '.join(allowed)}")


@dataclasses.dataclass(frozen=True)
class FileCameras:
    """What a file holds, before anything is converted.

    Attributes:
      matrices: as in the file, completed to 4x4.
      direction: "c2w" or "w2c"; None if the format leaves it open.
      axes: one of `AXES`; None if the format leaves it open.
      units: one of `UNITS`, or "" for an arbitrary scale; None if the format leaves it open.
      why: where direction and axes are known from, for people.
      intrinsics: fx, fy, cx, cy of every frame or of all; None without.
      normalised: whether they are; None: to be seen from their values.
      size, timestamps, names, lens, distortion: as of `CameraRecord`.
      notes: what else was seen.
    """

    matrices: Float[np.ndarray, "f 4 4"]
    direction: str | None
    axes: str | None
    units: str | None
    why: str
    intrinsics: np.ndarray | None = None
    normalised: bool | None = None
    size: tuple[int, int] | None = None
    timestamps: np.ndarray | None = None
    names: tuple[str, ...] | None = None
    lens: str = "pinhole"
    distortion: tuple[Mapping[str, float], ...] | None = None
    notes: tuple[str, ...] = ()


def to_record(path: Path, name: str, why: str, found: FileCameras, told: Told) -> CameraRecord:
    """A file's cameras in this project's conventions.

    Args:
      path: the file, for messages.
      name: its format.
      why: where the format is known from.
      found: what it holds.
      told: what the caller knows.

    Raises:
      ValueError: naming the file, for a direction or axes that nothing says, steps that are too
        long to be metres where nothing says the units, a picture size that contradicts the file, or
        poses and intrinsics that cannot be.
    """
    count = len(found.matrices)
    if not count:
        raise ValueError(f"{path}: found 0 poses, expected at least one")
    for field in ("timestamps", "names"):
        value = getattr(found, field)
        if value is not None and len(value) != count:
            raise ValueError(
                f"{path}: {field}: found {len(value)}, expected {count}, one for each frame"
            )
    bare = told.bare or (None, None)
    settled, notes = {}, [f"format: {name}, {why}; {count} frames"]
    for what, default in (("direction", bare[0]), ("axes", bare[1])):
        given, in_file = getattr(told, what), getattr(found, what)
        value = given or in_file or default
        if value is None:
            raise ValueError(f"{path}: {_ambiguous(what, found)}")
        why = "as told" if given else found.why if in_file else "by default for plain matrices"
        if given and in_file and given != in_file:
            why = f"as told, although {found.why}: {in_file}"
        more = f" ({AXES[value]})" if what == "axes" else ""
        notes.append(f"{what}: {value}{more}, {why}")
        settled[what] = value
    units = told.units or found.units
    poses = _checked_matrices(path, found.matrices, settled["axes"])
    poses = from_convention(
        poses, settled["direction"], settled["axes"], UNITS.get(units or "", 1.0)
    )
    notes.append(f"units: {_UNIT_WORDS.get(units, units)}" + (", as told" if told.units else ""))
    step = median_step(poses)
    if units is None and count >= _FEWEST and step > _UNSTATED_FAR:
        raise ValueError(
            f"{path}: found a camera that moves {step:.3g} between frames, in units that nothing "
            f"says, expected steps below {_UNSTATED_FAR:g} m, or --units=cm, mm or m (footage: "
            "--config.data.units)"
        )
    if units == "m" and step > _FAR:
        notes.append(
            f"units: warning: the camera moves {step:.0f} between frames, so these are probably "
            "centimetres or millimetres; --units=cm or mm converts them"
        )
    record = CameraRecord(
        cam2world=poses,
        timestamps=found.timestamps,
        names=found.names,
        lens=found.lens,
        distortion=found.distortion,
        metric=None if units is None else units != "",
        format=name,
        **_intrinsics(path, found, told, notes),
    )
    if found.lens != "pinhole":
        notes.append(f"lens: {found.lens}, whose distortion is kept but not undone")
    return checked(record.replace(notes=(*notes, *found.notes)), str(path))


_UNIT_WORDS = {"": "an arbitrary scale", None: "not stated (any scale), taken as metres"}


def _ambiguous(what: str, found: FileCameras) -> str:
    """The refusal of a file that leaves something open, with what its numbers hint at."""
    allowed = DIRECTIONS if what == "direction" else ("opencv", "opengl")
    expected = " or ".join(f"--{what}={value}" for value in allowed)
    return (
        f"found matrices that do not say their {what} ({found.why}; {_hint(what, found)}), "
        f"expected {expected}"
    )


def _hint(what: str, found: FileCameras) -> str:
    poses = found.matrices
    if len(poses) < 2:
        return "one frame shows no motion"
    hints = []
    for value in DIRECTIONS if what == "direction" else ("opencv", "opengl"):
        direction = value if what == "direction" else (found.direction or "c2w")
        axes = value if what == "axes" else (found.axes or "opencv")
        share = forward_share(from_convention(poses, direction, axes, 1.0))
        hints.append(f"as {value} the camera moves forward in {share:.0%} of its steps")
    return ", ".join(hints)


def median_step(cam2world: Float[np.ndarray, "f 4 4"]) -> float:
    """How far the camera moves between neighbouring frames, as a median; 0.0 of a single one."""
    if len(cam2world) < 2:
        return 0.0
    steps = np.linalg.norm(np.diff(cam2world[:, :3, 3], axis=0), axis=1)
    return float(np.median(steps))


def forward_share(cam2world: Float[np.ndarray, "f 4 4"]) -> float:
    """Share of the moving steps that go where the camera looks rather than away; NaN for none."""
    step = np.diff(cam2world[:, :3, 3], axis=0)
    ahead = np.einsum("fi,fi->f", step, cam2world[:-1, :3, 2])
    length = np.linalg.norm(step, axis=1)
    moving = length > 1e-9 + 1e-3 * length.max(initial=0.0)
    return float((ahead[moving] > 0).mean()) if moving.any() else float("nan")


def _checked_matrices(path: Path, matrices: np.ndarray, axes: str) -> np.ndarray:
    """Refuses here what inversion would hide; rigidity is checked after conversion."""
    good = np.isfinite(matrices).all((1, 2))
    if not good.all():
        raise ValueError(
            f"{path}: frame[{int(np.argmin(good))}]: found a pose with NaN or infinity, expected "
            f"finite numbers ({int((~good).sum())} of {len(good)} are wrong)"
        )
    left = np.linalg.det(matrices[:, :3, :3]) < 0
    if left.any() and axes != "unreal":
        raise ValueError(
            f"{path}: frame[{int(np.argmax(left))}]: found a left-handed rotation (determinant "
            f"-1), expected right-handed axes ({int(left.sum())} of {len(left)} are wrong); Unreal "
            "and Unity have left-handed ones"
        )
    return matrices


def from_convention(
    matrices: Float[np.ndarray, "f 4 4"], direction: str, axes: str, scale: float
) -> Float[np.ndarray, "f 4 4"]:
    """Matrices of a convention as cam2world with OpenCV axes; translations times `scale`."""
    poses = matrices.astype(np.float64)
    poses = _inverse(poses) if direction == "w2c" else poses
    poses = poses @ _CAMERA[axes]
    if axes == "unreal":  # the world is left-handed with the camera
        poses = _CAMERA[axes].T @ poses
    poses[:, :3, 3] *= scale
    return poses


def in_convention(
    cam2world: Float[np.ndarray, "f 4 4"], direction: str, axes: str, scale: float = 1.0
) -> Float[np.ndarray, "f 4 4"]:
    """The inverse of `from_convention`."""
    poses = np.array(cam2world, np.float64)
    poses[:, :3, 3] /= scale
    if axes == "unreal":
        poses = _CAMERA[axes] @ poses
    poses = poses @ _CAMERA[axes].T
    return _inverse(poses) if direction == "w2c" else poses


def _inverse(poses: np.ndarray) -> np.ndarray:
    """Inverse of rigid transforms; a rotation that is none is found when poses are checked."""
    inverse = np.array(poses)
    inverse[:, :3, :3] = poses[:, :3, :3].transpose(0, 2, 1)
    inverse[:, :3, 3] = -np.einsum("fji,fj->fi", poses[:, :3, :3], poses[:, :3, 3])
    return inverse


def _intrinsics(path: Path, found: FileCameras, told: Told, notes: list[str]) -> dict:
    size = found.size
    if told.size is not None and size is not None and told.size != size:
        raise ValueError(
            f"{path}: found pictures of {size[1]}x{size[0]}, expected {told.size[1]}x"
            f"{told.size[0]} as told"
        )
    size = size or told.size
    if found.intrinsics is None:
        notes.append("intrinsics: none in the file")
        return {"size": size}
    values = np.asarray(found.intrinsics, np.float64)
    values = np.broadcast_to(values, (len(found.matrices), 4)) if values.ndim == 1 else values
    normalised, why = found.normalised, "by its format"
    if normalised is None:
        normalised = bool((np.abs(values) < NORMALISED_BELOW).all())
        why = f"as all values are {'below' if normalised else 'not below'} {NORMALISED_BELOW:g}"
    if normalised:
        notes.append(f"intrinsics: fractions of width and height, {why}")
    elif size is not None:
        notes.append(f"intrinsics: pixels of {size[1]}x{size[0]}")
    else:
        centre = np.rint(2 * np.median(values[:, 2:], axis=0)).astype(int)
        notes.append(
            "intrinsics: pixels of a picture whose size the file does not say (a centred lens "
            f"would make it {centre[0]}x{centre[1]})"
        )
    return {"intrinsics": values, "normalised": normalised, "size": size}
