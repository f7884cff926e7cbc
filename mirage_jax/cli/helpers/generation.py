"""The model of a work directory as `mirage generate` runs it."""

from __future__ import annotations

import dataclasses
from collections.abc import Collection, Sequence
from typing import TypeVar

import jax.numpy as jnp
from ml_collections import ConfigDict

from mirage_jax.cli.helpers.build import memory_options, sampler
from mirage_jax.io.workdir import Workdir
from mirage_jax.world import WorldModel, loading, presets

T = TypeVar("T")


def generation_model(
    config: ConfigDict,
    workdir: Workdir,
    named: Collection[str] | None,
    *,
    memory: str,
    preset: str,
    fields: Sequence[str],
    vae_tile: tuple[int, ...] | None,
    size: tuple[int, int] | None,
    chunk_frames: int,
    dtype: str,
) -> WorldModel:
    """The model of a work directory for `mirage generate`, whose flags the arguments are.

    Weights that were trained here are sampled as the config says where there is no preset, or as
    they were trained where no config is named but for single fields of it; those that were
    converted take size and chunk length from the flags.

    Args:
      config: the experiment.
      workdir: of the weights.
      named: dotted names of its fields that the command line changes; None if it names the config.

    Raises:
      FileNotFoundError, ValueError: as `loading.load` and `presets.apply`.
    """
    chosen = None
    if preset:
        chosen = _changed(presets.PRESETS[preset], fields, vae_tile)
    model = loading.load(
        workdir.root,
        memory=memory,
        preset=chosen,
        size=size,
        chunk_frames=chunk_frames,
        dtype=None if dtype == "same" else jnp.dtype(dtype).type,
    )
    trained_here = model.trained_beside is not None
    options = memory_options(config)
    if trained_here and chosen is None:
        sampling, stored = sampler(config), model.memory
        if named is not None:
            changed = {name.removeprefix("sampling.") for name in named}
            sampling = _with_fields_of(model.sampler, sampling, changed)
            options = _with_fields_of(stored, options, {n.removeprefix("memory.") for n in changed})
        model = model.replace(sampler=sampling)  # type: ignore[attr-defined]
    else:
        options = dataclasses.replace(
            model.memory, capacity=options.capacity, sky_depth=options.sky_depth
        )
    if trained_here:
        options = dataclasses.replace(options, sky_depth=model.memory.sky_depth)
    model = model.replace(memory=options)  # type: ignore[attr-defined]
    if chosen is None and (fields or vae_tile is not None):
        model = presets.apply(model, _changed(presets.preset_of(model), fields, vae_tile))
    return model


def _with_fields_of(options: T, other: T, names: Collection[str]) -> T:
    """`options` with those of its fields that are named as they are in `other`."""
    fields = {f.name for f in dataclasses.fields(options)}  # type: ignore[arg-type]
    return dataclasses.replace(options, **{n: getattr(other, n) for n in fields & set(names)})  # type: ignore[type-var]


def _changed(
    preset: presets.Preset, fields: Sequence[str], vae_tile: tuple[int, ...] | None
) -> presets.Preset:
    changed = presets.with_fields(preset, fields)
    return changed if vae_tile is None else dataclasses.replace(changed, vae_tile=vae_tile)
