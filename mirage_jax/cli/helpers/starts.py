"""What the stages of `mirage train` start from, as lines of text: weights, checkpoints, prompts."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ml_collections import ConfigDict

from mirage_jax.cli.helpers import build, quick_models, training_sections
from mirage_jax.io.workdir import Workdir
from mirage_jax.training import checkpoints


def overridden(path: str, before: Mapping[str, Any], after: Mapping[str, Any], tiny: bool) -> str:
    """Which experiment this is, and what of it the command line has changed.

    Args:
      path: of its file.
      before: the file's values of the fields named on the command line.
      after: the values now.
      tiny: whether the tiny variant is used.
    """
    parts = [f"{name} = {after[name]!r} (was {before[name]!r})" for name in sorted(after)]
    variant = ", tiny variant" if tiny else ""
    return f"config {path}{variant}; {', '.join(parts) or 'no field'} by the command line"


def is_there(path: Path | str) -> str:
    """ "PATH" or "PATH (not there yet)"."""
    return str(path) if Path(path).exists() else f"{path} (not there yet)"


def encoder_is_given(config: ConfigDict) -> bool:
    """Whether the encoder is read from the work directory and not trained."""
    return training_sections.encoder(config).pretrained


def start(config: ConfigDict, workdir: Workdir, stage: str, memory: str, steps: int) -> str:
    """Where a stage that trains goes on from: its newest checkpoint, an export, or nothing."""
    folder = workdir.stage(workdir.part(stage, memory))
    saved = checkpoints.saved_steps(folder / checkpoints.FOLDER)
    denoiser = training_sections.denoiser(config)
    frozen = stage == "denoiser" and denoiser.trained != "all"
    pretrained = denoiser.pretrained if frozen else ""
    init_from = training_sections.OF_STAGE[stage](config).init_from
    known = pretrained if pretrained == "random" else is_there(pretrained)
    if not saved and not config.start_over and checkpoints.set_aside(folder / checkpoints.FOLDER):
        line = f"does not start: only {folder / checkpoints.DAMAGED} is left (config.start_over)"
    elif saved:
        found = f"step {saved[-1]:,} in {folder / checkpoints.FOLDER}"
        line = f"goes on from {found}" if saved[-1] < steps else f"nothing to train, has {found}"
    elif frozen:
        line = f"starts from the pretrained denoiser {known}"
    elif init_from:
        line = f"starts from the tensors of the same name in {is_there(init_from)}"
    elif stage in ("distill", "match"):
        known = training_sections.student(config, stage).teacher or str(
            workdir.export("denoiser", memory)
        )
        line = f"starts as its teacher {known if known == 'random' else is_there(known)}"
        student = quick_models.named_student(config, workdir) if stage == "match" else None
        if student is not None:
            line = (
                f"starts as the student {is_there(student)}; its critic, and without it all, {line}"
            )
    else:
        line = "starts from scratch"
    return f"{line}; frozen weights of {known}" if saved and frozen else line


def text(config: ConfigDict) -> tuple[int | None, str]:
    """Text tokens of a sample (None: not known yet; 0: there is no text), and a line about them.

    Raises:
      UserError, ValueError: if the embeddings are there and are not those of the prompts.
    """
    path = config.text.embeddings
    if not path:
        return 0, 'trains without text (text.embeddings = "")'
    if not Path(path).exists():
        return None, f"text embeddings from {is_there(path)}"
    found = build.texts(config)
    length = len(next(iter(found.values())))
    return length, f"text embeddings from {path}: {length} tokens for each of {len(found)} worlds"
