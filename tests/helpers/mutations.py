"""Damage to the bytes of a file: chance, and what somebody might write on purpose.

`damaged` makes one change, drawn from a `random.Random`: bits, blocks, lengths, numbers, the JSON
of a file or of a safetensors header, members of a zip archive. It knows no format of this package.
"""

from __future__ import annotations

import io
import json
import random
import struct
import zipfile
from collections.abc import Callable
from typing import Any

_NUMBERS = (
    *(0, 1, -1, 2, 3, 7, 255, 256, 65536, 2**31 - 1, 2**31, 2**32, 2**53, 2**63 - 1, 2**64, 10**30),
    *(-(2**31), -(2**63), 0.5, -0.0, 1e308, -1e308, float("nan"), float("inf"), float("-inf")),
)
_TEXTS = ("", "x", "\x00", "../../etc", "F32", "I64", "float32", "ü" * 50, "9" * 400, "null", "{}")
_OTHERS: tuple[Any, ...] = (None, True, False, [], {}, [[]], {"": 0}, [0], "x", 3, -1.5)
_DEEP = 3000
_LARGEST_HEADER = 1 << 24


def damaged(data: bytes, rng: random.Random) -> bytes:
    """One change of some bytes; they may come out as they were."""
    kinds: list[Callable[[bytes, random.Random], bytes]] = [*_PLAIN]
    if data[:4] == b"PK\x03\x04":
        kinds += [_zip] * len(_PLAIN)
    elif _safetensors(data) is not None:
        kinds += [_header] * len(_PLAIN)
    elif data[:1] in b"{[" and data:
        kinds += [_json] * len(_PLAIN)
    return rng.choice(kinds)(data, rng)


def _place(data: bytes, rng: random.Random) -> int:
    """A position, more often than not in the first bytes, where formats say what they are."""
    if not data:
        return 0
    end = min(len(data), 256) if rng.random() < 0.3 else len(data)
    for _ in range(8):  # most of some files is nothing
        place = rng.randrange(end)
        if data[place]:
            break
    return place


def _block(data: bytes, rng: random.Random) -> tuple[int, int]:
    start = _place(data, rng)
    return start, min(len(data), start + 2 ** rng.randrange(13))


