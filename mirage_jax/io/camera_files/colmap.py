"""COLMAP's sparse models, cameras and images as text or binary; points are neither read nor kept.

Layout as published in COLMAP's documentation ("Output format"): qvec (w x y z) and tvec of an image
map the world to the camera; OpenCV axes, pixel centres at +0.5.
"""

from __future__ import annotations

import dataclasses
import struct
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from mirage_jax.io.atomic import write_together
from mirage_jax.io.camera_files.conventions import FileCameras, Told, in_convention
from mirage_jax.io.camera_files.parsing import (
    frame_order,
    lines_of,
    matrices_of_quaternions,
    read_text,
)
from mirage_jax.io.camera_files.record import CameraRecord

_F, _FXY = ("f", "cx", "cy"), ("fx", "fy", "cx", "cy")
_K4 = ("k1", "k2", "k3", "k4")
_RAD_TAN = ("k0", *_K4, "k5", "p0", "p1", "s0", "s1", "s2", "s3")
# Number, name and parameters of COLMAP's camera models that have a focal length.
_MODELS = (
    (0, "SIMPLE_PINHOLE", _F),
    (1, "PINHOLE", _FXY),
    (2, "SIMPLE_RADIAL", (*_F, "k1")),
    (3, "RADIAL", (*_F, "k1", "k2")),
    (4, "OPENCV", (*_FXY, "k1", "k2", "p1", "p2")),
    (5, "OPENCV_FISHEYE", (*_FXY, *_K4)),
    (6, "FULL_OPENCV", (*_FXY, "k1", "k2", "p1", "p2", "k3", "k4", "k5", "k6")),
    (7, "FOV", (*_FXY, "omega")),
    (8, "SIMPLE_RADIAL_FISHEYE", (*_F, "k1")),
    (9, "RADIAL_FISHEYE", (*_F, "k1", "k2")),
    (10, "THIN_PRISM_FISHEYE", (*_FXY, "k1", "k2", "p1", "p2", "k3", "k4", "sx1", "sy1")),
    (11, "RAD_TAN_THIN_PRISM_FISHEYE", (*_FXY, *_RAD_TAN)),
    (12, "SIMPLE_DIVISION", (*_F, "k")),
    (13, "DIVISION", (*_FXY, "k")),
    (14, "SIMPLE_FISHEYE", _F),
    (15, "FISHEYE", _FXY),
    (16, "EUCM", (*_FXY, "alpha", "beta")),
)
PARAMETERS = {name: parameters for _, name, parameters in _MODELS}
_NUMBERS = {name: number for number, name, _ in _MODELS}
_NAMES = {number: name for number, name, _ in _MODELS}
_PINHOLES = ("SIMPLE_PINHOLE", "PINHOLE")
_FOCAL = {"f", "fx", "fy", "cx", "cy"}


@dataclasses.dataclass(frozen=True)
class _Camera:
    model: str
    size: tuple[int, int]
    values: dict[str, float]

    @property
    def intrinsics(self) -> tuple[float, ...]:
        v = self.values
        return v.get("fx", v.get("f", 0.0)), v.get("fy", v.get("f", 0.0)), v["cx"], v["cy"]

    @property
    def distortion(self) -> dict[str, float]:
        return {name: value for name, value in self.values.items() if name not in _FOCAL}


_Image = tuple[str, int, list[float], list[float]]  # name, camera, qvec, tvec


def model_folder(path: Path) -> Path | None:
    """The folder of a model: that of the path, or sparse/0, sparse or 0 in it; None without one."""
    start = path if path.is_dir() else path.parent
    for folder in (start, start / "sparse" / "0", start / "sparse", start / "0"):
        if _suffix(folder):
            return folder
    return None


def _suffix(folder: Path) -> str:
    for suffix in (".bin", ".txt"):
        if all((folder / f"{name}{suffix}").is_file() for name in ("cameras", "images")):
            return suffix
    return ""


