"""Which picture a camera means, when it was taken, and which maps are a picture's: all by name."""

from collections.abc import Callable, Hashable, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from jaxtyping import Int

from data_pipelines.sources.footage.files import walk
from data_pipelines.sources.footage.maps import number_of
from data_pipelines.sources.footage.picture_files import SUFFIXES, is_picture, list_pictures
from mirage_jax.io.camera_files.parsing import natural_key


def all_pictures(folder: Path) -> list[Path]:
    """The pictures of a folder, or of all folders in it where it has none, by their names."""
    return list_pictures(folder) or sorted(
        (path for place in walk(folder) for path in place.iterdir() if is_picture(path)),
        key=lambda path: natural_key(path.relative_to(folder).as_posix()),
    )


def within_folder(name: str, folder: Path) -> str:
    """A picture's name from a camera file, without the folder of the pictures if it has that."""
    parts = PurePosixPath(name.replace("\\", "/")).parts
    if folder.name in parts[:-1]:
        last = len(parts) - 1 - parts[::-1].index(folder.name)
        parts = parts[last + 1 :]
    return "/".join(part for part in parts if part not in (".", "/"))


def named_files(
    names: Sequence[str], root: Path, folder: Path, there: Sequence[Path]
) -> list[Path | None]:
    """The picture of each name; None where there is none.

    A name is a path from `root` or the folder of the pictures, .png left away as Blender does, or
    else the end of a path that just one of the pictures has, or that ends so itself: a picture of
    another folder is never taken.

    Args:
      names: from a camera file.
      root: folder of the scene.
      folder: of the pictures.
      there: all pictures in it.
    """
    known: dict[str, list[Path]] = {}
    for path in there:
        known.setdefault(path.stem, []).append(path)

    def find(name: str) -> Path | None:
        for place in (root / name, folder / name):
            for path in (place, place.with_name(place.name + ".png")):
                if path.is_file():
                    return path
        wanted = PurePosixPath(within_folder(name, folder))
        stem = wanted.stem if wanted.suffix.lower() in SUFFIXES else wanted.name
        found = [
            path
            for path in known.get(stem, ())
            if _same_end(path.relative_to(folder).parent.parts, wanted.parent.parts)
        ]
        exact = [path for path in found if path.name == wanted.name] or found
        return exact[0] if len(exact) == 1 else None

    return [find(name) for name in names]


def _same_end(these: Sequence[str], those: Sequence[str]) -> bool:
    shared = min(len(these), len(those))
    return tuple(these[len(these) - shared :]) == tuple(those[len(those) - shared :])


def positions(
    names: Sequence[str], found: Sequence[Path | None], folder: Path, there: Sequence[Path]
) -> tuple[Int[np.ndarray, " n"], Int[np.ndarray, " n"]]:
    """Of each name the number of its picture among all, and that of its folder, a take of its own.

    All are those that are there, and those that are missing.

    Args:
      names, found: of cameras, from `named_files`.
      folder, there: of the pictures.

    Raises:
      ValueError: naming the picture that two cameras have.
    """
    keys = [
        within_folder(name, folder) if path is None else _below(path, folder)
        for name, path in zip(names, found, strict=True)
    ]
    if len(set(keys)) < len(keys):
        twice = next(key for i, key in enumerate(keys) if key in keys[:i])
        raise ValueError(f"found picture {twice} twice, expected one camera for each picture")
    whole = sorted({*keys, *(_below(path, folder) for path in there)}, key=natural_key)
    place = {key: number for number, key in enumerate(whole)}
    folders: dict[PurePosixPath, int] = {}
    take = {key: folders.setdefault(PurePosixPath(key).parent, len(folders)) for key in whole}
    return np.array([place[key] for key in keys], int), np.array([take[key] for key in keys], int)


def _below(path: Path, folder: Path) -> str:
    return path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix()


def paired(
    folder: Path, pictures: Sequence[Path], base: Path, suffixes: Sequence[str], what: str
) -> list[Path] | None:
    """For each picture the file of a folder that has its name, or else the number at its end.

    Args:
      folder: of the files, in folders as the pictures are; None is returned where it is not there.
      pictures: in the order of the frames.
      base: the folder of the pictures.
      suffixes: of the files.
      what: they are, for messages.

    Raises:
      ValueError: naming the frame that has no file, or the files that both go with it.
    """
    if not folder.is_dir():
        return None
    files = [path for place in walk(folder) for path in place.iterdir()]
    files = [path for path in files if path.suffix.lower() in suffixes and path.name[0] != "."]
    for key in _KEYS:
        wanted = [key(_below(path, base)) for path in pictures]
        known: dict[Hashable, list[Path]] = {}
        for path in files:
            known.setdefault(key(_below(path, folder)), []).append(path)
        if None in wanted or len(set(wanted)) < len(wanted) or known.keys().isdisjoint(wanted):
            continue
        chosen = []
        for frame, (name, picture) in enumerate(zip(wanted, pictures, strict=True)):
            found = known.get(name, [])
            if len(found) != 1:
                names = ", ".join(sorted(path.name for path in found)) or "none"
                raise ValueError(
                    f"{folder}: found {names} for frame {frame}, {picture.name}, expected one of "
                    f"the {what}"
                )
            chosen += found
        return chosen
    raise ValueError(
        f"{folder}: found {len(files)} {what}, none of them of the name or number of frame 0, "
        f"{pictures[0].name}; expected one for each picture"
    )


def _whole(name: str) -> str:
    path = PurePosixPath(name).with_suffix("")
    # COLMAP calls the mask of 0001.jpg 0001.jpg.png.
    return (path.with_suffix("") if path.suffix.lower() in SUFFIXES else path).as_posix()


_KEYS: tuple[Callable[[str], Hashable], ...] = (
    _whole,
    lambda name: PurePosixPath(_whole(name)).name,
    number_of,
)
