"""safetensors files, read and written one tensor at a time.

The safetensors library maps a file whole and writes it whole. Checkpoints here may be larger than
the memory of the machine that converts them, so this reads and writes the format itself: the length
of a JSON header (8 bytes, little endian), the header, the values.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from mirage_jax.convert.contents import other_contents, other_folder
from mirage_jax.convert.lazy_tensors import DTYPES, LazyTensor, StoredTensor
from mirage_jax.convert.quantized import readable
from mirage_jax.io.strict_json import parse_object, read_object
from mirage_jax.io.tensor_dtypes import NUMPY_DTYPES

CONFIG = "config.json"
ADAPTER_CONFIG = "adapter_config.json"
"""What PEFT writes beside a low-rank adapter."""

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_STORED = {
    **NUMPY_DTYPES,
    **DTYPES,
    "F8_E4M3": np.dtype(ml_dtypes.float8_e4m3fn),
    "F8_E5M2": np.dtype(ml_dtypes.float8_e5m2),
}
"""What is read; all but `DTYPES` becomes one of these or is left, see `quantized`."""
_ADAPTER = "adapter_model.safetensors"  # beside the config of PEFT
_INDEX = ".safetensors.index.json"
_HEADER_LIMIT = 100 * 2**20  # what the safetensors library accepts

Spec = tuple[np.dtype, tuple[int, ...]]
Specs = Mapping[str, Spec]
Pieces = Callable[[str], Iterable[np.ndarray]]


@dataclasses.dataclass(frozen=True)
class TensorFiles:
    """One checkpoint.

    Attributes:
      path: of the file or folder.
      tensors: by name, of a floating-point type of `DTYPES`.
      metadata: of the file.
      config: fields of the config.json or adapter_config.json beside the tensors, if there is one.
      unused: what cannot be a parameter, such as counters: name -> what it is.
    """

    path: Path
    tensors: Mapping[str, LazyTensor]
    metadata: dict[str, str]
    config: dict[str, Any]
    unused: Mapping[str, str] = dataclasses.field(default_factory=dict)


def open_tensors(path: str | Path) -> TensorFiles:
    """Opens a safetensors file, a folder of them (with an index of shards or without) or an index.

    Values in 8 bits are multiplied by their scales when they are read (see `quantized`).

    Raises:
      FileNotFoundError: if there is none, or a shard is missing.
      ValueError: if a file is damaged, truncated or something else than safetensors, which is
        named, or the index does not fit the shards. Pickles are never opened as they can run code.
    """
    path = Path(path)
    index = path if path.name.endswith(_INDEX) else None
    if path.is_dir():
        indices = sorted(path.glob(f"*{_INDEX}"))
        if len(indices) > 1:
            raise ValueError(
                f"{path}: found {len(indices)} indices of shards, expected one; point to "
                f"{' or '.join(found.name for found in indices)} itself"
            )
        index = indices[0] if indices else None
    elif index is None:
        if path.suffix.lower() != ".safetensors" and (found := other_contents(path)):
            raise ValueError(f"{path}: {found}")
        stored, metadata = read_header(path)
        beside = [path.with_name(ADAPTER_CONFIG)] if path.name == _ADAPTER else []
        return _opened(path, stored, metadata, *beside)
    shards = _shards(index) if index else {}
    folder = index.parent if index else path
    files = sorted({folder / shard for shard in shards.values()} or _safetensors(folder))
    merged: dict[str, StoredTensor] = {}
    metadata = {}
    for file in files:
        tensors, metadata = read_header(file)
        twice = merged.keys() & tensors.keys()
        if twice:
            raise ValueError(
                f"{file}: tensor {min(twice)!r} is also in {merged[min(twice)].file}; expected "
                "the files of one checkpoint, or one of them as the source"
            )
        merged.update(tensors)
    for name, shard in shards.items():
        if name not in merged:
            raise ValueError(f"{index}: tensor {name!r} is missing from {shard}")
    configs = [folder / name for name in (CONFIG, ADAPTER_CONFIG)]
    return _opened(path, merged, metadata if len(files) == 1 else {}, *configs)


def _opened(
    path: Path, stored: Mapping[str, StoredTensor], metadata: dict[str, str], *configs: Path
) -> TensorFiles:
    config: dict[str, Any] = {}
    for file in configs:
        if file.is_file():
            config |= read_object(file)
    try:
        tensors, unused = readable(stored)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    return TensorFiles(path, tensors, metadata, config, unused)


def _shards(index: Path) -> dict[str, str]:
    if not index.is_file():
        raise FileNotFoundError(f"{index}: no such file")
    shards = read_object(index).get("weight_map")
    named = isinstance(shards, dict) and all(_is_name(shard) for shard in shards.values())
    if not (shards and named):
        raise ValueError(f"{index}: found no weight_map, expected the shard of every tensor")
    return dict(shards)


def _safetensors(folder: Path) -> list[Path]:
    files = list(folder.glob("*.safetensors"))
    if not files:
        where, found = other_folder(folder)
        missing = where == folder
        raise (FileNotFoundError if missing else ValueError)(f"{where}: {found}")
    return files


def _is_name(shard: Any) -> bool:
    """Whether a value names a file in the same folder."""
    return isinstance(shard, str) and Path(shard).name == shard and shard.isprintable()


def read_header(file: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Tensors and metadata of one file; ValueError if it is damaged, truncated or of odd dtypes."""
    found = other_contents(file)
    if found:
        raise ValueError(f"{file}: {found}")
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file")
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, _HEADER_LIMIT):
            raise ValueError(
                f"{file}: truncated or not a safetensors file: found {size} bytes, expected a "
                f"header of {length}; was it downloaded to the end?"
            )
        text = stream.read(length)
    try:
        header = parse_object(text)
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(
            isinstance(value, str) for value in metadata.values()
        ):
            raise ValueError(f"found metadata {metadata!r}, expected texts")
        entries = {name: _entry(name, entry) for name, entry in header.items()}
    except ValueError as error:
        raise ValueError(f"{file}: damaged or not a safetensors file ({error})") from error
    tensors, data = {}, 8 + length
    for name, (dtype, shape, begin, end) in entries.items():
        if dtype not in _STORED:
            raise ValueError(
                f"{file}: tensor {name!r}: found {dtype}, expected one of {', '.join(_STORED)}"
            )
        wanted = math.prod(shape) * _STORED[dtype].itemsize
        if end - begin != wanted or begin < 0:
            raise ValueError(
                f"{file}: tensor {name!r}: found {end - begin} bytes, expected {wanted}"
            )
        tensors[name] = StoredTensor(file, _STORED[dtype], shape, data + begin)
        if data + end > size:
            raise ValueError(
                f"{file}: truncated at tensor {name!r}: found {size} bytes, expected at least "
                f"{data + end}; was it downloaded to the end?"
            )
    return tensors, metadata


