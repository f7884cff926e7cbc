"""Options of sources: fields of their dataclasses that know what they mean and may be."""

import dataclasses
from typing import Any


def option(
    default: Any, help: str, low: int | float | None = None, high: int | float | None = None
) -> Any:
    """Returns a dataclass field with `help` and, for a number, the `range` (low, high) as metadata.

    Bounds are inclusive; None = no bound on that side.
    """
    return dataclasses.field(default=default, metadata={"help": help, "range": (low, high)})


def describe_options(source: type) -> dict[str, dataclasses.Field]:
    """Returns the options of a source's class by name: the fields that it is made with."""
    return {field.name: field for field in dataclasses.fields(source) if field.init}


def check_options(source: Any) -> None:
    """Raises ValueError, naming source and option, for a number outside of its range."""
    for name, field in describe_options(type(source)).items():
        low, high = field.metadata.get("range", (None, None))
        value = getattr(source, name)
        if (low is not None and not value >= low) or (high is not None and not value <= high):
            bounds = f"{low:g} or more" if high is None else f"{low:g} to {high:g}"
            raise ValueError(f"source {source.name!r}: found {name} {value}, expected {bounds}")
