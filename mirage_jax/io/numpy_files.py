"""Arrays from .npy and .npz files that anyone may have written.

`numpy.load` fails of a damaged file with a dozen kinds of error, among them those of Python's
tokenizer, and asks for as much memory as the header of an array says. Here every array must be as
many bytes as its header says before it is read, and all that is wrong is a ValueError that names
the file. Objects are never unpickled.
"""

from __future__ import annotations

import contextlib
import math
import tokenize
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

_HEADERS = {
    (1, 0): np.lib.format.read_array_header_1_0,
    (2, 0): np.lib.format.read_array_header_2_0,
}
_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what numpy writes
_INFLATED = 1032  # the most bytes that DEFLATE can make of one
_SUFFIX = ".npy"
_MAGIC = b"\x93NUMPY"
ZIP_FAILURES = (
    zipfile.BadZipFile,
    zlib.error,
    NotImplementedError,
    RuntimeError,
    EOFError,
    OSError,
    ValueError,  # names of no known encoding, places before the archive
)
"""What `zipfile` raises of archives that are damaged, or compressed or encrypted in other ways."""
_FAILURES = (
    *(SyntaxError, TypeError, KeyError, OverflowError, tokenize.TokenError),
    *ZIP_FAILURES,
)


class ArrayFile:
    """An opened .npz file.

    Use as a context manager, or `close` it.
    """

    def __init__(self, path: Path) -> None:
        """Opens it.

        Raises:
          FileNotFoundError: if there is no such file.
          ValueError: naming the file, if it is no archive of arrays.
        """
        self.path = path
        with path.open("rb") as file:
            if file.read(len(_MAGIC)) == _MAGIC:
                raise ValueError(f"{path}: found one array, expected an .npz file with several")
        with _translated(path, "not a readable .npz file"):
            self._archive = zipfile.ZipFile(path)
        self._members = {
            info.filename.removesuffix(_SUFFIX): info
            for info in self._archive.infolist()
            if info.filename.endswith(_SUFFIX)
        }
        found = [info.filename for info in self._archive.infolist()]
        if len(set(found)) != len(found):
            self.close()
            raise ValueError(f"{path}: found arrays of one name, expected each once")

    @property
    def names(self) -> tuple[str, ...]:
        """Names of its arrays."""
        return tuple(self._members)

    def read(self, name: str) -> np.ndarray:
        """An array of numbers or texts.

        Raises:
          ValueError: naming the file and the array, if it is damaged or holds anything else.
        """
        info = self._members[name]
        with _translated(self.path, f"{name}: damaged"):
            most = _INFLATED * info.compress_size + _INFLATED
            if info.compress_type not in _METHODS or info.file_size > most:
                raise ValueError("found another compression than numpy's")
            with self._archive.open(info) as member:
                _check(member, info.file_size)
            with self._archive.open(info) as member:
                return np.lib.format.read_array(member, allow_pickle=False)

    def close(self) -> None:
        self._archive.close()

    def __enter__(self) -> ArrayFile:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def read_array(path: Path) -> np.ndarray:
    """The array of an .npy file; errors as for `ArrayFile`."""
    with _translated(path, "not a readable .npy file"), path.open("rb") as file:
        _check(file, path.stat().st_size)
        file.seek(0)
        return np.lib.format.read_array(file, allow_pickle=False)


def map_array(path: Path) -> np.ndarray:
    """The array of an .npy file, whose values are read when they are used; errors as `read_array`.

    It is read-only.
    """
    with _translated(path, "not a readable .npy file"):
        with path.open("rb") as file:
            _check(file, path.stat().st_size)
        return np.load(path, allow_pickle=False, mmap_mode="r")


def _check(file: Any, size: int) -> None:
    """ValueError unless a file of `size` bytes is an array, whole, and nothing else."""
    version = np.lib.format.read_magic(file)
    if version not in _HEADERS:
        raise ValueError(f"found version {version}, expected 1.0 or 2.0")
    shape, _, dtype = _HEADERS[version](file)
    if dtype.hasobject or dtype.kind not in "biufcSU":
        raise ValueError(
            f"found {dtype}, expected numbers or texts: with allow_pickle=False, objects are never "
            "unpickled"
        )
    if min(shape, default=0) < 0:
        raise ValueError(f"found shape {shape}, expected lengths of at least 0")
    found, expected = size - file.tell(), math.prod(shape) * dtype.itemsize
    if found != expected:
        raise ValueError(f"found {found} bytes for {dtype} {shape}, expected {expected}")


@contextlib.contextmanager
def _translated(path: Path, what: str) -> Iterator[None]:
    try:
        yield
    except FileNotFoundError:
        raise
    except _FAILURES as error:
        reason: Any = "no zip archive" if isinstance(error, zipfile.BadZipFile) else error
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise ValueError(f"{path}: {what} ({reason})") from error
