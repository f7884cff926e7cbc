"""`mirage evaluate --protocol=closed_loop`: returns where everything but one picture is made up."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from mirage_jax.evaluation import closed_loop
from mirage_jax.io import outputs
from mirage_jax.io.atomic import replacing
from mirage_jax.io.workdir import Workdir

KIND = outputs.json_kind("file of closed-loop results", ["seed", "worlds"])
FILE = "closed_loop.json"


def run(
    model: Any,
    worlds: Mapping[str, Callable[[], Any]],
    workdir: Workdir,
    console: Console,
    *,
    seed: int,
) -> dict[str, Any]:
    """Walks, prints a table, and writes <workdir>/closed_loop.json.

    Args:
      model: the trained model.
      worlds: from names to what gives their held-out clips (`protocol.HeldOut`).
      workdir: where the results go.
      console: for the progress and the table.
      seed: of the noise.
    """
    path = workdir.root / FILE
    outputs.check_file("evaluate", path, KIND)
    found = {}
    with Progress(console=console) as progress:
        for name, held_out in worlds.items():
            clips, size = held_out(), 16
            steps = 2 * max(closed_loop.MARKS) * -(-len(clips) // size)
            task = progress.add_task(name, total=steps)
            found[name] = closed_loop.measure(
                model,
                clips,
                seed=seed,
                batch_size=size,
                advance=lambda task=task: progress.advance(task),
            )
    head, *rows = closed_loop.table(found)
    shown = Table(*head, title="closed loop: PSNR in dB, one picture given")
    for row in rows:
        shown.add_row(*row)
    console.print(shown)
    outcome = {"seed": seed, "worlds": found}
    with replacing(path) as partial:
        partial.write_text(json.dumps(outcome, indent=1) + "\n")
    console.print(f"results: {path}")
    return outcome
