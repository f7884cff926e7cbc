"""Metrics to Weights & Biases, for those who ask for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from mirage_jax.io.atomic import write_atomically

ID_FILE = "wandb_id.txt"


class WandbBoard:
    """A run of the project; the workdir remembers which, so that resuming goes on with it.

    Args:
      workdir: of the training run.
      project: name of the project.
      name: of the run.
      config: shown beside it.

    Raises:
      ValueError: if the package is not installed.
    """

    def __init__(
        self, workdir: Path, project: str, name: str, config: Mapping[str, Any] | None = None
    ) -> None:
        try:
            import wandb
        except ImportError as error:
            raise ValueError(
                f"wandb {project!r}: the package cannot be imported ({error}); pip install wandb"
            ) from error
        self._wandb = wandb
        path = workdir / ID_FILE
        identity = path.read_text(encoding="utf-8").strip() if path.exists() else None
        self._run = wandb.init(
            project=project,
            name=name,
            id=identity,
            resume="allow",
            dir=str(workdir),
            config=None if config is None else dict(config),
        )
        write_atomically(path, f"{self._run.id}\n")
        # An axis of our own: steps are repeated after a rollback, which wandb's must not be.
        self._run.define_metric("step")
        self._run.define_metric("*", step_metric="step")

    def scalars(self, step: int, values: Mapping[str, Any]) -> None:
        self._run.log({"step": step, **values})

    def picture(self, step: int, picture: np.ndarray) -> None:
        self._run.log({"step": step, "samples": self._wandb.Image(picture)})

    def close(self) -> None:
        self._run.finish()
