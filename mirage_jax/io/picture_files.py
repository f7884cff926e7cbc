"""Pictures from files, cut and resized to what a model takes, with the camera that sees them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from mirage_jax.geometry import Camera, crop_picture, field_of_view, resize_picture
from mirage_jax.io.depth_maps import read_depth, resample
from mirage_jax.io.framing import centred_window


def open_picture(path: Path) -> Image.Image:
    """A picture file in RGB, turned the way up that it was taken.

    Raises:
      ValueError: naming the file, if it is not a picture, damaged or far too large.
      OSError: if it cannot be opened.
    """
    try:
        with Image.open(path) as image:
            return ImageOps.exif_transpose(image).convert("RGB")
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: not a picture (expected PNG, JPEG, WebP, ...)") from error
    except Image.DecompressionBombError as error:
        raise ValueError(f"{path}: too large ({error})") from error
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises any of them on damage
        if isinstance(error, OSError) and error.filename is not None:
            raise
        raise ValueError(f"{path}: damaged ({error})") from error


def read_picture(
    path: Path, size: tuple[int, int], fov: float | int = 90.0
) -> tuple[UInt8[np.ndarray, "h w 3"], Camera]:
    """The middle of a picture file, resized, and the camera that sees it, at the origin.

    Args:
      path: the file.
      size: (H, W) to come to; the picture is cut to this shape first.
      fov: degrees across the shorter side of what is cut out.

    Raises:
      ValueError, OSError: as `open_picture`.
    """
    picture = np.asarray(open_picture(path))
    top, left, window = centred_window(picture.shape[:2], size)
    whole = (picture.shape[0], picture.shape[1])
    lens = field_of_view(fov, window)
    # The lens is in the middle of the picture, which may be half a pixel beside the window's.
    lens[2:] = whole[1] / 2, whole[0] / 2
    camera = Camera(lens, np.eye(4, dtype=np.float32), whole)
    cut, camera = crop_picture(picture, camera, top, left, window)
    return resize_picture(cut, camera, size, Image.Resampling.BOX)


def read_picture_depth(
    path: Path, picture: Path, size: tuple[int, int]
) -> Float[np.ndarray, "h w"]:
    """A depth file as float32 metres, cut and resized as `read_picture` does its picture.

    Raises:
      ValueError: if it is not a depth file, or not of the picture's size.
    """
    depth = read_depth(path)
    expected = open_picture(picture).size[::-1]
    if depth.shape != expected:
        raise ValueError(
            f"{path}: found {depth.shape[0]} x {depth.shape[1]} pixels, expected "
            f"{expected[0]} x {expected[1]} as the picture {picture}"
        )
    top, left, (height, width) = centred_window(depth.shape, size)
    return resample(depth[top : top + height, left : left + width], size)
