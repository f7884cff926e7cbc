"""Contact sheets that commands write beside their numbers: PNG files that say who made them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from mirage_jax.io.atomic import replacing
from mirage_jax.io.outputs import FileKind
from mirage_jax.io.pictures import contact_sheet
from mirage_jax.io.workdir import Workdir

_MAKER = "mirage_jax"

SHEET = FileKind("contact sheet", lambda path: _MAKER.encode() in path.read_bytes()[:200])
"""What `write_sheet` writes, and may replace."""


def write_sheet(path: Path, sheet: UInt8[np.ndarray, "H W 3"]) -> None:
    """Writes a sheet as PNG; OSError, naming the file, if that cannot be."""
    made_by = PngInfo()
    made_by.add_text("Software", _MAKER)
    with replacing(path) as partial:
        Image.fromarray(sheet).save(partial, format="PNG", pnginfo=made_by)


def sheets_of_returns(
    returns: Sequence[dict[str, Any]], workdir: Workdir, name: str
) -> dict[str, tuple[UInt8[np.ndarray, "H W 3"], str]]:
    """Sheets of the returns of a world for a report, also written as returns_<world>_<n>.png.

    Args:
      returns: each with "title", "panels" and "history", its number of given frames.
      workdir: where to.
      name: of the world.
    """
    sheets = {}
    for number, video in enumerate(returns, 1):
        sheet = contact_sheet(video["panels"])
        write_sheet(workdir.root / f"returns_{name}_{number}.png", sheet)
        caption = f"{video['title']}; frames up to {video['history'] - 1} are given."
        sheets[f"{name}: return {number}"] = (sheet, caption)
    return sheets
