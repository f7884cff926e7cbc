"""mirage bench movers: how well the memory knows where a body is that nobody sees.

    mirage bench movers
    mirage bench movers --rooms=8 --balls=4 --watch_every=1 --depth_errors=0,0.1,0.3

No network: true masks and true depth, or depth that is wrong by a factor of its own in every frame,
of a ball that rolls through held-out generated rooms and bounces. Prints the distance between where
it is said to be and where it is, over the way it went while hidden: of the memory, of the memory
without obstacles, of a straight line through what was seen, and of a ball left where it was seen
last. Writes bench_movers.json (--json=FILE).
"""

from __future__ import annotations

from typing import Any

from absl import flags
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mirage_jax.cli.helpers import json_flag
from mirage_jax.cli.helpers.flag_types import Integer, Numbers, Real
from mirage_jax.io import outputs
from mirage_jax.io.json_files import write_json

FLAG_MODULES = (json_flag.__name__,)

_ROOMS = flags.DEFINE(Integer(least=1), "rooms", 8, "Held-out rooms.")
_BALLS = flags.DEFINE(Integer(least=1), "balls", 4, "Balls in each, half of them rolling in bows.")
_EVERY = flags.DEFINE(
    Integer(least=1, most=16),  # a line needs two sights
    "watch_every",
    4,
    "Of the 17 watched frames one in so many is brought into memory; rollouts take every fourth.",
)
_HIDDEN = flags.DEFINE(
    Numbers(Integer(least=1, below=10_000)),
    "hidden_frames",
    [4, 8, 16, 32, 64, 100],
    "Frames (of 10 a second) for which it is hidden.",
)
_ERRORS = flags.DEFINE(
    Numbers(Real(least=0, below=10)),
    "depth_errors",
    [0.0, 0.3],
    "Standard deviations of the log of each frame's depth as a whole.",
)


def run(console: Console) -> None:
    from mirage_jax.evaluation import hidden_movers

    path = json_flag.json_path("movers")
    outputs.check_file(f"--json {path}", path, outputs.json_kind("file of errors", ["errors"]))
    hidden, errors = sorted(set(_HIDDEN.value)), sorted(set(_ERRORS.value))
    total = _ROOMS.value * _BALLS.value * len(errors)
    bar = iter(track(range(total), "balls", console=console, transient=True))
    outcome = hidden_movers.measure(
        rooms=_ROOMS.value,
        balls=_BALLS.value,
        hidden=hidden,
        every=_EVERY.value,
        depth_errors=errors,
        advance=lambda: next(bar, None),
    )
    write_json(path, outcome)
    for error in outcome["errors"]:
        console.print(table(outcome, error))
    console.print(f"-> {path}")


def table(outcome: dict[str, Any], error: str) -> Table:
    """A line per method: median and mean by hidden frames."""
    result = Table(
        "median (mean)", *(f"{n} frames" for n in outcome["hidden"]),
        title=f"error of the place over the way gone, {outcome['scenes']} balls, depth off by "
        f"{100 * float(error):g} %",
    )  # fmt: skip
    for name, row in outcome["errors"][error].items():
        result.add_row(name, *(f"{c['median']:.2f} ({c['mean']:.2f})" for c in row.values()))
    result.add_row("bounced by then", *(f"{100 * v:.0f} %" for v in outcome["bounced"].values()))
    return result


def main() -> None:
    run(Console())
