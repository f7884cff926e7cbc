"""The sections of the report that judge: targets, revisit quality, memory retention."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

import numpy as np

from mirage_jax.evaluation import charts
from mirage_jax.evaluation.report_format import (
    describe,
    lower_first,
    mean_and_error,
    minus,
    number,
    of_which_world,
    prose,
    table,
    tables,
    world_label,
)
from mirage_jax.evaluation.results import METHODS, lookup

# -- targets -------------------------------------------------------------------------------------


def targets(results: Mapping[str, Any]) -> str:
    rows = results.get("must") or []
    missing = "".join(
        f'<p class="missing"><b>{escape(describe(str(entry["control"])).label)}</b>'
        f"{of_which_world(entry)} was not run: {prose(str(entry['reason']))}</p>"
        for entry in results.get("missing") or []
    )
    if not rows:
        return missing
    worlds = list(dict.fromkeys(str(row["world"]) for row in rows))
    whats = list(dict.fromkeys(str(row["what"]) for row in rows))
    by_key = {(str(row["what"]), str(row["world"])): row for row in rows}
    body = []
    for what in whats:
        cells = "".join(
            f"<td class='target'>{_target_cell(by_key.get((what, w)))}</td>" for w in worlds
        )
        body.append(f"<tr><th>{escape(what)}</th>{cells}</tr>")
    head = "".join(f"<th>{escape(world_label(w))}</th>" for w in worlds)
    return missing + table(f"<th></th>{head}", body)


_VERDICTS: dict[bool | None, tuple[str, str, str]] = {
    True: ("good", "✓", "holds"),
    False: ("bad", "✗", "does not hold"),
    None: ("wait", "–", "not measured"),
}


def _target_cell(row: Mapping[str, Any] | None) -> str:
    if row is None:
        return '<span class="wait">–</span>'
    passed, unit = row.get("passed"), str(row.get("unit", ""))
    css, glyph, words = _VERDICTS[passed]
    sign = "≥" if row["sign"] == ">=" else "≤"
    aim = ""
    if row.get("aim") is not None:
        reached = ' <span class="good">✓</span>' if row.get("aim_met") else ""
        aim = f" <span>aim {sign} {_bound(row['aim'], unit)}{reached}</span>"
    value = _quantity(row.get("value"), unit)
    return (
        f'<span class="tick {css}" title="{words}">{glyph}</span>{value}'
        f"<small><span>must {sign} {_bound(row['must'], unit)}</span>{aim}</small>"
    )


def _quantity(value: float | int | None, unit: str) -> str:
    if value is None:
        return "not measured"
    if unit == "share":
        return f"{100 * value:.0f} %"
    return f"{minus(f'{value:.2f}')} {unit}".strip()


def _bound(value: float | int, unit: str) -> str:
    return _quantity(value, unit) if unit == "share" else f"{value:g} {unit}".strip()


# -- revisit quality -----------------------------------------------------------------------------


def revisit_quality(results: Mapping[str, Any]) -> str:
    worlds = results.get("worlds") or {}
    numbers = [
        mean
        for of_world in worlds.values()
        for entry in (of_world.get("revisit") or {}).values()
        for part in ((), ("easy",), ("parallax",))
        if (mean := lookup(entry, *part, "psnr", "mean")) is not None
    ]
    if not numbers:
        return ""
    # Copies of an exact return may reach the cap; they must not squeeze everything else.
    axis = charts.axis_over([min(numbers), min(max(numbers), 40.0)])
    several = len(worlds) > 1
    parts = []
    for name, of_world in worlds.items():
        if not of_world.get("revisit"):
            continue
        heading = f"<h3>{escape(world_label(name))}</h3>" if several else ""
        plots = _revisit_plot(of_world["revisit"], axis) + _gain_plot(of_world.get("gains") or {})
        parts.append(heading + plots + _revisit_table(of_world))
    return "".join(parts)


def _revisit_plot(revisit: Mapping[str, Any], axis: charts.Axis) -> str:
    lines = []
    for method, entry in revisit.items():
        mean = lookup(entry, "psnr", "mean")
        if mean is None:
            continue
        css, label = f"c-{describe(method).role}", describe(method).label
        marks = []
        for part, shape, words in (
            ("easy", "ring", "easy returns"),
            ("parallax", "diamond", "returns with parallax"),
        ):
            value = lookup(entry, part, "psnr", "mean")
            if value is not None:
                marks.append(charts.Mark(value, css, shape, title=f"{words}: {value:.2f} dB"))
        error = lookup(entry, "psnr", "stderr")
        marks.append(charts.Mark(mean, css, "dot", error, f"all: {mean:.2f} dB"))
        row = charts.dot_row(marks, axis, label=f"{label}: {mean:.2f} dB")
        lines.append(_line(label, row, mean_and_error(entry.get("psnr"), 1)))
    lines.append(_line("", axis.labels(), ""))
    legend = (
        f'<div class="legend"><span>{charts.legend_mark("dot")}all clips ± 1 standard error</span>'
        f"<span>{charts.legend_mark('ring')}easy returns</span>"
        f"<span>{charts.legend_mark('diamond')}returns with parallax</span></div>"
    )
    return f'<div class="plot"><h3>PSNR at revisited frames, dB</h3>{"".join(lines)}{legend}</div>'


def _gain_plot(gains: Mapping[str, Any]) -> str:
    chosen = {
        name.removeprefix("over_"): gain
        for name, gain in gains.items()
        if gain.get("per_clip") and describe(name.removeprefix("over_")).role != "bound"
    }
    if not chosen:
        return ""
    values = [v for gain in chosen.values() for v in gain["per_clip"]]
    low, high = np.percentile(values, [1, 99])
    axis = charts.axis_over([min(float(low), 0.0), max(float(high), 0.0)], wanted=6)
    lines = []
    for method, gain in chosen.items():
        described = describe(method)
        share = gain.get("share_positive")
        positive = f"<br><small>{100 * share:.0f} % positive</small>" if share is not None else ""
        row = charts.strip_row(
            gain["per_clip"],
            axis,
            label=f"gain over {described.label}: {mean_and_error(gain, 2, plain=True)}",
            css=f"c-{described.role}",
            height=56,
        )
        lines.append(
            _line(
                f"over {lower_first(described.label)}",
                row,
                mean_and_error(gain, 1, signed=True) + positive,
            )
        )
    lines.append(_line("", axis.labels(), ""))
    return (
        '<div class="plot"><h3>Paired gain of latent memory, dB; a dot is a clip, red where it '
        f"loses</h3>{''.join(lines)}</div>"
    )


def _line(name: str, drawing: str, value: str) -> str:
    return (
        f'<div class="line"><span class="name">{escape(name)}</span>{drawing}'
        f'<span class="value">{value}</span></div>'
    )


_METRICS = {"psnr": ("PSNR", 2), "ssim": ("SSIM", 3), "lpips": ("LPIPS", 3)}


def _revisit_table(of_world: Mapping[str, Any]) -> str:
    body = []
    entries = of_world["revisit"]
    measured = [m for m in _METRICS if any(m in entry for entry in entries.values())]
    for method, entry in entries.items():
        described = describe(method)
        cells = "".join(
            '<td class="number">'
            f"{mean_and_error(lookup(entry, *part, metric), _METRICS[metric][1])}</td>"
            for part in ((), ("easy",), ("parallax",))
            for metric in measured
        )
        css = ' class="ours"' if described.role == "ours" else ""
        body.append(
            f"<tr{css}><th>{escape(described.label)}<small>{escape(described.meaning)}</small></th>"
            f"{cells}</tr>"
        )
    clips, parallax = int(of_world.get("clips", 0)), int(of_world.get("parallax_clips", 0))
    counts = (f"all {clips}", f"easy {clips - parallax}", f"parallax {parallax}")
    head = "<th></th>" + "".join(
        f'<th class="number">{_METRICS[metric][0]}, {escape(count)}</th>'
        for count in counts
        for metric in measured
    )
    return table(head, body)


def retention(results: Mapping[str, Any]) -> str:
    worlds = results.get("worlds") or {}
    columns = [
        (world, metric)
        for world, of_world in worlds.items()
        for metric in ("psnr", "ssim")
        if lookup(of_world, "nmr", metric)
    ]
    if not columns:
        return ""
    methods = [m for m in METHODS if any(lookup(worlds[w], "nmr", k, m) for w, k in columns)]
    others = [m for w, k in columns for m in worlds[w]["nmr"][k] if m not in METHODS]
    body = []
    for method in methods + list(dict.fromkeys(others)):
        cells = ""
        for world, metric in columns:
            entry = lookup(worlds[world], "nmr", metric, method) or {}
            relative = number(entry.get("relative"), 2)
            beside = (
                f"{mean_and_error(entry, 2, plain=True)}, {entry['trajectories']} clips"
                if entry
                else ""
            )
            cells += f'<td class="number">{relative}<small>{beside}</small></td>'
        css = ' class="ours"' if describe(method).role == "ours" else ""
        body.append(f"<tr{css}><th>{escape(describe(method).label)}</th>{cells}</tr>")
    head = "<th></th>" + "".join(
        f'<th class="number">{escape(world_label(w))}, {metric.upper()}</th>'
        for w, metric in columns
    )
    text = '<p class="soft">Large: relative to the encoder. Small: NMR itself.</p>'
    return text + table(head, body) + _geometry(worlds)


def _geometry(worlds: Mapping[str, Any]) -> str:
    found = {w: r["geometry"] for w, r in worlds.items() if r.get("geometry")}
    if not found:
        return ""
    lead = (
        "<h3>Geometry head</h3><p class='soft'>Depth predicted from latents against the exact "
        "depth; abs rel is the mean of |predicted − true| / true, aligned: with every frame's true "
        "scale. Read-out: what a memory written with it shows on the way back, decoded.</p>"
    )
    return lead + "".join(tables({world_label(w): g for w, g in found.items()}))
