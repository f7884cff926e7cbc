"""The parts of a work directory, trained here or converted, as a model run as a preset says."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from mirage_jax.cli.helpers.build import load_geometry_head, stored_clean_frames, stored_size
from mirage_jax.io.workdir import Workdir
from mirage_jax.nn.denoiser import Denoiser
from mirage_jax.training.denoiser_task import Readout
from mirage_jax.world import WorldModel
from mirage_jax.world.conditioners import TEMPORAL_STRIDE, layout_channels
from mirage_jax.world.latent_encoder import LatentEncoder, from_fields, load_module, stored_field
from mirage_jax.world.presets import Preset


def preset_model(
    workdir: Workdir,
    preset: Preset,
    *,
    size: tuple[int, int],
    chunk_frames: int,
    sky_depth: float,
    vae_tile: tuple[int, ...] = (),
    dtype: Any = None,
) -> WorldModel:
    """The parts of a work directory, trained here or converted, run as a preset says.

    Args:
      workdir: of the work directory: "encoder", "denoiser_latent" and, if there is one, "geometry".
      preset: how to run them.
      size: of the pictures (H, W).
      chunk_frames: frames of a chunk, for weights that do not tell.
      sky_depth: metres at which sky is remembered, for weights that do not tell.
      vae_tile: see `LatentEncoder.tile`.
      dtype: of the denoiser's matrix products; None for that of its weights.

    Raises:
      FileNotFoundError, ValueError: if a part is missing, does not fit the others, or was trained
        for something else than the preset.
    """
    for part in ("encoder", "denoiser_latent"):
        if not workdir.model(part).exists():
            raise FileNotFoundError(
                f"{workdir.model(part)}: no weights there; make them with `mirage convert` or "
                "`mirage train`, or name another folder by --workdir"
            )
    encoder = LatentEncoder.load(workdir.model("encoder"))
    path = workdir.model("denoiser_latent")
    params, module, made = load_module(
        path, {"kind": "denoiser"}, "denoiser", Denoiser, _denoiser_params, any_float=True
    )
    if encoder.vae.temporal_stride != TEMPORAL_STRIDE:
        raise ValueError(
            f"{workdir.model('encoder')}: found {encoder.vae.temporal_stride} frames in a latent, "
            f"expected {TEMPORAL_STRIDE}"
        )
    channels = encoder.vae.latent_channels
    if module.in_channels != channels:
        raise ValueError(
            f"{path}: found a denoiser of {module.in_channels} latent channels, "
            f"expected {channels} as the encoder has"
        )
    readout = dataclasses.asdict(Readout())
    if "readout" in made:
        readout = dataclasses.asdict(from_fields(path, made, "readout", Readout))
        _check_trained_here(path, made, preset, size)
        chunk_frames = stored_field(path, made, "chunk_frames", int)
        sky_depth = stored_field(path, made, "sky_depth", (int, float))
    _check_context(path, made, preset, module, channels, readout)
    stride = [encoder.vae.spatial_stride * n for n in module.patch[1:]]
    if size[0] % stride[0] or size[1] % stride[1]:
        raise ValueError(
            f"size: found {size[0]} x {size[1]} pixels, expected multiples of {stride[0]} x "
            f"{stride[1]}"
        )
    head_params = head = None
    if workdir.model("geometry").exists():
        head_params, head = load_geometry_head(workdir.model("geometry"), channels)
    if dtype is None:
        dtype = jnp.dtype(params["patch_embedding"]["kernel"].dtype).type
    return WorldModel(
        encoder=encoder.replace(tile=vae_tile, streamed=True),  # type: ignore[attr-defined]
        head_params=head_params,
        denoiser_params=params,
        head=head,
        denoiser=module.clone(dtype=dtype),
        size=size,
        chunk_frames=chunk_frames,
        readout=tuple(readout.items()),
        sky_depth=sky_depth,
        **dataclasses.asdict(preset),
    )


def _denoiser_params(module: Denoiser) -> Any:
    latents = jnp.zeros((1, *module.patch, module.in_channels))
    return module.init(jax.random.key(0), latents, jnp.zeros(latents.shape[:2]))["params"]


def _check_trained_here(
    path: Path, made: dict[str, Any], preset: Preset, size: tuple[int, int]
) -> None:
    trained = stored_size(path, made)
    if size != trained:
        raise ValueError(f"{path}: found weights for pictures of {trained}, expected {size}")
    for name, shown in dataclasses.asdict(stored_clean_frames(path, made)).items():
        if getattr(preset, name) > shown:
            raise ValueError(
                f"{path}: found weights trained with {name}={shown}, expected the preset to have "
                f"no more, not {getattr(preset, name)}"
            )


def _check_context(
    path: Path,
    made: dict[str, Any],
    preset: Preset,
    module: Denoiser,
    channels: int,
    readout: dict[str, Any],
) -> None:
    """Compares what the weights were trained to be told with what the preset will tell them."""
    options = {name: value for name, value in readout.items() if name != "prefer"}
    expected = layout_channels(preset.layout, channels, **options)
    stored = made.get("context", "folded" if "readout" in made else preset.layout)
    if (stored, module.memory_channels) != (preset.layout, expected):
        known = f" ({stored})" if "context" in made or "readout" in made else ""
        raise ValueError(
            f"{path}: found a context of {module.memory_channels} channels{known}, expected "
            f"{expected} ({preset.layout}) as the preset has; another --preset may fit, or "
            "--with=layout=..."
        )
