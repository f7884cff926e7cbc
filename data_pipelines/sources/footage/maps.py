"""Depth, masks and captions that lie beside pictures, in folders, archives or arrays."""

import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np

from data_pipelines.sources.footage.exr import read_channel
from data_pipelines.sources.footage.files import in_order, read_text
from data_pipelines.sources.footage.picture_files import read_depth_png
from data_pipelines.sources.footage.scene import Read
from mirage_jax.io.camera_files import parsing
from mirage_jax.io.image_files import opened
from mirage_jax.io.numpy_files import ZIP_FAILURES, map_array

DEPTH_SUFFIXES = (".png", ".exr", ".npy")
MASK_SUFFIXES = (".png",)


def depth_files(files: Sequence[Path], metres: float) -> Read:
    """Depth from a 16-bit PNG, an EXR (channel Z) or a .npy file for each frame.

    Args:
      files: by frame.
      metres: of one step of a PNG or of whole numbers; EXR and floats are in metres.
    """

    def read(frames: Sequence[int]) -> Iterator[np.ndarray]:
        for frame in frames:
            path = files[frame]
            suffix = path.suffix.lower()
            if suffix == ".png":
                yield read_depth_png(path, metres)
            elif suffix == ".npy":
                depth = _array(path, ("f", "u", "i"))
                unit = np.float32(1.0 if depth.dtype.kind == "f" else metres)
                yield checked_depth((depth * unit).astype(np.float32), f"{path} (frame {frame}): ")
            else:
                yield _named(Path(f"{path} (frame {frame})"), path.read_bytes(), exr_depth)

    return read


def mask_files(files: Sequence[Path], read_mask: Callable[[bytes], np.ndarray]) -> Read:
    """Movers from a picture for each frame, by `png_mask` or `png_left_out`."""

    def read(frames: Sequence[int]) -> Iterator[np.ndarray]:
        for frame in frames:
            yield _named(files[frame], files[frame].read_bytes(), read_mask)

    return read


def depth_folder(folder: Path, count: int, metres: float) -> Read | None:
    """Depth of every frame from the files of a folder by name, as `depth_files` reads them.

    Args:
      folder: of the files; None is returned where there is no such folder.
      count: of the frames.
      metres: as of `depth_files`.

    Raises:
      ValueError: naming the folder, for another number of files.
    """
    files = _files(folder, DEPTH_SUFFIXES, count, "depth maps")
    return None if files is None else depth_files(files, metres)


def mask_folder(folder: Path, count: int) -> Read | None:
    """Movers of every frame from a folder of pictures, of which 0 is static; as `depth_folder`."""
    files = _files(folder, MASK_SUFFIXES, count, "masks")
    return None if files is None else mask_files(files, png_mask)


def _files(folder: Path, suffixes: tuple[str, ...], count: int, what: str) -> list[Path] | None:
    if not folder.is_dir():
        return None
    files = in_order(path for path in folder.iterdir() if path.suffix.lower() in suffixes)
    if len(files) != count:
        lacking = _lacking([path.name for path in files], count)
        raise ValueError(
            f"{folder}: found {len(files)} {what}, expected {count}, one for each frame{lacking}"
        )
    return files


def number_of(name: str) -> int | None:
    """The number at the end of a file's name, None without one."""
    digits = re.search(r"(\d+)$", Path(name).stem)
    return None if digits is None else int(digits[1])


def _lacking(names: Sequence[str], count: int) -> str:
    """Which number is not among those of files, which count from 0 or 1, in words for an error."""
    numbers = {number_of(name) for name in names}
    if not numbers or None in numbers or len(names) > count:
        return ""
    start = 1 if 0 not in numbers and count in numbers else 0
    lacking = [number for number in range(start, start + count) if number not in numbers]
    return f"; none is numbered {lacking[0]} (frame {lacking[0] - start})" if lacking else ""


