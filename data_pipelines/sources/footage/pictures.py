"""Folders of pictures with a camera file: COLMAP, transforms.json, and poses by number or name.

    transforms.json                     # names its pictures
    sparse/0/ (sparse/, 0/)             # COLMAP, .bin or .txt, names its pictures
    cameras.*, poses.*, trajectory.txt, w2c.txt, pose.npz, poses_bounds.npy, camera.json
                                        # one camera for each picture, in the order of their names
    images/ (rgb/, frames/, color/)     # or the pictures beside the camera file
    depth/, masks/, caption.txt, licence.txt   # optional, as for videos

Pictures are turned by their EXIF orientation, transparent ones laid over a grey ground, 16-bit
greys scaled to 8. Lens distortion is undone as they are read. What a camera names and the folder
lacks is refused, or its frame left out and counted where `missing` is "skip"; frames then follow
one another as if nothing were missing. COLMAP and transforms.json have a scale of their own.
"""

from pathlib import Path

import numpy as np

from data_pipelines.sources.footage import maps
from data_pipelines.sources.footage.cameras import make_scene, read_cameras, take
from data_pipelines.sources.footage.files import below, walk, within
from data_pipelines.sources.footage.picture_files import PictureFiles, list_pictures
from data_pipelines.sources.footage.scene import ReadOptions, Scene
from mirage_jax.io.camera_files.colmap import model_folder

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
        if _camera_file(folder) is not None and _pictures(folder)
    )


def _camera_file(folder: Path) -> Path | None:
    model = model_folder(folder)
    if model is not None and model != folder:
        return model
    found = next((folder / name for name in _NAMES if (folder / name).is_file()), None)
    return model if found is None else found


def _pictures(folder: Path) -> list[Path]:
    for name in _FOLDERS:
        if (folder / name).is_dir():
            found = list_pictures(folder / name)
            if found:
                return found
    return []


def open_scene(root: Path, name: str, options: ReadOptions) -> Scene:
    """One folder; ValueError naming the file for what is missing or cannot be read."""
    folder = within(root, name)
    path = _camera_file(folder)
    assert path is not None  # or it were no scene
    there = _pictures(folder)
    first = PictureFiles(there[:1], options.ground)
    record = read_cameras(path, options, first.size)
    left_out: dict[str, int] = {}
    files = there
    if record.names is not None:
        known: dict[str, Path] = {}
        for file in there:
            known.setdefault(file.name, file)
            known.setdefault(file.stem, file)
        found = [_named(folder, there[0].parent, known, picture) for picture in record.names]
        missing = [picture for picture, file in zip(record.names, found, strict=True) if not file]
        if missing and (options.missing == "refuse" or len(missing) == len(found)):
            raise ValueError(
                f"{path}: found no picture {missing[0]}, expected all {len(found)} that it names "
                f"({len(missing)} are missing; --config.data.missing=skip leaves them out)"
            )
        chosen = np.array([i for i, file in enumerate(found) if file])
        files = [file for file in found if file]
        record = take(record, chosen)
        unnamed = len(set(there) - set(files))
        left_out = {"picture missing": len(missing), "picture without a camera": unnamed}
    elif len(record) != len(there):
        raise ValueError(
            f"{path}: found {len(record)} cameras, expected {len(there)}, one for each picture of "
            f"{there[0].parent}"
        )
    times = np.arange(len(files)) / options.fps
    if record.timestamps is not None:
        times = record.timestamps - record.timestamps[0]
    return make_scene(
        name,
        record,
        path,
        PictureFiles(files, options.ground),
        times,
        depth=maps.depth_folder(folder / "depth", len(files), options.depth_metres),
        movers=maps.mask_folder(folder / "masks", len(files)),
        left_out=left_out,
        caption=maps.caption(folder / "caption.txt"),
        licence=maps.caption(folder / "licence.txt"),
    )


def _named(folder: Path, pictures: Path, known: dict[str, Path], name: str) -> Path | None:
    """The picture that a camera file names: from its folder or that of the pictures, or `known`."""
    for place in (folder / name, pictures / name):
        for path in (place, place.with_name(place.name + ".png")):  # Blender leaves .png away
            if path.is_file():
                return path
    return known.get(Path(name.replace("\\", "/")).name)
