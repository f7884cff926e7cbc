"""Picture files as they are to be seen: turned, over a ground, in 8-bit RGB."""

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps, UnidentifiedImageError

from data_pipelines.sources.footage.files import in_order

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm")
_DAMAGE = (OSError, SyntaxError, ValueError, Image.DecompressionBombError)


def read_picture(path: Path, ground: int = 255) -> UInt8[np.ndarray, "H W 3"]:
    """One picture file in 8-bit RGB.

    Turned as its EXIF orientation says; transparent pixels, of a palette too, are laid over a grey
    ground; 16 bits are cut to the upper 8; CMYK and other modes are converted by Pillow.

    Args:
      path: the file.
      ground: grey of 0 to 255.

    Raises:
      ValueError: naming the file, if it does not exist, is no picture, or damaged.
    """
    _require(path)
    try:
        with Image.open(path) as image:
            turned = ImageOps.exif_transpose(image)
            return np.asarray(_as_rgb(turned, ground))
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: not a picture (expected PNG, JPEG, WebP, ...)") from error
    except _DAMAGE as error:
        raise ValueError(f"{path}: damaged, expected a whole picture ({error})") from error


def _as_rgb(image: Image.Image, ground: int) -> Image.Image:
    if image.mode.startswith("I") or image.mode == "F":
        values = np.asarray(image)
        if values.dtype != np.uint16 and not (image.mode == "I" and 0 <= values.min() <= 65535):
            raise ValueError(f"found a picture of {values.dtype}, expected 8 or 16 bits")
        return Image.fromarray((values >> 8).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        over = Image.new("RGBA", image.size, (ground, ground, ground, 255))
        return Image.alpha_composite(over, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def picture_size(path: Path) -> tuple[int, int]:
    """(H, W) of a picture file as it is to be seen, from its header; errors as `read_picture`."""
    _require(path)
    try:
        with Image.open(path) as image:
            width, height = image.size
            # Orientations 5 to 8 lie on their side.
            sideways = image.getexif().get(0x0112, 1) >= 5
            return (width, height) if sideways else (height, width)
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: not a picture (expected PNG, JPEG, WebP, ...)") from error
    except _DAMAGE as error:
        raise ValueError(f"{path}: damaged, expected a whole picture ({error})") from error


def read_depth_png(path: Path, metres: float, unknown: int = 0) -> Float[np.ndarray, "H W"]:
    """A 16-bit grey picture as float32 metres, 0 where unknown.

    Args:
      path: the file.
      metres: of one step.
      unknown: a value beside 0 that says that nothing was measured.

    Raises:
      ValueError: naming the file, if it does not exist, is damaged or not of 16 bits.
    """
    _require(path)
    try:
        with Image.open(path) as image:
            if image.mode not in ("I;16", "I"):
                raise ValueError(f"found a picture of mode {image.mode}, expected 16-bit grey")
            values = np.asarray(image)
    except UnidentifiedImageError as error:
        raise ValueError(f"{path}: not a picture, expected 16-bit PNG") from error
    except _DAMAGE as error:
        raise ValueError(f"{path}: damaged, expected a whole depth picture ({error})") from error
    known = (values != 0) & (values != unknown)
    return np.where(known, values * np.float32(metres), 0).astype(np.float32)


def _require(path: Path) -> None:
    if not path.is_file():
        raise ValueError(f"{path}: no such file, expected a picture")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: found an empty file, expected a picture")


class PictureFiles:
    """Reads pictures of one size by number."""

    def __init__(self, paths: Sequence[Path], ground: int = 255):
        """Takes the size from the first; ValueError, naming it, if that cannot be read."""
        self.paths = tuple(paths)
        self.ground = ground
        self.size = picture_size(self.paths[0])

    def __call__(self, frames: Sequence[int]) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Yields pictures; ValueError, naming the file, for one of another size."""
        for frame in frames:
            picture = read_picture(self.paths[frame], self.ground)
            if picture.shape[:2] != self.size:
                raise ValueError(
                    f"{self.paths[frame]}: frame {frame}: found {picture.shape[0]} x "
                    f"{picture.shape[1]} pixels, expected {self.size[0]} x {self.size[1]} as "
                    f"{self.paths[0].name}"
                )
            yield picture


def list_pictures(folder: Path) -> list[Path]:
    """Picture files of a folder by name; ValueError, naming it, if it is no folder."""
    if not folder.is_dir():
        raise ValueError(f"{folder}: no such folder, expected one of pictures")
    return in_order(
        path
        for path in folder.iterdir()
        if path.suffix.lower() in SUFFIXES and not path.name.startswith(".")
    )
