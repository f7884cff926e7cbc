"""Three ways to run one pipeline: as Mirage's code was released, as its paper says, and ours."""

from __future__ import annotations

import dataclasses
import typing
from collections.abc import Iterable
from typing import Any

from mirage_jax.memory.readout import CELLS
from mirage_jax.settings import Settings, setting
from mirage_jax.world.conditioners import KINDS
from mirage_jax.world.model import WorldModel
from mirage_jax.world.options import ContextFrameOptions, MemoryOptions, SamplerOptions


@dataclasses.dataclass(frozen=True)
class Preset(Settings):
    """How memory is written and read, what a chunk is denoised beside, and how it is sampled."""

    conditioner: str = setting(
        "folded", "Kind that the weights were trained with.", choices=tuple(KINDS)
    )
    cells: str = setting("centre", "See `Conditioner.cells`.", choices=CELLS)
    memory: MemoryOptions = MemoryOptions()
    context_frames: ContextFrameOptions = ContextFrameOptions()
    sampler: SamplerOptions = SamplerOptions()
    vae_tile: tuple[int, ...] = setting((), "`LatentEncoder.tile`.", least=1)

    def __post_init__(self) -> None:
        super().__post_init__()
        if len(self.vae_tile) not in (0, 2):
            raise ValueError(f"vae_tile: found {self.vae_tile}, expected rows and columns")


KEPT = ("capacity", "sky_depth", "cfg_scale", "memory_scale")
"""Options that no preset decides: of the memory's size, of training, and of guidance."""

PRESETS = {
    # Mirage's released code (microsoft/LatentSpatialMemory, commit b2cd738), with the second chunk
    # that it means to generate: there read-outs are split along channels instead of time.
    "released": Preset(
        conditioner="score",
        cells="corner",
        memory=MemoryOptions(
            clip_tokens=True,
            static_only=False,
            depth_resize="bilinear",
            rewrite_first=True,
            fuse=False,
        ),
        context_frames=ContextFrameOptions(references=4, preceding=8, choice="voxels"),
        sampler=SamplerOptions(steps=20, shift=5.0, method="unipc", schedule="wan_unipc"),
        vae_tile=(30, 52),
    ),
    # Mirage's paper (arXiv 2606.09828).
    "paper": Preset(
        conditioner="visibility",
        memory=MemoryOptions(reencode=True, depth_resize="bilinear", fuse=False),
        context_frames=ContextFrameOptions(references=4, preceding=9, choice="voxels"),
        sampler=SamplerOptions(steps=40, shift=5.0, method="unipc", schedule="wan_unipc"),
    ),
    # Ours, see docs/method.md.
    "default": Preset(
        memory=MemoryOptions(reencode=True),
        context_frames=ContextFrameOptions(references=4, preceding=9),
        sampler=SamplerOptions(steps=20, shift=5.0, method="unipc"),
    ),
}


def preset_of(model: WorldModel) -> Preset:
    """How a model is run now."""
    return Preset(
        conditioner=model.conditioner.kind,
        cells=model.conditioner.cells,
        memory=model.memory,
        context_frames=model.context_frames,
        sampler=model.sampler,
        vae_tile=model.encoder.tile,
    )


def apply(model: WorldModel, preset: Preset) -> WorldModel:
    """The model run as a preset says; what `KEPT` names stays as it is.

    Raises:
      ValueError: if its weights were trained with another conditioner, or beside fewer context
        frames than the preset has.
    """
    if model.conditioner.kind != preset.conditioner:
        raise ValueError(
            f"conditioner: found weights trained with {model.conditioner.kind!r} "
            f"({model.denoiser.memory_channels} channels), expected {preset.conditioner!r} as the "
            "preset has; another preset may fit"
        )
    trained = model.trained_beside
    for name in () if trained is None else ("references", "preceding"):
        most, wanted = getattr(trained, name), getattr(preset.context_frames, name)
        if wanted > most:
            raise ValueError(
                f"{name}: found weights trained with {most}, expected the preset to have no more, "
                f"not {wanted}"
            )
    return model.replace(  # type: ignore[attr-defined]
        encoder=model.encoder.replace(tile=preset.vae_tile, streamed=True),  # type: ignore[attr-defined]
        conditioner=dataclasses.replace(model.conditioner, cells=preset.cells),
        memory=_keeping(model.memory, preset.memory),
        context_frames=preset.context_frames,
        sampler=_keeping(model.sampler, preset.sampler),
    )


def _keeping(now: Any, options: Any) -> Any:
    """Options with the values that `KEPT` fields have now."""
    return dataclasses.replace(
        options, **{name: getattr(now, name) for name in KEPT if hasattr(now, name)}
    )


def with_fields(preset: Preset, assignments: Iterable[str]) -> Preset:
    """A preset with fields of its own or of its options changed, given as texts `name=value`.

    Those of `KEPT` cannot be: a preset does not decide them.

    Raises:
      ValueError: naming a field that there is none of, or whose value is none of its values.
    """
    parts = {f.name: getattr(preset, f.name) for f in dataclasses.fields(preset)}
    options = {name: part for name, part in parts.items() if isinstance(part, Settings)}
    owners: dict[str, str] = {name: "" for name in parts.keys() - options.keys()}
    for part, value in options.items():
        owners |= {f.name: part for f in dataclasses.fields(value) if f.name not in KEPT}
    for text in assignments:
        name, equals, word = text.partition("=")
        if name not in owners or not equals:
            known = ", ".join(sorted(owners))
            raise ValueError(f"preset: found {text!r}, expected NAME=VALUE of {known}")
        part = owners[name]
        holder = getattr(preset, part) if part else preset
        try:
            changed: Any = dataclasses.replace(holder, **{name: _parse(holder, name, word)})
        except ValueError as error:
            raise ValueError(f"preset: {error}") from error
        whole: dict[str, Any] = {part: changed}
        preset = dataclasses.replace(preset, **whole) if part else changed
    return preset


def _parse(holder: Settings, name: str, word: str) -> Any:
    """The value that a word means for a field."""
    kind = typing.get_type_hints(type(holder))[name]
    if kind is bool:
        if word not in ("true", "false"):
            raise ValueError(f"{name}: found {word!r}, expected true or false")
        return word == "true"
    if kind in (int, float):
        try:
            return kind(word)
        except ValueError:
            raise ValueError(f"{name}: found {word!r}, expected {kind.__name__}") from None
    if kind is str:
        return word
    try:
        return tuple(int(part) for part in word.split(",")) if word else ()
    except ValueError:
        raise ValueError(f"{name}: found {word!r}, expected whole numbers") from None
