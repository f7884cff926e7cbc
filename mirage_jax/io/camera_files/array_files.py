"""Camera files of arrays: Mirage, AlayaWorld, ViPE, Lyra, SpatialVID, LingBot and LLFF."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from mirage_jax.io.atomic import write_atomically, write_together
from mirage_jax.io.camera_files.colmap import several_sizes
from mirage_jax.io.camera_files.conventions import FileCameras, Told, in_convention
from mirage_jax.io.camera_files.parsing import (
    as_floats,
    as_intrinsics,
    as_matrices,
    as_size,
    beside,
    matrices_of_quaternions,
    read_arrays,
)
from mirage_jax.io.camera_files.record import CameraRecord
from mirage_jax.io.camera_files.saving import fractions, npy, npz, pixels

LENS_NPY, LENS_NPZ = "intrinsics.npy", "intrinsics.npz"
POSES_NPY, POSES_NPZ = "poses.npy", "pose.npz"
GEOMETRY_PARTS = {"depths", "frames", "processed_size"}
"""What a geometry.npz has beside cameras, one of them at least."""

ALAYA_POSES = "cam_c2w"
_ROUNDING = 1e-4
"""Share of a focal length, or of the picture, that a lens may be off by and still be LLFF's."""


def _one(path: Path, name: str, shown: tuple[int | None, ...]) -> np.ndarray:
    """The array of a file, or the one called `name`, of a shape where None is any length."""
    arrays = read_arrays(path)
    array = arrays.get("", arrays.get(name))
    if array is None:
        raise ValueError(f"{path}: found arrays {sorted(arrays)}, expected {name!r}")
    array = as_floats(path, array, name)
    fits = array.ndim == len(shown) and all(
        wanted is None or wanted == found for wanted, found in zip(shown, array.shape, strict=True)
    )
    if not fits:
        expected = ", ".join("F" if side is None else str(side) for side in shown)
        raise ValueError(f"{path}: {name}: found shape {array.shape}, expected [{expected}]")
    return array


def _square(lens: np.ndarray) -> np.ndarray:
    """3x3 matrices of fx, fy, cx, cy."""
    matrices = np.tile(np.eye(3), (len(lens), 1, 1))
    matrices[:, (0, 1, 0, 1), (0, 1, 2, 2)] = lens
    return matrices


def read_geometry_cameras(path: Path, told: Told) -> FileCameras:
    """Mirage's geometry.npz: poses_c2w, intrinsics of the frames, fps; pictures are not read.

    The pictures' size is that of depths or frames, or else processed_size.
    """
    arrays = read_arrays(path)
    for name in ("poses_c2w", "intrinsics"):
        if name not in arrays:
            raise ValueError(f"{path}: found arrays {sorted(arrays)}, expected {name!r}")
    poses = as_matrices(path, arrays["poses_c2w"], "poses_c2w")
    fps = arrays.get("fps")
    rate = float(fps.reshape(-1)[0]) if fps is not None and fps.size else 0.0
    return FileCameras(
        poses,
        "c2w",
        "opencv",
        "m",
        "of Mirage's poses_c2w",
        intrinsics=as_intrinsics(path, arrays["intrinsics"], len(poses)),
        normalised=False,
        size=_geometry_size(path, arrays),
        timestamps=np.arange(len(poses)) / rate if rate > 0 else None,
    )


def _geometry_size(path: Path, arrays: dict[str, np.ndarray]) -> tuple[int, int] | None:
    for name, axes in (("depths", 3), ("frames", 4)):
        if name in arrays and arrays[name].ndim == axes:
            height, width = arrays[name].shape[1:3]
            return int(height), int(width)
    sides = arrays.get("processed_size", np.array([-1, -1])).reshape(-1).tolist()
    if sides == [-1, -1]:  # so that format says that it is not known
        return None
    if len(sides) != 2:
        raise ValueError(f"{path}: processed_size: found {sides}, expected height and width")
    return as_size(path, sides[0], sides[1], "processed_size")


def write_geometry_cameras(path: Path, record: CameraRecord) -> None:
    """Writes Mirage's geometry.npz without depths, which are its own to fill in.

    Times are kept as fps, where they are even and begin at 0 (`rate_of`).
    """
    arrays = {
        "poses_c2w": record.cam2world,
        "intrinsics": _square(pixels(path, record)),
        "processed_size": np.array(record.size or (-1, -1), np.int32),
    }
    rate = rate_of(record)
    if rate:
        arrays["fps"] = np.array([rate], np.float32)
    write_atomically(path, npz(**arrays))


