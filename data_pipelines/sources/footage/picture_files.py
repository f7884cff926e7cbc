"""Picture and depth files of footage, by number; what cannot be read is a ValueError."""

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from data_pipelines.sources.footage.files import in_order
from mirage_jax.io.image_files import opened, picture_file_size, read_rgb

SUFFIXES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff", ".ppm")


def read_picture(path: Path, ground: int = 255) -> UInt8[np.ndarray, "H W 3"]:
    """One picture file in 8-bit RGB, as `image_files.read_rgb` reads it.

    Args:
      path: the file.
      ground: grey of 0 to 255 that shows through transparent pixels.

    Raises:
      ValueError: naming the file, if it cannot be read, is no picture, or damaged.
    """
    with _readable(path):
        return read_rgb(path, background=(ground, ground, ground))


def picture_size(path: Path) -> tuple[int, int]:
    """(H, W) of a picture file as it is to be seen, from its header; errors as `read_picture`."""
    with _readable(path):
        return picture_file_size(path)


def read_depth_png(path: Path, metres: float, unknown: int = 0) -> Float[np.ndarray, "H W"]:
    """A 16-bit grey picture as float32 metres, 0 where unknown.

    Args:
      path: the file.
      metres: of one step.
      unknown: a value beside 0 that says that nothing was measured.

    Raises:
      ValueError: naming the file, if it does not exist, is damaged or not of 16 bits.
    """
    with _readable(path), opened(path) as image:
        if image.mode not in ("I;16", "I"):
            raise ValueError(f"{path}: found mode {image.mode}, expected 16-bit grey")
        values = np.asarray(image)
    known = (values != 0) & (values != unknown)
    return np.where(known, values * np.float32(metres), 0).astype(np.float32)


@contextlib.contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Raises ValueError, which leaves a clip out where OSError ends a recording."""
    if not path.is_file():
        raise ValueError(f"{path}: no such file, expected a picture")
    if path.stat().st_size == 0:
        raise ValueError(f"{path}: found an empty file, expected a picture")
    try:
        yield
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error}), expected a picture") from error


class PictureFiles:
    """Reads pictures of one size by number."""

    def __init__(
        self, paths: Sequence[Path], ground: int = 255, names: Sequence[str] | None = None
    ):
        """Takes the size from the first; ValueError, naming it, if that cannot be read.

        Args:
          paths: of the frames.
          ground: of `read_picture`.
          names: of the frames, for messages; None: their numbers from 0 on.
        """
        self.paths = tuple(paths)
        self.names = names or [str(number) for number in range(len(self.paths))]
        self.ground = ground
        self.size = picture_size(self.paths[0])

    def __call__(self, frames: Sequence[int]) -> Iterator[UInt8[np.ndarray, "H W 3"]]:
        """Yields pictures; ValueError, naming the file, for one of another size."""
        for frame in frames:
            picture = read_picture(self.paths[frame], self.ground)
            if picture.shape[:2] != self.size:
                raise ValueError(
                    f"{self.paths[frame]}: frame {self.names[frame]}: found {picture.shape[0]} x "
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
