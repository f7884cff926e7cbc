"""Files of an export (see `weights`): their names, and what can be known without the tensors."""

from __future__ import annotations

import json
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

FORMAT = "mirage-export-1"
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
    return safetensors_metadata(path).get("format") == FORMAT


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
    return architecture_of(file, header) if header.get("format") == FORMAT else {}


def weights_file(path: str | Path) -> Path:
    """The weights in the folder of an export; a file as it is."""
    return Path(path) / WEIGHTS if Path(path).is_dir() else Path(path)


def architecture_of(file: Path, header: Mapping[str, str]) -> dict[str, Any]:
    """The architecture in the header of `file`; ValueError, naming it, if there is none."""
    try:
        architecture = json.loads(header["architecture"])
    except (KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{file}: its header holds no architecture ({error!r})") from error
    if not isinstance(architecture, dict):
        raise ValueError(f"{file}: architecture: found {architecture!r}, expected named fields")
    return architecture
