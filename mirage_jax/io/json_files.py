"""Numbers that a command has found, as a file of JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mirage_jax.io.atomic import write_atomically


def write_json(path: str | os.PathLike[str], content: Mapping[str, Any]) -> Path:
    """Writes named values that `strict_json.read_object` reads; returns the path.

    The file's folder is made if needed, and an older file is replaced whole.

    Args:
      path: the file.
      content: as for `plain`.

    Raises:
      OSError: naming `path`, if it cannot be written.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_atomically(path, json.dumps(plain(content), indent=1, allow_nan=False) + "\n")
    return path


def plain(value: Any) -> Any:
    """Numpy scalars and arrays as Python numbers, names as text; NaN and infinity as None."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, np.ndarray):
        return plain(value.tolist())
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
