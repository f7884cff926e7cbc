"""mirage evaluate --protocol=interventions: whether what is generated obeys edits of the memory."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from ml_collections import ConfigDict
from rich.console import Console
from rich.progress import track
from rich.table import Table

from mirage_jax.cli.helpers import config_check, model_flags, permanence
from mirage_jax.io import outputs
from mirage_jax.io.json_files import write_json
from mirage_jax.io.workdir import Workdir

KIND = outputs.json_kind("file of interventions", ["methods", "untracked"])


def run(
    config: ConfigDict, workdir: Workdir, console: Console, *, pixels: int = 80
) -> dict[str, Any]:
    """Scores the held-out clips of a work directory; writes interventions.json.

    Args:
      config: of the experiment.
      workdir: with recorded clips of walking bodies and weights of a model that keeps them.
      console: for the table.
      pixels: of a body, at least, in a judged view.

    Raises:
      FileNotFoundError, ValueError: naming what is missing.
    """
    from mirage_jax.evaluation.permanence import interventions
    from mirage_jax.evaluation.permanence.views import ViewOptions

    config_check.check(config)
    path = workdir.root / "interventions.json"
    outputs.check_file("evaluate", path, KIND)
    model = model_flags.world_model(workdir, "latent", config)
    clips = sorted(
        permanence.recorded_clips(config, workdir), key=lambda clip: (clip.source, clip.world)
    )
    found = interventions.score_clips(
        track(clips, "editing clips", console=console),
        lambda clip: interventions.told_by(model, clip, seed=config.seed),
        ViewOptions(pixels=pixels),
    )
    outcome = {
        "denoiser": model_flags.latent_denoiser(),
        "pixels": pixels,
        "seed": config.seed,
        **found.summarise(config.seed),
    }
    write_json(path, outcome)
    console.print(table(outcome))
    console.print(f"-> {path}")
    return outcome


def table(outcome: Mapping[str, Any]) -> Table:
    """Share of edits that are obeyed, of how many, and what they do to the rest of the picture."""
    untracked = outcome["untracked"]
    shown = Table(
        "method",
        "edit",
        "obeyed %",
        "not shown before",
        "rest of the picture, dB",
        title=f"{outcome['clips']} clips, {untracked} views of untracked bodies left out",
    )
    for method, kinds in outcome["methods"].items():
        for kind, entry in kinds.items():
            obeyed, rest = entry["obeyed"], entry["rest"]
            share = "-" if obeyed["value"] is None else f"{100 * obeyed['value']:.0f}"
            if obeyed["low"] is not None:
                share += f" [{100 * obeyed['low']:.0f}, {100 * obeyed['high']:.0f}]"
            shown.add_row(
                method,
                kind,
                f"{share} ({obeyed['views']})",
                str(entry["not_shown"]),
                "-" if rest is None else f"{rest:+.2f}",
            )
    return shown
