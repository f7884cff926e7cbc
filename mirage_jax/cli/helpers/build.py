"""From a config to modules, tasks and trained models: the only place below which no config goes."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jaxtyping import Float
from ml_collections import ConfigDict

from mirage_jax.chunks import TEMPORAL_STRIDE, chunks_of_clip, latents_of_frames
from mirage_jax.cli.helpers import world_names
from mirage_jax.cli.helpers.common import UserError
from mirage_jax.cli.helpers.picture_shapes import picture_size as picture_size
from mirage_jax.cli.helpers.picture_shapes import picture_sizes
from mirage_jax.convert.tensor_files import TensorFiles, open_tensors
from mirage_jax.io.exports import READABLE, check_export
from mirage_jax.io.text import load_embeddings
from mirage_jax.io.workdir import Workdir
from mirage_jax.memory.fusion import FusionOptions
from mirage_jax.memory.movers import MoverOptions
from mirage_jax.nn.denoiser import Denoiser
from mirage_jax.nn.geometry_head import GeometryHead
from mirage_jax.nn.lora import LoRA
from mirage_jax.nn.video_vae import VideoVAE
from mirage_jax.settings import from_mapping
from mirage_jax.training.branch_task import ADDED, BranchTask, freeze_backbone
from mirage_jax.training.denoiser_task import DenoiserTask
from mirage_jax.weights import WEIGHTS, unflatten
from mirage_jax.world import conditioners, loading
from mirage_jax.world.bodies import with_bodies
from mirage_jax.world.conditioners import RAY_CHANNELS, Conditioner, Surfels
from mirage_jax.world.history import NO_FRAMES, NoiseAugmentation
from mirage_jax.world.latent_encoder import LatentEncoder
from mirage_jax.world.model import WorldModel
from mirage_jax.world.options import ContextFrameOptions, MemoryOptions, SamplerOptions

MEMORIES = ("latent", "rgb", "none")
"""What denoisers are trained with: the conditioner of the config, and the baselines."""

STUDENT = "student"
"""Name of the few-step denoiser among a work directory's, beside those of `MEMORIES`."""

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


def conditioner(config: ConfigDict, memory: str = "latent") -> Conditioner:
    """What the denoiser is conditioned on.

    Args:
      config: the experiment.
      memory: "latent" for the conditioner that the config names, or a baseline: "rgb" or "none".
    """
    kind = config.memory.conditioner if memory == "latent" else memory
    channels, stride = config.vae.latent_channels, vae(config).spatial_stride
    fields = {"token_channels": channels, "stride": stride}
    if kind in conditioners.BODY_KINDS:
        names = ("reads", "fine", "prefer", "movers", *(("footprint",) if kind == "folded" else ()))
        fields |= {name: config.memory[name] for name in names if name in config.memory}
    elif config.memory.get("movers", False) and memory == "latent":
        raise UserError(
            f"config.memory.movers: found True with conditioner {kind!r}, expected "
            f"{' or '.join(map(repr, conditioners.BODY_KINDS))}"
        )
    return conditioners.make(kind, "config.memory.conditioner", **fields)


def sampler(config: ConfigDict) -> SamplerOptions:
    """How chunks are sampled; `sampling.reencode` is of the memory."""
    fields = {name: value for name, value in config.sampling.items() if name != "reencode"}
    return from_mapping(SamplerOptions, fields, "config.sampling")


def memory_options(config: ConfigDict) -> MemoryOptions:
    """How a world's memory is made and written."""
    kept = ("capacity", "fuse", "fuse_histories", "match")
    fields = {name: config.memory[name] for name in kept if name in config.memory} | {
        "reencode": config.sampling.reencode,
        "sky_depth": config.sky_depth,
    }
    return from_mapping(MemoryOptions, fields, "config.memory")


def history_fusion(config: ConfigDict, memory: str = "latent") -> FusionOptions | None:
    """How histories are fused in training; None = appended."""
    if memory != "latent":
        return None
    return memory_options(config).history_fusion(context_frames(config, memory))


def movers(config: ConfigDict, memory: str = "latent") -> MoverOptions | None:
    """How bodies that move are kept in training; None = they are not."""
    kept = memory == "latent" and config.memory.get("movers", False)
    return mover_options(config) if kept else None


