"""`mirage bench memory --walk=N`: the memory of a trained work directory on walks of N chunks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ml_collections import ConfigDict
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from mirage_jax.cli.helpers import build, config_check, world_names
from mirage_jax.io import outputs
from mirage_jax.io.json_files import write_json
from mirage_jax.io.workdir import Workdir

CLIPS = 2
"""Held-out clips of each world."""


def run(config: ConfigDict, workdir: Workdir, chunks: int, console: Console) -> None:
    """Walks along held-out clips, prints a table for each world and writes what it measured.

    Raises:
      FileNotFoundError: where the work directory has no trained parts.
      ValueError: where it has no recorded clips, or its memory is not fused.
    """
    from mirage_jax.evaluation import memory_walk

    config_check.check(config)
    path = workdir.root / "bench_memory_walk.json"
    outputs.check_file("bench", path, outputs.json_kind("file of walks", ["chunks", "worlds"]))
    model = build.world_model(workdir, "latent", config)
    names = world_names.of_places(workdir.recorded(config.worlds))
    clips = {name: _clips(workdir.worlds(name)) for name in names}
    with Progress(console=console) as progress:
        walks = 3 * sum(map(len, clips.values()))
        bar = progress.add_task("walking", total=walks)
        outcome = memory_walk.measure(
            model, clips, chunks=chunks, advance=lambda: progress.advance(bar)
        )
    write_json(path, outcome)
    for name, found in outcome["worlds"].items():
        console.print(_table(name, found, outcome))
        for memory, walk in found.items():
            console.print(f"{memory}: {_counts(walk)}")
    console.print(f"-> {path}")


def _clips(folder: Path) -> list[Any]:
    from data_pipelines.loading import ClipSource
    from mirage_jax.evaluation.memory_walk import WalkedClip
    from mirage_jax.training.held_out import spread_over

    source = ClipSource(folder, "eval", fields=("video", "intrinsics", "cam2world"))
    some = [source[index] for index in spread_over(len(source), CLIPS)]
    return [WalkedClip(c["video"], c["intrinsics"][0], c["cam2world"]) for c in some]


def _table(world: str, found: dict[str, Any], outcome: dict[str, Any]) -> Table:
    table = Table(
        "memory", "chunks", "elements", "kB", "read ms", "/ compact", "growth",
        title=f"{world}: {outcome['chunks']} chunks of {outcome['chunk_frames']} frames; "
        f"match {outcome['match']:g} ({outcome['device']})",
        caption="in brackets: room; / compact: beside reading the same elements without free "
        "slots; growth: of the elements over the last half",
    )  # fmt: skip
    for name, walk in found.items():
        marks = list(walk["after_chunks"].items())
        for mark, row in marks:
            last = mark == marks[-1][0]
            table.add_row(
                f"{name} ({walk['capacity']:,})" if mark == marks[0][0] else "",
                mark,
                f"{row['elements']:,.0f}",
                f"{row['bytes'] / 1e3:,.0f}",
                f"{row['read_ms']:.2f}",
                f"{row['read_ratio']:.2f}",
                f"{100 * walk['growth']:.1f} %" if last else "",
                end_section=last,
            )
    return table


def _counts(walk: dict[str, Any]) -> str:
    names = ("written", "fused", "contradicted", "evicted")
    return ", ".join(f"{walk[name]:,} {name}" for name in names)
