"""The latent encoder, and a tiny decoder for it, on random windows of recorded clips."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn

from data_pipelines import loading
from mirage_jax.nn.patch_pca import pca_linear_path
from mirage_jax.nn.tiny_decoder import TinyDecoder
from mirage_jax.nn.video_vae import VideoVAE, measure_stats, normalise
from mirage_jax.settings import Settings, setting
from mirage_jax.training.held_out import common_middle, spread_over, window_batches
from mirage_jax.training.sources import Joined, VideoWindow
from mirage_jax.training.stage import StageOptions, train_task
from mirage_jax.training.tiny_decoder_task import TinyDecoderTask
from mirage_jax.training.vae_task import VAETask
from mirage_jax.world.latent_encoder import LatentEncoder, to_model_range

PCA_CLIPS = 300
"""Clips that the linear path and the latent statistics are measured on."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderSettings(Settings):
    """What decides, beside the module and the optimizer, what the encoder becomes."""

    frames: int = setting(dataclasses.MISSING, "Frames of a training window.", least=1)
    pixels: int = setting(dataclasses.MISSING, "Side of a training window.", least=1)
    kl_weight: float = setting(dataclasses.MISSING, "See `VAETask`.", least=0)
    latent_noise: float = setting(0.0, "See `VAETask`.", least=0)
    stats_per_channel: bool = setting(
        False, "Normalise every latent channel by itself, or all by one number."
    )
    pca_power: float = setting(dataclasses.MISSING, "See `patch_pca.pca_linear_path`.", least=0)
    seed: int = setting(0, "Of everything random.", least=0, most=2**32 - 1)


def train_encoder(
    vae: VideoVAE,
    clips: Sequence[Path],
    folder: Path,
    settings: EncoderSettings,
    options: StageOptions | None,
    *,
    held_out: Sequence[Path] | None = None,
) -> LatentEncoder:
    """Trains the autoencoder and measures the statistics of its latents.

    Args:
      vae: the module.
      clips: folders of recorded worlds.
      folder: for checkpoints and logs.
      settings: of windows, loss and linear path.
      options: how and where; None takes the autoencoder as it starts, with its linear path alone.
      held_out: those of the folders that have held-out clips; default all. Without any nothing is
        evaluated, and sheets show clips that are trained on.
    """
    source = Joined([loading.ClipSource(path, "train", fields=("video",)) for path in clips])
    evaluated = _held_out(clips if held_out is None else held_out)
    sample = common_middle([source[i]["video"] for i in spread_over(len(source), PCA_CLIPS)])
    linear_path = None
    if vae.linear_path:
        linear_path = pca_linear_path(
            sample,
            latent_channels=vae.latent_channels,
            spatial_stride=vae.spatial_stride,
            temporal_stride=vae.temporal_stride,
            power=settings.pca_power,
            seed=settings.seed,
        )
    sheets = source if evaluated is None else evaluated
    shown = [sheets[i]["video"] for i in spread_over(len(sheets), 4)]
    sheet = common_middle([video[: settings.frames] for video in shown])
    task = VAETask(
        vae=vae,
        frames=settings.frames,
        size=settings.pixels,
        linear_path=linear_path,
        kl_weight=settings.kl_weight,
        latent_noise=settings.latent_noise,
        sheet_video=sheet,
    )
    if options is None:
        params = jax.device_get(nn.unbox(jax.jit(task.init)(jax.random.key(settings.seed))))
    else:
        params = train_task(
            task,
            source,
            folder,
            options,
            name="encoder",
            transform=VideoWindow(settings.frames, settings.pixels, vae.spatial_stride),
            eval_batches=_eval_batches(evaluated, settings.frames),
        )
    return _measured(vae, params, sample[:, : settings.frames], settings.stats_per_channel)


def train_tiny_decoder(
    decoder: TinyDecoder,
    encoder: LatentEncoder,
    clips: Sequence[Path],
    folder: Path,
    options: StageOptions,
    *,
    frames: int,
    pixels: int,
    held_out: Sequence[Path] | None = None,
) -> Any:
    """Trains a tiny decoder of a trained encoder's latents and returns its parameters.

    Args:
      decoder: the module.
      encoder: stays as it is.
      clips: folders of recorded worlds.
      folder: for checkpoints and logs.
      options: how and where.
      frames, pixels: of training windows.
      held_out: as of `train_encoder`.
    """
    evaluated = _held_out(clips if held_out is None else held_out)
    return train_task(
        TinyDecoderTask.of_encoder(decoder, encoder),
        Joined([loading.ClipSource(path, "train", fields=("video",)) for path in clips]),
        folder,
        options,
        name="tiny decoder",
        transform=VideoWindow(frames, pixels, encoder.vae.spatial_stride),
        eval_batches=_eval_batches(evaluated, frames),
    )


def _held_out(clips: Sequence[Path]) -> Joined | None:
    sources = [loading.ClipSource(path, "eval", fields=("video",)) for path in clips]
    return Joined(sources) if sources else None


def _eval_batches(held_out: Joined | None, frames: int) -> Callable[[], Iterator[Any]] | None:
    return None if held_out is None else partial(window_batches, held_out, frames)


def _measured(vae: VideoVAE, params: Any, video: np.ndarray, per_channel: bool) -> LatentEncoder:
    """The encoder with the statistics of its latents on these videos, [N, T, H, W, 3] uint8."""
    encode = jax.jit(lambda p, v: vae.apply({"params": p}, to_model_range(v), method="encode")[0])
    parts = np.array_split(video, len(video) // 8 or 1)
    latents = jnp.concatenate([encode(params, part) for part in parts])
    stats = measure_stats(latents, per_channel=per_channel)
    spread = normalise(latents, stats).std((0, 1, 2, 3))
    return LatentEncoder(params, stats, vae, tuple(float(value) for value in spread))
