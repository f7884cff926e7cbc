"""WorldScore: a folder for each of its items, before and after a model has generated it.

    .../ID/camera_data.json     # focal_length of 512x512 pictures, cameras, cameras_interp
    .../ID/frames/000.png ...   # generated, one for each of cameras_interp
    .../ID/input_image.png      # what the item starts from, at the first of its cameras
    .../ID/image_data.json      # prompt_list

Camera to world, OpenGL axes; the scale is arbitrary. An item without frames is a scene of a single
picture: no clip can be cut from it, but a world can start there.
"""

from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.sources.footage.cameras import make_scene, read_cameras, take
from data_pipelines.sources.footage.files import below, licence, walk, within
from data_pipelines.sources.footage.picture_files import PictureFiles, list_pictures
from data_pipelines.sources.footage.scene import ReadOptions, Scene
from mirage_jax.io.camera_files.parsing import read_json

LAYOUT = "folders of WorldScore with camera_data.json and frames/ or input_image.png"

_CAMERAS, _PICTURE = "camera_data.json", "input_image.png"


def scenes(root: Path) -> tuple[str, ...]:
    """Items by their place below `root`."""
    if not root.is_dir():
        return ()
    return tuple(
        below(root, folder)
        for folder in walk(root)
        if (folder / _CAMERAS).is_file() and _pictures(folder)
    )


def open_scene(root: Path, name: str, options: ReadOptions) -> Scene:
    """One item; ValueError naming the file for what is missing or cannot be read."""
    folder = within(root, name)
    path, files = folder / _CAMERAS, _pictures(folder)
    pictures = PictureFiles(files, options.ground)
    record = read_cameras(path, options, pictures.size, "worldscore")
    if files == [folder / _PICTURE]:
        record = take(record, np.array([0]))
    elif len(record) != len(files):
        raise ValueError(
            f"{path}: found {len(record)} cameras, expected {len(files)}, one for each picture of "
            f"{files[0].parent}"
        )
    return make_scene(
        name,
        record,
        path,
        pictures,
        np.arange(len(files)) / options.fps,
        options,
        caption=_prompts(folder / "image_data.json"),
        licence=licence(None, folder, root),
    )


def _pictures(folder: Path) -> list[Path]:
    """The frames of an item, or the one picture that it starts from."""
    frames = list_pictures(folder / "frames") if (folder / "frames").is_dir() else []
    start = folder / _PICTURE
    return frames or ([start] if start.is_file() else [])


def _prompts(path: Path) -> str | None:
    """What the item's scenes show, each prompt once."""
    if not path.is_file():
        return None
    content: Any = read_json(path)
    texts = content.get("prompt_list", []) if isinstance(content, dict) else None
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"{path}: prompt_list: found {texts!r}, expected a list of texts")
    return " ".join(dict.fromkeys(filter(None, map(str.strip, texts)))) or None