def archive(path: Path, count: int, read: Callable[[bytes], np.ndarray], suffix: str) -> Read:
    """Maps of every frame from a zip file, in the order of their names.

    Args:
      path: the file.
      count: of the frames.
      read: from the bytes of a member; `exr_depth` or `png_mask`.
      suffix: of the members.

    Raises:
      ValueError: naming the file, if it is damaged or has another number of members.
    """
    try:
        with zipfile.ZipFile(path) as members:
            names = [name for name in members.namelist() if name.lower().endswith(suffix)]
            names.sort(key=parsing.natural_key)
    except ZIP_FAILURES as error:
        raise ValueError(f"{path}: found no whole zip file, expected one ({error})") from error
    if len(names) != count:
        raise ValueError(
            f"{path}: found {len(names)} {suffix} files, expected {count}, one for each frame"
            f"{_lacking(names, count)}"
        )
    _check_numbers(path, names)

    def maps(frames: Sequence[int]) -> Iterator[np.ndarray]:
        with zipfile.ZipFile(path) as members:
            for frame in frames:
                try:
                    data = members.read(names[frame])
                except ZIP_FAILURES as error:
                    raise ValueError(
                        f"{path}: {names[frame]} (frame {frame}): damaged ({error})"
                    ) from error
                yield _named(Path(f"{path}: {names[frame]} (frame {frame})"), data, read)

    return maps


def _check_numbers(path: Path, names: Sequence[str]) -> None:
    """Raises ValueError where names are numbers of frames and one of them is missing.

    Those of EXR files are 0, 1, ...; others may begin elsewhere.
    """
    stems = [Path(name).stem for name in names]
    exr = bool(names) and names[0].lower().endswith(".exr")
    if not exr and not all(stem.isdecimal() for stem in stems):
        return
    first = 0 if exr else int(stems[0])
    for number, stem in enumerate(stems):
        if not stem.isdecimal() or int(stem) != first + number:
            raise ValueError(
                f"{path}: found {names[number]} in the place of frame {number}, expected files "
                f"called {first} to {first + len(names) - 1}, with zeros before them or without"
            )


def checked_depth(depth: np.ndarray, where: str = "") -> np.ndarray:
    """The depth; ValueError beginning with `where` if it is NaN or below 0 anywhere."""
    wrong = ~(depth >= 0)
    if wrong.any():
        place = np.argwhere(wrong)[0]
        raise ValueError(
            f"{where}found {depth[tuple(place)]} in {int(wrong.sum())} pixels, expected metres >= "
            "0, 0 unknown, inf sky"
        )
    return depth


def exr_depth(data: bytes) -> np.ndarray:
    """Channel Z of an EXR picture, metres; not finite = unknown, as ViPE leaves the sky."""
    depth = read_channel(data, "Z")
    return checked_depth(np.where(np.isfinite(depth), depth, 0).astype(np.float32))


def exr_inverse_depth(data: bytes) -> np.ndarray:
    """Depth of an EXR picture whose channel Z is 1 / depth; unknown where that is not above 0."""
    inverse = read_channel(data, "Z")
    known = np.isfinite(inverse) & (inverse > 0)
    return np.where(known, 1 / np.where(known, inverse, 1), 0).astype(np.float32)


def png_mask(data: bytes) -> np.ndarray:
    """int32, 1 where a picture is above 0."""
    with opened(Path("mask"), data) as image:
        values = np.asarray(image)
    moving = np.any(values, axis=-1) if values.ndim == 3 else values > 0
    return np.asarray(moving, np.int32)


def png_left_out(data: bytes) -> np.ndarray:
    """int32, 1 where a picture is black: nerfstudio's mask_path, of what is not to be used."""
    return 1 - png_mask(data)


def _named(path: Path, data: bytes, read: Callable[[bytes], np.ndarray]) -> np.ndarray:
    try:
        return read(data)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error


def mask_array(path: Path, count: int) -> Read:
    """Movers from a bool .npy of [F, H, W]; ValueError, naming it, for anything else."""
    masks = _array(path, ("b", "u", "i"))
    if masks.ndim != 3 or len(masks) != count:
        raise ValueError(f"{path}: found shape {masks.shape}, expected [{count}, H, W]")

    def read(frames: Sequence[int]) -> Iterator[np.ndarray]:
        return ((masks[frame] != 0).astype(np.int32) for frame in frames)

    return read


def _array(path: Path, kinds: tuple[str, ...]) -> np.ndarray:
    array = map_array(path)
    if array.dtype.kind not in kinds:
        raise ValueError(f"{path}: found {array.dtype}, expected numbers")
    return array


def caption(*paths: Path) -> str | None:
    """The text of the first of the files that is there and not empty."""
    for path in paths:
        if path.is_file():
            text = read_text(path).strip()
            if text:
                return text
    return None
