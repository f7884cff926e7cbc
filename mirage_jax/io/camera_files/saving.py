"""What writers share: arrays under any name, intrinsics as a format has them."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from mirage_jax.io.camera_files.record import CameraRecord


def npy(array: np.ndarray) -> bytes:
    """An .npy file."""
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def npz(**arrays: np.ndarray) -> bytes:
    """A compressed .npz file."""
    file = io.BytesIO()
    np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
    return file.getvalue()


def fractions(path: Path, record: CameraRecord) -> np.ndarray:
    """Intrinsics as fractions of width and height; ValueError if that cannot be said."""
    lens = _lens(path, record)
    if record.normalised:
        return lens
    if record.size is None:
        raise ValueError(
            f"{path}: intrinsics as fractions need the pictures' size, which the cameras do not "
            "say; give the size"
        )
    return record.pixel_intrinsics((1, 1))


def pixels(path: Path, record: CameraRecord, size: tuple[int, int] | None = None) -> np.ndarray:
    """Intrinsics in pixels, of `size` or of the record's; ValueError if that cannot be said."""
    lens = _lens(path, record)
    size = size or record.size
    if size is not None and (record.normalised or record.size is not None):
        return record.pixel_intrinsics(size)
    if record.normalised or size is not None:
        raise ValueError(f"{path}: intrinsics in pixels need the pictures' size; give the size")
    return lens


def _lens(path: Path, record: CameraRecord) -> np.ndarray:
    if record.intrinsics is None:
        raise ValueError(
            f"{path}: this format needs intrinsics and the cameras have none; give a field of view"
        )
    return record.intrinsics


def join(values: np.ndarray) -> str:
    """Numbers with spaces between, exact."""
    return " ".join(f"{value:.17g}" for value in values)
