"""Where a run keeps its parts: the folders of a work directory."""

from __future__ import annotations

import dataclasses
from pathlib import Path

CARD = "dataset.json"
"""Name of the file that says what a folder of clips has."""


@dataclasses.dataclass(frozen=True)
class Workdir:
    """Paths inside a work directory.

    Attributes:
      root: the work directory.
    """

    root: Path

    def worlds(self, source: str) -> Path:
        """Recorded clips of one source."""
        return self.root / "worlds" / source

    def latents(self, source: str, split: str, *, rgb: bool = False, chunk_frames: int = 0) -> Path:
        """Cached latents of one source and split.

        Args:
          source: of the clips.
          split: "train" or "eval".
          rgb: with the colour-cloud baseline.
          chunk_frames: of a cache beside the main one, of chunks of another length; 0: the main.
        """
        name = f"{source}-{split}{f'-{chunk_frames}' if chunk_frames else ''}.array_record"
        return self.root / ("latents_rgb" if rgb else "latents") / name

    def captions(self, source: str, split: str) -> Path:
        """Embedded captions of the clips of one source and split."""
        return self.root / "latents" / f"{source}-{split}-captions.array_record"

    @staticmethod
    def part(stage: str, memory: str) -> str:
        """Name of what a stage of training makes, for `stage` and `model`.

        Args:
          stage: "encoder", "geometry", "denoiser", "distill" or "match".
          memory: of the denoiser: "latent", "rgb" or "none".
        """
        names = {
            "denoiser": f"denoiser_{memory}",
            "distill": "denoiser_student",
            "match": "denoiser_matched",
        }
        return names.get(stage, stage)

    def stage(self, name: str) -> Path:
        """Training folder of a stage: checkpoints, metrics, samples."""
        return self.root / "training" / name

    def model(self, name: str) -> Path:
        """Exported weights: "encoder", "geometry", "denoiser_latent", "denoiser_rgb", ..."""
        return self.root / "model" / name

    def export(self, stage: str, memory: str) -> Path:
        """Exported weights of a stage: those of `part`, but that "match" makes a better student."""
        return self.model(self.part("distill" if stage == "match" else stage, memory))

    @property
    def report(self) -> Path:
        return self.root / "report.html"

    @property
    def results(self) -> Path:
        return self.root / "results.json"

    @property
    def seconds(self) -> Path:
        """Wall time of each stage run so far."""
        return self.root / "seconds.json"

    def is_recorded(self, source: str) -> bool:
        """Whether clips of one source were recorded here, if not all."""
        return (self.worlds(source) / CARD).exists()

    def recorded(self, sources: tuple[str, ...]) -> tuple[str, ...]:
        """Those of `sources` that were recorded here.

        Raises:
          ValueError: if none was.
        """
        found = tuple(filter(self.is_recorded, sources))
        if not found:
            raise ValueError(
                f"{self.root / 'worlds'}: no recorded clips of {', '.join(sources)}; "
                "run `mirage record` first"
            )
        return found
