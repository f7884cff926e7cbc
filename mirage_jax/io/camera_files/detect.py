"""Which format a camera file is of, by its name and content."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np

from mirage_jax.io.camera_files import array_files, colmap, matrices, transforms_json
from mirage_jax.io.camera_files.json_files import HM_PARTS
from mirage_jax.io.camera_files.parsing import (
    TORCH_SUFFIXES,
    lines_of,
    read_arrays,
    read_json,
    read_text,
)

_PICKLES = (".pkl", ".pickle")
_ARRAYS = (".npy", ".npz", *TORCH_SUFFIXES)
_SUFFIXES = (".txt", ".csv", ".json", ".bin", *_ARRAYS)


def detect(path: Path) -> tuple[str, str]:
    """(name of the format, what it was recognised by).

    Raises:
      ValueError: naming the file, for one of no known format, or of several.
      FileNotFoundError: if there is no such file or folder.
    """
    if not path.exists():
        raise FileNotFoundError(f"{path}: no such file or folder of cameras")
    if path.is_dir():
        return _folder(path)
    suffix = path.suffix.lower()
    if suffix in _PICKLES:
        raise ValueError(
            f"{path}: found {suffix}, a pickle, of which those of torch.save alone are read (.pt, "
            ".pth); expected its arrays as .npz"
        )
    if suffix not in _SUFFIXES:
        raise ValueError(f"{path}: found suffix {path.suffix!r}, expected {', '.join(_SUFFIXES)}")
    if suffix == ".bin":
        if path.name.lower() in ("images.bin", "cameras.bin"):
            return "colmap", "its name"
        raise ValueError(f"{path}: found {path.name}, expected COLMAP's images.bin or cameras.bin")
    if suffix == ".json":
        return _json(path, read_json(path))
    if suffix in _ARRAYS:
        return _arrays(path, read_arrays(path))
    return _text(path)


def _folder(path: Path) -> tuple[str, str]:
    found = {}
    if colmap.model_folder(path) is not None:
        found["colmap"] = "cameras and images in it"
    if (path / transforms_json.NAME).is_file():
        found["transforms"] = transforms_json.NAME
    if (path / array_files.POSES_NPZ).is_file():
        found["vipe"] = array_files.POSES_NPZ
    if (path / array_files.POSES_NPY).is_file():
        name, why = _arrays(path / array_files.POSES_NPY, read_arrays(path / array_files.POSES_NPY))
        found[name] = f"{array_files.POSES_NPY} with {why}"
    if not found and matrices.folder_files(path):
        found["matrices"] = "text files of one matrix each"
    if len(found) > 1:
        raise ValueError(
            f"{path}: found cameras of several formats ({', '.join(sorted(found))}), expected "
            "--from_format=one of them"
        )
    if not found:
        raise ValueError(
            f"{path}: found no cameras in the folder, expected COLMAP's, transforms.json, poses.npy"
            ", pose.npz or text files of one matrix each"
        )
    return next(iter(found.items()))


def _text(path: Path) -> tuple[str, str]:
    if path.name.lower() in ("images.txt", "cameras.txt") and colmap.model_folder(path):
        return "colmap", "its name"
    lines = [line for _, line in lines_of(read_text(path))]
    if not lines:
        raise ValueError(f"{path}: found no lines, expected cameras")
    if lines[0].startswith("[["):
        return "spatia", "lines of JSON matrices"
    later = lines[1] if len(lines) > 1 else lines[0]
    columns = len(re.split(r"[\s,;]+", later.strip(",;")))
    separated = path.suffix.lower() == ".csv" or "," in later
    if columns == 19:
        return "re10k", "19 numbers per line"
    if columns == 8 and separated:
        raise ValueError(
            f"{path}: found 8 columns separated by commas, whose quaternions are w x y z in some "
            "files and x y z w in others; expected --from_format=tum for t tx ty tz qx qy qz qw"
        )
    if columns == 8:
        return "tum", "8 numbers per line"
    if columns == 12 and not separated:
        return "kitti", "12 numbers per line"
    if columns in (4, 12, 16):
        return "matrices", f"{columns} numbers per line"
    raise ValueError(
        f"{path}: found {columns} columns, expected 8 (TUM), 12 (KITTI), 16 or 4x4 (matrices) or "
        "19 (RealEstate10K)"
    )


def _json(path: Path, content: Any) -> tuple[str, str]:
    if isinstance(content, list):
        if content and isinstance(content[0], dict) and "position" in content[0]:
            return "splatting", "a list with position and rotation"
        return "matrices", "a list"
    if not isinstance(content, dict):
        raise ValueError(f"{path}: found a {type(content).__name__}, expected cameras")
    keys = content.keys()
    first = next(iter(content.values()), None)
    numbered = bool(keys) and all(re.fullmatch(r"\d+", key) for key in keys)
    if "frames" in keys:
        return "transforms", "frames"
    if "cameras_interp" in keys:
        return "worldscore", "cameras_interp"
    if keys & set(HM_PARTS) or (numbered and isinstance(first, str)):
        return "hm_world", "frames as Unreal's texts, or cond_cam and tgt_cam"
    if any(re.fullmatch(r"frame\d+", key) for key in keys):
        return "recammaster", "frame0, frame1, ..."
    if numbered and isinstance(first, dict) and "extrinsic" in first:
        return "hy_worldplay", "numbered extrinsic and K"
    if {"poses", "K"} <= keys:
        return "record3d", "poses and K"
    return "matrices", "names of its lists"


def _arrays(path: Path, arrays: dict[str, np.ndarray]) -> tuple[str, str]:
    keys = arrays.keys()
    beside = sorted(keys & array_files.GEOMETRY_PARTS)
    if {"poses_c2w", "intrinsics"} <= keys and beside:
        return "geometry", f"poses_c2w and {beside[0]}"
    if array_files.ALAYA_POSES in keys and "" not in keys:
        return "alayaworld", array_files.ALAYA_POSES
    if {"inds", "data"} <= keys:
        return "vipe", "inds and data"
    if {"w2c", "intrinsics", "image_height"} <= keys:
        return "lyra", "w2c and image_height"
    shape = arrays[""].shape if "" in keys else ()
    if len(shape) == 2 and shape[1] == 17:
        return "llff", "17 numbers per image"
    if len(shape) == 2 and shape[1] == 7:
        if (path.with_name(array_files.LENS_NPY)).is_file():
            return "spatialvid", "7 numbers per frame, and intrinsics.npy beside it"
        raise ValueError(
            f"{path}: found 7 numbers per frame and no intrinsics.npy beside it, which may be "
            "translations and quaternions of any order; expected --from_format=spatialvid if so"
        )
    return "matrices", "its arrays"
