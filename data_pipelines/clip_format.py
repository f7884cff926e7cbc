"""Clips as bytes: mirage-clip-2 is written, mirage-clip-1 is read as well.

One clip is one safetensors buffer (no pickle): the arrays as tensors, everything else as JSON in
its header. docs/formats/clip-2.md describes it for readers in any language.
"""

import json
import zlib
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from data_pipelines.clip import (
    FIELDS,
    META_FIELDS,
    PARTS,
    REQUIRED_META,
    REQUIRED_PARTS,
    Bodies,
    Clip,
    Extra,
    StoredTensor,
    validate,
)
from data_pipelines.clip_codecs import CODECS, Codec, Raw
from mirage_jax.io.strict_json import parse_object
from mirage_jax.io.tensor_dtypes import NUMPY_DTYPES

FORMAT = "mirage-clip-2"
READABLE = ("mirage-clip-1", FORMAT)

_DTYPE_NAMES = {dtype: name for name, dtype in NUMPY_DTYPES.items()}
_BODY_NAMES = ("kinds", "looks")
_HEADER = (
    *META_FIELDS,
    *("format", "shape", "codecs", "crc32"),
    *(f"bodies.{field}" for field in _BODY_NAMES),
)


def to_bytes(clip: Clip, codecs: Mapping[str, Codec] | None = None) -> bytes:
    """Returns `clip` as mirage-clip-2; equal clips give equal bytes.

    Args:
      clip: a valid clip, see `clip.validate`.
      codecs: by name of the part, e.g. `{"depth": U16()}`; parts not named are stored raw, which
        is lossless.

    Raises:
      ValueError: names the clip and the field: a codec that cannot store it, or an extra part with
        the name of a known one.
    """
    codecs = dict(codecs or {})
    tensors: dict[str, StoredTensor] = {}
    for name in PARTS:
        array, codec = clip.part(name), codecs.pop(name, Raw())
        if array is not None:
            tensors[name] = _encode(clip, name, array, codec)
    if codecs:
        raise ValueError(f"codecs: found {sorted(codecs)}, expected some of {', '.join(PARTS)}")
    header = {field: getattr(clip, field) for field in META_FIELDS}
    header = {field: value for field, value in header.items() if value is not None}
    header |= {field: float(header[field]) for field in ("gamma", "fps")}
    if clip.seed is not None:
        header["seed"] = int(clip.seed)
    if clip.bodies is not None:
        header |= {f"bodies.{field}": list(getattr(clip.bodies, field)) for field in _BODY_NAMES}
    header |= {"format": FORMAT, "shape": list(clip.video.shape[:3])}
    taken = set(clip.extra.tensors) & set(PARTS) | set(clip.extra.header) & set(_HEADER)
    if taken:
        raise ValueError(f"clip {clip.name!r}, extra: found {sorted(taken)}, expected new names")
    tensors |= clip.extra.tensors
    header |= clip.extra.header
    header["codecs"] = {name: dict(t.codec) for name, t in tensors.items() if t.codec is not None}
    header["crc32"] = {name: zlib.crc32(tensor.data) for name, tensor in tensors.items()}
    return _pack(tensors, json.dumps(header, sort_keys=True, allow_nan=False))


def _encode(clip: Clip, name: str, array: np.ndarray, codec: Codec) -> StoredTensor:
    if codec.parts and name not in codec.parts:
        raise ValueError(
            f"clip {clip.name!r}, {name}: found codec {codec.name!r}, "
            f"which stores {', '.join(codec.parts)} only"
        )
    try:
        stored, parameters = codec.encode(array)
    except ValueError as error:
        raise ValueError(f"clip {clip.name!r}, {name}: codec {codec.name!r}: {error}") from error
    described = None if codec.name == Raw.name else {"name": codec.name, **parameters}
    data = stored.astype(stored.dtype.newbyteorder("<"), copy=False).tobytes()
    return StoredTensor(_DTYPE_NAMES[stored.dtype], stored.shape, data, described)


def _pack(tensors: Mapping[str, StoredTensor], header: str) -> bytes:
    """A safetensors buffer; its own writer knows no tensors of dtypes that are not numpy's."""
    # One metadata key, as the order of several is not fixed. Wide numbers first, so that all lie
    # at multiples of their size.
    entries: dict[str, Any] = {"__metadata__": {"clip": header}}
    offset = 0
    order = sorted(tensors, key=lambda name: (-_itemsize(tensors[name].dtype), name))
    for name in order:
        tensor = tensors[name]
        end = offset + len(tensor.data)
        entries[name] = {"dtype": tensor.dtype, "shape": list(tensor.shape)}
        entries[name]["data_offsets"] = [offset, end]
        offset = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    return b"".join([len(text).to_bytes(8, "little"), text, *(tensors[n].data for n in order)])


