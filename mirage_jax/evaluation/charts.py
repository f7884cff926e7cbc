"""Small inline SVG plots for the report.

Coordinates along x are percentages, so a plot takes the width of its column and its text and dots
keep their size on a phone. Colours are CSS classes of the page (`c-ours`, `c-rival`, ...), so that
light and dark pages use the same drawing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import NamedTuple


class Mark(NamedTuple):
    """A dot on a row: its value, its class, and optionally a whisker of +- `error`."""

    value: float | int
    css: str
    shape: str = "dot"  # "dot" | "ring" | "diamond"
    error: float | int | None = None
    title: str = ""


def ticks(low: float | int, high: float | int, wanted: int = 5) -> list[float]:
    """Round numbers (1, 2 or 5 times a power of ten) covering low..high, about `wanted`."""
    span = max(high - low, 1e-9)
    base = 10.0 ** math.floor(math.log10(span / wanted))
    step = min((m * base for m in (1, 2, 5, 10)), key=lambda s: abs(span / s - wanted))
    first, last = math.floor(low / step), math.ceil(high / step)
    return [round(i * step, 10) for i in range(first, last + 1)]


class Axis(NamedTuple):
    """A horizontal scale, drawn with `grid` behind every row and `labels` below the last."""

    at: Sequence[float | int]

    @property
    def low(self) -> float | int:
        return self.at[0]

    @property
    def high(self) -> float | int:
        return self.at[-1]

    def percent(self, value: float | int) -> float:
        """Position of a value, per cent of the width, clamped to the plot."""
        share = (value - self.low) / max(self.high - self.low, 1e-12)
        return round(2 + 96 * min(max(share, 0.0), 1.0), 2)

    def grid(self) -> str:
        return "".join(
            f'<line class="grid" x1="{x}%" x2="{x}%" y1="0" y2="100%"/>'
            for x in map(self.percent, self.at)
        )

    def labels(self) -> str:
        """The numbers; every other one is of class `minor`, which narrow pages hide."""
        texts = []
        for i, tick in enumerate(self.at):
            css = ' class="minor"' if i % 2 else ""
            number = f"{tick:g}".replace("-", "−")
            texts.append(
                f'<text{css} x="{self.percent(tick)}%" y="13" text-anchor="middle">{number}</text>'
            )
        return f'<svg class="axis" width="100%" height="18">{"".join(texts)}</svg>'


def axis_over(values: Sequence[float | int], wanted: int = 5) -> Axis:
    """An axis that covers the values with round ends."""
    return Axis(ticks(min(values), max(values), wanted))


def dot_row(marks: Sequence[Mark], axis: Axis, *, label: str, height: int = 30) -> str:
    """One row of a dot plot: marks with whiskers on the axis; `label` is read by screen readers."""
    parts = [axis.grid()]
    middle = height / 2
    for mark in marks:
        x = axis.percent(mark.value)
        if mark.error:
            low, high = axis.percent(mark.value - mark.error), axis.percent(mark.value + mark.error)
            parts.append(
                f'<line class="whisker {mark.css}" x1="{low}%" x2="{high}%" '
                f'y1="{middle}" y2="{middle}"/>'
            )
        title = f"<title>{escape(mark.title)}</title>" if mark.title else ""
        parts.append(
            f'<svg x="{x}%" y="{middle}" overflow="visible" class="{mark.css} {mark.shape}">'
            f"{title}{_SHAPES[mark.shape]}</svg>"
        )
    return _row("".join(parts), height, label)


_SHAPES = {
    "dot": '<circle r="6"/>',
    "ring": '<circle r="4"/>',
    "diamond": '<path d="M0-5.5 5.5 0 0 5.5-5.5 0z"/>',
}


def legend_mark(shape: str) -> str:
    """A mark of the given shape, for a legend."""
    return (
        '<svg width="16" height="16" aria-hidden="true">'
        f'<svg x="8" y="8" overflow="visible" class="c-bound {shape}">{_SHAPES[shape]}</svg></svg>'
    )


def strip_row(
    values: Sequence[float | int], axis: Axis, *, label: str, css: str, height: int = 44
) -> str:
    """One row of a strip plot: a dot per value, stacked where they would overlap; zero marked."""
    parts = [axis.grid()]
    if axis.low <= 0 <= axis.high:
        x = axis.percent(0.0)
        parts.append(f'<line class="zero" x1="{x}%" x2="{x}%" y1="0" y2="100%"/>')
    columns: dict[int, int] = {}
    for value in sorted(values):
        column = round(axis.percent(value))
        level = columns.get(column, 0)
        columns[column] = level + 1
        y = height / 2 + (level + 1) // 2 * 6 * (1 if level % 2 else -1)
        below = " below" if value <= 0 else ""
        parts.append(f'<circle class="sample {css}{below}" cx="{column}%" cy="{y}" r="3"/>')
    return _row("".join(parts), height, label)


def stacked_bar(parts: Sequence[tuple[str, float | int]], *, label: str, height: int = 22) -> str:
    """Parts of a whole as one bar; the classes `part-0`, `part-1`, ... colour them."""
    total = sum(value for _, value in parts) or 1.0
    x, drawn = 0.0, []
    for i, (name, value) in enumerate(parts):
        width = 100 * value / total
        drawn.append(
            f'<rect class="part-{i % 8}" x="{x:.2f}%" width="{width:.2f}%" height="{height}">'
            f"<title>{escape(name)}</title></rect>"
        )
        x += width
    return _row("".join(drawn), height, label)


def _row(content: str, height: int, label: str) -> str:
    return (
        f'<svg class="row" width="100%" height="{height}" role="img" '
        f'aria-label="{escape(label, quote=True)}">{content}</svg>'
    )
