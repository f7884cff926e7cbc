"""`mirage evaluate --protocol=closed_loop`: returns where everything but one picture is made up."""

from __future__ import annotations

from typing import Any

from ml_collections import ConfigDict
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from mirage_jax.cli.helpers import build, held_out_clips
from mirage_jax.evaluation import closed_loop
from mirage_jax.io import outputs
from mirage_jax.io.json_files import write_json
from mirage_jax.io.workdir import Workdir

KIND = outputs.json_kind("file of closed-loop results", ["seed", "worlds"])
FILE = "closed_loop.json"
BATCH = 16
"""Clips walked at once."""


def run(config: ConfigDict, workdir: Workdir, console: Console) -> dict[str, Any]:
    """Walks along the held-out clips, prints a table, and writes <workdir>/closed_loop.json.

    Args:
      config: of the experiment.
      workdir: with the trained parts and cached clips.
      console: for the progress and the table.

    Raises:
      FileNotFoundError, ValueError: naming what is missing.
    """
    path = workdir.root / FILE
    outputs.check_file("evaluate", path, KIND)
    model, found = build.world_model(workdir, "latent", config), {}
    with Progress(console=console) as progress:
        for name in workdir.recorded(config.worlds):
            clips = held_out_clips.read(workdir, name)
            steps = 2 * max(closed_loop.MARKS) * -(-len(clips) // BATCH)
            task = progress.add_task(name, total=steps)
            found[name] = closed_loop.measure(
                clips.fitted(model),
                clips,
                seed=config.seed,
                batch_size=BATCH,
                advance=lambda task=task: progress.advance(task),
            )
    head, *rows = closed_loop.table(found)
    shown = Table(*head, title="closed loop: PSNR in dB, one picture given")
    for row in rows:
        shown.add_row(*row)
    console.print(shown)
    outcome = {"seed": config.seed, "worlds": found}
    write_json(path, outcome)
    console.print(f"results: {path}")
    return outcome
