"""From a config to modules, tasks and trained models: the only place below which no config goes."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jaxtyping import Float
from ml_collections import ConfigDict

from mirage_jax.cli.helpers.common import UserError
from mirage_jax.convert.tensor_files import open_tensors
from mirage_jax.io.text import load_embeddings
from mirage_jax.io.workdir import Workdir
from mirage_jax.nn.denoiser import Denoiser
from mirage_jax.nn.geometry_head import GeometryHead
from mirage_jax.nn.lora import LoRA
from mirage_jax.nn.video_vae import VideoVAE
from mirage_jax.training.branch_task import ADDED, BranchTask, freeze_backbone
from mirage_jax.training.clean_frames import NO_FRAMES, CleanFrames
from mirage_jax.training.denoiser_task import DenoiserTask, Perturbation, Readout
from mirage_jax.training.geometry_task import GeometryTask
from mirage_jax.weights import FORMAT, WEIGHTS, unflatten
from mirage_jax.world import WorldModel
from mirage_jax.world.conditioners import (
    RAY_CHANNELS,
    TEMPORAL_STRIDE,
    context_channels,
    latents_of_frames,
)
from mirage_jax.world.latent_encoder import (
    LatentEncoder,
    from_fields,
    load_module,
    module_fields,
    stored_field,
)

TRAINED = ("all", "branch", "branch_lora")
"""Values of `denoiser_training.trained`."""


def vae(config: ConfigDict) -> VideoVAE:
    """The autoencoder; ValueError if its stride is not the pipeline's."""
    module = VideoVAE(**config.vae.to_dict())
    if module.temporal_stride != TEMPORAL_STRIDE:
        raise ValueError(
            f"vae.temporal_downsample: {tuple(config.vae.temporal_downsample)} merges "
            f"{module.temporal_stride} frames into a latent, expected {TEMPORAL_STRIDE}"
        )
    return module


def check_encoder(config: ConfigDict, path: Path) -> None:
    """Raises FileNotFoundError or ValueError unless the encoder there has the config's latents."""
    found, expected = LatentEncoder.load(path).vae, vae(config)
    for name in ("latent_channels", "spatial_stride", "temporal_stride"):
        if getattr(found, name) != getattr(expected, name):
            raise ValueError(
                f"{path}: {name}: found {getattr(found, name)}, expected {getattr(expected, name)}"
            )


def geometry_head(config: ConfigDict) -> GeometryHead:
    return GeometryHead(**config.geometry.to_dict())


def picture_size(config: ConfigDict) -> tuple[int, int]:
    """(height, width) of the pictures; `record.width` is there where they are not square."""
    return config.record.size, config.record.get("width", config.record.size)


def readout(config: ConfigDict) -> Readout:
    memory = config.memory
    return Readout(memory.reads, memory.fine, memory.prefer, memory.footprint)


def clean_frames(config: ConfigDict, kind: str = "latent") -> CleanFrames:
    """How much of its past a chunk is shown; nothing to the baselines."""
    if kind != "latent":
        return NO_FRAMES
    return CleanFrames(config.denoiser_training.references, config.denoiser_training.preceding)


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
        size=picture_size(config),
        chunks=(config.record.frames - 1) // (config.chunk_frames - 1),
        chunk_latents=latents_of_frames(config.chunk_frames),
        readout=readout(config),
        frames=clean_frames(config, kind),
        perturbation=Perturbation(training.depth_noise, training.pose_noise, training.token_noise),
        shift=training.shift,
        drop_memory=training.drop_memory,
        drop_text=training.get("drop_text", 0.0),
        per_frame=training.per_frame,
    )


def trained(config: ConfigDict) -> str:
    """What of the denoiser is trained: "all", "branch" or "branch_lora".

    Raises:
      UserError: if the config has something else.
    """
    found = config.denoiser_training.get("trained", "all")
    if found not in TRAINED:
        raise UserError(
            f"denoiser_training.trained: found {found!r}, expected one of {', '.join(TRAINED)}"
        )
    return found


def denoiser_architecture(config: ConfigDict, task: DenoiserTask) -> dict[str, Any]:
    """Everything that decides what a denoiser's weights mean."""
    return {
        "kind": "denoiser",
        "memory": task.kind,
        "denoiser": module_fields(task.denoiser),
        "readout": dataclasses.asdict(task.readout),
        "clean_frames": dataclasses.asdict(task.frames),
        "size": list(picture_size(config)),
        "chunk_frames": config.chunk_frames,
        "sky_depth": config.sky_depth,
    }


