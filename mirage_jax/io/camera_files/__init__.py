"""Camera files of other tools, read into and written from one record.

    record = read("poses.txt")               # the format is recognised, what was seen is in .notes
    lost = write("sparse", record, "colmap")

Every format has conventions of its own; `FORMATS` lists them. What a file leaves open (plain
matrices say neither their direction nor their axes) is refused unless it is told. Needs numpy and
scipy alone.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import os
from collections.abc import Callable
from pathlib import Path

from mirage_jax.io.camera_files import (
    array_files,
    colmap,
    json_files,
    matrices,
    text_files,
    transforms_json,
)
from mirage_jax.io.camera_files.conventions import AXES as AXES
from mirage_jax.io.camera_files.conventions import DIRECTIONS as DIRECTIONS
from mirage_jax.io.camera_files.conventions import UNITS as UNITS
from mirage_jax.io.camera_files.conventions import FileCameras, Told, to_record
from mirage_jax.io.camera_files.conventions import forward_share as forward_share
from mirage_jax.io.camera_files.detect import detect as detect
from mirage_jax.io.camera_files.record import CameraRecord as CameraRecord
from mirage_jax.io.camera_files.record import checked


@dataclasses.dataclass(frozen=True)
class Format:
    """One kind of camera file.

    Attributes:
      title: whose it is.
      layout: what is in it.
      direction: "c2w", "w2c", or "named" where names of arrays say it.
      axes: one of `AXES`, or "told".
      intrinsics: "pixels", "fractions" or "none".
      units: "m", "cm" or "any" scale.
      read: from a path.
      write: to a path; None for formats that are only read.
      keeps: fields of the record that are written with the poses.
      beside: name of the file beside it that intrinsics are written to; "" for none.
    """

    title: str
    layout: str
    direction: str
    axes: str
    intrinsics: str
    units: str
    read: Callable[[Path, Told], FileCameras]
    write: Callable[[Path, CameraRecord], None] | None = None
    keeps: tuple[str, ...] = ()
    beside: str = ""


_LENS = ("intrinsics",)
_LENS_SIZE = ("intrinsics", "size")
_J, _A, _T = json_files, array_files, text_files

FORMATS: dict[str, Format] = {
    "re10k": Format(
        "RealEstate10K, CameraCtrl",
        "text: address, then `microseconds fx fy cx cy 0 0` and a 3x4 matrix per line",
        "w2c", "opencv", "fractions", "any",
        _T.read_re10k, _T.write_re10k, ("intrinsics", "timestamps"),
    ),
    "tum": Format(
        "TUM RGB-D, ORB-SLAM, evo",
        "text: `seconds tx ty tz qx qy qz qw` per line",
        "c2w", "opencv", "none", "m",
        _T.read_tum, _T.write_tum, ("timestamps",),
    ),
    "kitti": Format(
        "KITTI odometry",
        "text: a 3x4 matrix per line",
        "c2w", "opencv", "none", "m",
        _T.read_kitti, _T.write_kitti,
    ),
    "colmap": Format(
        "COLMAP",
        "folder: cameras and images, .bin or .txt; written as .txt",
        "w2c", "opencv", "pixels", "any",
        colmap.read_colmap, colmap.write_colmap, (*_LENS_SIZE, "names", "distortion"),
    ),
    "colmap_bin": Format(
        "COLMAP",
        "the same, written as .bin",
        "w2c", "opencv", "pixels", "any",
        colmap.read_colmap,
        functools.partial(colmap.write_colmap, binary=True),
        (*_LENS_SIZE, "names", "distortion"),
    ),
    "transforms": Format(
        "instant-ngp, nerfstudio, Blender",
        "transforms.json: frames with transform_matrix; fl_x or camera_angle_x, k1, ...",
        "c2w", "opengl", "pixels", "any",
        transforms_json.read_transforms,
        transforms_json.write_transforms,
        (*_LENS_SIZE, "names", "timestamps", "distortion"),
    ),
    "record3d": Format(
        "Record3D (ARKit)",
        "metadata.json: poses `qx qy qz qw x y z`, K, w, h, fps",
        "c2w", "opengl", "pixels", "m",
        _J.read_record3d,
    ),
    "splatting": Format(
        "Gaussian splatting",
        "cameras.json: list with position, rotation, fx, fy, width, height",
        "c2w", "opencv", "pixels", "any",
        _J.read_splatting,
    ),
    "geometry": Format(
        "Mirage",
        "geometry.npz: poses_c2w, intrinsics, depths, fps; written without depths",
        "c2w", "opencv", "pixels", "m",
        _A.read_geometry_cameras, _A.write_geometry_cameras, _LENS_SIZE,
    ),
    "alayaworld": Format(
        "AlayaWorld",
        ".pt: cam_c2w, intrinsics",
        "c2w", "opencv", "pixels", "any",
        _A.read_alayaworld,
    ),
    "vipe": Format(
        "ViPE",
        "pose.npz (inds, data) and intrinsics.npz beside it",
        "c2w", "opencv", "pixels", "m",
        _A.read_vipe, _A.write_vipe, _LENS, _A.LENS_NPZ,
    ),
    "lyra": Format(
        "Lyra",
        ".npz: w2c, intrinsics, image_height, image_width",
        "w2c", "opencv", "pixels", "any",
        _A.read_lyra, _A.write_lyra, _LENS_SIZE,
    ),
    "spatialvid": Format(
        "SpatialVID",
        "poses.npy `tx ty tz qx qy qz qw` and intrinsics.npy beside it",
        "w2c", "opencv", "fractions", "any",
        _A.read_spatialvid, _A.write_spatialvid, _LENS, _A.LENS_NPY,
    ),
    "lingbot": Format(
        "LingBot-World",
        "poses.npy [F, 4, 4] and intrinsics.npy beside it; never recognised, must be told",
        "c2w", "opencv", "pixels", "any",
        _A.read_lingbot, _A.write_lingbot, _LENS, _A.LENS_NPY,
    ),
    "llff": Format(
        "LLFF",
        "poses_bounds.npy: 17 numbers per image; bounds are written as 0 and infinity",
        "c2w", "llff", "pixels", "any",
        _A.read_llff, _A.write_llff, _LENS_SIZE,
    ),
    "spatia": Format(
        "Spatia",
        "w2c.txt: a JSON matrix per line; intrinsics.txt beside it",
        "w2c", "opencv", "fractions", "m",
        _T.read_spatia, _T.write_spatia, _LENS, _T.SPATIA_INTRINSICS,
    ),
    "hy_worldplay": Format(
        "HY-WorldPlay",
        'JSON: {"0": {"extrinsic", "K"}, ...}, K of 1920x1080',
        "c2w", "opencv", "pixels", "any",
        _J.read_hy_worldplay, _J.write_hy_worldplay, _LENS,
    ),
    "worldscore": Format(
        "WorldScore",
        "camera_data.json: cameras, cameras_interp, focal_length of 512x512",
        "c2w", "opengl", "pixels", "any",
        _J.read_worldscore, _J.write_worldscore,
    ),
    "motionctrl": Format(
        "MotionCtrl",
        "JSON: list of the 12 numbers of 3x4 matrices; never recognised, must be told",
        "w2c", "opencv", "none", "any",
        _J.read_motionctrl, _J.write_motionctrl,
    ),
    "recammaster": Format(
        "ReCamMaster",
        'JSON: {"frame0": {"cam01": "four rows in brackets"}, ...}, row vectors',
        "c2w", "unreal", "none", "cm",
        _J.read_recammaster, _J.write_recammaster,
    ),
    "hm_world": Format(
        "HM-World, HyDRA",
        'camera.json: {"0": "four rows in brackets", ...}, or cond_cam and tgt_cam',
        "c2w", "unreal", "none", "cm",
        _J.read_hm_world, _J.write_hm_world,
    ),
    "matrices": Format(
        "plain matrices, 7-Scenes, ScanNet, ARKit",
        "4x4 or 3x4 as .json, .npy, .npz, .csv, .txt, .pt (only read), or a folder of .txt",
        "named", "told", "pixels", "any",
        matrices.read_matrices,
        matrices.write_matrices,
        ("intrinsics", "size", "timestamps", "names"),
    ),
}  # fmt: skip
"""Every format by name."""


def format_named(name: str) -> Format:
    """A format; ValueError for an unknown name, with the nearest known one."""
    if name not in FORMATS:
        near = difflib.get_close_matches(name, FORMATS, n=1, cutoff=0.4)
        hint = f" (did you mean {near[0]!r}?)" if near else ""
        raise ValueError(f"format: found {name!r}{hint}, expected one of {', '.join(FORMATS)}")
    return FORMATS[name]


def read(
    path: str | os.PathLike[str],
    format: str | None = None,
    *,
    direction: str | None = None,
    axes: str | None = None,
    units: str | None = None,
    size: tuple[int, int] | None = None,
    camera: str | None = None,
    bare: tuple[str, str] | None = None,
) -> CameraRecord:
    """Reads the cameras of a file or folder.

    Args:
      path: the file or folder.
      format: one of `FORMATS`; None to recognise it.
      direction: "c2w" or "w2c", for files that do not say it or say it wrongly.
      axes: one of `AXES`, likewise.
      units: "m", "cm" or "mm", of the translations, likewise.
      size: (H, W) of the pictures, for files that do not say it.
      camera: which path of a file with several.
      bare: direction and axes of matrices for which nothing says them; None refuses those.

    Returns:
      The record; its notes say what was seen and done.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: naming the file and the line, frame or field: what was found and what was
        expected; also for direction or axes that nothing tells.
    """
    path = Path(path)
    told = Told(direction, axes, units, size, camera, bare)
    name, why = (format, "as told") if format else detect(path)
    why = why if format else f"recognised by {why}"
    reader = format_named(name).read
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder of cameras")
    return to_record(path, name, why, reader(path, told), told)


_BY_SUFFIX = {
    ".txt": "tum",
    ".csv": "matrices",
    ".json": "matrices",
    ".npy": "matrices",
    ".npz": "matrices",
}


def format_of_name(path: str | os.PathLike[str]) -> str:
    """The format that is written to a path where none is named; ValueError for other suffixes."""
    path = Path(path)
    if path.name.lower() == transforms_json.NAME:
        return "transforms"
    if path.suffix.lower() not in _BY_SUFFIX:
        raise ValueError(
            f"{path}: found suffix {path.suffix!r}, expected {', '.join(_BY_SUFFIX)}, or a format"
        )
    return _BY_SUFFIX[path.suffix.lower()]


def write(
    path: str | os.PathLike[str], record: CameraRecord, format: str | None = None
) -> tuple[str, ...]:
    """Writes cameras to a file or folder, whose own folder must exist.

    Args:
      path: where to; a folder for COLMAP.
      record: the cameras.
      format: one of `FORMATS`; None for that of the path's name: TUM for .txt, matrices for others.

    Returns:
      Names of the record's fields that are known and that the format cannot hold.

    Raises:
      ValueError: naming the path, for an unknown format, one that is only read, or what it needs
        and the record lacks.
    """
    path = Path(path)
    name = format or format_of_name(path)
    kind = format_named(name)
    if kind.write is None:
        raise ValueError(f"{path}: {name} is only read, expected another format to write")
    record = checked(record)
    kind.write(path, record)
    fields = ("intrinsics", "size", "timestamps", "names", "distortion")
    keeps = kind.keeps
    if name == "matrices" and path.suffix.lower() not in (".npz", ".json"):
        keeps = ()
    if name == "geometry" and array_files.rate_of(record):
        keeps = (*keeps, "timestamps")
    return tuple(f for f in fields if f not in keeps and getattr(record, f) is not None)