def _itemsize(dtype: str) -> int:
    return NUMPY_DTYPES[dtype].itemsize if dtype in NUMPY_DTYPES else 1


def from_bytes(data: bytes, *, verify: bool = True) -> Clip:
    """Returns the clip that is stored in `data`, of any format in `READABLE`.

    Parts that it lacks are None.

    Raises:
      ValueError: `data` is not a stored clip, is cut short or damaged, uses an unknown codec, or
        (unless `verify` is False) is no valid clip, see `clip.validate`.
    """
    stored = _Stored(data, verify)
    fields = {field: stored.field(field) for field in FIELDS}
    missing = [name for name in (*REQUIRED_PARTS, *REQUIRED_META) if fields[name] is None]
    if missing:
        raise ValueError(f"{stored.title}: its header lacks {', '.join(missing)}")
    clip = Clip(**fields, extra=stored.extra())
    if verify:
        validate(clip)
    return clip


def decode(
    data: bytes,
    fields: Sequence[str],
    *,
    missing_ok: bool = False,
    verify: bool = True,
) -> dict[str, Any]:
    """Returns the named fields of a stored clip; the others are neither decoded nor copied.

    Args:
      data: of a stored clip.
      fields: names of `Clip`'s fields.
      missing_ok: give None for a field that the clip lacks.
      verify: compare the checksums of the tensors that are read.

    Raises:
      ValueError: `data` is not a stored clip, is cut short or damaged; a field's name is unknown;
        the clip lacks it, or it uses an unknown codec.
    """
    check_fields(fields)
    stored = _Stored(data, verify)
    values = {field: stored.field(field) for field in fields}
    missing = [field for field, value in values.items() if value is None]
    if missing and not missing_ok:
        raise ValueError(f"{stored.title}, {missing[0]}: found none, expected it in this clip")
    return values


def check_fields(fields: Sequence[str]) -> None:
    """Raises ValueError for a name that is none of `Clip`'s fields."""
    unknown = sorted(set(fields) - set(FIELDS))
    if unknown:
        raise ValueError(f"unknown clip fields {unknown}, expected some of: {', '.join(FIELDS)}")


def read_header(data: bytes) -> dict[str, Any]:
    """Returns the header of a stored clip as JSON values, without reading the tensors.

    That is `format`, `shape` ([T, H, W]), `codecs` and the names and numbers of `META_FIELDS` that
    it has. Raises ValueError if `data` is not a stored clip.
    """
    stored = _Stored(data, verify=False)
    return {**stored.header, "shape": stored.shape(), "codecs": stored.header.get("codecs", {})}


_KINDS: dict[str, type | tuple[type, ...]] = {
    **dict.fromkeys(("format", "world", "source", "trajectory", "name"), str),
    **dict.fromkeys(("caption", "licence"), str),
    **dict.fromkeys(("gamma", "fps"), (int, float)),
    **dict.fromkeys(("codecs", "crc32", "provenance"), dict),
    **dict.fromkeys(("shape", *(f"bodies.{field}" for field in _BODY_NAMES)), list),
    "seed": int,
}


def _check_header(header: Mapping[str, Any]) -> None:
    """ValueError unless the fields of a clip's header are of their types."""
    for name, kind in _KINDS.items():
        if name in header and (
            not isinstance(header[name], kind) or isinstance(header[name], bool)
        ):
            raise ValueError(f"{name}: found {header[name]!r}")
    for name in ("gamma", "fps"):
        if not header.get(name, 1) > 0:
            raise ValueError(f"{name}: found {header[name]}, expected a positive number")
    if not all(isinstance(codec, dict) for codec in header.get("codecs", {}).values()):
        raise ValueError(f"codecs: found {header['codecs']!r}")
    shape = header.get("shape", [1, 1, 1])
    if len(shape) != 3 or not all(type(length) is int and length > 0 for length in shape):
        raise ValueError(f"shape: found {shape!r}")
    for name in (f"bodies.{field}" for field in _BODY_NAMES):
        if not all(isinstance(text, str) for text in header.get(name, [])):
            raise ValueError(f"{name}: found {header[name]!r}")


def _place(name: str, entry: Any) -> tuple[int, int]:
    """Where a tensor lies among the others; ValueError unless its entry is of the right form."""
    begin, end = entry["data_offsets"]
    numbers = [begin, end, *entry["shape"]]
    if type(entry["dtype"]) is not str or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError(f"{name}: found {entry!r}")
    return begin, end


