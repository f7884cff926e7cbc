"""The section of the report on bodies: what was out of sight, is due, and is there or not."""

from __future__ import annotations

from collections.abc import Mapping
from html import escape
from typing import Any

from mirage_jax.evaluation.permanence.wording import COLUMNS, cell
from mirage_jax.evaluation.report_format import table

_ROWS = {
    "memory": "generated, with memory and bodies",
    "readout": "what the memory shows",
    "nothing_remembered": "true picture without the body",
    "frozen_at_last_sight": "true picture, body where it was last seen",
    "constant_velocity_and_walls": "true picture, body at its last velocity, walls known",
    "reconstruction": "encoder ceiling",
}
_SHOWN = ("present", "who", "state_error", "ghosts", "hallucinated")


def bodies_table(results: Mapping[str, Any]) -> str:
    """Scores of `results["bodies"]`, with the number of views of each; "" if there are none."""
    found = results.get("bodies") or {}
    methods = found.get("methods") or {}
    if not methods:
        return ""
    head = "<th></th>" + "".join(f'<th class="number">{COLUMNS[name]}</th>' for name in _SHOWN)
    rows = [
        f"<tr><th>{escape(label)}</th>"
        + "".join(
            f'<td class="number">{escape(cell(methods[method][name], COLUMNS[name]))}</td>'
            for name in _SHOWN
        )
        + "</tr>"
        for method, label in _ROWS.items()
        if method in methods
    ]
    count = f"{found['views']} judged views of {found['clips']} held-out clips"
    return f"<p class='soft'>{count}; in brackets how many views a number is of.</p>" + table(
        head, rows
    )
