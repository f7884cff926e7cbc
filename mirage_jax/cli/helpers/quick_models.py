"""From a config to what makes a trained model quick: students of few steps, tiny decoders."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jax
from flax import linen as nn
from ml_collections import ConfigDict

from mirage_jax.cli.helpers import build
from mirage_jax.nn.tiny_decoder import TinyDecoder
from mirage_jax.training.denoiser_task import DenoiserTask
from mirage_jax.training.distill_task import DistillTask, distilled
from mirage_jax.weights import load_export
from mirage_jax.world.options import SamplerOptions


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


def student_sampler(config: ConfigDict) -> SamplerOptions:
    """How students are sampled."""
    section = config.distill_training
    return SamplerOptions(section.sampling_steps, section.shift, "consistency")


def teacher(config: ConfigDict, task: DenoiserTask, path: Path) -> dict[str, Any]:
    """Parameters of the trained denoiser that a student starts from.

    Args:
      config: the experiment.
      task: of the whole denoiser.
      path: of its export, where `distill_training.teacher` names none.

    Raises:
      FileNotFoundError, ValueError: if there is no export, or it was trained for something else.
    """
    named = config.distill_training.teacher
    if named == "random":
        return jax.device_get(jax.jit(lambda: nn.unbox(task.init(jax.random.key(config.seed))))())
    path = Path(named or path)
    values, made = load_export(path)
    expected = build.denoiser_architecture(config, task)
    for name in ("conditioner", "size", "chunk_frames", "context_frames"):
        found = made.get(name, expected[name])
        if json.loads(json.dumps(expected[name])) != found:
            raise ValueError(
                f"{path}: field {name}: found {found}, expected {expected[name]} as the config says"
            )
    return values
