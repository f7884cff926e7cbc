"""JSON read strictly: what the json module lets pass, or fails of otherwise, is a ValueError."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any


def parse_json(text: str | bytes) -> Any:
    """Reads a JSON value.

    Raises:
      ValueError: if it is none, is nested too deep, has a name twice, or a number is not finite.
    """
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_not_finite)
    except RecursionError as error:
        raise ValueError("found brackets too deep in one another") from error


def parse_object(text: str | bytes) -> dict[str, Any]:
    """Reads a JSON object; ValueError as of `parse_json`, or if it is another value."""
    decoded = parse_json(text)
    if not isinstance(decoded, dict):
        raise ValueError(f"found {type(decoded).__name__}, expected a JSON object")
    return decoded


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in a file.

    Raises:
      FileNotFoundError: if there is no such file.
      ValueError: naming the file; as of `parse_object`.
    """
    try:
        return parse_object(path.read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: no JSON object ({error})") from error


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(f"name {twice!r}: found twice, expected once")
    return fields


def _not_finite(number: str) -> None:
    raise ValueError(f"found {number}, expected finite numbers")
