"""Cameras of a scene: from files of many conventions to the frames of pictures."""

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int
from scipy.spatial.transform import Rotation, Slerp

from data_pipelines.sources.footage.scene import Read, ReadOptions, Scene
from data_pipelines.sources.footage.undistort import Undistortion, is_straight
from mirage_jax import plausible
from mirage_jax.io import camera_files
from mirage_jax.io.camera_files import CameraRecord
from mirage_jax.io.camera_files.record import PINHOLE

SAME_SHAPE = 0.02
"""Most that width / height of pictures and of the camera file may differ, relative."""


def read_cameras(
    path: Path, options: ReadOptions, size: tuple[int, int], format: str | None = None
) -> CameraRecord:
    """The cameras of a file, with intrinsics in pixels of pictures of `size`.

    Args:
      path: the file or folder.
      options: of which direction, axes, units and lens say what the file leaves open.
      size: (H, W) of the pictures.
      format: one of `camera_files.FORMATS`; None to recognise it.

    Raises:
      ValueError: naming the file, as `camera_files.read`; for a file without intrinsics where no
        lens is given, with those of pictures of another size, and for pictures of another shape
        than the file speaks of.
    """
    told = {name: getattr(options, name) or None for name in ("direction", "axes", "units")}
    try:
        record = camera_files.read(path, format, **told)
        if record.intrinsics is None:  # a field of view says more of pictures of a known size
            record = camera_files.read(path, format, size=record.size or size, **told)
    except FileNotFoundError as error:
        raise ValueError(str(error)) from error
    return with_lens(record, options, size, path)


def with_lens(
    record: CameraRecord, options: ReadOptions, size: tuple[int, int], path: Path
) -> CameraRecord:
    """The record with intrinsics in pixels of `size`; arguments and errors as `read_cameras`.

    A lens that is given is a pinhole's: it takes the place of the distortion, too. The record keeps
    the name of the file's own, see `lens_provenance`.
    """
    if options.lens:
        intrinsics = np.tile(np.array(options.lens, np.float64), (len(record), 1))
        return record.replace(intrinsics=intrinsics, size=size, normalised=False, distortion=None)
    if record.intrinsics is None:
        raise ValueError(
            f"{path}: found no intrinsics in the file, expected --config.data.lens=fx,fy,cx,cy in "
            f"pixels of the {size[1]}x{size[0]} pictures"
        )
    if record.size is not None:
        ratio = (record.size[1] / record.size[0]) / (size[1] / size[0])
        if abs(ratio - 1) > SAME_SHAPE:
            raise ValueError(
                f"{path}: found cameras of {record.size[1]}x{record.size[0]} pictures, expected "
                f"the shape of the pictures, {size[1]}x{size[0]}"
            )
    elif not record.normalised:
        instead = "give the right ones by --config.data.lens"
        odd = plausible.odd_intrinsics(record.intrinsics, size, instead)
        plausible.refuse(str(path), odd, insist=False)
        record = record.replace(size=size)
    return record.replace(intrinsics=record.pixel_intrinsics(size), size=size, normalised=False)


def lens_provenance(options: ReadOptions, lens: str = PINHOLE) -> dict[str, str]:
    """What clips say of a lens that is given, in place of one of that name; {} where none is."""
    if not options.lens:
        return {}
    return {"lens": "given" if lens == PINHOLE else f"given, in place of {lens}"}


def pair(
    times: Float[np.ndarray, " n"], others: Float[np.ndarray, " m"], tolerance: float
) -> Int[np.ndarray, " n"]:
    """For each time the number of the other one nearest to it, -1 where that is too far.

    `others` increase. Each of them is given once, to the nearest.
    """
    if not len(others):
        return np.full(len(times), -1)
    after = np.clip(np.searchsorted(others, times), 1, max(len(others) - 1, 1))
    before = after - 1
    after = np.minimum(after, len(others) - 1)
    nearer = np.where(times - others[before] <= others[after] - times, before, after)
    gap = np.abs(others[nearer] - times)
    order = np.lexsort((gap, nearer))
    first = np.ones(len(order), bool)
    first[1:] = np.diff(nearer[order]) > 0
    best = np.zeros(len(times), bool)
    best[order] = first
    return np.where(best & (gap <= tolerance), nearer, -1)


def increasing(
    times: Float[np.ndarray, " n"],
    where: str,
    what: str,
    numbers: Sequence[int | str] | None = None,
) -> Float[np.ndarray, " n"]:
    """The times, after checking that they increase.

    Args:
      times: seconds.
      where: the file, for messages.
      what: each of them is of, in a word.
      numbers: of these in their file or files; None: from 0 on.

    Raises:
      ValueError: naming the file and the number of the first that does not.
    """
    times = np.asarray(times, np.float64)
    falling = np.flatnonzero(~(np.diff(times) > 0))
    if falling.size:
        at = int(falling[0]) + 1
        names: Sequence[int | str] = range(len(times)) if numbers is None else numbers
        found = "again" if times[at] == times[at - 1] else f"after {times[at - 1]:.6f} s"
        raise ValueError(
            f"{where}: {what} {names[at]}: found {times[at]:.6f} s {found}, expected increasing "
            f"times ({falling.size} of {len(times)} do not increase)"
        )
    return times


