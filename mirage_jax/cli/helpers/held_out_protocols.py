"""`mirage evaluate --protocol=closed_loop` and `=memory`: tables over the held-out clips."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from ml_collections import ConfigDict
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from mirage_jax.cli.helpers import held_out_clips, model_flags, world_names
from mirage_jax.evaluation import closed_loop, memory_quality
from mirage_jax.evaluation.protocol import HeldOut
from mirage_jax.io import outputs
from mirage_jax.io.json_files import write_json
from mirage_jax.io.workdir import Workdir
from mirage_jax.world import WorldModel

KIND = outputs.json_kind("file of a protocol's results", ["seed", "worlds"])
BATCH = 16
"""Clips sampled at once."""


class Protocol(NamedTuple):
    """What is measured.

    Attributes:
      title: of the table.
      measure: a model on held-out clips, with `seed`, `batch_size` and `advance`.
      steps: calls of `advance` for a number of clips.
      table: from what was measured by world to rows of text, the first naming the columns.
      encoded: whether histories are those of encoded clips, and not rolled out.
    """

    title: str
    measure: Callable[..., dict[str, Any]]
    steps: Callable[[int], int]
    table: Callable[[dict[str, Any]], list[tuple[str, ...]]]
    encoded: bool


PROTOCOLS = {
    "closed_loop": Protocol(
        "closed loop: PSNR in dB, one picture given",
        closed_loop.measure,
        lambda clips: 2 * max(closed_loop.MARKS) * -(-clips // BATCH),
        closed_loop.table,
        encoded=False,
    ),
    "memory": Protocol(
        "returns by how the memory is written: PSNR in dB",
        memory_quality.measure,
        lambda _: len(memory_quality.CASES),
        memory_quality.table,
        encoded=True,
    ),
}


def run(name: str, config: ConfigDict, workdir: Workdir, console: Console) -> dict[str, Any]:
    """Scores the held-out clips, prints a table, and writes <workdir>/NAME.json.

    Args:
      name: of `PROTOCOLS`.
      config: of the experiment.
      workdir: with the trained parts and cached clips.
      console: for the progress and the table.

    Raises:
      FileNotFoundError, ValueError: naming what is missing.
    """
    protocol, path = PROTOCOLS[name], workdir.root / f"{name}.json"
    outputs.check_file("evaluate", path, KIND)
    model: WorldModel = model_flags.world_model(workdir, "latent", config)
    if protocol.encoded:
        model = model_flags.as_encoded(model, config)
    found: dict[str, Any] = {}
    with Progress(console=console) as progress:
        for world in world_names.of_places(workdir.recorded(config.worlds)):
            clips: HeldOut = held_out_clips.read(workdir, world)
            task = progress.add_task(world, total=protocol.steps(len(clips)))
            found[world] = protocol.measure(
                clips.fitted(model),
                clips,
                seed=config.seed,
                batch_size=BATCH,
                advance=lambda task=task: progress.advance(task),
            )
    head, *rows = protocol.table(found)
    shown = Table(*head, title=protocol.title)
    for row in rows:
        shown.add_row(*row)
    console.print(shown)
    outcome = {"denoiser": model_flags.latent_denoiser(), "seed": config.seed, "worlds": found}
    write_json(path, outcome)
    console.print(f"results: {path}")
    return outcome
