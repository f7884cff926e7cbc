"""One channel of an OpenEXR picture, by the published file layout (openexr.com, File Layout).

Scan lines of 16- or 32-bit floats, stored plainly or by ZIP, ZIPS or RLE: what depth maps come in.
"""

import struct
import zlib

import numpy as np
from jaxtyping import Float

_MAGIC = 20000630
_TYPES: dict[int, np.dtype] = {
    0: np.dtype("<u4"),
    1: np.dtype("<f2"),
    2: np.dtype("<f4"),
}
_ROWS = {0: 1, 1: 1, 2: 1, 3: 16}  # of a block, by compression: none, RLE, ZIPS, ZIP
_TILED_OR_MORE = 0x200 | 0x800 | 0x1000  # tiles, deep data, several parts


def read_channel(data: bytes, channel: str) -> Float[np.ndarray, "H W"]:
    """A channel as float32.

    Args:
      data: of the file.
      channel: its name, e.g. "Z"; a file of a single channel may call it anything.

    Raises:
      ValueError: what is not such a file, lacks the channel, or ends early.
    """
    try:
        return _read(data, channel)
    except (struct.error, IndexError, zlib.error, UnicodeDecodeError) as error:
        raise ValueError(f"truncated or damaged EXR ({error}), expected a whole one") from error


def _read(data: bytes, channel: str) -> np.ndarray:
    magic, version = struct.unpack_from("<II", data)
    if magic != _MAGIC:
        raise ValueError(f"found number {magic} at its start, expected {_MAGIC} of EXR")
    if version & _TILED_OR_MORE:
        raise ValueError(f"found EXR with flags {version:#x}, expected single-part scan lines")
    fields, at = _header(data)
    (kind,) = fields["compression"]
    if kind not in _ROWS:
        raise ValueError(f"found EXR compression {kind}, expected none, RLE, ZIPS or ZIP")
    left, top, right, bottom = struct.unpack("<iiii", fields["dataWindow"])
    width, height = right - left + 1, bottom - top + 1
    channels = _channels(fields["channels"])
    if channel not in channels and len(channels) != 1:
        raise ValueError(f"found channels {', '.join(channels)}, expected {channel!r}")
    row_bytes = sum(dtype.itemsize * width for dtype in channels.values())
    wanted = channel if channel in channels else next(iter(channels))
    before = 0
    for name, dtype in channels.items():
        if name == wanted:
            break
        before += dtype.itemsize * width
    dtype = channels[wanted]
    if dtype.kind != "f":
        raise ValueError(f"found channel {wanted} of whole numbers, expected floats")
    picture = np.empty((height, width), np.float32)
    blocks = -(-height // _ROWS[kind])
    for (place,) in struct.iter_unpack("<Q", data[at : at + 8 * blocks]):
        first, size = struct.unpack_from("<ii", data, place)
        rows = min(_ROWS[kind], bottom + 1 - first)
        packed = data[place + 8 : place + 8 + size]
        raw = packed if len(packed) == rows * row_bytes else _unpack(packed, kind)
        if len(raw) != rows * row_bytes:
            raise ValueError(f"found {len(raw)} bytes of row {first}, expected {rows * row_bytes}")
        lines = np.frombuffer(raw, np.uint8).reshape(rows, row_bytes)
        part = np.ascontiguousarray(lines[:, before : before + dtype.itemsize * width])
        picture[first - top : first - top + rows] = part.view(dtype)
    return picture


def _header(data: bytes) -> tuple[dict[str, bytes], int]:
    fields, at = {}, 8
    while data[at]:
        name, at = _text(data, at)
        _, at = _text(data, at)
        (size,) = struct.unpack_from("<i", data, at)
        fields[name] = data[at + 4 : at + 4 + size]
        at += 4 + size
    for name in ("compression", "dataWindow", "channels"):
        if name not in fields:
            raise ValueError(f"found an EXR header without {name}, expected it")
    return fields, at + 1


def _text(data: bytes, at: int) -> tuple[str, int]:
    end = data.find(b"\0", at)
    if end < 0:
        raise IndexError("no end of a name")
    return data[at:end].decode(), end + 1


def _channels(data: bytes) -> dict[str, np.dtype]:
    found: dict[str, np.dtype] = {}
    at = 0
    while data[at]:
        name, at = _text(data, at)
        kind, _, across, down = struct.unpack_from("<iIii", data, at)
        if kind not in _TYPES or (across, down) != (1, 1):
            raise ValueError(f"found channel {name} of type {kind}, expected floats of each pixel")
        found[name] = _TYPES[kind]
        at += 16
    return found


def _unpack(packed: bytes, kind: int) -> bytes:
    raw = np.frombuffer(_run_lengths(packed) if kind == 1 else zlib.decompress(packed), np.uint8)
    # Every byte was stored as the difference to the last one, even places first, then odd ones.
    steps = raw.astype(np.int64)
    steps[1:] -= 128
    bytes_ = np.cumsum(steps).astype(np.uint8)
    half = (len(bytes_) + 1) // 2
    joined = np.empty_like(bytes_)
    joined[0::2], joined[1::2] = bytes_[:half], bytes_[half:]
    return joined.tobytes()


def _run_lengths(packed: bytes) -> bytes:
    out, at = bytearray(), 0
    while at < len(packed):
        (count,) = struct.unpack_from("<b", packed, at)
        if count < 0:
            out += packed[at + 1 : at + 1 - count]
            at += 1 - count
        else:
            out += packed[at + 1 : at + 2] * (count + 1)
            at += 2
    return bytes(out)
