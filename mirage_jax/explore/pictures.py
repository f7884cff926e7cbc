"""Pictures to the page, encoded, and from it, decoded within limits."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mirage_jax.explore.protocol import MAX_PICTURE
from mirage_jax.geometry import Camera
from mirage_jax.io.image_files import opened
from mirage_jax.io.picture_files import read_picture

MAX_PIXELS = 40_000_000
"""Of a picture from the page: decoding takes no more than about a second."""

_STARTS = {b"\xff\xd8\xff": ".jpg", b"\x89PNG\r\n\x1a\n": ".png", b"RIFF": ".webp"}
"""First bytes of what browsers send."""

QUALITY = 90


def encoded(picture: UInt8[np.ndarray, "h w 3"]) -> bytes:
    """A picture as JPEG with whole colour resolution."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "JPEG", quality=QUALITY, subsampling=0)
    return file.getvalue()


def encoded_exactly(picture: UInt8[np.ndarray, "h w c"]) -> bytes:
    """A picture as PNG, with its transparency if there are four channels."""
    file = io.BytesIO()
    Image.fromarray(picture).save(file, "PNG", compress_level=1)
    return file.getvalue()


def decoded(data: bytes) -> UInt8[np.ndarray, "h w 3"]:
    """The picture of `encoded` or `encoded_exactly`, which the server itself made."""
    with Image.open(io.BytesIO(data), formats=("JPEG", "PNG")) as image:
        return np.asarray(image.convert("RGB"))


def thumbnail(data: bytes, side: int = 128) -> bytes:
    """A picture of `encoded`, made smaller until no side is longer."""
    image = Image.fromarray(decoded(data))
    image.thumbnail((side, side))
    return encoded(np.asarray(image))


def picture_of_visitor(
    data: bytes, size: tuple[int, int], fov: float | int = 90.0
) -> tuple[UInt8[np.ndarray, "h w 3"], Camera]:
    """A picture file from the page, cut and resized, and the camera that sees it.

    Args:
      data: the file: JPEG, PNG or WebP.
      size: (H, W) to come to.
      fov: degrees across the shorter side of what is cut out.

    Raises:
      ValueError: if it is of another kind, too large, or damaged.
    """
    if len(data) > MAX_PICTURE:
        raise ValueError(f"picture: found {len(data)} bytes, expected at most {MAX_PICTURE}")
    suffix = next((end for start, end in _STARTS.items() if data.startswith(start)), None)
    if suffix is None:
        raise ValueError("picture: found another kind of file, expected JPEG, PNG or WebP")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, f"picture{suffix}")
        path.write_bytes(data)
        try:
            with opened(path) as image:  # which reads no pixels yet
                width, height = image.size
            if height * width > MAX_PIXELS:
                raise ValueError(
                    f"{path}: found {width} x {height} pixels, expected at most {MAX_PIXELS:,}"
                )
            return read_picture(path, size, fov)
        except ValueError as error:
            # Where files are on this machine is nobody's business.
            raise ValueError(str(error).replace(str(path), "picture")) from error