def rate_of(record: CameraRecord) -> float:
    """Frames per second of times that are even and begin at 0; 0.0 of others, or without."""
    times = record.timestamps
    if times is None or len(times) < 2 or times[0] != 0.0 or times[-1] <= 0.0:
        return 0.0
    rate = float(np.float32((len(times) - 1) / times[-1]))
    even = np.abs(times * rate - np.arange(len(times))).max() < 1e-3
    return rate if even else 0.0


def read_alayaworld(path: Path, told: Told) -> FileCameras:
    """AlayaWorld: a torch file with cam_c2w [F, 4, 4] and intrinsics in pixels."""
    arrays = read_arrays(path)
    if ALAYA_POSES not in arrays:
        raise ValueError(f"{path}: found tensors {sorted(arrays)}, expected {ALAYA_POSES!r}")
    poses = as_matrices(path, arrays[ALAYA_POSES], ALAYA_POSES)
    lens = arrays.get("intrinsics")
    return FileCameras(
        poses,
        "c2w",
        "opencv",
        "",
        "of AlayaWorld's cam_c2w",
        intrinsics=None if lens is None else as_intrinsics(path, lens, len(poses)),
        normalised=False,
    )


def read_vipe(path: Path, told: Told) -> FileCameras:
    """ViPE: pose.npz (inds, data [F, 4, 4] c2w) and intrinsics.npz (inds, data [F, 4]) beside it.

    Also its folders pose/NAME.npz and intrinsics/NAME.npz.
    """
    path = path / POSES_NPZ if path.is_dir() else path
    arrays = read_arrays(path)
    poses, order = _indexed(path, arrays)
    lens_file = path.with_name(LENS_NPZ)
    if not lens_file.is_file():
        lens_file = path.parent.parent / "intrinsics" / path.name
    lens = None
    if lens_file.is_file():
        values, lens_order = _indexed(lens_file, read_arrays(lens_file))
        if values.ndim != 2 or values.shape[1] < 4:
            raise ValueError(
                f"{lens_file}: data: found shape {values.shape}, expected [{len(order)}, 4]"
            )
        if not np.array_equal(lens_order, order):
            raise ValueError(
                f"{lens_file}: inds: found {len(lens_order)} frames, expected the {len(order)} of "
                f"{path.name}"
            )
        lens = as_intrinsics(lens_file, values[:, :4], len(order), "data")
    return FileCameras(
        as_matrices(path, poses, "data"),
        "c2w",
        "opencv",
        "m",
        "of ViPE's poses",
        intrinsics=lens,
        normalised=False,
    )


