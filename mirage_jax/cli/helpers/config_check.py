"""A config as a whole: every field in its range, and all of them fitting each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from ml_collections import ConfigDict

from mirage_jax.chunks import TEMPORAL_STRIDE, latents_of_frames
from mirage_jax.cli.helpers import build, quick_models, training_sections
from mirage_jax.cli.helpers.config_sections import BY_WORLD, SECTIONS, RunSection
from mirage_jax.cli.helpers.picture_shapes import picture_sizes
from mirage_jax.nn.attention.dispatch import check_backend
from mirage_jax.parallel import BATCH_AXES
from mirage_jax.settings import from_mapping

LEAST_CHUNKS = 2
"""A clip has one that leaves and one that returns."""


def check(config: ConfigDict, *, chunks: bool = True) -> None:
    """Checks all that the commands of an experiment go by, at the start of each.

    Args:
      config: of the experiment.
      chunks: whether clips have to be made of whole chunks, as those to train on have.

    Raises:
      ValueError: naming the field, what was found and what was expected.
    """
    fields = {name: config[name] for name in _RUN_FIELDS if name in config}
    from_mapping(RunSection, fields, "config")
    if not config.worlds:
        raise ValueError("config.worlds: found none, expected one at least")
    for name, kind in SECTIONS.items():
        if name in config:
            values = config[name].to_dict()
            values.pop(BY_WORLD.get(name), None)
            from_mapping(kind, values, f"config.{name}")
    weights = config.get("loading", {}).get("weights", ())
    if weights and len(weights) != len(config.worlds):
        raise ValueError(
            f"config.loading.weights: found {len(weights)}, expected one for each of the "
            f"{len(config.worlds)} worlds"
        )
    for world, count in config.record.train_clips.items():
        if count < 1:
            raise ValueError(
                f"config.record.train_clips.{world}: found {count}, expected a number >= 1"
            )
    training_sections.check(config)
    _check_modules(config)
    if chunks:
        _check_frames(config)
    _check_sizes(config)
    build.sampler(config)
    build.memory_options(config)
    build.noise_augmentation(config)


_RUN_FIELDS = RunSection.__dataclass_fields__


def _check_modules(config: ConfigDict) -> None:
    """The fields of the VAE and of the denoiser among themselves."""
    vae, levels = build.vae(config), len(config.vae.width_mults)
    if len(vae.temporal_downsample) != levels - 1:
        raise ValueError(
            f"config.vae.temporal_downsample: found {len(vae.temporal_downsample)} entries, "
            f"expected {levels - 1}, one less than width_mults"
        )
    spread = (1.0,) * config.vae.latent_channels
    try:
        build.denoiser(config, "latent", spread).check()
        check_backend(config.denoiser.attention_backend)
    except ValueError as error:
        raise ValueError(f"config.denoiser.{error}") from error
    if config.memory.conditioner == "surfels" and not vae.linear_path:
        raise ValueError(
            "config.memory.conditioner: found 'surfels' with vae.linear_path False, expected "
            "'folded', 'visibility' or 'score': tokens are drawn by the linear path"
        )
    if "tiny_decoder" in config:
        quick_models.tiny_decoder(config)
    if "match_training" in config:
        quick_models.check_matching(config)
    for section in ("vae", "geometry", "denoiser"):
        dtype = config[section].get("dtype", "float32")
        if dtype not in ("float32", "bfloat16"):
            raise ValueError(
                f"config.{section}.dtype: found {dtype!r}, expected 'float32' or 'bfloat16'"
            )
    open_axes = [axis for axis, size in config.mesh.items() if size == -1]
    if len(open_axes) > 1:
        raise ValueError(f"config.mesh.{open_axes[1]}: found a second -1, expected one at most")


def _check_frames(config: ConfigDict) -> None:
    """Lengths of clips, chunks and context frames."""
    chunk, frames = config.chunk_frames, config.record.frames
    lengths = tuple(config.get("chunk_lengths", ()))
    if lengths and (
        max(lengths) != chunk
        or len(set(lengths)) < len(lengths)
        or any((n - 1) % TEMPORAL_STRIDE or (frames - 1) % (n - 1) for n in lengths)
    ):
        raise ValueError(
            f"config.chunk_lengths: found {lengths}, expected different lengths 1 + "
            f"{TEMPORAL_STRIDE} n that divide a clip of {frames} frames, the longest of them "
            f"chunk_frames ({chunk})"
        )
    if len(lengths) > 1 and config.memory.conditioner == "score":
        raise ValueError(
            f"config.chunk_lengths: found {lengths} with memory.conditioner 'score', expected one, "
            "which its white video is encoded for; or another conditioner"
        )
    if (chunk - 1) % TEMPORAL_STRIDE:
        raise ValueError(f"config.chunk_frames: found {chunk}, expected 1 + {TEMPORAL_STRIDE} n")
    count, rest = divmod(frames - 1, chunk - 1)
    if rest or count < LEAST_CHUNKS:
        step = chunk - 1
        near = 1 + max(count, LEAST_CHUNKS) * step
        raise ValueError(
            f"config.record.frames: found {frames}, expected 1 + {step} n and at least "
            f"{1 + LEAST_CHUNKS * step}, for example {near}: whole chunks of {chunk} frames"
        )
    patch = config.denoiser.patch[0]
    latents = next(
        (n for n in map(latents_of_frames, (chunk, *lengths)) if n % patch),
        latents_of_frames(chunk),
    )
    if latents % patch:
        raise ValueError(
            f"config.denoiser.patch: found {patch} latents in a token, expected a divisor of the "
            f"{latents} of a chunk"
        )
    window = config.loading.window
    if window:
        rest = (window - 1) % (chunk - 1)
        if rest or not chunk < window <= frames:
            raise ValueError(
                f"config.loading.window: found {window}, expected 0 or 1 + {chunk - 1} n, more "
                f"than a chunk of {chunk} and at most the {frames} of a clip"
            )
        frames = window
    preceding, most = config.denoiser_training.preceding, frames - chunk
    if preceding and ((preceding - 1) % TEMPORAL_STRIDE or preceding > most):
        raise ValueError(
            f"config.denoiser_training.preceding: found {preceding}, expected 0 or "
            f"1 + {TEMPORAL_STRIDE} n up to {most}, the frames before a clip's last chunk"
        )


def _check_sizes(config: ConfigDict) -> None:
    """Pictures and training windows in whole tokens and cells."""
    stride = build.vae(config).spatial_stride
    height, width = build.picture_size(config)
    sides = {"size": (height, 1), "width": (width, 2)}
    for name, (side, axis) in sides.items():
        token = stride * config.denoiser.patch[axis]
        if side % token and (name == "size" or config.record.width):
            raise ValueError(
                f"config.record.{name}: found {side}, expected a multiple of {token}: cells of "
                f"{stride} pixels, {config.denoiser.patch[axis]} to a token"
            )
        if side % token:
            raise ValueError(
                f"config.record.size: found {side}, expected a multiple of {token}, as it is the "
                "width too"
            )
    sizes = picture_sizes(config)
    for shape in sizes[1:]:
        if any(side % (stride * config.denoiser.patch[axis]) for axis, side in enumerate(shape, 1)):
            raise ValueError(
                f"config.data.shapes: found {shape[0]}x{shape[1]}, expected multiples of "
                f"{stride * config.denoiser.patch[1]} and {stride * config.denoiser.patch[2]}"
            )
    windows = {}
    if not training_sections.encoder(config).pretrained:
        windows["vae_training"] = training_sections.encoder(config).pixels
    if "tiny_decoder_training" in config:
        windows["tiny_decoder_training"] = training_sections.tiny_decoder(config).pixels
    most = min(side for shape in sizes for side in shape)
    for name, pixels in windows.items():
        if pixels % stride or pixels > most:
            raise ValueError(
                f"config.{name}.pixels: found {pixels}, expected a multiple of {stride} up to "
                f"{most}, the size of the pictures"
            )


def check_batches(config: ConfigDict, shards: Mapping[str, int], stages: Sequence[str]) -> None:
    """Raises ValueError, naming the field, unless the stages' batches split over a mesh's axes."""
    parts = math.prod(shards[axis] for axis in BATCH_AXES)
    for stage in training_sections.stages(config):
        if stage not in stages:
            continue
        section: Any = training_sections.OF_STAGE[stage](config)
        name = "vae_training" if stage == "encoder" else f"{stage}_training"
        whole = parts * section.accumulate
        if section.steps and section.batch_size % whole:
            raise ValueError(
                f"config.{name}.batch_size: found {section.batch_size}, expected a multiple of "
                f"{whole}: {parts} devices that share a batch, accumulate {section.accumulate}"
            )
