"""Folders of pictures with a camera file: COLMAP, transforms.json, and poses by number or name.

    transforms.json                     # names its pictures
    sparse/0/ (sparse/, 0/)             # COLMAP, .bin or .txt, names its pictures
    cameras.*, poses.*, trajectory.txt, w2c.txt, pose.npz, poses_bounds.npy, camera.json
                                        # one camera for each picture, in the order of their names
    images/ (rgb/, frames/, color/)     # or the pictures beside the camera file
    depth/, masks/, caption.txt, licence.txt   # optional

Where cameras name their pictures, these may lie in folders of images/, each a take of its own.
Frames have the camera file's times, and a take whose clock begins again follows the last one; or
they are 1 / fps apart by their place among all pictures, those without a camera and missing ones as
well. Depth and masks go with the picture of their name, or else of the number at its end; what
transforms.json names by depth_file_path and mask_path goes first.

Pictures are turned by their EXIF orientation, unless the cameras are of the pictures as stored;
transparent ones are laid over a grey ground, 16-bit greys scaled to 8. Lens distortion is undone as
they are read. What a camera names and the folder lacks is refused, or its frame left out and
counted where `missing` is "skip". COLMAP and transforms.json have a scale of their own.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from data_pipelines.sources.footage import maps
from data_pipelines.sources.footage.cameras import make_scene, read_cameras, take
from data_pipelines.sources.footage.files import below, licence, walk, within
from data_pipelines.sources.footage.picture_files import PictureFiles, list_pictures, picture_size
from data_pipelines.sources.footage.picture_names import (
    all_pictures,
    named_files,
    paired,
    positions,
)
from data_pipelines.sources.footage.scene import Read, ReadOptions, Scene
from mirage_jax.io.camera_files import CameraRecord
from mirage_jax.io.camera_files.colmap import model_folder
from mirage_jax.io.camera_files.transforms_json import read_frame_files

LAYOUT = "folders of pictures with transforms.json, a COLMAP model or another camera file"

_NAMES = (
    "transforms.json",
    *(f"{stem}{s}" for stem in ("cameras", "poses") for s in (".txt", ".json", ".npz", ".npy")),
    *("trajectory.txt", "w2c.txt", "pose.npz", "poses_bounds.npy", "camera.json"),
)
_FOLDERS = ("images", "rgb", "frames", "color", "")


def scenes(root: Path) -> tuple[str, ...]:
    """Folders with a camera file and pictures, by their place below `root`."""
    if not root.is_dir():
        return ()
    return tuple(
        below(root, folder)
        for folder in walk(root)
        if _camera_file(folder) is not None and _pictures(folder)[1]
    )


def _camera_file(folder: Path) -> Path | None:
    model = model_folder(folder)
    if model is not None and model != folder:
        return model
    found = next((folder / name for name in _NAMES if (folder / name).is_file()), None)
    return model if found is None else found


def _pictures(folder: Path) -> tuple[Path, list[Path]]:
    """The folder of the pictures, and all of them by name; none where there are none."""
    for name in _FOLDERS:
        if (folder / name).is_dir():
            found = all_pictures(folder / name) if name else list_pictures(folder)
            if found:
                return folder / name, found
    return folder, []


def open_scene(root: Path, name: str, options: ReadOptions) -> Scene:
    """One folder; ValueError naming the file for what is missing or cannot be read."""
    folder = within(root, name)
    path = _camera_file(folder)
    assert path is not None  # or it were no scene
    base, there = _pictures(folder)
    record, turn = _cameras(path, options, there[0])
    left_out: dict[str, int] = {}
    files = there
    if record.names is not None:
        found = named_files(record.names, folder, base, there)
        missing = [picture for picture, file in zip(record.names, found, strict=True) if not file]
        if missing and (options.missing == "refuse" or len(missing) == len(found)):
            raise ValueError(
                f"{path}: found no picture {missing[0]}, expected all {len(found)} that it names "
                f"({len(missing)} are missing; --config.data.missing=skip leaves them out)"
            )
        try:
            places, takes = positions(record.names, found, base, there)
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
        chosen = np.array([i for i in np.argsort(places, kind="stable") if found[i]])
        files = [file for i in chosen if (file := found[i])]
        record, places, takes = take(record, chosen), places[chosen], takes[chosen]
        unnamed = len(set(there) - set(files))
        left_out = {"picture missing": len(missing), "picture without a camera": unnamed}
    elif len(record) != len(there):
        raise ValueError(
            f"{path}: found {len(record)} cameras, expected {len(there)}, one for each picture of "
            f"{base}"
        )
    else:
        places, takes = positions([file.name for file in there], there, base, there)
    told: dict[str, Any] = {} if turn else {"orientation": "as stored, EXIF not applied"}
    return make_scene(
        name,
        record,
        path,
        PictureFiles(files, options.ground, turn=turn),
        _times(record, places, takes, options.fps),
        options,
        takes=takes,
        depth=_depth(path, record, folder, files, base, options.depth_metres),
        movers=_movers(path, record, folder, files, base),
        left_out=left_out,
        caption=maps.caption(folder / "caption.txt"),
        licence=licence(None, folder, root),
        provenance=told,
    )


def _times(
    record: CameraRecord,
    places: Int[np.ndarray, " n"],
    takes: Int[np.ndarray, " n"],
    fps: float,
) -> Float[np.ndarray, " n"]:
    """Seconds from the first frame on; a take whose own clock begins again follows the last one."""
    if record.timestamps is None:
        return (places - places[0]) / fps
    times = record.timestamps - record.timestamps[0]
    for start in np.flatnonzero(np.diff(takes)) + 1:
        if times[start] <= times[start - 1]:
            times[start:] += times[start - 1] - times[start] + 1 / fps
    return times


def _cameras(path: Path, options: ReadOptions, first: Path) -> tuple[CameraRecord, bool]:
    """The cameras of a file, and whether they are of pictures turned by their EXIF orientation.

    Which it is shows by the size that the file gives, where turning changes that of the pictures.
    """
    upright, stored = picture_size(first), picture_size(first, turn=False)
    if options.orientation == "stored":
        return read_cameras(path, options, stored), False
    try:
        return read_cameras(path, options, upright), True
    except ValueError:
        if options.orientation == "exif" or upright == stored:
            raise
        try:
            return read_cameras(path, options, stored), False
        except ValueError:
            pass  # it is neither; what was said of the picture as it is seen is the better word
        raise


def _depth(
    path: Path,
    record: CameraRecord,
    folder: Path,
    files: Sequence[Path],
    base: Path,
    metres: float,
) -> Read | None:
    found = _listed(path, record, files, "depth_file_path")
    found = found or paired(folder / "depth", files, base, maps.DEPTH_SUFFIXES, "depth maps")
    return None if found is None else maps.depth_files(found, metres)


def _movers(
    path: Path, record: CameraRecord, folder: Path, files: Sequence[Path], base: Path
) -> Read | None:
    found = _listed(path, record, files, "mask_path")
    if found is not None:
        return maps.mask_files(found, maps.png_left_out)
    found = paired(folder / "masks", files, base, maps.MASK_SUFFIXES, "masks")
    return None if found is None else maps.mask_files(found, maps.png_mask)


def _listed(
    path: Path, record: CameraRecord, files: Sequence[Path], field: str
) -> list[Path] | None:
    """The files that transforms.json names beside its pictures; None where it names none."""
    if record.format != "transforms" or record.names is None:
        return None
    known = read_frame_files(path, field)
    if not known:
        return None
    found = []
    for frame, (name, picture) in enumerate(zip(record.names, files, strict=True)):
        file = known.get(name)
        if file is None or not file.is_file():
            raise ValueError(
                f"{path}: frame {frame}, {picture.name}: found no "
                f"{file or field}, expected one for each picture, as others have"
            )
        found.append(file)
    return found
