"""RealEstate10K and ACID as pixelSplat packs them: chunks of torch.save.

    train/index.json    # {scene: "000000.torch"}
    train/000000.torch  # list of {key, url, timestamps [N], cameras [N, 18], images: N JPEG files}

A camera is fx fy cx cy as fractions of width and height, 0 0, and a 3x4 matrix, world to camera,
OpenCV axes; the scale of the world is arbitrary. Chunks are read without torch, and nothing in them
is run (`mirage_jax.io.torch_files`).
"""

import functools
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.sources.footage.cameras import make_scene, with_lens
from data_pipelines.sources.footage.files import below, licence, walk, within
from data_pipelines.sources.footage.scene import ReadOptions, Scene
from mirage_jax.io import torch_files
from mirage_jax.io.camera_files.conventions import from_convention
from mirage_jax.io.camera_files.parsing import read_json
from mirage_jax.io.camera_files.record import CameraRecord, checked
from mirage_jax.io.image_files import read_rgb
from mirage_jax.io.torch_files import Tensor

LAYOUT = "folders of NNNNNN.torch chunks with index.json"

_INDEX = "index.json"
_MICROSECONDS = 1e-6


def scenes(root: Path) -> tuple[str, ...]:
    """Scenes of all indices, by the folder of the index below `root`."""
    if not root.is_dir():
        return ()
    return tuple(
        f"{below(root, folder)}/{key}"
        for folder in walk(root)
        if (folder / _INDEX).is_file() and any(folder.glob("*.torch"))
        for key in sorted(_index(folder / _INDEX))
    )


@functools.lru_cache(maxsize=8)
def _index(path: Path) -> Mapping[str, str]:
    content = read_json(path)
    good = isinstance(content, dict) and all(
        isinstance(file, str) and Path(file).name == file for file in content.values()
    )
    if not good:
        raise ValueError(f"{path}: found no object of scenes and files, expected it")
    return content


def open_scene(root: Path, name: str, options: ReadOptions) -> Scene:
    """One scene; ValueError naming the chunk for what is missing or cannot be read."""
    place, _, key = name.rpartition("/")
    folder = within(root, place)
    index = _index(folder / _INDEX)
    path = folder / index[key]
    entry = _chunk(path).get(key)
    if entry is None:
        raise ValueError(f"{path}: found no scene {key}, expected it as {_INDEX} says")
    where = f"{path}: scene {key}"
    cameras, stamps, images = (_part(entry, part, where) for part in _PARTS)
    rows, stamps = cameras.read().astype(np.float64), stamps.read()
    if rows.shape != (len(images), 18) or stamps.shape != (len(images),):
        raise ValueError(
            f"{where}: found cameras {list(rows.shape)} and timestamps {list(stamps.shape)}, "
            f"expected 18 numbers and one time for each of {len(images)} images"
        )
    matrices = np.tile(np.eye(4), (len(rows), 1, 1))
    matrices[:, :3] = rows[:, 6:].reshape(-1, 3, 4)
    poses = from_convention(matrices, "w2c", "opencv", 1.0)
    pictures = _Images(images, where)
    height, width = pictures.size
    record = CameraRecord(
        cam2world=poses,
        intrinsics=rows[:, :4] * [width, height, width, height],
        size=pictures.size,
        metric=False,
        format="pixelsplat",
    )
    address = entry.get("url")
    return make_scene(
        name,
        with_lens(checked(record, where), options, pictures.size, Path(where)),
        path,
        pictures,
        (stamps - stamps[0]) * _MICROSECONDS,
        options,
        licence=licence(None, folder, root),
        provenance={"url": address} if isinstance(address, str) and address else {},
    )


_PARTS = {"cameras": Tensor, "timestamps": Tensor, "images": list}


def _part(entry: Mapping[str, Any], part: str, where: str) -> Any:
    value = entry.get(part)
    if not isinstance(value, _PARTS[part]) or (part == "images" and not value):
        raise ValueError(f"{where}: {part}: found {type(value).__name__}, expected numbers")
    return value


@functools.lru_cache(maxsize=2)
def _chunk(path: Path) -> Mapping[str, Mapping[str, Any]]:
    content = torch_files.load(path)
    if not isinstance(content, list) or not all(
        isinstance(e, dict) and "key" in e for e in content
    ):
        raise ValueError(f"{path}: found no list of scenes with a key, expected one")
    return {str(entry["key"]): entry for entry in content}


class _Images:
    """Reads encoded pictures of a scene by number."""

    def __init__(self, images: Sequence[Any], where: str):
        self._images, self._where = images, where
        first = next(self([0]))
        self.size: tuple[int, int] = (first.shape[0], first.shape[1])

    def __call__(self, frames: Sequence[int]) -> Iterator[np.ndarray]:
        for frame in frames:
            image = self._images[frame]
            where = f"{self._where}: image {frame}"
            if not isinstance(image, Tensor):
                raise ValueError(f"{where}: found {type(image).__name__}, expected a tensor")
            picture = read_rgb(Path(where), data=image.read().tobytes())
            if picture.shape[:2] != getattr(self, "size", picture.shape[:2]):
                raise ValueError(f"{where}: found {picture.shape[:2]}, expected {self.size}")
            yield picture
