"""Contact sheets that commands write beside their numbers: PNG files that say who made them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mirage_jax.io.atomic import replacing
from mirage_jax.io.outputs import FileKind

_MAKER = "mirage_jax"

SHEET = FileKind("contact sheet", lambda path: _MAKER.encode() in path.read_bytes()[:200])
"""What `write_sheet` writes, and may replace."""


def write_sheet(path: Path, sheet: UInt8[np.ndarray, "H W 3"]) -> None:
    """Writes a sheet as PNG; OSError, naming the file, if that cannot be."""
    made_by = PngInfo()
    made_by.add_text("Software", _MAKER)
    with replacing(path) as partial:
        Image.fromarray(sheet).save(partial, format="PNG", pnginfo=made_by)
