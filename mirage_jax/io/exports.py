"""Files of an export (see `weights`): their names, and what can be known without the tensors."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mirage_jax.io.outputs import (
    FileKind,
    check_file,
    check_folder,
    json_fields,
    safetensors_metadata,
)
from mirage_jax.io.sealed import FIELD, check_seal
from mirage_jax.io.strict_json import parse_json

FORMAT = "mirage-export-2"
READABLE = ("mirage-export-1", FORMAT)
"""The first has no checksum."""

WEIGHTS = "model.safetensors"
ARCHITECTURE = "architecture.json"


def check_target(where: str, path: Path, reads: Mapping[str, Path] | None = None) -> None:
    """Checks that an export can be written to a folder, and nothing is lost by it.

    Args:
      where: the flag or field that names the folder, for messages.
      path: the folder.
      reads: files that are read, by the flags that name them.

    Raises:
      ValueError: naming `where` and what is in the way.
    """
    check_folder(where, path)
    for name, kind in _WRITTEN.items():
        check_file(where, path / name, kind, reads=reads)


def _is_export(path: Path) -> bool:
    return safetensors_metadata(path).get("format") in READABLE


_WRITTEN = {
    WEIGHTS: FileKind("export", _is_export),
    ARCHITECTURE: FileKind(
        "architecture of an export",
        lambda path: "kind" in json_fields(path) or _is_export(path.with_name(WEIGHTS)),
    ),
}


def stored_architecture(path: str | Path) -> dict[str, Any]:
    """The architecture in the header of an export, read without its tensors; {} if there is none.

    Raises:
      ValueError: naming the file, if the header of an export is damaged.
    """
    file = weights_file(path)
    header = safetensors_metadata(file)
    return architecture_of(file, header) if header.get("format") in READABLE else {}


def check_export(file: Path, header: Mapping[str, str]) -> None:
    """Compares the weights file of an export with its checksum, reading it once.

    Raises:
      ValueError: naming the file, if it is damaged or no export; those of the older format
        have no checksum, and are let pass.
    """
    found = header.get("format")
    if found not in READABLE:
        raise ValueError(
            f"{file}: found format {found!r}, expected {FORMAT!r}; other weights go through "
            "mirage_jax.convert"
        )
    fields = {"format", "architecture"} | ({FIELD} if found == FORMAT else set())
    if header.keys() != fields:
        raise ValueError(
            f"{file}: found the metadata {', '.join(sorted(header))}, expected "
            f"{', '.join(sorted(fields))}"
        )
    if found == FORMAT:
        check_seal(file)


def weights_file(path: str | Path) -> Path:
    """The weights in the folder of an export; a file as it is."""
    return Path(path) / WEIGHTS if Path(path).is_dir() else Path(path)


def architecture_of(file: Path, header: Mapping[str, str]) -> dict[str, Any]:
    """The architecture in the header of `file`; ValueError, naming it, if there is none."""
    try:
        architecture = parse_json(header["architecture"])
    except (KeyError, ValueError) as error:
        raise ValueError(f"{file}: its header holds no architecture ({error!r})") from error
    if not isinstance(architecture, dict):
        raise ValueError(f"{file}: architecture: found {architecture!r}, expected named fields")
    return architecture