def narrowed(name: str, values: np.ndarray, dtype: np.dtype) -> np.ndarray:
    """The values in this type, if it is float16, which does not hold all that others do.

    Raises:
      ValueError: naming the tensor, if a finite value would become infinite.
    """
    if dtype != np.float16 or values.dtype == np.float16:
        return values
    with np.errstate(over="ignore"):
        half = values.astype(np.float16)
    lost = int((np.isfinite(values) & ~np.isfinite(half)).sum())
    if lost:
        raise ValueError(
            f"tensor {name!r}: {lost} of {values.size} values are beyond 65504, the largest of "
            "float16; expected --dtype=bfloat16 or float32"
        )
    return half


def _entry(name: str, entry: Any) -> tuple[str, tuple[int, ...], int, int]:
    """Dtype, shape, begin and end of a tensor in a header."""
    fields = {"dtype": str, "shape": list, "data_offsets": list}
    if not isinstance(entry, dict) or {n: type(v) for n, v in entry.items()} != fields:
        raise ValueError(f"tensor {name!r}: found {entry!r}, expected dtype, shape, data_offsets")
    numbers = [*entry["shape"], *entry["data_offsets"]]
    if len(entry["data_offsets"]) != 2 or not all(type(n) is int and n >= 0 for n in numbers):
        raise ValueError(f"tensor {name!r}: found {entry!r}, expected whole numbers from 0")
    return entry["dtype"], tuple(entry["shape"]), *entry["data_offsets"]


def write_tensors(file: Path, specs: Specs, pieces: Pieces, metadata: Mapping[str, str]) -> None:
    """Writes a safetensors file without ever holding more than a piece of a tensor.

    Args:
      file: to write; not atomic, see `replacing`.
      specs: dtype and shape of every tensor by name.
      pieces: gives, for a name, arrays that are the tensor's values in order.
      metadata: texts for the header.

    Raises:
      ValueError: if the pieces of a tensor are not as many bytes as its spec says.
    """
    # Wide types first, so that every tensor is aligned.
    ordered = sorted(specs, key=lambda name: -specs[name][0].itemsize)
    header: dict[str, Any] = {"__metadata__": dict(metadata)} if metadata else {}
    offset = 0
    for name in ordered:
        dtype, shape = specs[name]
        end = offset + math.prod(shape) * dtype.itemsize
        entry = {"dtype": _NAMES[dtype], "shape": list(shape), "data_offsets": [offset, end]}
        header[name], offset = entry, end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    with file.open("wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for name in ordered:
            dtype, shape = specs[name]
            values = 0
            for piece in pieces(name):
                # As bytes: the buffer protocol does not know bfloat16.
                stream.write(np.ascontiguousarray(piece, dtype).view(np.uint8).data)
                values += piece.size
            if values != math.prod(shape):
                raise ValueError(f"tensor {name!r}: found {values} values for shape {shape}")
        stream.flush()
        os.fsync(stream.fileno())


def write_shards(folder: Path, specs: Specs, pieces: Pieces, shard_bytes: int) -> None:
    """Writes a folder as diffusers reads it: shards of about `shard_bytes` and their index."""
    shards: list[dict[str, Spec]] = [{}]
    filled = total = 0
    for name, spec in specs.items():
        size = math.prod(spec[1]) * spec[0].itemsize
        if shards[-1] and filled + size > shard_bytes:
            shards.append({})
            filled = 0
        shards[-1][name] = spec
        filled, total = filled + size, total + size
    folder.mkdir()
    stem = "diffusion_pytorch_model"
    if len(shards) == 1:
        write_tensors(folder / f"{stem}.safetensors", shards[0], pieces, {"format": "pt"})
        return
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        name = f"{stem}-{number:05d}-of-{len(shards):05d}.safetensors"
        write_tensors(folder / name, shard, pieces, {"format": "pt"})
        weight_map.update(dict.fromkeys(shard, name))
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / f"{stem}.safetensors.index.json").write_text(json.dumps(index, indent=1) + "\n")
