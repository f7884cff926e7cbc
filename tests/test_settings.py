"""Settings refuse what is out of range, by name, and say what they take."""

import dataclasses
import math

import pytest

from mirage_jax.settings import Settings, describe, from_mapping, setting


@dataclasses.dataclass(frozen=True)
class Options(Settings):
    steps: int = setting(4, "Steps.", least=1)
    rate: float = setting(0.5, "Rate.", above=0, most=1)
    kind: str = setting("a", "Kind.", choices=("a", "b"))
    pair: tuple[int, int] = setting((0, 0), "Pair.", least=0)
    flag: bool = setting(False, "Flag.")
    note: str | None = None


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("steps", 0, ">= 1"),
        ("steps", 1.5, "int"),
        ("steps", True, "int"),
        ("rate", 0.0, "> 0 and <= 1"),
        ("rate", 1.01, "> 0 and <= 1"),
        ("rate", math.nan, "a finite number"),
        ("rate", math.inf, "a finite number"),
        ("rate", "1", "float"),
        ("kind", "c", "'a' or 'b'"),
        ("pair", (0, -1), ">= 0"),
        ("pair", (0,), r"tuple\[int, int\]"),
        ("flag", 1, "bool"),
        ("note", 3, r"str \| None"),
    ],
)
def test_values_out_of_range_are_refused_by_name(name, value, expected):
    with pytest.raises(ValueError, match=rf"{name}: found .*, expected {expected}"):
        Options(**{name: value})
    with pytest.raises(ValueError, match=rf"file: x\.{name}: found"):
        from_mapping(Options, {name: value}, "file: x")


def test_mappings_become_settings_and_what_is_unknown_or_missing_is_named():
    made = from_mapping(Options, {"steps": 2, "pair": [1, 2], "rate": 1}, "config.options")
    assert made == Options(steps=2, pair=(1, 2), rate=1)
    with pytest.raises(ValueError, match=r"config\.step: found 3, expected one of steps, rate"):
        from_mapping(Options, {"step": 3}, "config")

    @dataclasses.dataclass(frozen=True)
    class Needs:
        size: int

    with pytest.raises(ValueError, match=r"config\.size: found nothing, expected a value"):
        from_mapping(Needs, {}, "config")


def test_help_has_range_and_default():
    assert describe(Options)["rate"] == "Rate. (> 0 and <= 1) [0.5]"
    assert describe(Options)["kind"] == "Kind. ('a' or 'b') ['a']"
