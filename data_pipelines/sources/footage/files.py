"""Finding the files of footage, and reading text from them."""

import os
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path, PurePosixPath

from data_pipelines.card import CARD, FORMAT
from mirage_jax.io.camera_files import parsing


def walk(root: Path, leaving: Collection[Path] = ()) -> Iterator[Path]:
    """Every folder from `root` on, by name; links are followed, each folder is given once.

    Recordings below `root`, and resolved folders that are among those of `leaving`, are left out.

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
        if Path(real) in leaving or (Path(folder) != root and _is_recording(Path(folder))):
            below.clear()
            continue
        yield Path(folder)


def _is_recording(folder: Path) -> bool:
    """Whether a folder has the card of a recording; data sets of others have a dataset.json too."""
    try:
        with open(folder / CARD, "rb") as file:
            return FORMAT.encode() in file.read(100)
    except OSError:
        return False


def in_order(paths: Iterable[Path]) -> list[Path]:
    """Files by the numbers in their names, frame 2 before frame 10, as cameras are."""
    return sorted(paths, key=lambda path: parsing.natural_key(path.name))


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
      ValueError: naming the file, if it cannot be read or is not UTF-8.
    """
    try:
        return parsing.read_text(path).replace("\r\n", "\n")
    except OSError as error:
        raise ValueError(f"{path}: cannot be read ({error.strerror}), expected text") from error


def licence(published: str | None, *folders: Path) -> str | None:
    """What licence.txt in the first of the folders that has one says, else that of the data set."""
    for folder in folders:
        path = folder / "licence.txt"
        if path.is_file() and (text := read_text(path).strip()):
            return text
    return published


def read_numbers(path: Path, columns: int) -> list[list[float]]:
    """Lines of numbers; as `numbered_rows`."""
    return [row for _, row in numbered_rows(path, columns)]


def numbered_rows(path: Path, columns: int) -> list[tuple[int, list[float]]]:
    """Lines of numbers, each with its number in the file; empty ones and those with # are none.

    Raises:
      ValueError: naming the file and the line, for another number of columns or no number.
    """
    return [
        (number, parsing.numbers(path, number, line, (columns,), "a row of numbers"))
        for number, line in parsing.lines_of(read_text(path))
    ]


def released_tests(names: Iterable[str]) -> tuple[str, ...]:
    """Those names that lie in a folder test/ with a train/ beside it; none if there is no such."""
    parts = {name: PurePosixPath(name).parent.parts for name in names}
    trained = {
        above[:depth]
        for above in parts.values()
        for depth, folder in enumerate(above)
        if folder == "train"
    }

    def is_test(above: tuple[str, ...]) -> bool:
        return any(f == "test" and above[:depth] in trained for depth, f in enumerate(above))

    return tuple(name for name, above in parts.items() if is_test(above))
