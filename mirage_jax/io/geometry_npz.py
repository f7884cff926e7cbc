"""Mirage's geometry.npz: depth, cameras and pictures of a clip, as its inference takes them.

Nothing in the file is unpickled: arrays of Python objects are refused.
"""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, UInt8
from PIL import Image

from mirage_jax.geometry import Camera, check_cam2world, check_intrinsics
from mirage_jax.io import video as video_io
from mirage_jax.io.image_files import read_rgb
from mirage_jax.io.numpy_files import ArrayFile
from mirage_jax.plausible import odd_depth, odd_intrinsics, refuse

_SIDE_FILES = ("clip.mp4", "first_frame.png")
_NO_SIZE = (-1, -1)
_SKEW = 1e-6
"""Of the focal length, and of 1 in the last row: as much as rounding makes of 0 and of 1."""


@dataclasses.dataclass(frozen=True)
class GeometryFile:
    """What a geometry.npz holds.

    Attributes:
      path: the file.
      depths: z-depth in metres; 0 = unknown.
      intrinsics: fx, fy, cx, cy in pixels of the `size`.
      cam2world: poses, OpenCV axes, metres.
      frames: pictures of all poses, or of the first ones alone.
      masks: which pixels may be remembered; None = all.
      original_size: (H, W) that video is to be made in; None if the file does not say.
      fps: frames per second; None if the file does not say.
    """

    path: Path
    depths: Float[np.ndarray, "f height width"]
    intrinsics: Float[np.ndarray, "f 4"]
    cam2world: Float[np.ndarray, "f 4 4"]
    frames: UInt8[np.ndarray, "n height width 3"]
    masks: Bool[np.ndarray, "f height width"] | None = None
    original_size: tuple[int, int] | None = None
    fps: float | None = None

    def __len__(self) -> int:
        return len(self.cam2world)

    @property
    def size(self) -> tuple[int, int]:
        """(H, W) of pictures and depths."""
        return self.depths.shape[1], self.depths.shape[2]

    def camera(self, size: tuple[int, int]) -> Camera:
        """Cameras of all frames, for pictures of `size`; the poses as they are, in float64."""
        scale = np.array([size[1] / self.size[1], size[0] / self.size[0]] * 2)
        return Camera((self.intrinsics * scale).astype(np.float32), self.cam2world, size)


