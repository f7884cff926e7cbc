"""mirage evaluate --protocol=tracks: whether the memory has what moves where it is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mirage_jax.cli.helpers import config_check, model_flags, permanence
from mirage_jax.evaluation.permanence.wording import cell
from mirage_jax.io import outputs
from mirage_jax.io.json_files import write_json
from mirage_jax.io.workdir import Workdir

KIND = outputs.json_kind("file of tracks", ["maps", "worlds"])
MAPS = {"head": False, "true": True}
"""Whose depth and masks, and whether these are told to the memory."""
NUMBERS = {
    "tracked": "in the table %",
    "state_error": "state error",
    "metres": "metres off",
    "frozen_metres": "metres off, frozen at last sight",
    "straight_metres": "metres off, true velocity straight on",
    "nearer": "nearer than frozen %",
    "hallucinated": "bodies that are none, a frame",
    "doubled": "bodies twice, a frame",
    "ghosts": "ghosts %",
}


def run(config: ConfigDict, workdir: Workdir, console: Console) -> dict[str, Any]:
    """Scores the held-out clips whose bodies are known; writes tracks.json.

    Args:
      config: of the experiment.
      workdir: with recorded clips of bodies and weights of a model that keeps them.
      console: for the tables.

    Raises:
      FileNotFoundError, ValueError: naming what is missing.
    """
    from mirage_jax.evaluation.permanence import tracks

    config_check.check(config)
    path = workdir.root / "tracks.json"
    outputs.check_file("evaluate", path, KIND)
    model = model_flags.world_model(workdir, "latent", config)
    worlds: dict[str, dict[str, Any]] = {}
    for world, clips in permanence.recorded_by_world(config.worlds, workdir).items():
        worlds[world] = {}
        for maps, told in MAPS.items():
            shown = track(clips, f"{world}, maps: {maps}", console=console)
            found = tracks.score_clips(
                (one.clip() for one in shown),
                lambda clip, told=told: tracks.kept_by(model, clip, told=told),
            )
            worlds[world][maps] = found.summarise(config.seed)
    outcome = {"seed": config.seed, "maps": list(MAPS), "worlds": worlds}
    write_json(path, outcome)
    for table in tables(outcome):
        console.print(table)
    console.print(f"-> {path}")
    return outcome


def tables(outcome: Mapping[str, Any]) -> list[Table]:
    """Of every world all numbers, and the state error by hidden frames, by whose maps."""
    made = []
    for world, maps in outcome["worlds"].items():
        first = next(iter(maps.values()))
        headings = (f"maps: {name}" for name in maps)
        table = Table("number", *headings, title=f"{world}, {first['clips']} clips")
        for key, title in NUMBERS.items():
            table.add_row(title, *(cell(entry[key], title) for entry in maps.values()))
        table.add_section()
        for point in first["hidden"]:
            errors = (entry["hidden"][point]["state_error"] for entry in maps.values())
            title = f"state error, {point} frames hidden"
            table.add_row(title, *(cell(error, title) for error in errors))
        made.append(table)
    return made
