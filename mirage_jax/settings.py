"""Settings as frozen dataclasses whose fields say what they mean and which values they take.

    @dataclasses.dataclass(frozen=True)
    class SamplerOptions(Settings):
        steps: int = setting(4, "Steps of the solver.", least=1)
        method: str = setting("euler", "Of the solver.", choices=("euler", "heun"))

A value out of range is refused where the object is made, by the name of its field; commands show
the same words in their help. Configs become such objects by `from_mapping`.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

T = TypeVar("T")

_RULES = {"least": ">=", "above": ">", "most": "<=", "below": "<"}


def setting(
    default: Any,
    help: str,
    *,
    least: float | int | None = None,
    above: float | int | None = None,
    most: float | int | None = None,
    below: float | int | None = None,
    choices: tuple[Any, ...] | None = None,
) -> Any:
    """A dataclass field with its meaning and range.

    Args:
      default: value of the field.
      help: one sentence for people.
      least, above, most, below: bounds of a number (>=, >, <=, <), or of every number of a tuple.
      choices: all values that the field may have.
    """
    bounds = {"least": least, "above": above, "most": most, "below": below}
    metadata = {
        "help": help,
        "bounds": {name: bound for name, bound in bounds.items() if bound is not None},
        "choices": choices,
    }
    return dataclasses.field(default=default, metadata=metadata)


@dataclasses.dataclass(frozen=True)
class Settings:
    """Base of settings: every value is checked against its field.

    Raises:
      ValueError: naming the field, the value found and what was expected.
    """

    def __post_init__(self) -> None:
        hints = typing.get_type_hints(type(self))
        for field in dataclasses.fields(self):
            found = problem(getattr(self, field.name), hints[field.name], field.metadata)
            if found:
                raise ValueError(f"{field.name}: {found}")


def from_mapping(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """Settings (or any dataclass) from named values, e.g. a section of a config or of a JSON file.

    Lists become tuples. Fields that are left out keep their defaults.

    Args:
      kind: the dataclass.
      values: by field name.
      where: what the values come from, for messages.

    Raises:
      ValueError: naming `where` and the field that is unknown, missing or out of range.
    """
    fields = {field.name: field for field in dataclasses.fields(kind) if field.init}  # type: ignore[arg-type]
    for name in sorted(values.keys() - fields.keys()):
        raise ValueError(
            f"{where}.{name}: found {values[name]!r}, expected one of {', '.join(fields)}"
        )
    for name, field in fields.items():
        if name not in values and field.default is field.default_factory is dataclasses.MISSING:
            raise ValueError(f"{where}.{name}: found nothing, expected a value")
    plain = {k: tuple(v) if isinstance(v, list) else v for k, v in values.items()}
    try:
        return kind(**plain)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{where}.{error}") from error


def describe(kind: type) -> dict[str, str]:
    """For every field of settings its help with the values it takes and its default."""
    defaults = {field.name: field.default for field in dataclasses.fields(kind)}
    return {name: f"{text} [{defaults[name]!r}]" for name, text in meanings(kind).items()}


def meanings(kind: type) -> dict[str, str]:
    """For every field of settings its help with the values it takes."""
    found = {}
    for field in dataclasses.fields(kind):
        if "help" in field.metadata:
            allowed = expected(field.metadata)
            found[field.name] = field.metadata["help"] + (f" ({allowed})" if allowed else "")
    return found


def expected(metadata: Mapping[str, Any]) -> str:
    """The range of a field in words, "" where any value of its type will do."""
    if metadata.get("choices") is not None:
        return " or ".join(repr(choice) for choice in metadata["choices"])
    bounds = metadata.get("bounds", {})
    return " and ".join(
        f"{sign} {_plain(bounds[rule])}" for rule, sign in _RULES.items() if rule in bounds
    )


def _plain(bound: float | int) -> str:
    return str(bound) if isinstance(bound, int) else f"{bound:g}"


def problem(value: Any, hint: Any, metadata: Mapping[str, Any]) -> str:
    """What is wrong with a value of a field with this type and this metadata, "" if nothing is."""
    if not _is_of(value, hint):
        return f"found {value!r}, expected {_name(hint)}"
    choices = metadata.get("choices")
    if choices is not None:
        return "" if value in choices else f"found {value!r}, expected {expected(metadata)}"
    bounds = metadata.get("bounds", {})
    for number in value if isinstance(value, tuple) else (value,):
        if isinstance(number, bool) or not isinstance(number, int | float):
            continue
        if not math.isfinite(number):
            return f"found {value!r}, expected a finite number"
        kept = {
            "least": lambda bound, n=number: n >= bound,
            "above": lambda bound, n=number: n > bound,
            "most": lambda bound, n=number: n <= bound,
            "below": lambda bound, n=number: n < bound,
        }
        if not all(kept[rule](bound) for rule, bound in bounds.items()):
            return f"found {value!r}, expected {expected(metadata)}"
    return ""


def _is_of(value: Any, hint: Any) -> bool:
    """Whether a value is of a plain type: numbers, texts, tuples of them, unions and settings."""
    if hint is Any:
        return True
    origin = typing.get_origin(hint)
    if origin in (typing.Union, types.UnionType):
        return any(_is_of(value, part) for part in typing.get_args(hint))
    if origin is tuple:
        parts = typing.get_args(hint)
        if not isinstance(value, tuple):
            return False
        if parts[-1] is Ellipsis:
            return all(_is_of(item, parts[0]) for item in value)
        return len(value) == len(parts) and all(map(_is_of, value, parts))
    if origin is not None or not isinstance(hint, type):
        return True
    if hint is float:
        return isinstance(value, int | float) and not isinstance(value, bool)
    if hint is int:
        return isinstance(value, int) and not isinstance(value, bool)
    return isinstance(value, hint)


def _name(hint: Any) -> str:
    return hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