def read_geometry(path: Path, start: int = 0, *, insist: bool = False) -> GeometryFile:
    """Reads a geometry.npz.

    Without `frames`, the pictures are those of clip.mp4 beside the file or, for the first frame,
    first_frame.png, resized to `processed_size`.

    Args:
      path: the file.
      start: number of the frame to begin with; its picture and its depth must be there.
      insist: take depths that look like millimetres, or intrinsics like those of other pictures.

    Raises:
      FileNotFoundError: if the file, or every source of pictures, is missing.
      ValueError: naming the file and the array, if it is damaged, or an array is missing, holds
        objects or does not fit: what was found and what was expected.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file; expected Mirage's geometry.npz")
    with contextlib.closing(_Arrays(path)) as arrays:
        depths = arrays.get("depths", "f", ("F", "H", "W"))
        matrices = arrays.get("intrinsics", "fiu", ("F", 3, 3))
        cam2world = arrays.get("poses_c2w", "fiu", ("F", 4, 4))
        frames = arrays.find("frames", "u", ("n", "H", "W", 3))
        masks = arrays.find("masks", "biu", ("F", "H", "W"))
        arrays.find("frame_indices", "iu", ("F",))
        original = _size(arrays, "original_size")
        processed = _size(arrays, "processed_size")
        fps = arrays.find("fps", "fiu", ("n",), scalar=True)

    count, size = len(depths), depths.shape[1:]
    for name, array in (("intrinsics", matrices), ("poses_c2w", cam2world)):
        if len(array) != count:
            raise ValueError(
                f"{path}: {name}: found {len(array)} frames, expected {count} as depths"
            )
    if masks is not None and masks.shape != depths.shape:
        raise ValueError(f"{path}: masks: found {masks.shape}, expected {depths.shape} as depths")
    if not 0 <= start < count:
        raise ValueError(f"{path}: found {count} frames, expected one with number {start}")
    if frames is None:
        frames = _pictures_beside(path, processed, start)
    elif frames.dtype != np.uint8:
        raise ValueError(f"{path}: frames: found {frames.dtype}, expected uint8")
    if frames.shape[1:3] != size or len(frames) > count:
        raise ValueError(
            f"{path}: frames: found {len(frames)} of {frames.shape[1:3]} pixels, expected up to "
            f"{count} of {size} as depths"
        )
    if start >= len(frames):
        raise ValueError(
            f"{path}: frames: found the first {len(frames)} alone, expected that of number {start}"
        )
    wrong = int((~(depths >= 0)).sum())
    if wrong:
        raise ValueError(
            f"{path}: depths: {wrong} of {depths.size} pixels are NaN or negative, expected metres "
            "(0 = unknown, inf = sky)"
        )
    if not (depths[start] > 0).any():
        raise ValueError(f"{path}: depths[{start}]: found no depth above 0, expected metres")
    if fps is not None and not fps[0] > 0:
        raise ValueError(f"{path}: fps: found {fps[0]}, expected a positive number")
    lens = check_intrinsics(_focal(path, matrices), size, f"{path}: intrinsics")
    refuse(f"{path}: intrinsics", odd_intrinsics(lens, size), insist)
    refuse(f"{path}: depths", odd_depth(depths[start]), insist)
    return GeometryFile(
        path,
        depths.astype(np.float32, copy=False),
        lens,
        check_cam2world(cam2world, f"{path}: poses_c2w"),
        frames,
        None if masks is None else masks.astype(bool),
        original,
        None if fps is None else float(fps[0]),
    )


class _Arrays:
    """Arrays of an .npz, each checked as it is read."""

    def __init__(self, path: Path):
        self.path = path
        self._file = ArrayFile(path)

    def close(self) -> None:
        self._file.close()

    def get(self, name: str, kinds: str, shape: tuple[str | int, ...]) -> np.ndarray:
        """An array that must be there."""
        array = self.find(name, kinds, shape)
        if array is None:
            raise ValueError(f"{self.path}: {name}: found none among {sorted(self._file.names)}")
        return array

    def find(
        self, name: str, kinds: str, shape: tuple[str | int, ...], *, scalar: bool = False
    ) -> np.ndarray | None:
        """An array, or None if it is not there or empty; `kinds` are numpy's letters.

        A `scalar` may come as a number or as an array of one.
        """
        if name not in self._file.names:
            return None
        array = self._file.read(name)
        if not array.size:
            return None
        if scalar and array.size == 1:
            array = array.reshape(1)
        fits = (
            array.ndim == len(shape)
            and not (scalar and array.size != 1)
            and all(
                isinstance(wanted, str) or found == wanted
                for found, wanted in zip(array.shape, shape, strict=True)
            )
        )
        if array.dtype.kind not in kinds or not fits:
            raise ValueError(
                f"{self.path}: {name}: found {array.dtype} {array.shape}, expected "
                f"{' or '.join(_KINDS[kind] for kind in kinds)} ({', '.join(map(str, shape))})"
            )
        return array


_KINDS = {"f": "floating point", "u": "unsigned", "i": "integer", "b": "bool"}


def _size(arrays: _Arrays, name: str) -> tuple[int, int] | None:
    found = arrays.find(name, "iu", (2,))
    if found is None or tuple(found) == _NO_SIZE:
        return None
    if found.min() < 1:
        raise ValueError(
            f"{arrays.path}: {name}: found {found.tolist()}, expected height and width"
        )
    return int(found[0]), int(found[1])


def _focal(path: Path, matrices: np.ndarray) -> np.ndarray:
    """fx, fy, cx, cy of matrices that hold nothing else."""
    matrices = matrices.astype(np.float64)
    # Rounding of a calibration is let pass: a skew of so little moves no pixel.
    focal = np.abs(matrices[:, 0, 0]).clip(1.0)
    plain = (np.abs(matrices[:, [0, 1], [1, 0]]) <= _SKEW * focal[:, None]).all(1)
    plain &= (np.abs(matrices[:, 2] - [0, 0, 1]) <= _SKEW).all(1)
    wrong = ~plain
    if wrong.any():
        first = int(np.argmax(wrong))
        raise ValueError(
            f"{path}: intrinsics[{first}]: found {matrices[first].tolist()}, expected "
            "[[fx, 0, cx], [0, fy, cy], [0, 0, 1]]"
        )
    return np.stack([matrices[:, i, j] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2))], axis=-1)


def _pictures_beside(path: Path, size: tuple[int, int] | None, start: int) -> np.ndarray:
    clip, first = (path.parent / name for name in _SIDE_FILES)
    if clip.is_file():
        pictures: Any = video_io.read_video(clip)[0]
    elif first.is_file():
        if start:
            raise ValueError(
                f"{path}: frames: found none and {first.name} alone beside it, expected the "
                f"picture of number {start}"
            )
        pictures = read_rgb(first)[None]
    else:
        raise FileNotFoundError(
            f"{path}: frames: found none; expected them there, or {' or '.join(_SIDE_FILES)} "
            "beside it"
        )
    return pictures if size is None else np.stack([resize(picture, size) for picture in pictures])


def resize(
    picture: UInt8[np.ndarray, "height width 3"], size: tuple[int, int]
) -> UInt8[np.ndarray, "h w 3"]:
    """A picture at another size, by Pillow's bilinear filter as Mirage does it."""
    if picture.shape[:2] == size:
        return picture
    image = Image.fromarray(picture)
    return np.asarray(image.resize((size[1], size[0]), Image.Resampling.BILINEAR))
