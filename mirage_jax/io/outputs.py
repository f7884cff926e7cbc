"""What a program may write to: none of its inputs, and no file that another program made.

To be asked before anything else is done. Files are told by what they hold; paths are compared as
the files that they lead to, through symbolic and hard links.
"""

from __future__ import annotations

import dataclasses
import json
import os
import tempfile
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from mirage_jax.io.atomic import partial_path

_LONGEST_NAME = 255  # bytes, of nearly every file system


@dataclasses.dataclass(frozen=True)
class FileKind:
    """A kind of file that we write.

    Attributes:
      name: what people call it.
      is_ours: whether an existing file is one that we wrote.
    """

    name: str
    is_ours: Callable[[Path], bool]


def check_file(
    where: str,
    path: Path,
    kind: FileKind,
    *,
    reads: Mapping[str, Path] | None = None,
    suffixes: tuple[str, ...] = (),
) -> None:
    """Checks that a file can be written and that nothing is lost by it.

    Args:
      where: the flag or field that names the file, for messages.
      path: the file.
      kind: what will be written there.
      reads: files that are read, by the flags or fields that name them.
      suffixes: those that the name may have; () for any.

    Raises:
      ValueError: naming `where`, what is in the way and what to do.
    """
    if suffixes and path.suffix.lower() not in suffixes:
        raise ValueError(f"{where}: found {path.suffix!r}, expected {' or '.join(suffixes)}")
    _check_name(where, path)
    if path.is_dir():
        raise ValueError(f"{where}: that is a folder, expected {_a(kind.name)}'s name")
    check_parents(where, path)
    check_not_read(where, path, reads or {})
    check_replaceable(where, path, kind)


def check_folder(where: str, path: Path) -> None:
    """Raises ValueError, naming `where`, unless files can be written into a folder of that name."""
    _check_name(where, path)
    if os.path.lexists(path) and not path.is_dir():
        raise ValueError(f"{where}: {path} is no folder, expected one or a new name")
    check_parents(where, path / "file")


def _check_name(where: str, path: Path) -> None:
    if not path.name:  # the folder that one is in
        return
    length = len(os.fsencode(path.name))
    spare = _LONGEST_NAME - len(os.fsencode(partial_path(path).name))
    if spare < 0:
        raise ValueError(
            f"{where}: found a name of {length} bytes, expected at most {length + spare}"
        )


def check_parents(where: str, path: Path) -> None:
    """Raises ValueError, naming `where`, unless the folder of `path` is or can be made.

    A file without a name is made in it, since no permission says what a file system will do.
    """
    for folder in path.absolute().parents:
        if os.path.lexists(folder):
            if not folder.is_dir():
                raise ValueError(f"{where}: {folder} is no folder, expected another name")
            try:
                tempfile.TemporaryFile(dir=folder).close()
            except OSError as error:
                raise ValueError(
                    f"{where}: {folder} may not be written to ({error.strerror}), expected another"
                ) from error
            return


def check_not_read(where: str, path: Path, reads: Mapping[str, Path]) -> None:
    """Raises ValueError, naming `where`, if `path` leads to one of the files that are read."""
    for reader, source in reads.items():
        if same_file(source, path):
            raise ValueError(
                f"{where}: found {path}, which {reader} reads, among what is written, expected "
                "another name"
            )


def check_replaceable(where: str, path: Path, kind: FileKind) -> None:
    """Raises ValueError, naming `where`, if there is a file of another program at `path`."""
    if not os.path.lexists(path) or (path.is_file() and path.stat().st_size == 0):
        return
    if not path.is_file() or not kind.is_ours(path):
        raise ValueError(
            f"{where}: {path} is there already and is no {kind.name} that mirage_jax wrote; move "
            "it away or choose another name"
        )


def same_file(one: Path, other: Path) -> bool:
    """Whether two paths lead to the same file, also by symbolic and hard links."""
    if one.resolve() == other.resolve():
        return True
    return one.exists() and other.exists() and os.path.samefile(one, other)


def safetensors_metadata(path: Path) -> dict[str, str]:
    """The texts in a safetensors file's header; {} for any other file."""
    try:
        with safe_open(path, "numpy") as file:
            return dict(file.metadata() or {})
    except (SafetensorError, OSError):
        return {}


def json_fields(path: Path) -> dict[str, Any]:
    """The fields of a JSON object; {} for any other file."""
    try:
        found = json.loads(path.read_text(encoding="utf-8-sig"))
    except (ValueError, OSError):
        return {}
    return found if isinstance(found, dict) else {}


def json_kind(name: str, fields: Iterable[str]) -> FileKind:
    """The kind of JSON files that have all these fields."""
    wanted = set(fields)
    return FileKind(name, lambda path: wanted <= json_fields(path).keys())


def json_map_kind(name: str, kind: Any) -> FileKind:
    """The kind of JSON files whose fields, of any name, all have values of one kind."""

    def is_ours(path: Path) -> bool:
        found = json_fields(path)
        empty = not found and path.read_bytes().split() == [b"{}"]
        return empty or (bool(found) and all(isinstance(v, kind) for v in found.values()))

    return FileKind(name, is_ours)


def _a(name: str) -> str:
    return f"an {name}" if name[0] in "aeiou" else f"a {name}"
