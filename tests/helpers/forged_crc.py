"""Bytes that have the CRC-32 one wants, so that a changed file is not refused for its sum."""

import zlib

_BLANKS = (0x20, 0x09)
_COUNT = 48


def with_crc(data: bytes, wanted: int) -> bytes:
    """`data`, followed by blanks and tabs so that its CRC-32 is `wanted`; JSON stays the same.

    CRC-32 is linear over GF(2) up to a constant: which blanks become tabs solves 32 equations.
    """
    blanks = bytes(_BLANKS[:1] * _COUNT)
    base = zlib.crc32(data + blanks)
    columns = []
    for place in range(_COUNT):
        tail = bytearray(blanks)
        tail[place] = _BLANKS[1]
        columns.append((zlib.crc32(data + bytes(tail)) ^ base, 1 << place))
    chosen, rest = 0, base ^ wanted
    for bit in range(32):
        pivot = next((c for c in columns if c[0] >> bit & 1), None)
        if pivot is None:
            continue
        columns = [
            (value ^ pivot[0], which ^ pivot[1]) if value >> bit & 1 else (value, which)
            for value, which in columns
            if (value, which) != pivot
        ]
        if rest >> bit & 1:
            rest, chosen = rest ^ pivot[0], chosen ^ pivot[1]
    tail = bytes(_BLANKS[chosen >> place & 1] for place in range(_COUNT))
    assert zlib.crc32(data + tail) == wanted
    return data + tail
