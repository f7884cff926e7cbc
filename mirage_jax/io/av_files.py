"""Opening videos with PyAV, whatever their texts are written in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import av

# Texts in a file are not asked for, and may be of any character set. PyAV 19 takes that as it is.
_ANY_TEXT: dict[str, Any] = (
    {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
)


def open_video(path: str | os.PathLike) -> Any:
    """PyAV's container of a file that is to be read; raises `av.FFmpegError`."""
    return av.open(str(Path(path).absolute()), **_ANY_TEXT)
