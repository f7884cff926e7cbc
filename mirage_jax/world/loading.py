"""Trained models from folders: a work directory, exported parts, or a released checkpoint."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp

from mirage_jax.chunks import TEMPORAL_STRIDE
from mirage_jax.io.exports import stored_architecture
from mirage_jax.io.workdir import Workdir
from mirage_jax.memory.movers import MoverOptions
from mirage_jax.nn.denoiser import Denoiser
from mirage_jax.nn.geometry_head import GeometryHead
from mirage_jax.settings import from_mapping
from mirage_jax.weights import (
    load_module,
    module_fields,
    stored_field,
)
from mirage_jax.world import conditioners, shipped
from mirage_jax.world.bodies import with_bodies, without_bodies
from mirage_jax.world.conditioners import Conditioner
from mirage_jax.world.decoders import with_decoder
from mirage_jax.world.latent_encoder import LatentEncoder
from mirage_jax.world.model import WorldModel
from mirage_jax.world.options import ContextFrameOptions, MemoryOptions, SamplerOptions
from mirage_jax.world.parts import Parts
from mirage_jax.world.presets import PRESETS, Preset, apply
from mirage_jax.world.released import read_released

PRESET_OF_CONDITIONER = {"score": "released", "visibility": "paper"}
"""How weights are run that do not say it; others by the preset "default"."""

_OF_TRAINING = {"size", "chunk_frames", "conditioner", "readout"}
"""Fields of weights that were trained here; converted ones have none of them."""

_BASELINES = {"rgb", "none"}
"""Denoisers of a work directory that are named after their conditioner."""

RELEASED_SIZE = (704, 1280)
RELEASED_CHUNK_FRAMES = 33


def load(
    path: str | Path,
    *,
    memory: str = "latent",
    preset: str | Preset | None = None,
    size: tuple[int, int] | None = None,
    chunk_frames: int | None = None,
    dtype: Any = None,
    model: str = "",
    decoder: str = "vae",
    bodies: bool | MoverOptions | None = None,
) -> WorldModel:
    """A trained model.

    Args:
      path: a work directory (`runs/quickstart`), the folder of its exported parts (`model` in it:
        "encoder", "denoiser_latent" and, if there is one, "geometry"), a released checkpoint, see
        `released.read_released`, or "demo" for the weights that ship, see `shipped`.
      memory: which denoiser of a work directory: "latent", "rgb", "none" or "student", the one
        of few steps that was distilled.
      preset: how to run it, a key of `presets.PRESETS` or one of one's own; by default as it was
        trained or, for converted weights, as the preset of their conditioner.
      size: of the pictures (H, W), for weights that do not say.
      chunk_frames: frames of a chunk, for weights that do not say.
      dtype: of the denoiser's matrix products; by default as trained or as the weights are stored.
      model: key of `convert.presets.DENOISERS`, for a released checkpoint whose tensors do not tell
        all sizes.
      decoder: of the pictures, one of `decoders.DECODERS`.
      bodies: whether bodies that move are kept, or how, see `with_bodies`; None: as the weights
        say, which need a geometry head for it.

    Raises:
      FileNotFoundError, ValueError: if a part is missing, does not fit the others, or was trained
        for something else than what is asked for.
    """
    path = shipped.folder_of(path)
    if isinstance(preset, str):
        if preset not in PRESETS:
            raise ValueError(f"preset: found {preset!r}, expected one of {', '.join(PRESETS)}")
        preset = PRESETS[preset]
    folder = _parts_folder(path)
    if folder is None:
        parts = read_released(path, model)
    else:
        parts = _read_parts(folder, memory)
    made, module, encoder = parts.architecture, parts.denoiser, parts.encoder
    where, trained_here = parts.path, not _OF_TRAINING.isdisjoint(parts.architecture)
    conditioner = stored_conditioner(where, made, module, encoder)
    if trained_here:
        _check_memory(where, conditioner, memory)
    stored = stored_size(where, made) if trained_here else size or RELEASED_SIZE
    _check_size(stored, encoder, module)
    frames = stored_field(where, made, "chunk_frames", int) if trained_here else chunk_frames
    if dtype is None and not trained_here:
        dtype = jnp.dtype(parts.denoiser_params["patch_embedding"]["kernel"].dtype).type
    trained_beside = stored_context_frames(where, made) if trained_here else None
    made_model = WorldModel(
        encoder=with_decoder(encoder, folder, decoder),
        head_params=parts.head_params,
        denoiser_params=parts.denoiser_params,
        head=parts.head,
        denoiser=module if dtype is None else module.clone(dtype=dtype),
        conditioner=conditioner,
        size=stored,
        chunk_frames=frames or RELEASED_CHUNK_FRAMES,
        sampler=_options(where, made, "sampler", SamplerOptions),
        memory=_memory_options(where, made),
        context_frames=trained_beside or ContextFrameOptions(),
        movers=_options(where, made, "movers", MoverOptions) if "movers" in made else None,
        trained_beside=trained_beside,
    )
    body_options = _body_options(where, made)
    if bodies is False:
        made_model = without_bodies(made_model)
    elif isinstance(bodies, MoverOptions):
        made_model = with_bodies(made_model, bodies)
    elif bodies or (made.get("bodies", False) and made_model.head is not None):
        made_model = with_bodies(made_model, body_options)
    if preset is None and not trained_here:
        preset = _preset_of(conditioner)
    if preset is None:
        return made_model
    try:
        return apply(made_model, preset)
    except ValueError as error:
        raise ValueError(f"{where}: {error}") from error


def stored_memories(path: str | Path) -> tuple[str, ...]:
    """Which denoisers a work directory has, by names that `load` takes as `memory`; () for a
    released checkpoint. Errors as of `load` where there is no model at all."""
    folder = _parts_folder(shipped.folder_of(path))
    if folder is None:
        return ()
    return tuple(sorted(found.name.removeprefix("denoiser_") for found in _denoisers(folder)))


def trained_sizes(path: str | Path, memory: str = "latent") -> tuple[tuple[int, int], ...]:
    """(H, W) of every picture shape of weights, from their header; () of those of one shape alone,
    and where there are none.

    `path` is that of `load`, whose size is one of these; `model.replace(size=...)` has another.
    """
    folder = shipped.folder_of(path)
    for parts in (Workdir(folder).model("encoder").parent, folder):
        sizes = stored_architecture(parts / f"denoiser_{memory}").get("sizes", ())
        if sizes:
            return tuple((int(height), int(width)) for height, width in sizes)
    return ()


def known_chunk_frames(path: str | Path, default: int, memory: str = "latent") -> int | None:
    """Frames of a chunk that weights were trained for, from their header alone.

    Args:
      path: as of `load`.
      default: for weights that do not say.
      memory: as of `load`.

    Returns:
      None if there are no weights.
    """
    try:
        folder = _parts_folder(Path(path))
    except FileNotFoundError:
        return None
    stored = {} if folder is None else stored_architecture(folder / f"denoiser_{memory}")
    return stored.get("chunk_frames", default)


def _preset_of(conditioner: Conditioner) -> Preset:
    """How weights are run that do not say it."""
    if conditioner.stores == "tokens":
        return PRESETS[PRESET_OF_CONDITIONER.get(conditioner.kind, "default")]
    nothing = ContextFrameOptions()
    return dataclasses.replace(
        PRESETS["default"], conditioner=conditioner.kind, context_frames=nothing
    )


def denoiser_architecture(
    denoiser: Denoiser,
    conditioner: Conditioner,
    *,
    size: tuple[int, int],
    chunk_frames: int,
    sampler: SamplerOptions,
    memory: MemoryOptions,
    context_frames: ContextFrameOptions,
    movers: MoverOptions | None = None,
    bodies: MoverOptions | None = None,
) -> dict[str, Any]:
    """Everything that decides what a denoiser's weights mean and how they are run by default.

    `movers` is what they were trained with, `bodies` how rollouts keep bodies all the same.
    """
    kept: dict[str, Any] = {} if movers is None else {"movers": dataclasses.asdict(movers)}
    if bodies is not None:
        # True: as whatever version loads them keeps bodies by default.
        kept["bodies"] = True if bodies == MoverOptions() else dataclasses.asdict(bodies)
    return kept | {
        "kind": "denoiser",
        "denoiser": module_fields(denoiser),
        "conditioner": conditioners.to_fields(conditioner),
        "size": list(size),
        "chunk_frames": chunk_frames,
        "sampler": dataclasses.asdict(sampler),
        "memory": dataclasses.asdict(memory),
        "context_frames": dataclasses.asdict(context_frames),
    }


def _body_options(where: Path, made: Mapping[str, Any]) -> MoverOptions | None:
    """How rollouts keep bodies, with weights that were trained without them; None: by default."""
    found = made.get("bodies", False)
    if isinstance(found, bool):
        return None
    if not isinstance(found, Mapping):
        raise ValueError(
            f"{where}: field bodies: found {found!r}, expected true, false or their options"
        )
    return _options(where, made, "bodies", MoverOptions)


def _parts_folder(path: Path) -> Path | None:
    """The folder with the exported parts; None for a released checkpoint.

    Raises:
      FileNotFoundError: if there is neither.
    """
    for folder in (Workdir(path).model("encoder").parent, path):
        if (folder / "encoder").exists() or any(folder.glob("denoiser_*")):
            return folder
    if any(path.rglob("[!.]*.safetensors")):
        return None
    raise FileNotFoundError(
        f"{path}: found no trained model; expected a work directory (run `make quickstart` or "
        "`mirage train`), its model folder, or a released checkpoint"
    )


def _denoisers(folder: Path) -> list[Path]:
    return [path for path in folder.glob("denoiser_*") if path.is_dir()]


def _read_parts(folder: Path, memory: str) -> Parts:
    path = folder / f"denoiser_{memory}"
    for part in (folder / "encoder", path):
        if not part.exists():
            known = sorted(other.name.removeprefix("denoiser_") for other in _denoisers(folder))
            there = f" (denoisers that are there: {', '.join(known)})" if known else ""
            raise FileNotFoundError(
                f"{part}: no weights there{there}; make them with `mirage train` or `mirage "
                "convert`, or name another folder by --workdir"
            )
    encoder = LatentEncoder.load(folder / "encoder")
    trained_here = not _OF_TRAINING.isdisjoint(stored_architecture(path))
    params, module, made = load_module(
        path,
        {"kind": "denoiser"},
        "denoiser",
        Denoiser,
        _denoiser_params,
        keep_float=not trained_here,
    )
    channels = encoder.vae.latent_channels
    if encoder.vae.temporal_stride != TEMPORAL_STRIDE:
        raise ValueError(
            f"{folder / 'encoder'}: found {encoder.vae.temporal_stride} frames in a latent, "
            f"expected {TEMPORAL_STRIDE}"
        )
    if module.in_channels != channels:
        raise ValueError(
            f"{path}: found a denoiser of {module.in_channels} latent channels, expected "
            f"{channels} as the encoder has"
        )
    head = head_params = None
    if (folder / "geometry").exists():
        head_params, head = load_geometry_head(folder / "geometry", channels)
    return Parts(path, encoder, module, params, made, head, head_params)


def load_geometry_head(path: Path, channels: int) -> tuple[dict[str, Any], GeometryHead]:
    """Parameters and module of a geometry head for an encoder of so many channels."""

    def init(head: GeometryHead) -> Any:
        latents = jnp.zeros((1, 2, 1, 1, channels), jnp.float32)
        return head.init(jax.random.key(0), latents, jnp.zeros((1, 2), bool))["params"]

    try:
        params, head, _ = load_module(path, {"kind": "geometry_head"}, "head", GeometryHead, init)
    except ValueError as error:
        raise ValueError(f"{error}; the encoder has {channels} latent channels") from error
    return params, head


def stored_conditioner(
    path: Path, made: Mapping[str, Any], denoiser: Denoiser, encoder: LatentEncoder
) -> Conditioner:
    """The conditioner that a denoiser was trained with.

    Older weights name a kind of memory and its read-out, converted ones the context of their
    branch; where neither is said the channels tell.

    Raises:
      ValueError: naming the path, if it does not fit the denoiser or the encoder.
    """
    channels, stride = encoder.vae.latent_channels, encoder.vae.spatial_stride
    sizes = {"token_channels": channels, "stride": stride}
    name = f"{path}: field conditioner"
    if "conditioner" in made:
        found = conditioners.from_stored(made["conditioner"], name)
    elif "readout" in made:
        memory = stored_field(path, made, "memory", str)
        kind, readout, name = memory, {}, f"{path}: field memory"
        if memory == "latent":
            readout, name = stored_field(path, made, "readout", dict), f"{path}: field readout"
            kind = "folded"
        found = conditioners.make(kind, name, **{**readout, **sizes})
    else:
        by_channels = {0: "none", channels + 1: "visibility", 2 * channels: "score"}
        kind = by_channels.get(denoiser.memory_channels, "folded")
        if "context" in made:
            kind, name = stored_field(path, made, "context", str), f"{path}: field context"
        found = conditioners.make(kind, name, **sizes)
    if (found.token_channels, found.stride) != (channels, stride):
        raise ValueError(
            f"{name}: found {found.token_channels} channels and cells of {found.stride} pixels, "
            f"expected {channels} and {stride} as the encoder has"
        )
    if found.channels != denoiser.memory_channels:
        raise ValueError(
            f"{path}: found a context of {denoiser.memory_channels} channels, expected "
            f"{found.channels} ({found.kind})"
        )
    return found


def _check_memory(path: Path, conditioner: Conditioner, memory: str) -> None:
    """Raises ValueError if the weights are of another of a work directory's denoisers."""
    expected = repr(memory) if memory in _BASELINES else "one that reads latent tokens"
    if conditioner.kind != memory and not _BASELINES.isdisjoint((memory, conditioner.kind)):
        raise ValueError(
            f"{path}: field conditioner: found {conditioner.kind!r}, expected {expected}"
        )