class _Stored:
    """A stored clip, of which nothing but the header has been read."""

    def __init__(self, data: bytes, verify: bool):
        # safetensors itself decodes all tensors and hides the metadata; its layout is a length in
        # eight little-endian bytes, a JSON header, then the tensors.
        length = int.from_bytes(data[:8], "little")
        if len(data) < 8 or length > len(data) - 8:
            raise ValueError(
                f"not a stored clip, or cut short: {len(data)} bytes, header of {length}"
            )
        try:
            self.tensors = parse_object(data[8 : 8 + length])
            self.header = parse_object(self.tensors.pop("__metadata__")["clip"])
            found = self.header["format"]
            _check_header(self.header)
            self._places = {name: _place(name, entry) for name, entry in self.tensors.items()}
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"not a stored clip: unreadable header ({error!r})") from error
        if found not in READABLE:
            raise ValueError(
                f"not a stored clip: found format {found!r}, expected {' or '.join(READABLE)}"
            )
        self.data, self.start = data, 8 + length
        self.verify = verify and found == FORMAT  # the first format has no checksums
        self.title = f"clip {self.header.get('name')!r}"

    def field(self, name: str) -> Any:
        """The value of one of `FIELDS`, None if absent."""
        if name == "bodies":
            if "bodies.ids" not in self.tensors:
                return None
            arrays = [part for part in PARTS if part.startswith("bodies.")]
            values: dict[str, Any] = {part: self.part(part) for part in arrays}
            values |= {f"bodies.{key}": self._named(key) for key in _BODY_NAMES}
            missing = [part for part, value in values.items() if value is None]
            if missing:
                raise ValueError(f"{self.title}, bodies: found no {missing[0]}, expected all parts")
            return Bodies(**{key.removeprefix("bodies."): value for key, value in values.items()})
        return self.part(name) if name in PARTS else self.header.get(name)

    def _named(self, key: str) -> tuple[str, ...] | None:
        names = self.header.get(f"bodies.{key}")
        return None if names is None else tuple(names)

    def part(self, name: str) -> np.ndarray | None:
        """A decoded array, None if absent; the caller owns it."""
        if name not in self.tensors:
            return None
        codec = self.header.get("codecs", {}).get(name, {"name": Raw.name})
        self._expect(name, "codec", str(codec.get("name")), CODECS)
        entry, data = self.tensors[name], self._bytes(name)
        self._expect(name, "dtype", entry["dtype"], NUMPY_DTYPES)
        dtype = NUMPY_DTYPES[entry["dtype"]]
        try:
            raw = np.frombuffer(data, dtype.newbyteorder("<")).reshape(entry["shape"])
            array = CODECS[codec["name"]].decode(raw.astype(dtype, copy=False), codec)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{self.title}, {name}: cannot be decoded ({error})") from error
        self._expect(name, "dtype", str(array.dtype), [str(np.dtype(PARTS[name].dtype))])
        self._check_shape(name, array.shape)
        # A copy of what still lies in the record, so that its buffer can go.
        return array if array.flags.writeable else array.copy()

    def _expect(self, name: str, what: str, found: object, known: Collection[str]) -> None:
        if found not in known:
            raise ValueError(
                f"{self.title}, {name}: found {what} {found!r}, expected one of {', '.join(known)}"
            )

    def _check_shape(self, name: str, shape: tuple[int, ...]) -> None:
        axes, clip = PARTS[name].axes.split(), dict(zip("THW", self.shape(), strict=True))
        fits = [clip.get(axis, size) == size for axis, size in zip(axes, shape, strict=False)]
        if len(axes) != len(shape) or not all(fits):
            expected = f"[{', '.join(axes)}] of a clip of {list(clip.values())}"
            raise ValueError(f"{self.title}, {name}: found {list(shape)}, expected {expected}")

    def _bytes(self, name: str) -> memoryview:
        begin, end = self._places[name]
        if self.start + end > len(self.data):
            size = self.start + end
            raise ValueError(f"{self.title} cut short in {name}: {len(self.data)} of {size} bytes")
        data = memoryview(self.data)[self.start + begin : self.start + end]
        if self.verify:
            wanted, found = self.header.get("crc32", {}).get(name), zlib.crc32(data)
            if found != wanted:
                raise ValueError(
                    f"{self.title}, {name}: damaged, found checksum {found}, expected {wanted}"
                )
        return data

    def shape(self) -> list[int]:
        """[T, H, W]."""
        if "shape" in self.header:
            return list(self.header["shape"])
        if "video" not in self.tensors or len(self.tensors["video"]["shape"]) != 4:
            raise ValueError(f"{self.title}, video: found no four axes")
        return list(self.tensors["video"]["shape"][:3])

    def extra(self) -> Extra:
        codecs = self.header.get("codecs", {})
        tensors = {
            name: StoredTensor(
                entry["dtype"], tuple(entry["shape"]), bytes(self._bytes(name)), codecs.get(name)
            )
            for name, entry in self.tensors.items()
            if name not in PARTS
        }
        header = {key: value for key, value in self.header.items() if key not in _HEADER}
        return Extra(tensors, header)
