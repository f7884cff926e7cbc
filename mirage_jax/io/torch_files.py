"""Tensors in files of torch.save, read without torch and without running what is in them.

A file is a zip archive: `data.pkl` describes nested lists and dicts, `data/N` hold the numbers. Of
the pickle language only what builds lists, tuples, dicts, texts, bytes, numbers and tensors is
obeyed; the name of anything else is refused.
"""

from __future__ import annotations

import dataclasses
import functools
import io
import pickle
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  numpy then knows bfloat16 by its name
import numpy as np

from mirage_jax.io.numpy_files import ZIP_FAILURES
from mirage_jax.io.plain_pickle import unpickle

_DTYPES = {
    "FloatStorage": "<f4",
    "DoubleStorage": "<f8",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "ByteStorage": "<u1",
    "CharStorage": "<i1",
    "ShortStorage": "<i2",
    "IntStorage": "<i4",
    "LongStorage": "<i8",
    "BoolStorage": "?",
}
_PLAIN = (str, bytes, int, float, bool, type(None))


@dataclasses.dataclass(frozen=True)
class _Storage:
    dtype: str
    file: str
    count: int


@dataclasses.dataclass(frozen=True)
class Tensor:
    """A tensor whose numbers are read when asked for."""

    archive: Path
    storage: _Storage
    offset: int
    shape: tuple[int, ...]
    content: bytes | None = None

    def read(self) -> np.ndarray:
        """The numbers, which the caller owns; ValueError, naming the file, where they end early."""
        dtype = np.dtype(self.storage.dtype)
        count = int(np.prod(self.shape, dtype=np.int64))
        try:
            with _opened(self.archive, self.content) as archive:
                data = archive.read(self.storage.file)
        except (KeyError, *ZIP_FAILURES) as error:
            raise ValueError(f"{self.archive}: {self.storage.file}: damaged ({error})") from error
        start = self.offset * dtype.itemsize
        if len(data) < start + count * dtype.itemsize:
            raise ValueError(
                f"{self.archive}: {self.storage.file}: found {len(data)} bytes, expected "
                f"{start + count * dtype.itemsize}"
            )
        return np.frombuffer(data, dtype, count, start).reshape(self.shape).copy()


def _opened(path: Path, content: bytes | None) -> zipfile.ZipFile:
    return zipfile.ZipFile(path if content is None else io.BytesIO(content))


def _storage(path: Path, folder: str, pid: Any) -> _Storage:
    kind, dtype, key, _, count = pid
    known = kind == "storage" and dtype in _DTYPES.values() and str(key).isalnum()
    if not known or not isinstance(count, int):
        raise ValueError(f"{path}: found storage {pid!r}, expected one of numbers")
    return _Storage(dtype, f"{folder}/data/{key}", count)


def _tensor(
    path: Path,
    content: bytes | None,
    storage: Any,
    offset: Any,
    shape: Any,
    stride: Any,
    *_: Any,
) -> Tensor:
    if not isinstance(storage, _Storage):
        raise ValueError(f"{path}: found a tensor of {storage!r}, expected a storage")
    sizes = tuple(int(side) for side in shape)
    dense: list[int] = []
    step = 1
    for side in reversed(sizes):
        dense.insert(0, step)
        step *= side
    strided = [s for s, side in zip(stride, sizes, strict=True) if side > 1]
    if strided != [s for s, side in zip(dense, sizes, strict=True) if side > 1]:
        raise ValueError(f"{path}: found a tensor of strides {stride}, expected dense")
    return Tensor(path, storage, int(offset), sizes, content)


def load(path: Path, content: bytes | None = None) -> Any:
    """What torch.save wrote: nested lists, tuples and dicts of `Tensor`s and plain values.

    Args:
      path: the file.
      content: what is in it, where it lies in another file; `path` then names it in messages.

    Raises:
      ValueError: naming the file, if it does not exist, is damaged or of the format before 2020,
        or holds anything but what is listed above.
    """
    order = b"little"
    try:
        with _opened(path, content) as archive:
            members = archive.namelist()
            names = [name for name in members if name.endswith("/data.pkl")]
            folder = names[0].removesuffix("/data.pkl") if names else ""
            if f"{folder}/byteorder" in members:
                order = archive.read(f"{folder}/byteorder")
            data = archive.read(names[0]) if names else b""
    except ZIP_FAILURES as error:
        raise ValueError(
            f"{path}: found no whole torch file, expected one of the zip format ({error})"
        ) from error
    if len(names) != 1:
        raise ValueError(f"{path}: found {len(names)} data.pkl, expected one")
    if order != b"little":
        raise ValueError(f"{path}: found big-endian numbers, expected little-endian ones")
    allowed = {
        ("torch._utils", "_rebuild_tensor_v2"): functools.partial(_tensor, path, content),
        ("collections", "OrderedDict"): OrderedDict,
        **{("torch", name): dtype for name, dtype in _DTYPES.items()},
    }
    expected = "tensors, lists, dicts, texts, bytes and numbers"
    try:
        found = unpickle(data, path, allowed, expected, functools.partial(_storage, path, folder))
    except pickle.UnpicklingError as error:
        raise ValueError(f"{path}: data.pkl: damaged ({error})") from error
    return _checked(found, path)


def _checked(value: Any, path: Path) -> Any:
    if isinstance(value, list | tuple):
        return [_checked(one, path) for one in value]
    if isinstance(value, dict):
        return {_checked(key, path): _checked(one, path) for key, one in value.items()}
    if not isinstance(value, (*_PLAIN, Tensor)):
        raise ValueError(f"{path}: found {type(value).__name__}, expected tensors and plain values")
    return value
