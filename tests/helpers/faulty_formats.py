"""Formats whose readers go wrong in every way that `fuzzing` must find."""

import ctypes
import time
from pathlib import Path

import numpy as np

from helpers.format_entry import Format


def _make(folder: Path) -> Path:
    (folder / "a").write_bytes(b"content")
    return folder / "a"


def _is_whole(path: Path) -> bool:
    return path.read_bytes() == b"content"


def _takes_anything(path: Path) -> bytes:
    return path.read_bytes()


def _raises_another_error(path: Path) -> None:
    if not _is_whole(path):
        raise KeyError("content")


def _names_no_file(path: Path) -> None:
    if not _is_whole(path):
        raise ValueError("damaged")


def _hangs(path: Path) -> None:
    while not _is_whole(path):
        time.sleep(0.01)


def _asks_for_memory(path: Path) -> None:
    if not _is_whole(path):
        np.zeros(1 << 40)


def _ends_the_process(path: Path) -> None:
    if not _is_whole(path):
        ctypes.string_at(0)


def _has_no_sample(path: Path) -> None:
    raise KeyError("content")


FORMATS = {
    read.__name__: Format(read.__name__, _make, read, lambda found, original: None, (), ours=True)
    for read in (
        *(_takes_anything, _raises_another_error, _names_no_file),
        *(_hangs, _asks_for_memory, _ends_the_process, _has_no_sample),
    )
}
