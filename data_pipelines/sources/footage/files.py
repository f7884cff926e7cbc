"""Finding the files of footage, and reading text from them."""

import os
from collections.abc import Iterator
from pathlib import Path


def walk(root: Path) -> Iterator[Path]:
    """Every folder from `root` on, by name; links are followed, each folder is given once.

    Raises:
      ValueError: naming `root`, if it is no folder.
    """
    if not root.is_dir():
        raise ValueError(f"{root}: no such folder, expected footage")
    seen = set()
    for folder, below, _ in os.walk(root, followlinks=True):
        below[:] = sorted(name for name in below if not name.startswith("."))
        real = os.path.realpath(folder)
        if real in seen:  # a link to a folder above or beside it
            below.clear()
            continue
        seen.add(real)
        yield Path(folder)


def below(root: Path, path: Path) -> str:
    """The name of a file or folder within `root`, with forward slashes; of `root` its own."""
    return root.resolve().name if path == root else path.relative_to(root).as_posix()


def within(root: Path, name: str) -> Path:
    """What `below` gave the name of."""
    inside = root / name
    return root if name == root.resolve().name and not inside.exists() else inside


def read_text(path: Path) -> str:
    """A text file in UTF-8, without a byte order mark, its lines ended by \\n.

    Raises:
      ValueError: naming the file, if it does not exist or is not UTF-8.
    """
    try:
        return path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path}: byte {error.start}: not UTF-8 ({error.reason}), expected text in UTF-8"
        ) from error
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}), expected text") from error


def read_numbers(path: Path, columns: int) -> list[list[float]]:
    """Lines of numbers; those that are empty or begin with # are passed over.

    Raises:
      ValueError: naming the file and the line, for another number of columns or no number.
    """
    rows = []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        words = line.split()
        if not words or words[0].startswith("#"):
            continue
        try:
            row = [float(word) for word in words]
        except ValueError as error:
            raise ValueError(f"{path}: line {number}: {error}, expected numbers") from error
        if len(row) != columns:
            raise ValueError(f"{path}: line {number}: found {len(row)} numbers, expected {columns}")
        rows.append(row)
    return rows
