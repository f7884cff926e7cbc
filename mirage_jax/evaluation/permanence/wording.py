"""Scores of the permanence protocol in words: what tables call them, and how they show them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

COLUMNS = {
    "present": "present %",
    "who": "who %",
    "state_error": "state error",
    "metres": "metres",
    "order": "order %",
    "ghosts": "ghosts %",
    "hallucinated": "hallucinated %",
    "pairs": "pairs told apart %",
}
"""Titles by number; those of shares end in %."""


def cell(entry: Mapping[str, Any], title: str) -> str:
    """Value, per cent where the title ends so, and of how many; intervals are in the file alone."""
    if entry["value"] is None:
        return "-"
    text = f"{100 * entry['value']:.0f}" if title.endswith("%") else f"{entry['value']:.2f}"
    return f"{text} ({entry['views']})"
