"""Layouts of footage by name, and which of them a folder has.

A format is a module here with `LAYOUT`, one line for people; `scenes(root)`, the names of the
scenes, none for another layout; and `open_scene(root, name, options)`, which gives a `Scene`
without reading its pictures. Both raise ValueError, naming the file.
"""

import importlib
from pathlib import Path

_NAMES = (
    *("seven_scenes", "tum_rgbd", "re10k", "pixelsplat", "spatialvid", "hm_world", "vipe"),
    *("worldscore", "video", "pictures"),
)
_HERE = __name__.rpartition(".")[0]

# In the order in which they are looked for: the particular ones before those that take any file.
FORMATS = {name: f"{_HERE}.{name}" for name in _NAMES}


def detect(root: Path) -> str:
    """The format of a folder or file; ValueError, naming it and all formats, where none is."""
    if not root.exists():
        raise ValueError(f"{root}: no such file or folder, expected footage")
    for name, module in FORMATS.items():
        if importlib.import_module(module).scenes(root):
            return name
    known = "; ".join(f"{n}: {importlib.import_module(m).LAYOUT}" for n, m in FORMATS.items())
    raise ValueError(f"{root}: found no footage of a known layout, expected one of {known}")
