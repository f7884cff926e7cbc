"""Flags whose values are checked as they are parsed: numbers in a range, and paths."""

from __future__ import annotations

import os
from typing import Any

from absl import flags

from mirage_jax.settings import expected, problem

flags.disclaim_key_flags()  # they belong to the command that defines them


class _Number(flags.ArgumentParser):
    """A finite number within bounds, as `settings.setting` has them."""

    def __init__(self, kind: type, bounds: dict[str, float | int]):
        self._kind, self._metadata = kind, {"bounds": bounds}
        self.syntactic_help = expected(self._metadata)

    def parse(self, argument: Any) -> Any:
        try:
            value = self._kind(argument)
        except (TypeError, ValueError, OverflowError) as error:
            kind = "a whole number" if self._kind is int else "a number"
            raise ValueError(f"found {argument!r}, expected {kind}") from error
        wrong = problem(value, self._kind, self._metadata)
        if wrong:
            raise ValueError(wrong)
        return value

    def flag_type(self) -> str:
        return self._kind.__name__


class _Path(flags.ArgumentParser):
    """A path, `~` being the home directory."""

    def parse(self, argument: str) -> str:
        return os.path.expanduser(argument)

    def flag_type(self) -> str:
        return "string"


def integer(name: str, default: int, help: str, **bounds: int) -> flags.FlagHolder:
    """Defines a whole number; bounds are those of `settings.setting`, and shown in the help."""
    return _number(name, default, help, int, bounds)


def real(
    name: str, default: float | int | None, help: str, **bounds: float | int
) -> flags.FlagHolder:
    """Defines a finite number; bounds are those of `settings.setting`, and shown in the help."""
    return _number(name, default, help, float, bounds)


def path(name: str, default: str, help: str) -> flags.FlagHolder:
    """Defines the path of a file or folder."""
    return flags.DEFINE(_Path(), name, default, help, serializer=flags.ArgumentSerializer())


def _number(
    name: str, default: Any, help: str, kind: type, bounds: dict[str, Any]
) -> flags.FlagHolder:
    parser = _Number(kind, bounds)
    if parser.syntactic_help:
        help = f"{help} ({parser.syntactic_help})"
    return flags.DEFINE(parser, name, default, help, serializer=flags.ArgumentSerializer())