def pretrained(config: ConfigDict, task: DenoiserTask) -> dict[str, Any]:
    """Parameters of the pretrained denoiser that the config names, read when they are used.

    Raises:
      UserError: if it names none.
      FileNotFoundError, ValueError: if there is no export.
    """
    path = config.denoiser_training.pretrained
    if path == "random":
        made = jax.jit(lambda: nn.unbox(task.init(jax.random.key(config.seed))))()
        return {name: part for name, part in jax.device_get(made).items() if name not in ADDED}
    if not path:
        raise UserError(
            "denoiser_training.pretrained: found none, expected the export of a pretrained "
            "denoiser, or 'random' to try the code"
        )
    files = open_tensors(Path(path) / WEIGHTS)
    if files.metadata.get("format") != FORMAT:
        raise ValueError(f"{files.path}: not an export; `mirage convert` makes one of it")
    return unflatten(files.tensors)


def branch_task(
    config: ConfigDict, task: DenoiserTask, values: dict[str, Any] | None = None
) -> BranchTask:
    """`task` for the parts that `denoiser_training.trained` names, beside a frozen backbone.

    Args:
      config: the experiment.
      task: the task that trains everything.
      values: `pretrained`; None for shapes alone.
    """
    lora, dropout = None, 0.0
    if config.denoiser_training.trained == "branch_lora":
        lora = LoRA(config.lora.rank, config.lora.alpha, tuple(config.lora.targets))
        dropout = config.lora.get("dropout", 0.0)
    return freeze_backbone(task, values, lora, dropout)


def texts(config: ConfigDict) -> dict[str, Float[np.ndarray, "l e"]]:
    """The embedded prompt of every world; none where the config names no embeddings.

    Raises:
      UserError: if a world has no prompt.
      FileNotFoundError, ValueError: if the embeddings cannot be read or lack a prompt.
    """
    path = config.text.embeddings if "text" in config else ""
    if not path:
        return {}
    for world in config.worlds:
        if world not in config.text.prompts:
            raise UserError(f"text.prompts: found none for {world!r}, expected one for every world")
    embeddings = load_embeddings(path, config.denoiser.text_width)
    tokens = embeddings.of([config.text.prompts[world] for world in config.worlds])
    return dict(zip(config.worlds, tokens, strict=True))


def stored_size(path: Path, made: dict[str, Any]) -> tuple[int, int]:
    """The size (H, W) of pictures that an export says it is for."""
    size = stored_field(path, made, "size", (int, list))
    # Exports of square pictures once held one number.
    pair = tuple(size) if isinstance(size, list) else (size, size)
    if len(pair) != 2:
        raise ValueError(f"{path}: field size: found {size!r}, expected [height, width]")
    return pair


def world_model(workdir: Workdir, kind: str, sampling: ConfigDict) -> WorldModel:
    """Loads the trained parts of a work directory; their own files say what they are.

    Raises:
      FileNotFoundError, ValueError: if a part is missing or does not fit the others.
    """
    for part in ("encoder", "geometry", f"denoiser_{kind}"):
        if not workdir.model(part).exists():
            raise FileNotFoundError(
                f"{workdir.model(part)}: not trained yet; run `make quickstart` or `mirage train`, "
                "or name another folder by --workdir"
            )
    encoder = LatentEncoder.load(workdir.model("encoder"))
    channels = encoder.vae.latent_channels
    path = workdir.model(f"denoiser_{kind}")
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
    head_params, head = load_geometry_head(workdir.model("geometry"), channels)
    return WorldModel(
        encoder=encoder,
        head_params=head_params,
        denoiser_params=params,
        head=head,
        denoiser=module,
        size=stored_size(path, made),
        chunk_frames=stored_field(path, made, "chunk_frames", int),
        readout=tuple(dataclasses.asdict(from_fields(path, made, "readout", Readout)).items()),
        **dataclasses.asdict(stored_clean_frames(path, made)),
        steps=sampling.steps,
        shift=sampling.shift,
        method=sampling.method,
        reencode=sampling.reencode,
        sky_depth=stored_field(path, made, "sky_depth", (int, float)),
    )


def stored_clean_frames(path: Path, made: dict[str, Any]) -> CleanFrames:
    """What a denoiser was shown in training; older exports, which do not say, nothing."""
    if "clean_frames" not in made:
        return NO_FRAMES
    return from_fields(path, made, "clean_frames", CleanFrames)


def load_geometry_head(path: Path, channels: int) -> tuple[dict[str, Any], GeometryHead]:
    """Parameters and module of a geometry head for an encoder of so many channels."""

    def init(head: GeometryHead) -> Any:
        return GeometryTask(head, (1, 1, channels)).init(jax.random.key(0))

    try:
        params, head, _ = load_module(path, {"kind": "geometry_head"}, "head", GeometryHead, init)
    except ValueError as error:
        raise ValueError(f"{error}; the encoder has {channels} latent channels") from error
    return params, head
