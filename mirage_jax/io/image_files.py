"""Picture files to 8-bit RGB: the one place where picture files are opened.

Whatever a file holds comes out as a viewer shows it, or is refused with what to do. Nothing here
imports jax: recording and loading workers may use it.
"""

from __future__ import annotations

import contextlib
import functools
import io
import warnings
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import ExifTags, Image, ImageCms, ImageOps, UnidentifiedImageError

FORMATS = ("PNG", "JPEG", "WEBP", "AVIF", "TIFF", "JPEG2000", "BMP", "GIF", "PPM", "QOI", "TGA")
"""Of Pillow's, those that hold pictures and run nothing (it hands EPS to an interpreter)."""

BACKGROUND = (255, 255, 255)
"""What shows through transparent pixels, as in most viewers."""

_HEIF_BRANDS = (b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"msf1")
_TIFF_SUBFILE, _TIFF_BITS, _TIFF_POLARITY, _DNG_VERSION = 254, 258, 262, 50706
_AVERAGED = ("L", "LA", "RGB", "RGBA", "CMYK")
_SPARE = 2
"""Times the pixels asked for that are left when a large picture is read at a smaller size."""


@contextlib.contextmanager
def opened(path: Path, data: bytes | None = None) -> Iterator[Image.Image]:
    """A picture file as Pillow opens it, its pixels not yet read; errors within name the file.

    Args:
      path: the file.
      data: what it holds, where that is part of another file; `path` then only names it.

    Raises:
      ValueError: naming the file, if it is not a picture, damaged, far too large, or of a kind that
        is not read here.
      OSError: if it cannot be opened.
    """
    try:
        with warnings.catch_warnings():
            # Half of what is refused is what Pillow warns of; it is read without a word.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            # Given a name, Pillow maps grey TIFFs into memory, and garbles those that lie.
            with _bytes_of(path, data) as file, Image.open(file, formats=_formats()) as image:
                yield image
    except UnidentifiedImageError as error:
        if _is_heif(path, data):
            raise ValueError(
                f"{path}: a HEIC picture, which is not read here; save it as JPEG or PNG, e.g. by "
                "`heif-convert`, or let the phone take JPEGs (iPhone: Settings, Camera, Formats, "
                "Most Compatible)"
            ) from error
        raise ValueError(f"{path}: not a picture (expected PNG, JPEG, WebP, ...)") from error
    except Image.DecompressionBombError as error:
        most = 2 * (Image.MAX_IMAGE_PIXELS or 0) // 10**6
        raise ValueError(
            f"{path}: too large ({error}); expected at most {most} million pixels: resize it first"
        ) from error
    except (OSError, SyntaxError, ValueError) as error:  # Pillow raises any of them on damage
        if isinstance(error, OSError) and error.filename is not None:
            raise
        if str(error).startswith(str(path)):
            raise
        raise ValueError(f"{path}: damaged ({error}), expected a whole picture") from error


@functools.cache
def _formats() -> list[str]:
    """Those of `FORMATS` that this Pillow was built with."""
    Image.init()
    return [name for name in FORMATS if name in Image.OPEN]


def _bytes_of(path: Path, data: bytes | None) -> io.BytesIO | io.BufferedReader:
    return path.open("rb") if data is None else io.BytesIO(data)


def _is_heif(path: Path, data: bytes | None) -> bool:
    with _bytes_of(path, data) as file:
        start = file.read(12)
    return start[4:8] == b"ftyp" and start[8:12] in _HEIF_BRANDS


def picture_file_size(path: Path, turn: bool = True) -> tuple[int, int]:
    """(H, W) of a picture file; only its header is read.

    Args:
      path: the file.
      turn: the way up that it was taken, as `read_rgb`.

    Raises:
      ValueError, OSError: as `opened`.
    """
    with opened(path) as image:
        width, height = image.size
        turned = image.format == "TIFF"  # by Pillow
        lying = not turned and image.getexif().get(ExifTags.Base.Orientation) in (5, 6, 7, 8)
        return (width, height) if lying and turn else (height, width)


def read_rgb(
    path: Path,
    at_least: int | None = None,
    background: tuple[int, int, int] = BACKGROUND,
    data: bytes | None = None,
    turn: bool = True,
) -> UInt8[np.ndarray, "H W 3"]:
    """A picture file in 8-bit RGB, turned the way up that it was taken.

    16-bit greys are scaled, colours of an embedded profile turned into sRGB, and transparent pixels
    laid on the background. Of several pictures in a file the first is read.

    Args:
      path: the file.
      at_least: pixels that are needed of the shorter side: of a picture with more than twice as
        many, neighbours are averaged while it is read. By default all pixels are read.
      background: 8-bit RGB that shows through transparent pixels.
      data: as of `opened`.
      turn: by its EXIF orientation; otherwise as it is stored.

    Raises:
      ValueError, OSError: as `opened`; ValueError too for pictures whose white is not known
        (floating point, 32 bits), for the preview in a camera's raw file, and for a turned TIFF
        that is to be read as stored.
    """
    with opened(path, data) as image:
        _check_tiff(path, image)
        ends = _ends(path, image)
        tag = image.getexif().get(ExifTags.Base.Orientation, 1)
        if not turn and image.format == "TIFF" and tag != 1:
            raise ValueError(
                f"{path}: found a TIFF of orientation {tag}, which is always turned; expected PNG "
                "or JPEG where pictures are to be read as they are stored"
            )
        if at_least is not None:
            image = _smaller(image, _SPARE * at_least)
        upright = ImageOps.exif_transpose(image) if turn else image
        return np.asarray(_in_rgb(path, upright, ends, background))