def poses_at(
    record: CameraRecord, times: Float[np.ndarray, " n"], gap: float
) -> tuple[Float[np.ndarray, "n 4 4"], np.ndarray]:
    """Poses at other times, between the two nearest, and where there are such two.

    Rotations go along the shortest arc, centres along the line.

    Args:
      record: with increasing timestamps.
      times: seconds, of the same clock.
      gap: seconds between the two beyond which nothing is known.
    """
    known = np.asarray(record.timestamps)
    after = np.clip(np.searchsorted(known, times), 1, max(len(known) - 1, 1))
    if len(known) < 2:
        return np.repeat(record.cam2world[:1], len(times), 0), times == known[0]
    inside = (times >= known[0]) & (times <= known[-1])
    inside &= known[after] - known[after - 1] <= gap
    clipped = np.clip(times, known[0], known[-1])
    poses = np.tile(np.eye(4), (len(times), 1, 1))
    rotations = Rotation.from_matrix(record.cam2world[:, :3, :3])
    poses[:, :3, :3] = Slerp(known, rotations)(clipped).as_matrix()
    for axis in range(3):
        poses[:, axis, 3] = np.interp(clipped, known, record.cam2world[:, axis, 3])
    return poses, inside


@dataclasses.dataclass(frozen=True)
class _Sized:
    """Reads maps that are as large as the pictures; ValueError naming the frame for another."""

    read: Read
    size: tuple[int, int]
    where: str

    def __call__(self, frames: Sequence[int]) -> Iterator[np.ndarray]:
        for frame, array in zip(frames, self.read(frames), strict=True):
            if array.shape != self.size:
                raise ValueError(
                    f"{self.where} of frame {frame}: found {' x '.join(map(str, array.shape))} "
                    f"pixels, expected {self.size[0]} x {self.size[1]} as the pictures"
                )
            yield array


@dataclasses.dataclass(frozen=True)
class _Undistorted:
    """Reads pictures or maps through the lens that each frame has."""

    read: Read
    lenses: Sequence[Undistortion]
    pictures: bool

    def __call__(self, frames: Sequence[int]) -> Iterator[np.ndarray]:
        for frame, array in zip(frames, self.read(frames), strict=True):
            lens = self.lenses[frame]
            yield lens.picture(array) if self.pictures else lens.nearest(array)


def make_scene(
    name: str,
    record: CameraRecord,
    path: Path,
    pictures: Read,
    times: Float[np.ndarray, " n"],
    options: ReadOptions,
    *,
    depth: Read | None = None,
    movers: Read | None = None,
    **fields: Any,
) -> Scene:
    """A scene of cameras in pixels of their pictures; distortion is undone as they are read.

    Args:
      name: of the scene.
      record: a camera for each frame, from `read_cameras`.
      path: of the camera file, for messages.
      pictures, times, depth, movers: of the frames.
      options: of which the lens is given, if it is.
      fields: others of `Scene`.

    Raises:
      ValueError: naming the file, for a lens that is not known or cannot be undone.
    """
    assert record.intrinsics is not None and record.size is not None
    intrinsics = record.intrinsics
    depth = None if depth is None else _Sized(depth, record.size, f"{path}: depth")
    movers = None if movers is None else _Sized(movers, record.size, f"{path}: mask")
    given = lens_provenance(options, record.lens)
    provenance = {"cameras": record.format, **given, **fields.pop("provenance", {})}
    if record.metric is False:
        provenance["scale"] = "arbitrary"
    if record.distortion and not all(is_straight(record.lens, c) for c in record.distortion):
        try:
            lenses = _lenses(record)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        intrinsics = np.array([lens.intrinsics for lens in lenses])
        pictures = _Undistorted(pictures, lenses, pictures=True)
        depth = None if depth is None else _Undistorted(depth, lenses, pictures=False)
        movers = None if movers is None else _Undistorted(movers, lenses, pictures=False)
        provenance["undistorted"] = record.lens
    return Scene(
        name=name,
        file=str(path),
        times=times,
        cam2world=record.cam2world,
        intrinsics=intrinsics,
        size=record.size,
        pictures=pictures,
        depth=depth,
        movers=movers,
        provenance=provenance,
        **fields,
    )


def _lenses(record: CameraRecord) -> list[Undistortion]:
    """One for each frame; frames of one lens share it."""
    assert record.intrinsics is not None and record.size is not None
    assert record.distortion is not None
    made: dict[tuple, Undistortion] = {}
    lenses = []
    for row, coefficients in zip(record.intrinsics, record.distortion, strict=True):
        key = (*row.tolist(), *sorted(coefficients.items()))
        if key not in made:
            made[key] = Undistortion(record.lens, coefficients, record.size, tuple(row.tolist()))
        lenses.append(made[key])
    return lenses


def take(record: CameraRecord, frames: Int[np.ndarray, " n"]) -> CameraRecord:
    """The record of some frames by number."""
    some = frames.tolist()
    fields: dict[str, Any] = {"cam2world": record.cam2world[some]}
    for name in ("intrinsics", "timestamps"):
        value = getattr(record, name)
        fields[name] = None if value is None else value[some]
    for name in ("names", "distortion"):
        value = getattr(record, name)
        fields[name] = None if value is None else tuple(value[i] for i in some)
    return record.replace(**fields)
