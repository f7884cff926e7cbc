"""Scoring the trained parts of one work directory on the recorded clips of another."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from ml_collections import ConfigDict
from rich.console import Console

from mirage_jax.cli.helpers import world_names
from mirage_jax.cli.helpers.encoding import encode_recordings
from mirage_jax.io.exports import stored_architecture
from mirage_jax.io.workdir import Workdir
from mirage_jax.world import shipped


@dataclasses.dataclass(frozen=True)
class OtherWeights(Workdir):
    """A work directory for results, with clips and trained parts of others.

    Attributes:
      clips: whose recorded clips are taken.
      weights: whose trained parts.
    """

    clips: Workdir
    weights: Workdir

    def worlds(self, source: str) -> Path:
        return self.clips.worlds(source)

    def model(self, name: str) -> Path:
        return self.weights.model(name)


def prepare(workdir: Workdir, weights: str, config: ConfigDict, console: Console) -> OtherWeights:
    """Encodes the held-out clips of a work directory with the encoder of another.

    Args:
      workdir: with the clips; what is made lies in its folder "weights".
      weights: the other work directory, or "demo" for the weights that ship.
      config: the experiment.
      console: where to print.

    Raises:
      FileNotFoundError, ValueError: naming what is missing.
    """
    folder = shipped.folder_of(weights)
    scored = OtherWeights(workdir.root / "weights" / folder.name, workdir, Workdir(folder))
    scored.root.mkdir(parents=True, exist_ok=True)
    encoded = config.copy_and_resolve_references()
    with encoded.unlocked():
        encoded.worlds = world_names.of_places(config.worlds)
        head = stored_architecture(scored.model("geometry")).get("head", {})
        encoded.geometry.movers_up = head.get("movers_up", 0)  # clips tell of what moves as it does
    encode_recordings(encoded, scored, console, "latent", splits=("eval",))
    return scored
