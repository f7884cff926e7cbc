"""Opening videos with PyAV, whatever their texts are written in."""

from __future__ import annotations

import os
from io import BytesIO
from typing import Any

import av

# Texts in a file are not asked for, and may be of any character set. PyAV 19 takes that as it is.
_ANY_TEXT: dict[str, Any] = (
    {"metadata_errors": "replace"} if int(av.__version__.split(".")[0]) < 19 else {}
)


def open_video(file: str | os.PathLike | BytesIO) -> Any:
    """PyAV's container of a file, or of its bytes, to be read; raises `av.FFmpegError`."""
    if isinstance(file, str | os.PathLike):
        file = os.path.abspath(file)  # which is no address of another protocol, whatever the name
    return av.open(file, **_ANY_TEXT)