def mover_options(config: ConfigDict) -> MoverOptions:
    """How bodies are kept wherever they are."""
    return from_mapping(MoverOptions, dict(config.get("movers", {})), "config.movers")


def context_frames(config: ConfigDict, memory: str = "latent") -> ContextFrameOptions:
    """Earlier frames that a chunk is denoised beside; none with the baselines."""
    if memory != "latent":
        return NO_FRAMES
    training = config.denoiser_training
    fields = {"references": training.references, "preceding": training.preceding}
    return from_mapping(ContextFrameOptions, fields, "config.denoiser_training")


def noise_augmentation(config: ConfigDict) -> NoiseAugmentation:
    """Noise on training histories."""
    training = config.denoiser_training
    fields = {name: training[f"{name}_noise"] for name in ("depth", "pose")}
    fields["tokens"] = training.token_noise
    return from_mapping(NoiseAugmentation, fields, "config.denoiser_training noise")


def denoiser(config: ConfigDict, memory: str, data_std: tuple[float, ...]) -> Denoiser:
    """The denoiser for a memory; without one it has no branch, else all are alike.

    Args:
      config: the experiment.
      memory: "latent", "rgb" or "none".
      data_std: spread of the encoder's latents, or () for plain velocity prediction.
    """
    fields = config.denoiser.to_dict()
    if memory == "none":
        fields |= {"branch_layers": (), "memory_prior": False}
    channels = config.vae.latent_channels
    return Denoiser(
        in_channels=channels,
        out_channels=channels,
        memory_channels=conditioner(config, memory).channels,
        ray_channels=RAY_CHANNELS,
        data_std=data_std if config.denoiser_training.precondition else (),
        **fields,
    )


def chunk_lengths(config: ConfigDict, memory: str = "latent") -> tuple[int, ...]:
    """Frames of the chunks that a denoiser trains on; of the baselines the longest alone.

    Raises:
      UserError: for several of clips that are encoded before each step, or cut into windows.
    """
    lengths = tuple(config.get("chunk_lengths", ())) if memory == "latent" else ()
    if len(lengths) > 1 and config.loading.latents == "video":
        raise UserError(
            f"chunk_lengths: found {lengths} with loading.latents='video', expected 'cached'"
        )
    return lengths or (config.chunk_frames,)


def denoiser_task(config: ConfigDict, memory: str, data_std: tuple[float, ...]) -> DenoiserTask:
    """The training task of `denoiser`."""
    training, kind = config.denoiser_training, conditioner(config, memory)
    return DenoiserTask(
        denoiser=denoiser(config, memory, data_std),
        conditioner=kind,
        size=picture_size(config),
        chunks=chunks_of_clip(trained_frames(config), config.chunk_frames),
        chunk_latents=latents_of_frames(config.chunk_frames),
        context_frames=context_frames(config, memory),
        fusion=history_fusion(config, memory),
        movers=movers(config, memory) if getattr(kind, "movers", False) else None,
        noise=noise_augmentation(config),
        predicted=training.get("predicted_histories", 0.0) if memory == "latent" else 0.0,
        shift=training.shift,
        drop_memory=training.drop_memory,
        drop_text=training.drop_text,
        per_frame=training.per_frame,
        lengths=len(chunk_lengths(config, memory)),
    )


def trained_frames(config: ConfigDict) -> int:
    """Frames of what the denoiser trains on: of a window, or of a whole clip."""
    return config.loading.window or config.record.frames


def trained(config: ConfigDict) -> str:
    """What of the denoiser is trained: "all", "branch" or "branch_lora".

    Raises:
      UserError: if the config has something else.
    """
    found = config.denoiser_training.trained
    if found not in TRAINED:
        raise UserError(
            f"denoiser_training.trained: found {found!r}, expected one of {', '.join(TRAINED)}"
        )
    return found