def read_colmap(path: Path, told: Told) -> FileCameras:
    """A model's images, sorted by name."""
    folder = model_folder(path)
    if folder is None:
        raise ValueError(f"{path}: found no cameras and images (.bin or .txt), expected both")
    suffix = path.suffix.lower() if path.is_file() else _suffix(folder)
    cameras_file, images_file = folder / f"cameras{suffix}", folder / f"images{suffix}"
    for file in (cameras_file, images_file):
        if not file.is_file():
            raise FileNotFoundError(f"{file}: no such file; expected it beside {path.name}")
    binary = suffix == ".bin"
    cameras = (_binary_cameras if binary else _text_cameras)(cameras_file)
    images = (_binary_images if binary else _text_images)(images_file)
    for name, camera, *_ in images:
        if camera not in cameras:
            raise ValueError(
                f"{images_file}: {name}: found camera {camera}, expected one of {cameras_file.name}"
                f": {', '.join(map(str, sorted(cameras)))}"
            )
    order, notes = frame_order([name for name, *_ in images])
    images = [images[i] for i in order]
    used = [cameras[camera] for _, camera, *_ in images]
    quaternions = np.array([q for *_, q, _ in images], np.float64).reshape(-1, 4)
    matrices = matrices_of_quaternions(
        images_file,
        quaternions[:, [1, 2, 3, 0]],
        np.array([t for *_, t in images], np.float64).reshape(-1, 3),
    )
    lens = np.array([camera.intrinsics for camera in used], np.float64).reshape(-1, 4)
    return FileCameras(
        matrices,
        "w2c",
        "opencv",
        "",
        "of COLMAP's images",
        names=tuple(name for name, *_ in images),
        notes=notes,
        **several_sizes(lens, [camera.size for camera in used]),
        **_lens_of(used),
    )


def several_sizes(lens: np.ndarray, sizes: list[tuple[int, int]]) -> dict:
    """Pixels if all pictures are of one size, otherwise fractions."""
    if len(set(sizes)) == 1:
        return {"intrinsics": lens, "normalised": False, "size": sizes[0]}
    scale = np.array([[w, h, w, h] for h, w in sizes], np.float64).reshape(-1, 4)
    return {"intrinsics": lens / scale, "normalised": True, "size": None}


def _lens_of(used: list[_Camera]) -> dict:
    models = sorted({camera.model for camera in used})
    if set(models) <= set(_PINHOLES):
        return {}
    return {"lens": " and ".join(models), "distortion": tuple(c.distortion for c in used)}


def _camera(file: Path, number: int, model: str, width: int, height: int, values: list) -> _Camera:
    names = PARAMETERS[model]
    if len(values) != len(names) or width < 1 or height < 1:
        raise ValueError(
            f"{file}: camera {number}: found {len(values)} parameters for {width}x{height}, "
            f"expected {len(names)} of {model}: {' '.join(names)}"
        )
    return _Camera(model, (height, width), dict(zip(names, map(float, values), strict=True)))


def _text_cameras(file: Path) -> dict[int, _Camera]:
    cameras = {}
    for i, line in lines_of(read_text(file)):
        words = line.split()
        try:
            number, width, height = int(words[0]), int(words[2]), int(words[3])
            model, values = words[1], [float(word) for word in words[4:]]
        except (IndexError, ValueError) as error:
            raise ValueError(
                f"{file}: line {i}: found {line[:40]!r}, expected CAMERA_ID MODEL WIDTH HEIGHT "
                "PARAMS"
            ) from error
        if model not in PARAMETERS:
            raise ValueError(
                f"{file}: line {i}: found model {model!r}, expected one of {', '.join(PARAMETERS)}"
            )
        cameras[number] = _camera(file, number, model, width, height, values)
    return cameras


def _text_images(file: Path) -> list[_Image]:
    images: list[_Image] = []
    # The line after an image's lists its points and may be empty.
    lines = [line.strip() for line in read_text(file).splitlines()]
    numbered = [(i, line) for i, line in enumerate(lines, 1) if not line.startswith("#")]
    while numbered and not numbered[0][1]:
        numbered = numbered[1:]
    for i, line in numbered[::2]:
        words = line.split(maxsplit=9)
        if not words:
            continue
        try:
            values = [float(word) for word in words[1:8]]
            images.append((words[9], int(words[8]), values[:4], values[4:]))
        except (IndexError, ValueError) as error:
            raise ValueError(
                f"{file}: line {i}: found {line[:40]!r}, expected IMAGE_ID QW QX QY QZ TX TY TZ "
                "CAMERA_ID NAME"
            ) from error
    return images


