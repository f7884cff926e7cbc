"""Numbers, words and tables of the report as HTML."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from html import escape
from typing import Any

from mirage_jax.evaluation.results import METHODS, Method


def table(head: str, body: Sequence[str]) -> str:
    """A table that scrolls sideways where it does not fit; head and rows are markup."""
    top = f"<thead><tr>{head}</tr></thead>" if head else ""
    return f'<div class="scroll"><table>{top}<tbody>{"".join(body)}</tbody></table></div>'


def describe(name: str) -> Method:
    """What is known of a method; an unknown one is called by its name."""
    return METHODS.get(name) or Method(in_words(name), "", "copy")


def world_label(name: str) -> str:
    """A world as a heading."""
    return name[:1].upper() + name[1:]


def mean_and_error(
    entry: Mapping[str, Any] | None, digits: int, *, signed: bool = False, plain: bool = False
) -> str:
    """Mean and standard error; plain without markup."""
    mean = None if entry is None else entry.get("mean")
    if entry is None or mean is None:
        return "–"
    text = minus(f"{mean:{'+' if signed else ''}.{digits}f}")
    if entry.get("stderr") is None:
        return text
    error = f"± {entry['stderr']:.{max(digits, 2)}f}"
    return f"{text} {error}" if plain else f"{text} <small style='display:inline'>{error}</small>"


def number(value: Any, digits: int) -> str:
    """A number with so many digits, a dash if it is none."""
    return minus(f"{value:.{digits}f}") if is_number(value) else "–"


def minus(number: str) -> str:
    """A hyphen as a minus sign, and no minus before a zero."""
    return number.replace("-", "−") if float(number) else number.replace("-", "")


def lower_first(label: str) -> str:
    """A label inside a sentence; an acronym keeps its capitals."""
    return label if label[1:2].isupper() else label[:1].lower() + label[1:]


def prose(text: str) -> str:
    """Escapes text; what stands between backticks becomes code."""
    parts = escape(text).split("`")
    return "".join(
        f"<code>{part}</code>" if i % 2 and i < len(parts) - 1 else part
        for i, part in enumerate(parts)
    )


def is_number(value: Any) -> bool:
    """Whether a JSON value is a number."""
    return isinstance(value, (int, float)) and not isinstance(value, bool)


def total_seconds(seconds: Mapping[str, Any]) -> float:
    """Sum of the stages."""
    return float(sum(v for k, v in seconds.items() if is_number(v) and k != "total"))


def duration(seconds: float | int) -> str:
    """Seconds in words."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


def of_which_world(entry: Mapping[str, Any]) -> str:
    """ " (World)" for an entry about one world, nothing for one about all."""
    return (
        f" ({escape(world_label(str(entry['world'])))})"
        if entry.get("world", "all") != "all"
        else ""
    )


def tables(node: Mapping[str, Any], title: str = "") -> Iterator[str]:
    """Any nested mapping as tables: plain values, then a table for each mapping of like rows."""
    heading = f"<h3>{escape(in_words(title))}</h3>" if title else ""
    plain = {k: v for k, v in node.items() if not _is_table(v)}
    if plain:
        body = [
            f"<tr><th>{escape(in_words(k))}</th><td>{escape(_cell(k, v))}</td></tr>"
            for k, v in plain.items()
        ]
        yield heading + table("", body)
        heading = ""
    nested = {k: v for k, v in node.items() if k not in plain}
    flat = {k: v for k, v in nested.items() if isinstance(v, Mapping) and _is_flat(v)}
    columns = list(dict.fromkeys(column for row in flat.values() for column in row))
    alike = len(flat) > 1 and any(len(v) < 2 * len(columns) for v in flat.values())
    if alike and len(columns) <= 12:
        yield heading + _grid(columns, [(in_words(k), v) for k, v in flat.items()])
        nested = {k: v for k, v in nested.items() if k not in flat}
        heading = ""
    if nested and heading:
        yield heading
    for key, value in nested.items():
        if isinstance(value, Mapping) and _is_two_deep(value):
            rows = [
                (f"{in_words(outer)}, {in_words(inner)}", row)
                for outer, group in value.items()
                for inner, row in group.items()
            ]
            columns = list(dict.fromkeys(column for _, row in rows for column in row))
            yield f"<h3>{escape(in_words(str(key)))}</h3>" + _grid(columns, rows)
        elif isinstance(value, Mapping):
            yield from tables(value, str(key))
        else:
            columns = list(dict.fromkeys(column for row in value for column in row))
            first, rest = columns[0], columns[1:]
            rows = [(_cell(first, row.get(first)), row) for row in value]
            yield f"<h3>{escape(in_words(str(key)))}</h3>" + _grid(rest, rows, corner=first)


def _is_table(value: Any) -> bool:
    """Whether a value needs a table of its own: a mapping or a list of mappings."""
    if isinstance(value, list):
        return bool(value) and all(isinstance(row, Mapping) and row for row in value)
    return isinstance(value, Mapping)


def _is_flat(node: Mapping[str, Any]) -> bool:
    return not any(_is_table(value) for value in node.values())


def _is_two_deep(node: Mapping[str, Any]) -> bool:
    """Whether it is a mapping of mappings of rows."""
    groups = list(node.values())
    return bool(groups) and all(
        isinstance(group, Mapping)
        and group
        and all(isinstance(row, Mapping) and _is_flat(row) for row in group.values())
        for group in groups
    )


def _grid(
    columns: Sequence[str], rows: Sequence[tuple[str, Mapping[str, Any]]], corner: str = ""
) -> str:
    head = f"<th>{escape(in_words(corner))}</th>" + "".join(
        f'<th class="number">{escape(in_words(c))}</th>' for c in columns
    )
    body = [
        f"<tr><th>{escape(name)}</th>"
        + "".join(f'<td class="number">{escape(_cell(c, row.get(c)))}</td>' for c in columns)
        + "</tr>"
        for name, row in rows
    ]
    return table(head, body)


_UNITS = {"ms": "ms", "seconds": "s", "s": "s", "db": "dB", "px": "px"}


def in_words(key: str) -> str:
    """`read_ms` -> `read, ms`."""
    stem, _, last = str(key).rpartition("_")
    if stem and last in _UNITS:
        return f"{stem.replace('_', ' ')}, {_UNITS[last]}"
    return str(key).replace("_", " ")


def _cell(key: str, value: Any) -> str:
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (list, tuple)):
        return " × ".join(_cell(key, item) for item in value) or "–"
    if isinstance(value, (int, float)) and "bytes" in str(key):
        return _bytes(value)
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        if "speedup" in str(key) or "ratio" in str(key):
            return f"{value:.1f}×"
        return f"{value:,.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return str(value)


def _bytes(value: float | int) -> str:
    for unit in ("B", "KiB", "MiB"):
        if abs(value) < 1024:
            return f"{value:.0f} B" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.2f} GiB"