def denoiser_architecture(
    config: ConfigDict, task: DenoiserTask, worlds: Sequence[str] = ()
) -> dict[str, Any]:
    """Everything that decides what a denoiser's weights, trained on `worlds`, mean and do."""
    several: dict[str, Any] = {}
    if task.lengths > 1:
        several["chunk_lengths"] = sorted(config.chunk_lengths)
    if task.sizes > 1:
        several["sizes"] = [list(size) for size in picture_sizes(config, worlds)]
    return several | loading.denoiser_architecture(
        task.denoiser,
        task.conditioner,
        size=task.size,
        chunk_frames=config.chunk_frames,
        sampler=sampler(config),
        memory=memory_options(config),
        context_frames=task.context_frames,
        movers=task.movers,
        bodies=mover_options(config) if _keeps_bodies(config, task) else None,
    )


def _keeps_bodies(config: ConfigDict, task: DenoiserTask) -> bool:
    """Whether rollouts do, however the weights are trained."""
    return isinstance(task.conditioner, Surfels) and config.memory.get("bodies", False)


def pretrained(config: ConfigDict, task: DenoiserTask) -> dict[str, Any]:
    """Parameters of the pretrained denoiser that the config names, read when they are used.

    Raises:
      UserError: if it names none.
      FileNotFoundError, ValueError: if there is no export.
    """
    if config.denoiser_training.pretrained == "random":
        made = jax.jit(lambda: nn.unbox(task.init(jax.random.key(config.seed))))()
        return {name: part for name, part in jax.device_get(made).items() if name not in ADDED}
    files = open_pretrained(config)
    check_export(files.path, files.metadata)
    return unflatten(files.tensors)


def open_pretrained(config: ConfigDict) -> TensorFiles:
    """The export that `denoiser_training.pretrained` names; errors as for `pretrained`."""
    path = config.denoiser_training.pretrained
    if not path:
        raise UserError(
            "denoiser_training.pretrained: found none, expected the export of a pretrained "
            "denoiser, or 'random' to try the code"
        )
    files = open_tensors(Path(path) / WEIGHTS)
    if files.metadata.get("format") not in READABLE:
        raise ValueError(f"{files.path}: not an export; `mirage convert` makes one of it")
    return files


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
        dropout = config.lora.dropout
    return freeze_backbone(task, values, lora, dropout)


def texts(config: ConfigDict) -> dict[str, Float[np.ndarray, "l e"]]:
    """The embedded prompt of every world; none where the config names no embeddings.

    Raises:
      UserError: if a world has no prompt.
      FileNotFoundError, ValueError: if the embeddings cannot be read or lack a prompt.
    """
    path = config.text.embeddings
    if not path:
        return {}
    told = world_names.prompts(config)
    embeddings = load_embeddings(path, config.denoiser.text_width)
    return dict(zip(told, embeddings.of(list(told.values())), strict=True))


def world_model(workdir: Workdir, memory: str, config: ConfigDict) -> WorldModel:
    """The trained parts of a work directory, sampled and remembering as the config says.

    Bodies are kept if the weights say so.

    Args:
      workdir: with the parts.
      memory: "latent", "rgb" or "none"; or "student", which says itself how it is sampled.
      config: the experiment.

    Raises:
      FileNotFoundError, ValueError: if a part is missing, does not fit the others, or was trained
        with another conditioner than the config's.
    """
    for part in ("encoder", "geometry", f"denoiser_{memory}"):
        if not workdir.model(part).exists():
            raise FileNotFoundError(
                f"{workdir.model(part)}: not trained yet; run `make quickstart` or `mirage train`, "
                "or name another folder by --workdir"
            )
    model = loading.load(workdir.model("encoder").parent, memory=memory)
    student = memory == STUDENT
    trained, expected = model.conditioner, conditioner(config, "latent" if student else memory)
    if isinstance(trained, Surfels) and isinstance(expected, Surfels):
        expected = dataclasses.replace(expected, movers=trained.movers)  # which no weights tell
    if trained != expected:
        raise ValueError(
            f"{workdir.model(f'denoiser_{memory}')}: found weights trained with {trained}, but "
            f"config.memory asks for {expected}"
        )
    options = dataclasses.replace(memory_options(config), sky_depth=model.memory.sky_depth)
    sampled = model.sampler if student else sampler(config)
    model = model.replace(sampler=sampled, memory=options)  # type: ignore[attr-defined]
    return model if model.movers is None else with_bodies(model, mover_options(config))
