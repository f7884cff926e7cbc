"""The header of a safetensors file, put in a fixed order: the library writes metadata in any."""

from __future__ import annotations

import json
import os
from pathlib import Path

_LENGTH = 8
"""Bytes of the number of the header's bytes, before it."""


def sort_metadata(file: Path) -> None:
    """Orders the metadata of a file by name, so that the same tensors make the same bytes.

    Raises:
      OSError: if the file cannot be read or written.
    """
    with file.open("r+b") as stream:
        length = int.from_bytes(stream.read(_LENGTH), "little")
        text = stream.read(min(length, os.fstat(stream.fileno()).st_size))
        header = json.loads(text)
        if "__metadata__" not in header:
            return
        metadata = dict(sorted(header.pop("__metadata__").items()))
        ordered = {"__metadata__": metadata, **header}
        again = json.dumps(ordered, separators=(",", ":"), ensure_ascii=False).encode()
        if len(again) > length:
            raise OSError(f"{file}: a header of {length} bytes does not hold its own order")
        stream.seek(_LENGTH)
        stream.write(again.ljust(length))