def _bits(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        if changed:
            changed[_place(data, rng)] ^= 1 << rng.randrange(8)
    return bytes(changed)


def _byte(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        if changed:
            changed[_place(data, rng)] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
    return bytes(changed)


def _number(data: bytes, rng: random.Random) -> bytes:
    kind = rng.choice("BHIQ")
    size = struct.calcsize(kind)
    value = rng.choice((0, 1, 2 ** (8 * size) - 1, 2 ** (8 * size - 1), 2 ** (8 * size - 1) - 1))
    packed, start = struct.pack(rng.choice("<>") + kind, value), _place(data, rng)
    return (data[:start] + packed + data[start + size :])[: len(data)]


def _shorter(data: bytes, rng: random.Random) -> bytes:
    near_end = max(0, len(data) - rng.randrange(1, 40))
    return data[: rng.choice((0, 1, rng.randrange(len(data) + 1), near_end))]


def _longer(data: bytes, rng: random.Random) -> bytes:
    count = rng.choice((1, 8, 100, 5000))
    return data + rng.choice((bytes(count), rng.randbytes(count), data[:count]))


def _zeros(data: bytes, rng: random.Random) -> bytes:
    start, end = _block(data, rng)
    return data[:start] + bytes(end - start) + data[end:]


def _noise(data: bytes, rng: random.Random) -> bytes:
    start, end = _block(data, rng)
    return data[:start] + rng.randbytes(end - start) + data[end:]


def _cut(data: bytes, rng: random.Random) -> bytes:
    start, end = _block(data, rng)
    return data[:start] + data[end:]


def _twice(data: bytes, rng: random.Random) -> bytes:
    start, end = _block(data, rng)
    return data[:end] + data[start:end] + data[end:]


def _swap(data: bytes, rng: random.Random) -> bytes:
    (a, b), (c, d) = sorted((_block(data, rng), _block(data, rng)))
    if b > c:
        return data[:a] + data[a:b][::-1] + data[b:]
    return data[:a] + data[c:d] + data[b:c] + data[a:b] + data[d:]


_PLAIN = (_bits, _byte, _number, _shorter, _longer, _zeros, _noise, _cut, _twice, _swap)


# -- JSON ----------------------------------------------------------------------------------------


def _json(data: bytes, rng: random.Random) -> bytes:
    try:
        found = json.loads(data)
    except ValueError:
        return _bits(data, rng)
    return changed_json(found, rng).encode()


def changed_json(found: Any, rng: random.Random) -> str:
    """A JSON value, as text, with one change somewhere in it, also within texts that are JSON."""
    if rng.random() < 0.03:
        return rng.choice(
            ("[" * _DEEP, "[" * _DEEP + "]" * _DEEP, '{"a":' * _DEEP + "1" + "}" * _DEEP)
        )
    text = json.dumps(_changed(found, rng))
    if rng.random() < 0.05 and text.startswith("{") and len(text) > 2:  # a name twice
        return text[:-1] + "," + text[1:]
    return text


def _changed(value: Any, rng: random.Random) -> Any:
    inner: list[Any] = list(range(len(value))) if isinstance(value, list) else []
    if isinstance(value, dict):
        inner = list(value)
    if inner and rng.random() < 0.85:
        key = rng.choice(inner)
        copy = dict(value) if isinstance(value, dict) else list(value)
        change = rng.random()
        if change < 0.08:
            del copy[key]
        elif change < 0.14 and isinstance(copy, dict):
            copy[rng.choice((*_TEXTS, *copy))] = copy.pop(key)
        elif change < 0.2:
            other = rng.choice(inner)
            copy[key], copy[other] = copy[other], copy[key]
        elif change < 0.25 and isinstance(copy, list):
            copy.insert(key, rng.choice((*_OTHERS, copy[key])))
        elif change < 0.3 and isinstance(copy, dict):
            copy[rng.choice(_TEXTS)] = rng.choice(_OTHERS)
        else:
            copy[key] = _changed(copy[key], rng)
        return copy
    if isinstance(value, str) and value[:1] in "{[" and value and rng.random() < 0.9:
        try:
            return changed_json(json.loads(value), rng)
        except ValueError:
            pass
    if rng.random() < 0.5 and isinstance(value, int | float) and not isinstance(value, bool):
        return rng.choice((*_NUMBERS, value + 1, value - 1, -value, value * 2, str(value), [value]))
    if rng.random() < 0.5 and isinstance(value, str):
        return rng.choice((*_TEXTS, value + "x", value[:-1], value.upper(), [value]))
    return rng.choice((*_OTHERS, *_NUMBERS, *_TEXTS))


# -- safetensors ---------------------------------------------------------------------------------


def _safetensors(data: bytes) -> tuple[Any, bytes] | None:
    """Header and values of a safetensors file, None for any other."""
    length = int.from_bytes(data[:8], "little")
    if not 2 <= length <= min(len(data) - 8, _LARGEST_HEADER):
        return None
    try:
        return json.loads(data[8 : 8 + length]), data[8 + length :]
    except (ValueError, RecursionError):
        return None


def joined(header: str, values: bytes) -> bytes:
    """A safetensors file of a header's text and the bytes of its tensors."""
    text = header.encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text + values


def _header(data: bytes, rng: random.Random) -> bytes:
    found = _safetensors(data)
    assert found is not None
    header, values = found
    if rng.random() < 0.3 and isinstance(header, dict):
        text = json.dumps(_entries(header, rng))
    else:
        text = changed_json(header, rng)
    return joined(text, values)


def _entries(header: dict[str, Any], rng: random.Random) -> dict[str, Any]:
    """The tensors of a header exchanged, renamed, or given another dtype or shape that fits."""
    header = json.loads(json.dumps(header))
    names = [name for name in header if name != "__metadata__"]
    if not names:
        return header
    one, other = rng.choice(names), rng.choice(names)
    entry, kind = header[one], rng.randrange(4)
    if not isinstance(entry, dict):
        return header
    if kind == 0:
        header[one], header[other] = header[other], header[one]
    elif kind == 1:
        header[one + rng.choice(("x", "/y", ""))] = header.pop(one)
    elif kind == 2:
        same = {
            "F32": ("I32", "U32"),
            "I32": ("F32", "U32"),
            "F16": ("BF16", "I16"),
            "BF16": ("F16",),
        }
        entry["dtype"] = rng.choice(same.get(str(entry.get("dtype")), ("U8", "F4")))
    elif isinstance(entry.get("shape"), list):
        entry["shape"] = rng.choice(
            (entry["shape"][::-1], [*entry["shape"], 1], [0, *entry["shape"]])
        )
    return header


# -- zip -----------------------------------------------------------------------------------------


def _zip(data: bytes, rng: random.Random) -> bytes:
    """The archive with one member changed, lost, renamed or twice, and all its checksums right."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = [(name, archive.read(name)) for name in archive.namelist()]
    except (zipfile.BadZipFile, ValueError, NotImplementedError):
        return _bits(data, rng)
    if not members:
        return _bits(data, rng)
    index, kind = rng.randrange(len(members)), rng.randrange(6)
    name, content = members[index]
    if kind == 0:
        del members[index]
    elif kind == 1:
        members[index] = (rng.choice(("x.npy", "", "../" + name, name.upper())), content)
    elif kind == 2:
        members.append((name, damaged(content, rng)))
    elif kind == 3:
        members[index] = (name, _npy_header(content, rng))
    elif kind == 4:
        other = rng.choice(members)[1]
        members[index] = (name, other)
    else:
        members[index] = (name, rng.choice(_PLAIN)(content, rng))
    out = io.BytesIO()
    method = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2))
    with zipfile.ZipFile(out, "w", method) as archive:
        for name, content in members:
            archive.writestr(zipfile.ZipInfo(name or "empty"), content, method)
    return out.getvalue()


def _npy_header(content: bytes, rng: random.Random) -> bytes:
    """An .npy file whose header says another dtype, shape or order, in as many bytes."""
    old, new = rng.choice(
        (
            (b"'<f4'", b"'<i4'"), (b"'<f8'", b"'<f2'"), (b"'<f8'", b"'|O8'"), (b"'<f4'", b"'>f4'"),
            (b"'<f8'", b"'<c8'"), (b"'|u1'", b"'|i1'"), (b"'|u1'", b"'|O '"), (b"'<i4'", b"'<M8'"),
            (b"False", b"True "), (b"shape': (", b"shape': (-"), (b"'<f8'", b"'<U8'"),
            (b", 4)", b", 4000000000000)"), (b"(13,", b"(99999999999999,"), (b"descr", b"deskr"),
        )
    )  # fmt: skip
    return content.replace(old, new, 1)
