"""A checksum of a whole safetensors file in its own header.

safetensors itself notices what does not fit, but no changed value: a flipped bit of a weight is
another weight. The header holds "checksum": "crc32:" and eight hexadecimal digits, anywhere in its
metadata: the CRC-32 of the file's bytes with zeros for those digits.
"""

from __future__ import annotations

import os
import re
import zlib
from pathlib import Path
from typing import BinaryIO

FIELD = "checksum"
UNSEALED = "crc32:00000000"
"""What the field holds until `seal` has put the checksum there."""

_DIGITS = re.compile(rb'checksum\\*": ?\\*"crc32:([0-9a-f]{8})(?=\\*")')
_BLOCK = 4 << 20
_LONGEST_HEADER = 100_000_000  # bytes; the limit of safetensors itself


def seal(file: Path) -> None:
    """Puts the checksum into a file that was written with `{FIELD: UNSEALED}` in its metadata.

    Raises:
      ValueError: if there is no such field, or more than one.
      OSError: if the file cannot be read or written.
    """
    with file.open("r+b") as stream:
        place, _ = _place(file, stream)
        digits = f"{_sum(stream, place):08x}".encode()
        stream.seek(place)
        stream.write(digits)


def check_seal(file: Path) -> None:
    """Reads a file once and compares it with its checksum.

    Raises:
      ValueError: naming the file, if it has none or is not as it was written.
      OSError: if it cannot be read.
    """
    with file.open("rb") as stream:
        place, digits = _place(file, stream)
        found = f"{_sum(stream, place):08x}"
    if found != digits:
        raise ValueError(f"{file}: damaged, found checksum {found}, expected {digits}")


def _place(file: Path, stream: BinaryIO) -> tuple[int, str]:
    """Where in an opened file the digits of its checksum are, and what they are."""
    size = os.fstat(stream.fileno()).st_size
    start = stream.read(8)
    length = min(int.from_bytes(start, "little"), size, _LONGEST_HEADER)
    found = list(_DIGITS.finditer(start + stream.read(length)))
    if len(found) != 1:
        raise ValueError(f"{file}: found {len(found)} checksums in its header, expected one")
    return found[0].start(1), found[0][1].decode()


def _sum(stream: BinaryIO, place: int) -> int:
    stream.seek(0)
    crc = zlib.crc32(b"00000000", zlib.crc32(stream.read(place)))
    stream.seek(place + 8)
    while block := stream.read(_BLOCK):
        crc = zlib.crc32(block, crc)
    return crc
