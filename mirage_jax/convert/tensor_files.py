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
from typing import Any, Protocol, runtime_checkable

import ml_dtypes
import numpy as np

from mirage_jax.io.strict_json import parse_object, read_object

DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
CONFIG = "config.json"
_NAMES = {dtype: name for name, dtype in DTYPES.items()}
_PICKLED = (".pth", ".pt", ".bin", ".ckpt")
_NESTS = ("model_state", "vace", "generator", "state_dict", "model")  # where weights may lie inside
_HEADER_LIMIT = 100 * 2**20  # what the safetensors library accepts

Spec = tuple[np.dtype, tuple[int, ...]]
Specs = Mapping[str, Spec]
Pieces = Callable[[str], Iterable[np.ndarray]]


@runtime_checkable
class LazyTensor(Protocol):
    """A tensor not yet read: `numpy.asarray` reads it, `[i]` the i-th along its first axis."""

    @property
    def dtype(self) -> np.dtype: ...
    @property
    def shape(self) -> tuple[int, ...]: ...
    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray: ...
    def __getitem__(self, index: int) -> np.ndarray: ...


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """A `LazyTensor` in a safetensors file."""

    file: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        values = np.fromfile(self.file, self.dtype, math.prod(self.shape), offset=self.offset)
        return values.reshape(self.shape).astype(dtype or self.dtype, copy=False)

    def __getitem__(self, index: int) -> np.ndarray:
        inner = self.shape[1:]
        step = math.prod(inner) * self.dtype.itemsize
        return np.asarray(StoredTensor(self.file, self.dtype, inner, self.offset + index * step))


@dataclasses.dataclass(frozen=True)
class TensorFiles:
    """One checkpoint: its tensors by name, the metadata of its file and its config.json, if any."""

    path: Path
    tensors: Mapping[str, LazyTensor]
    metadata: dict[str, str]
    config: dict[str, Any]


def open_tensors(path: str | Path) -> TensorFiles:
    """Opens a safetensors file or a folder of them (with an index of shards or without).

    Raises:
      FileNotFoundError: if there is none, or a shard is missing.
      ValueError: if a file is damaged or truncated, the index does not fit the shards, or the
        checkpoint is a pickle, which is never opened as it can run any code.
    """
    path = Path(path)
    if path.suffix in _PICKLED:
        raise ValueError(_pickle_message(path))
    if not path.is_dir():
        tensors, metadata = read_header(path)
        return TensorFiles(path, tensors, metadata, {})
    indices = sorted(path.glob("[!.]*.safetensors.index.json"))
    if len(indices) > 1:
        raise ValueError(f"{path}: found {len(indices)} indices of shards, expected one")
    index = read_object(indices[0]).get("weight_map") if indices else None
    named = isinstance(index, dict) and all(_is_name(shard) for shard in index.values())
    if indices and not (index and named):
        raise ValueError(f"{indices[0]}: found no weight_map, expected the shard of every tensor")
    files = sorted({path / shard for shard in index.values()} if index else _safetensors(path))
    merged: dict[str, StoredTensor] = {}
    metadata = {}
    for file in files:
        tensors, metadata = read_header(file)
        twice = merged.keys() & tensors.keys()
        if twice:
            raise ValueError(f"{file}: tensor {min(twice)!r} is also in {merged[min(twice)].file}")
        merged.update(tensors)
    for name, shard in (index or {}).items():
        if name not in merged:
            raise ValueError(f"{indices[0]}: tensor {name!r} is missing from {shard}")
    config = path / CONFIG
    own = read_object(config) if config.is_file() else {}
    return TensorFiles(path, merged, metadata if len(files) == 1 else {}, own)


def _safetensors(folder: Path) -> list[Path]:
    files = list(folder.glob("[!.]*.safetensors"))  # not what is being written
    if not files:
        pickled = [file for file in sorted(folder.iterdir()) if file.suffix in _PICKLED]
        if pickled:
            raise ValueError(_pickle_message(pickled[0]))
        raise FileNotFoundError(f"{folder}: found no *.safetensors file there")
    return files


def _pickle_message(path: Path) -> str:
    safe = path.with_suffix(".safetensors").name
    return (
        f"{path}: a pickled checkpoint, which is never opened as it can run any code; expected "
        'safetensors. Where PyTorch is installed: python -c "import torch; from safetensors.torch '
        f"import save_file; t = torch.load('{path.name}', map_location='cpu', weights_only=True); "
        f"t = next((t[k] for k in {_NESTS} if isinstance(t.get(k), dict)), t); "
        "save_file({k: v.contiguous().clone() for k, v in t.items() if torch.is_tensor(v)}, "
        f"'{safe}')\""
    )


def _is_name(shard: Any) -> bool:
    """Whether a value names a file in the same folder."""
    return isinstance(shard, str) and Path(shard).name == shard and shard.isprintable()


def read_header(file: Path) -> tuple[dict[str, StoredTensor], dict[str, str]]:
    """Tensors and metadata of one file; ValueError if it is damaged, truncated or of odd dtypes."""
    if not file.is_file():
        raise FileNotFoundError(f"{file}: no such file")
    size = file.stat().st_size
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if size < 8 or length > min(size - 8, _HEADER_LIMIT):
            raise ValueError(
                f"{file}: truncated or not a safetensors file: found {size} bytes, expected a "
                f"header of {length}"
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
        if dtype not in DTYPES:
            raise ValueError(
                f"{file}: tensor {name!r}: found {dtype}, expected one of {', '.join(DTYPES)}"
            )
        wanted = math.prod(shape) * DTYPES[dtype].itemsize
        if end - begin != wanted or begin < 0:
            raise ValueError(
                f"{file}: tensor {name!r}: found {end - begin} bytes, expected {wanted}"
            )
        tensors[name] = StoredTensor(file, DTYPES[dtype], shape, data + begin)
        if data + end > size:
            raise ValueError(
                f"{file}: truncated at tensor {name!r}: found {size} bytes, expected at least "
                f"{data + end}"
            )
    return tensors, metadata


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
