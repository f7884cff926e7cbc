"""Layouts of footage by name, and which of them a folder has.

A format is a module here with `LAYOUT`, one line for people; `scenes(root)`, the names of the
scenes; and `open_scene(root, name, options)`, which gives a `Scene` without reading pictures. Both
raise ValueError, naming the file.
"""

import importlib
from pathlib import Path

_HERE = "data_pipelines.sources.footage."

# In the order in which they are looked for: a folder that has the marks of several is of the first.
FORMATS = {name: _HERE + name for name in ("seven_scenes",)}


def detect(root: Path) -> str:
    """The format of a folder or file; ValueError, naming it and all formats, where none is."""
    if not root.exists():
        raise ValueError(f"{root}: no such file or folder, expected footage")
    for name, module in FORMATS.items():
        if importlib.import_module(module).scenes(root):
            return name
    known = "; ".join(f"{n}: {importlib.import_module(m).LAYOUT}" for n, m in FORMATS.items())
    raise ValueError(f"{root}: found no footage of a known layout, expected one of {known}")
