"""The container of world files: safetensors, with a checksum for every byte of the file.

The library checks that tensors lie one behind the other and fill the file. What it lets pass is
found here: names that occur twice, and any byte that is not as it was written. The header cannot
hold a checksum of itself, so that one is the content of a tensor.
"""

from __future__ import annotations

import json
import os
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from mirage_jax.io.strict_json import parse_object
from mirage_jax.io.tensor_dtypes import NUMPY_DTYPES
from mirage_jax.weights import save_tensors

METADATA = "world"
"""The one key of the metadata: safetensors writes several in no fixed order."""
HEADER_CHECKSUM = "checksum/header"
"""A uint32: crc32 of all bytes before the first tensor's."""

_LONGEST_HEADER = 100_000_000  # bytes; the limit of safetensors itself
_LONGEST_AXIS = 2**31 - 1
_LENGTH = struct.Struct("<Q")
_DTYPES = NUMPY_DTYPES | {
    name: np.dtype(kind)
    for name, kind in {
        "BF16": jnp.bfloat16,
        "F8_E4M3": jnp.float8_e4m3fn,
        "F8_E5M2": jnp.float8_e5m2,
    }.items()
}


class Container:
    """An opened file: its metadata, and its tensors on demand.

    Attributes:
      path: the file.
      metadata: names and texts.
      names: of all tensors but the header's checksum, in order of their place in the file.
    """

    def __init__(self, path: Path) -> None:
        """Reads and checks the header.

        Raises:
          ValueError: naming the file, if it is missing, damaged or another kind of file.
        """
        self.path = path
        try:
            self._header = _read_header(path)
            table = parse_object(self._header[_LENGTH.size :])
            with safe_open(path, "numpy"):  # checks places, shapes and lengths
                pass
        except (OSError, ValueError, SafetensorError) as error:
            raise ValueError(f"{path}: not a saved world ({error})") from error
        self.metadata: dict[str, str] = table.pop("__metadata__", None) or {}
        self._table = dict(sorted(table.items(), key=lambda item: item[1]["data_offsets"]))
        self.names = [name for name in self._table if name != HEADER_CHECKSUM]

    def read(self, name: str) -> np.ndarray:
        """A tensor; ValueError naming file and tensor, if numpy has none of its kind."""
        entry = self._table[name]
        if entry["dtype"] not in _DTYPES or max(entry["shape"], default=0) > _LONGEST_AXIS:
            raise ValueError(
                f"{self.path}: tensor {name!r}: found {entry['dtype']} {entry['shape']}, expected "
                f"one of {', '.join(_DTYPES)}, and lengths of at most {_LONGEST_AXIS}"
            )
        start, end = entry["data_offsets"]
        kind = _DTYPES[entry["dtype"]]
        with self.path.open("rb") as file:
            file.seek(len(self._header) + start)
            return np.fromfile(file, kind, (end - start) // kind.itemsize).reshape(entry["shape"])

    def check_header(self) -> None:
        """ValueError naming the file, if the header is not as it was written."""
        entry = self._table.get(HEADER_CHECKSUM, {})
        if entry.get("dtype") != "U32" or entry["shape"] != []:
            raise ValueError(f"{self.path}: tensor {HEADER_CHECKSUM!r}: expected a uint32 ()")
        found, expected = zlib.crc32(self._header), int(self.read(HEADER_CHECKSUM))
        if found != expected:
            raise ValueError(
                f"{self.path}: header is damaged: found checksum {found:08x}, expected "
                f"{expected:08x}"
            )


def write(partial: Path, tensors: Mapping[str, np.ndarray], text: str, path: Path) -> None:
    """Writes a container that is to be renamed to `path` once it is complete.

    Raises:
      OSError: naming `path`, if writing fails, e.g. on a full disk.
    """
    sealed = {**tensors, HEADER_CHECKSUM: np.zeros((), np.uint32)}
    save_tensors(partial, sealed, {METADATA: text}, path)
    try:
        header = _read_header(partial)
        place = json.loads(header[_LENGTH.size :])[HEADER_CHECKSUM]["data_offsets"][0]
        with partial.open("r+b") as file:
            file.seek(len(header) + place)
            file.write(struct.pack("<I", zlib.crc32(header)))
    except OSError as error:
        raise OSError(f"{path}: could not be written: {error.strerror or error}") from error


def checksum(tensor: np.ndarray) -> str:
    """crc32 of a tensor's bytes as they lie in the file, in eight hexadecimal digits."""
    return f"{zlib.crc32(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data):08x}"


def _read_header(path: Path) -> bytes:
    """Length and JSON of the header as they lie in the file."""
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        start = file.read(_LENGTH.size)
        if len(start) < _LENGTH.size:
            raise ValueError(f"found {size} bytes, expected at least {_LENGTH.size}")
        (length,) = _LENGTH.unpack(start)
        longest = min(size - _LENGTH.size, _LONGEST_HEADER)
        if length > longest:
            raise ValueError(f"found a header of {length} bytes, expected at most {longest}")
        return start + file.read(length)
