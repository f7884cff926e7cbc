"""From a config to what makes a trained model quick: students of few steps, tiny decoders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
from flax import linen as nn
from ml_collections import ConfigDict

from mirage_jax.cli.helpers import build, history_heads, training_sections
from mirage_jax.cli.helpers.training_sections import StudentSection
from mirage_jax.io.workdir import Workdir
from mirage_jax.nn.tiny_decoder import TinyDecoder
from mirage_jax.training.branch_task import ADDED, BranchTask
from mirage_jax.training.denoiser_task import DenoiserTask
from mirage_jax.training.distill_task import DistillTask, distilled
from mirage_jax.training.matching_task import MatchingTask, matched
from mirage_jax.weights import load_export
from mirage_jax.world.latent_encoder import LatentEncoder
from mirage_jax.world.options import SamplerOptions
from mirage_jax.world.predicted_clip import HistoryHead


def tiny_decoder(config: ConfigDict) -> TinyDecoder:
    """The tiny decoder; ValueError if its strides are not those of the autoencoder."""
    module = TinyDecoder(config.vae.latent_channels, **config.tiny_decoder.to_dict())
    for name in ("spatial_stride", "temporal_stride"):
        found, expected = getattr(module, name), getattr(build.vae(config), name)
        if found != expected:
            raise ValueError(
                f"config.tiny_decoder: {name}: found {found}, expected {expected} as config.vae has"
            )
    return module


def distill_task(
    config: ConfigDict, task: DenoiserTask, values: dict[str, Any] | None = None
) -> DistillTask:
    """The task that makes a student of the denoiser that `task` trains.

    Args:
      config: the experiment.
      task: of the whole denoiser.
      values: parameters of the trained denoiser; None for shapes alone.
    """
    section = config.distill_training
    base = task if build.trained(config) == "all" else build.branch_task(config, task, values)
    options = {name: section[name] for name in ("levels", "shift", "cfg_scale")}
    return distilled(base, values, **options)


def match_task(
    config: ConfigDict,
    task: DenoiserTask,
    values: dict[str, Any] | None = None,
    *,
    head: HistoryHead | None = None,
    encoder: LatentEncoder | None = None,
) -> MatchingTask:
    """The task that matches a student's samples to those of the denoiser that `task` trains.

    Args:
      config: the experiment.
      task: of the whole denoiser.
      values: parameters of the trained denoiser; None for shapes alone.
      head: sees what students generate, where they roll out.
      encoder: for heads that see re-encoded frames.
    """
    section = config.match_training
    base = task if build.trained(config) == "all" else build.branch_task(config, task, values)
    names = ("sampling_steps", "shift", "cfg_scale", "critic_steps", "rollouts")
    options = {name: section[name] for name in names}
    if section.rollouts:
        options["head"] = head
        options["encoder"] = encoder if head is not None and head.reencode else None
    return matched(base, values, **options)


def student_task(
    config: ConfigDict,
    workdir: Workdir,
    stage: str,
    task: DenoiserTask,
    values: dict[str, Any],
) -> DistillTask | MatchingTask:
    """`distill_task` or `match_task`, with what the work directory has for it.

    Args:
      config: the experiment.
      workdir: with encoder and geometry head.
      stage: "distill" or "match".
      task: of the whole denoiser.
      values: parameters of the trained denoiser.

    Raises:
      FileNotFoundError, ValueError: if the head is missing, or not of the encoder.
    """
    if stage == "distill":
        return distill_task(config, task, values)
    if not config.match_training.rollouts:
        return match_task(config, task, values)
    encoder = LatentEncoder.load(workdir.model("encoder"))
    head = history_heads.trained(config, workdir, encoder.vae.latent_channels)
    return match_task(config, task, values, head=head, encoder=encoder)


def check_matching(config: ConfigDict) -> None:
    """Raises ValueError, naming the field, unless students can roll out as the config says."""
    rollouts = training_sections.match(config).rollouts
    if not rollouts:
        return
    for name, found, most in (
        ("loading.window", config.loading.window, 0),
        ("memory.movers", config.memory.get("movers", False), False),
        (
            "denoiser_training.preceding",
            config.denoiser_training.preceding,
            config.chunk_frames - 1,
        ),
    ):
        if found > most:
            expected = f"{most} at most" if most else "none"
            raise ValueError(
                f"config.{name}: found {found} with match_training.rollouts {rollouts}, expected "
                f"{expected}, or rollouts 0: the chunk before a clip's last is generated"
            )


def named_student(config: ConfigDict, workdir: Workdir) -> Path | None:
    """Export that matching starts from, where it is there; None: the teacher.

    A student that has an adapter merged into its backbone is no start for one beside the backbone
    of its teacher, which then is the start.

    Raises:
      ValueError: if such a student is asked for by name.
    """
    named = config.match_training.student
    adapter = build.trained(config) == "branch_lora"
    if adapter and named not in ("", "teacher"):
        raise ValueError(
            f"config.match_training.student: found {named!r} with denoiser_training.trained="
            "'branch_lora', expected '' or 'teacher': its adapter is merged into the backbone"
        )
    if named == "teacher" or adapter:
        return None
    return Path(named) if named else workdir.export("distill", "latent")


def starting_params(
    config: ConfigDict,
    workdir: Workdir,
    task: DistillTask | MatchingTask,
    whole: DenoiserTask,
    values: dict[str, Any],
) -> dict[str, Any]:
    """What the training of a student starts from.

    Args:
      config: the experiment.
      workdir: with the student that matching goes on with, if there is one.
      task: what is trained.
      whole: the task of the whole denoiser.
      values: parameters of the teacher.

    Raises:
      ValueError: if the student was trained for something else.
    """

    def own(params: dict[str, Any]) -> dict[str, Any]:
        if not isinstance(task.base, BranchTask):
            return params
        return {name: params[name] for name in ADDED if name in params}

    if isinstance(task, DistillTask):
        return own(values)
    student, path = values, named_student(config, workdir)
    if path is not None and (config.match_training.student or path.exists()):
        student = trained_denoiser(config, whole, path)
    return {"student": own(student), "critic": own(values)}


def student_sampler(section: StudentSection) -> SamplerOptions:
    """How students are sampled."""
    return SamplerOptions(section.sampling_steps, section.shift, "consistency")


def trained_denoiser(config: ConfigDict, task: DenoiserTask, path: Path | str) -> dict[str, Any]:
    """Parameters of the trained denoiser that a student starts from.

    Args:
      config: the experiment.
      task: of the whole denoiser.
      path: of its export; "random" for new ones.

    Raises:
      FileNotFoundError, ValueError: if there is no export, or it was trained for something else.
    """
    if path == "random":
        return jax.device_get(jax.jit(lambda: nn.unbox(task.init(jax.random.key(config.seed))))())
    path = Path(path)
    values, made = load_export(path)
    expected = build.denoiser_architecture(config, task)
    for name in ("conditioner", "size", "chunk_frames", "context_frames"):
        found = made.get(name, expected[name])
        if json.loads(json.dumps(expected[name])) != found:
            raise ValueError(
                f"{path}: field {name}: found {found}, expected {expected[name]} as the config says"
            )
    return values