def _indexed(path: Path, arrays: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """`data` in the order of `inds`, which are 0 to F - 1."""
    if not {"inds", "data"} <= arrays.keys():
        raise ValueError(f"{path}: found arrays {sorted(arrays)}, expected 'inds' and 'data'")
    inds, data = arrays["inds"], as_floats(path, arrays["data"], "data")
    if inds.shape != data.shape[:1] or sorted(inds.tolist()) != list(range(len(inds))):
        raise ValueError(
            f"{path}: inds: found {inds.tolist()[:5]} ... for {len(data)} frames, expected 0 to "
            f"{len(data) - 1}, each once"
        )
    return data[np.argsort(inds)], np.sort(inds)


def write_vipe(path: Path, record: CameraRecord) -> None:
    """Writes pose.npz, and intrinsics.npz in pixels beside it."""
    inds, files = np.arange(len(record)), {}
    if record.intrinsics is not None:
        lens = pixels(path, record).astype(np.float32)
        files[path.with_name(LENS_NPZ)] = npz(inds=inds, data=lens)
    write_together({**files, path: npz(inds=inds, data=record.cam2world)})


def read_lyra(path: Path, told: Told) -> FileCameras:
    """Lyra: w2c [F, 4, 4], intrinsics [F, 3, 3] in pixels, image_height, image_width."""
    arrays = read_arrays(path)
    for name in ("w2c", "intrinsics"):
        if name not in arrays:
            raise ValueError(f"{path}: found arrays {sorted(arrays)}, expected {name!r}")
    poses = as_matrices(path, arrays["w2c"], "w2c")
    size = None
    if {"image_height", "image_width"} <= arrays.keys():
        sides = [arrays[name].reshape(-1).tolist() for name in ("image_height", "image_width")]
        height, width = (side[0] if len(side) == 1 else side for side in sides)
        size = as_size(path, height, width)
    lens = as_intrinsics(path, arrays["intrinsics"], len(poses))
    return FileCameras(
        poses, "w2c", "opencv", "", "of Lyra's w2c", intrinsics=lens, normalised=False, size=size
    )


def write_lyra(path: Path, record: CameraRecord) -> None:
    if record.size is None:
        raise ValueError(f"{path}: Lyra needs the pictures' size; give it")
    content = npz(
        w2c=in_convention(record.cam2world, "w2c", "opencv"),
        intrinsics=_square(pixels(path, record)),
        image_height=np.array(record.size[0]),
        image_width=np.array(record.size[1]),
    )
    write_atomically(path, content)


def read_spatialvid(path: Path, told: Told) -> FileCameras:
    """SpatialVID: poses.npy [F, 7] tx ty tz qx qy qz qw, w2c; intrinsics.npy as fractions."""
    path = path / POSES_NPY if path.is_dir() else path
    rows = _one(path, "poses", (None, 7))
    lens = beside(path, LENS_NPY, lambda file: _one(file, "intrinsics", (len(rows), 4)))
    return FileCameras(
        matrices_of_quaternions(path, rows[:, 3:], rows[:, :3]),
        "w2c",
        "opencv",
        "",
        "of SpatialVID's poses",
        intrinsics=lens,
        normalised=True,
    )


def write_spatialvid(path: Path, record: CameraRecord) -> None:
    """Writes poses.npy, and intrinsics.npy beside it."""
    poses = in_convention(record.cam2world, "w2c", "opencv")
    rows = [poses[:, :3, 3], Rotation.from_matrix(poses[:, :3, :3]).as_quat()]
    files = {}
    if record.intrinsics is not None:
        files[path.with_name(LENS_NPY)] = npy(fractions(path, record))
    write_together({**files, path: npy(np.concatenate(rows, axis=1))})


def read_lingbot(path: Path, told: Told) -> FileCameras:
    """LingBot: poses.npy [F, 4, 4] c2w, intrinsics.npy [F, 4] in pixels."""
    path = path / POSES_NPY if path.is_dir() else path
    poses = as_matrices(path, _one(path, "poses", (None, 4, 4)), "frame")
    lens = beside(
        path, LENS_NPY, lambda file: as_intrinsics(file, read_arrays(file)[""], len(poses))
    )
    return FileCameras(
        poses, "c2w", "opencv", "", "of LingBot's poses", intrinsics=lens, normalised=False
    )


def write_lingbot(path: Path, record: CameraRecord) -> None:
    files = {}
    if record.intrinsics is not None:
        files[path.with_name(LENS_NPY)] = npy(pixels(path, record))
    write_together({**files, path: npy(record.cam2world)})


def read_llff(path: Path, told: Told) -> FileCameras:
    """LLFF poses_bounds.npy: 17 per image, 3x5 [c2w | height width focal] and near, far."""
    rows = _one(path, "poses_bounds", (None, 17))
    found = rows[:, :15].reshape(-1, 3, 5)
    height, width, focal = found[:, 0, 4], found[:, 1, 4], found[:, 2, 4]
    sides = enumerate(zip(height.tolist(), width.tolist(), strict=True))
    sizes = [as_size(path, h, w, f"[{i}]: height, width") for i, (h, w) in sides]
    lens = np.stack([focal, focal, width / 2, height / 2], axis=1)
    return FileCameras(
        as_matrices(path, found[:, :, :4], "frame") if len(rows) else np.zeros((0, 4, 4)),
        "c2w",
        "llff",
        "",
        "of LLFF's poses_bounds",
        notes=("depth bounds: not kept",),
        **several_sizes(lens, sizes),
    )


def write_llff(path: Path, record: CameraRecord) -> None:
    """Writes poses_bounds.npy; the bounds of depth, which cameras do not know, are 0 and infinity.

    Raises:
      ValueError: without the pictures' size, or for a lens that LLFF cannot hold: it has one focal
        length, and the centre in the middle.
    """
    if record.size is None:
        raise ValueError(f"{path}: LLFF needs the pictures' size; give it")
    height, width = record.size
    lens = pixels(path, record)
    expected = np.stack([lens[:, 0]] * 2 + [lens[:, 0] * 0 + side / 2 for side in (width, height)])
    scale = np.stack([lens[:, 0]] * 2 + [lens[:, 0] * 0 + side for side in (width, height)])
    odd = (np.abs(lens.T - expected) > _ROUNDING * scale).any(0)
    if odd.any():
        frame = int(np.argmax(odd))
        shown = ", ".join(f"{number:.6g}" for number in lens[frame])
        raise ValueError(
            f"{path}: frame[{frame}]: found fx, fy, cx, cy = {shown}, expected fx = fy and cx, cy "
            f"= {width / 2:g}, {height / 2:g}: LLFF has one focal length and a centred lens"
        )
    poses = in_convention(record.cam2world, "c2w", "llff")[:, :3]
    hwf = np.stack([np.full(len(lens), height), np.full(len(lens), width), lens[:, 0]], axis=1)
    rows = np.concatenate([poses, hwf[:, :, None]], axis=2).reshape(-1, 15)
    bounds = np.tile([0.0, np.inf], (len(rows), 1))
    write_atomically(path, npy(np.concatenate([rows, bounds], axis=1)))
