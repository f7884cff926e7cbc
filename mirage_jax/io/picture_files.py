"""Pictures from files, cut and resized to what a model takes, with the camera that sees them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from mirage_jax.geometry import Camera, crop_camera, field_of_view, resize_camera
from mirage_jax.io.depth_maps import read_depth, resample
from mirage_jax.io.framing import centred_window
from mirage_jax.io.image_files import picture_file_size, read_rgb


def read_picture(
    path: Path, size: tuple[int, int], fov: float | int = 90.0
) -> tuple[UInt8[np.ndarray, "h w 3"], Camera]:
    """The middle of a picture file, resized, and the camera that sees it, at the origin.

    Args:
      path: the file.
      size: (H, W) to come to; the picture is cut to this shape first.
      fov: degrees across the shorter side of what is cut out.

    Raises:
      ValueError, OSError: as `image_files.read_rgb`.
    """
    whole = picture_file_size(path)
    top, left, window = centred_window(whole, size)
    lens = field_of_view(fov, window)
    # The lens is in the middle of the picture, which may be half a pixel beside the window's.
    lens[2:] = whole[1] / 2, whole[0] / 2
    camera = Camera(lens, np.eye(4, dtype=np.float32), whole)
    picture = Image.fromarray(read_rgb(path, at_least=max(size)))  # may be smaller than the file's
    x, y = picture.width / whole[1], picture.height / whole[0]
    box = (left * x, top * y, (left + window[1]) * x, (top + window[0]) * y)
    # A box counts a pixel whole or not at all: right only where none is cut through.
    whole_pixels = all(edge == round(edge) for edge in box)
    resampling = Image.Resampling.BOX if whole_pixels else Image.Resampling.HAMMING
    resized = picture.resize((size[1], size[0]), resampling, box=box)
    return np.asarray(resized), resize_camera(crop_camera(camera, top, left, window), size)


def read_picture_depth(
    path: Path, picture: Path, size: tuple[int, int], *, insist: bool = False
) -> Float[np.ndarray, "h w"]:
    """A depth file as float32 metres, cut and resized as `read_picture` does its picture.

    Raises:
      ValueError: if it is not a depth file, or not of the picture's size.
    """
    depth = read_depth(path, insist=insist)
    expected = picture_file_size(picture)
    if depth.shape != expected:
        raise ValueError(
            f"{path}: found {depth.shape[0]} x {depth.shape[1]} pixels, expected "
            f"{expected[0]} x {expected[1]} as the picture {picture}"
        )
    top, left, (height, width) = centred_window(depth.shape, size)
    return resample(depth[top : top + height, left : left + width], size)