class _Bytes:
    """A binary file, read from its start; ValueError where it ends too early."""

    def __init__(self, file: Path):
        self.file, self.data, self.at = file, file.read_bytes(), 0

    def take(self, layout: str, what: str) -> tuple:
        size = struct.calcsize(layout)
        self.need(size, what)
        values = struct.unpack_from(layout, self.data, self.at)
        self.at += size
        return values

    def need(self, size: int, what: str) -> None:
        left = len(self.data) - self.at
        if left < size:
            raise ValueError(
                f"{self.file}: truncated: found {left} bytes, expected {size} of {what}"
            )

    def name(self, what: str) -> str:
        end = self.data.find(b"\0", self.at)
        if end < 0:
            raise ValueError(f"{self.file}: truncated: found no end of the name of {what}")
        text, self.at = self.data[self.at : end], end + 1
        try:
            return text.decode()
        except UnicodeDecodeError as error:
            raise ValueError(
                f"{self.file}: {what}: found a name that is not UTF-8, expected text"
            ) from error


def _binary_cameras(file: Path) -> dict[int, _Camera]:
    data, cameras = _Bytes(file), {}
    for i in range(data.take("<Q", "the number of cameras")[0]):
        number, model, width, height = data.take("<iiQQ", f"camera {i}")
        if model not in _NAMES:
            raise ValueError(
                f"{file}: camera {i}: found model {model}, expected one of 0 to {max(_NAMES)}"
            )
        name = _NAMES[model]
        values = data.take(f"<{len(PARAMETERS[name])}d", f"camera {i}")
        cameras[number] = _camera(file, number, name, width, height, list(values))
    return cameras


def _binary_images(file: Path) -> list[_Image]:
    data, images = _Bytes(file), []
    for i in range(data.take("<Q", "the number of images")[0]):
        values = data.take("<i7di", f"image {i}")
        name = data.name(f"image {i}")
        points = data.take("<Q", f"image {i}")[0] * 24
        data.need(points, f"image {i}'s points")
        data.at += points
        images.append((name, values[8], list(values[1:5]), list(values[5:8])))
    return images


WRITTEN_BY = "# written by mirage_jax"
"""The first line of text files that this program wrote."""


def write_colmap(
    path: Path,
    record: CameraRecord,
    *,
    binary: bool = False,
    points: tuple[np.ndarray, np.ndarray] | None = None,
) -> None:
    """Writes a folder with cameras, images and points, one camera for all or one per frame.

    Args:
      path: the folder; made if needed.
      record: the cameras.
      binary: whether to write the binary files, which have no points.
      points: positions [N, 3] and uint8 colours [N, 3], of text files; None for no points.

    Raises:
      ValueError: without intrinsics in pixels of a known size, or with a lens COLMAP has not.
    """
    if record.intrinsics is None or record.size is None:
        raise ValueError(f"{path}: COLMAP needs intrinsics and the pictures' size; give both")
    if path.exists() and not path.is_dir():
        raise ValueError(f"{path}: found a file, expected a folder for cameras, images and points")
    other = path / f"images{'.txt' if binary else '.bin'}"
    if other.exists():
        raise ValueError(f"{path}: found {other.name}, a model of the other kind, expected none")
    cameras, which = _cameras_to_write(path, record, record.pixel_intrinsics(record.size))
    poses = in_convention(record.cam2world, "w2c", "opencv")
    qvec = Rotation.from_matrix(poses[:, :3, :3]).as_quat()[:, [3, 0, 1, 2]]
    names = record.names or tuple(f"frame_{i:05d}.png" for i in range(len(record)))
    images = list(zip(qvec.tolist(), poses[:, :3, 3].tolist(), which, names, strict=True))
    if binary:
        contents = _binary_model(cameras, images, record.size)
    else:
        contents = _text_model(cameras, images, record.size, points)
    path.mkdir(parents=True, exist_ok=True)
    # Without its images there is no model: they take their name last.
    order = ("points3D", "cameras", "images")
    write_together(
        {path / f"{name}{'.bin' if binary else '.txt'}": contents[name] for name in order}
    )


_Cameras = list[tuple[str, tuple[float, ...]]]
_Images = list[tuple[list[float], list[float], int, str]]