def stored_size(path: Path, made: Mapping[str, Any]) -> tuple[int, int]:
    """The size (H, W) of pictures that an export says it is for."""
    size = stored_field(path, made, "size", (int, list))
    # Exports of square pictures once held one number.
    pair = tuple(size) if isinstance(size, list) else (size, size)
    if len(pair) != 2:
        raise ValueError(f"{path}: field size: found {size!r}, expected [height, width]")
    return pair


def stored_context_frames(path: Path, made: Mapping[str, Any]) -> ContextFrameOptions:
    """What a denoiser was trained beside; older exports, which do not say, nothing."""
    name = "clean_frames" if "clean_frames" in made else "context_frames"
    return _options(path, made, name, ContextFrameOptions)


def _memory_options(path: Path, made: Mapping[str, Any]) -> MemoryOptions:
    if isinstance(made.get("memory"), Mapping):
        return _options(path, made, "memory", MemoryOptions)
    if "sky_depth" in made:
        return MemoryOptions(sky_depth=stored_field(path, made, "sky_depth", (int, float)))
    return MemoryOptions()


def _options(path: Path, made: Mapping[str, Any], name: str, kind: type) -> Any:
    if name not in made:
        return kind()
    return from_mapping(kind, stored_field(path, made, name, dict), f"{path}: field {name}")


def _check_size(size: tuple[int, int], encoder: LatentEncoder, denoiser: Denoiser) -> None:
    stride = [encoder.vae.spatial_stride * n for n in denoiser.patch[1:]]
    if size[0] % stride[0] or size[1] % stride[1]:
        raise ValueError(
            f"size: found {size[0]} x {size[1]} pixels, expected multiples of {stride[0]} x "
            f"{stride[1]}"
        )


def _denoiser_params(module: Denoiser) -> Any:
    latents = jnp.zeros((1, *module.patch, module.in_channels), jnp.float32)
    return module.init(jax.random.key(0), latents, jnp.zeros(latents.shape[:2], jnp.float32))[
        "params"
    ]