def _smaller(image: Image.Image, side: int) -> Image.Image:
    """The picture with whole blocks of pixels averaged, and no side shorter than `side`.

    Blocks are of a size that leaves no row or column over: what is seen where stays the same.
    """
    factor = _common_divisor(image.size, side, (8, 4, 2))
    image.draft(None, (image.width // factor, image.height // factor))  # for JPEGs alone
    factor = _common_divisor(image.size, side, range(min(image.size) // side, 1, -1))
    if factor == 1 or image.mode not in _AVERAGED or "transparency" in image.info:
        return image
    image.load()  # which turns a TIFF the way up that it was taken
    exif = image.getexif().tobytes()
    reduced = image.reduce(factor)
    reduced.info["exif"] = exif
    return reduced


def _common_divisor(size: tuple[int, int], side: int, candidates: Iterable[int]) -> int:
    """The first candidate that divides both and leaves `side` of each; 1 if none does."""
    return next(
        (n for n in candidates if not (size[0] % n or size[1] % n or min(size) < n * side)), 1
    )


def _check_tiff(path: Path, image: Image.Image) -> None:
    """Raises ValueError for the preview that stands first in most raw files."""
    tags = getattr(image, "tag_v2", {})
    if _DNG_VERSION in tags or int(tags.get(_TIFF_SUBFILE, 0)) & 1:
        raise ValueError(
            f"{path}: a camera's raw file, of which only the preview could be read here; develop "
            "it to JPEG, PNG or TIFF first"
        )


def _ends(path: Path, image: Image.Image) -> tuple[int, int]:
    """The numbers that stand for black and for white; ValueError where they are not known."""
    if image.mode == "F" or (image.mode == "I" and image.format not in ("PNG", "PPM")):
        kind = "floating point numbers" if image.mode == "F" else "32-bit or signed numbers"
        raise ValueError(
            f"{path}: found {kind}, of which none is known to be white; expected 8 or 16 bits: "
            "convert it first"
        )
    tags = getattr(image, "tag_v2", {})
    bits = int(tags.get(_TIFF_BITS, (16,))[0])
    ends = (0, 2 ** min(bits, 16) - 1)
    return ends[::-1] if tags.get(_TIFF_POLARITY) == 0 else ends


def _in_rgb(
    path: Path, image: Image.Image, ends: tuple[int, int], background: tuple[int, int, int]
) -> Image.Image:
    if image.mode.startswith("I"):
        return _grey_in_rgb(image, ends, background)
    if image.mode == "LAB":
        raise ValueError(f"{path}: found CIELAB colours, expected RGB: convert it first")
    if image.has_transparency_data:
        profile = image.info.get("icc_profile")
        layered = image.convert("RGBA")
        ground = Image.new("RGBA", image.size, (*background, 255))
        image = Image.alpha_composite(ground, layered).convert("RGB")
        image.info["icc_profile"] = profile
    return _in_srgb(image).convert("RGB")


def _grey_in_rgb(
    image: Image.Image, ends: tuple[int, int], background: tuple[int, int, int]
) -> Image.Image:
    """Greys of more than 8 bits; `transparency` is the one value that means transparent."""
    black, white = ends
    share = (np.arange(2**16) - black) / (white - black)
    table = np.round(np.clip(share, 0, 1) * 255).astype(np.uint8)
    values = np.asarray(image)
    rgb = np.repeat(np.take(table, values, mode="clip")[..., None], 3, axis=-1)
    transparent = image.info.get("transparency")
    if isinstance(transparent, int):
        rgb[values == transparent] = background
    return Image.fromarray(rgb)


def _in_srgb(image: Image.Image) -> Image.Image:
    """Colours of the embedded profile, if there is one that can be used, in sRGB."""
    profile = image.info.get("icc_profile")
    if not profile or image.mode not in ("RGB", "CMYK"):
        return image
    srgb = ImageCms.createProfile("sRGB")
    try:
        own = ImageCms.ImageCmsProfile(io.BytesIO(profile))
        if "sRGB" in ImageCms.getProfileDescription(own):
            return image
        turned = ImageCms.profileToProfile(image, own, srgb, outputMode="RGB")
    except (ImageCms.PyCMSError, OSError):  # viewers show such pictures without their profile
        return image
    return image if turned is None else turned