def _binary_model(cameras: _Cameras, images: _Images, size: tuple[int, int]) -> dict[str, bytes]:
    height, width = size
    lenses = struct.pack("<Q", len(cameras))
    for i, (model, values) in enumerate(cameras, 1):
        lenses += struct.pack("<iiQQ", i, _NUMBERS[model], width, height)
        lenses += struct.pack(f"<{len(values)}d", *values)
    views = struct.pack("<Q", len(images))
    for i, (quaternion, place, camera, name) in enumerate(images, 1):
        views += struct.pack("<i7di", i, *quaternion, *place, camera + 1)
        views += name.encode() + b"\0" + struct.pack("<Q", 0)
    return {"cameras": lenses, "images": views, "points3D": struct.pack("<Q", 0)}


def _text_model(
    cameras: _Cameras,
    images: _Images,
    size: tuple[int, int],
    points: tuple[np.ndarray, np.ndarray] | None,
) -> dict[str, bytes]:
    height, width = size
    lenses = [WRITTEN_BY, "# CAMERA_ID, MODEL, WIDTH, HEIGHT, PARAMS[]"]
    for i, (model, values) in enumerate(cameras, 1):
        lenses.append(f"{i} {model} {width} {height} " + " ".join(f"{v:.17g}" for v in values))
    columns = "IMAGE_ID, QW, QX, QY, QZ, TX, TY, TZ, CAMERA_ID, NAME"
    views = [WRITTEN_BY, f"# {columns}, then POINTS2D[]"]
    for i, (quaternion, place, camera, name) in enumerate(images, 1):
        row = " ".join(f"{value:.17g}" for value in (*quaternion, *place))
        views += [f"{i} {row} {camera + 1} {name}", ""]
    seen = [WRITTEN_BY, "# POINT3D_ID, X, Y, Z, R, G, B, ERROR, then TRACK[]"]
    places, colours = points if points is not None else (np.zeros((0, 3)), np.zeros((0, 3)))
    for i, (place, colour) in enumerate(zip(places.tolist(), colours.tolist(), strict=True), 1):
        row = " ".join(f"{value:.9g}" for value in place)
        seen.append(f"{i} {row} {' '.join(map(str, colour))} 0")
    texts = {"cameras": lenses, "images": views, "points3D": seen}
    return {name: ("\n".join(lines) + "\n").encode() for name, lines in texts.items()}


def _cameras_to_write(
    path: Path, record: CameraRecord, lens: np.ndarray
) -> tuple[list[tuple[str, tuple[float, ...]]], list[int]]:
    """Distinct (model, parameters), and which of them each frame has."""
    cameras: dict[tuple[str, tuple[float, ...]], int] = {}
    which = []
    for i, k in enumerate(lens):
        coefficients = dict(record.distortion[i]) if record.distortion else {}
        square = bool(abs(k[0] - k[1]) < 1e-9 * k[0])
        model = _model_for(path, record.lens, coefficients, square)
        values = dict(zip(_FXY, map(float, k), strict=True), f=float(k[0])) | coefficients
        camera = (model, tuple(values.get(name, 0.0) for name in PARAMETERS[model]))
        which.append(cameras.setdefault(camera, len(cameras)))
    return list(cameras), which


def _model_for(path: Path, lens: str, coefficients: dict[str, float], square: bool) -> str:
    """The model that has a lens' coefficients; only those with one focal length need square."""
    if lens == "pinhole":
        return "PINHOLE"
    named = [name for name in lens.split(" and ") if name in PARAMETERS]
    exact = [n for n in named if set(PARAMETERS[n]) - _FOCAL == coefficients.keys()]
    with_two = {"RADIAL": "OPENCV", "RADIAL_FISHEYE": "OPENCV_FISHEYE", "FISHEYE": "FISHEYE"}
    general = [with_two.get(n.removeprefix("SIMPLE_"), n) for n in named]
    for name in (*exact, *named, *general):
        parameters = PARAMETERS[name]
        if coefficients.keys() <= set(parameters) and (square or "f" not in parameters):
            return name
    raise ValueError(
        f"{path}: found a lens {lens!r} with {', '.join(coefficients) or 'no coefficients'}, "
        "expected one that COLMAP has"
    )
