"""Footage in every layout that is read, with all its tables, maps and captions, for `fuzzing`."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from data_pipelines.clip import validate
from data_pipelines.sources.footage import source
from helpers import made_footage, made_hm_world
from helpers.footage_reading import forget
from helpers.format_entry import Format

_SIZE = 16


@functools.cache
def _room() -> Any:
    return made_footage.room(10, _SIZE)


LAYOUTS: dict[str, tuple[str, Callable[..., None]]] = {
    "7-Scenes": ("seven_scenes", made_footage.seven_scenes),
    "TUM RGB-D": ("tum_rgbd", made_footage.tum_rgbd),
    "RealEstate10K": ("re10k", made_footage.re10k),
    "pixelSplat": ("pixelsplat", made_footage.pixelsplat),
    "SpatialVID": ("spatialvid", made_footage.spatialvid),
    "HM-World": ("hm_world", made_hm_world.hm_world),
    "ViPE": ("vipe", made_footage.vipe),
    "Mirage's samples": ("vipe", made_footage.mirage_sample),
    "WorldScore": ("worldscore", made_footage.worldscore),
    "videos": ("video", made_footage.video),
    "transforms.json": ("pictures", made_footage.transforms),
}
"""Name: the reader, and what writes a sample of its layout into a folder."""

_READERS = {
    "7-Scenes": ("files.read_numbers", "files.read_text", "picture_files.read_depth_png"),
    "pixelSplat": ("torch_files.load",),
}


def _footage_format(name: str) -> Format:
    format, write = LAYOUTS[name]

    def make(folder: Path) -> Path:
        write(folder, _room())
        return folder

    def read(folder: Path) -> Any:
        forget()
        lens = tuple(map(float, _room().intrinsics[0])) if format in ("video", "hm_world") else ()
        options = {"frames": 2, "size": 8, "eval_share": 0.0, "lens": lens}
        footage = source.FootageSource(root=str(folder), format=format, **options)
        return [footage.clip(scene, 0) for scene in footage.worlds("train")]

    def accept(found: Any, original: Any) -> None:
        for one in found:
            validate(one)
            assert one.video.shape == (2, 8, 8, 3) and one.video.dtype == np.uint8
            assert one.depth is None or not np.isnan(one.depth).any()

    return Format(f"footage of {name}", make, read, accept, _READERS.get(name, ()))


FOOTAGE_FORMATS = tuple(_footage_format(name) for name in LAYOUTS)
