"""From a config to modules, tasks and trained models: the only place below which no config goes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
from ml_collections import ConfigDict

from mirage_jax.conditioning import (
    RAY_CHANNELS,
    TEMPORAL_STRIDE,
    context_channels,
    latents_of_frames,
)
from mirage_jax.latent_encoder import (
    LatentEncoder,
    from_fields,
    load_module,
    module_fields,
    stored_field,
)
from mirage_jax.layout import Layout
from mirage_jax.nn.denoiser import Denoiser
from mirage_jax.nn.geometry_head import GeometryHead
from mirage_jax.nn.video_vae import VideoVAE
from mirage_jax.training.denoiser_task import DenoiserTask, Perturbation, Readout
from mirage_jax.training.geometry_task import GeometryTask
from mirage_jax.world import WorldModel


def vae(config: ConfigDict) -> VideoVAE:
    """The autoencoder; ValueError if its stride is not the pipeline's."""
    module = VideoVAE(**config.vae.to_dict())
    if module.temporal_stride != TEMPORAL_STRIDE:
        raise ValueError(
            f"vae.temporal_downsample: {tuple(config.vae.temporal_downsample)} merges "
            f"{module.temporal_stride} frames into a latent, expected {TEMPORAL_STRIDE}"
        )
    return module


def geometry_head(config: ConfigDict) -> GeometryHead:
    return GeometryHead(**config.geometry.to_dict())


def readout(config: ConfigDict) -> Readout:
    memory = config.memory
    return Readout(memory.reads, memory.fine, memory.prefer, memory.footprint)


def memory_channels(config: ConfigDict, kind: str) -> int:
    """Channels of the memory context of one cell for a kind of memory."""
    channels = config.vae.latent_channels
    if kind == "latent":
        read = readout(config)
        return context_channels(
            channels, reads=read.reads, fine=read.fine, footprint=read.footprint
        )
    return channels + TEMPORAL_STRIDE if kind == "rgb" else 0


def denoiser(config: ConfigDict, kind: str, data_std: tuple[float, ...]) -> Denoiser:
    """The denoiser for a kind of memory; without memory it has no branch, else all are alike.

    Args:
      config: the experiment.
      kind: "latent", "rgb" or "none".
      data_std: spread of the encoder's latents, or () for plain velocity prediction.
    """
    fields = config.denoiser.to_dict()
    if kind == "none":
        fields |= {"branch_layers": (), "memory_prior": False}
    channels = config.vae.latent_channels
    return Denoiser(
        in_channels=channels,
        out_channels=channels,
        memory_channels=memory_channels(config, kind),
        ray_channels=RAY_CHANNELS,
        data_std=data_std if config.denoiser_training.precondition else (),
        **fields,
    )


def denoiser_task(config: ConfigDict, kind: str, data_std: tuple[float, ...]) -> DenoiserTask:
    """The training task of `denoiser`."""
    training = config.denoiser_training
    return DenoiserTask(
        denoiser=denoiser(config, kind, data_std),
        kind=kind,
        size=(config.record.size, config.record.size),
        chunks=(config.record.frames - 1) // (config.chunk_frames - 1),
        chunk_latents=latents_of_frames(config.chunk_frames),
        readout=readout(config),
        perturbation=Perturbation(training.depth_noise, training.pose_noise, training.token_noise),
        shift=training.shift,
        drop_memory=training.drop_memory,
        per_frame=training.per_frame,
    )


def denoiser_architecture(config: ConfigDict, task: DenoiserTask) -> dict[str, Any]:
    """Everything that decides what a denoiser's weights mean."""
    return {
        "kind": "denoiser",
        "memory": task.kind,
        "denoiser": module_fields(task.denoiser),
        "readout": dataclasses.asdict(task.readout),
        "size": config.record.size,
        "chunk_frames": config.chunk_frames,
        "sky_depth": config.sky_depth,
    }


def world_model(layout: Layout, kind: str, sampling: ConfigDict) -> WorldModel:
    """Loads the trained parts of a work directory; their own files say what they are.

    Raises:
      FileNotFoundError, ValueError: if a part is missing or does not fit the others.
    """
    encoder = LatentEncoder.load(layout.model("encoder"))
    channels = encoder.vae.latent_channels
    path = layout.model(f"denoiser_{kind}")
    params, module, made = load_module(
        path,
        {"kind": "denoiser", "memory": kind},
        "denoiser",
        Denoiser,
        lambda module: DenoiserTask(
            module, kind, size=(1, 1), chunks=1, chunk_latents=module.patch[0]
        ).init(jax.random.key(0)),
    )
    if module.in_channels != channels:
        raise ValueError(
            f"{path}: trained on {module.in_channels} latent channels, "
            f"but the encoder has {channels}"
        )
    head_params, head = load_geometry_head(layout.model("geometry"), channels)
    size = stored_field(path, made, "size", int)
    return WorldModel(
        encoder=encoder,
        head_params=head_params,
        denoiser_params=params,
        head=head,
        denoiser=module,
        size=(size, size),
        chunk_frames=stored_field(path, made, "chunk_frames", int),
        readout=tuple(dataclasses.asdict(from_fields(path, made, "readout", Readout)).items()),
        steps=sampling.steps,
        shift=sampling.shift,
        method=sampling.method,
        reencode=sampling.reencode,
        sky_depth=stored_field(path, made, "sky_depth", (int, float)),
    )


def load_geometry_head(path: Path, channels: int) -> tuple[dict[str, Any], GeometryHead]:
    """Parameters and module of a geometry head for an encoder of so many channels."""

    def init(head: GeometryHead) -> Any:
        return GeometryTask(head, (1, 1, channels)).init(jax.random.key(0))

    try:
        params, head, _ = load_module(path, {"kind": "geometry_head"}, "head", GeometryHead, init)
    except ValueError as error:
        raise ValueError(f"{error}; the encoder has {channels} latent channels") from error
    return params, head
