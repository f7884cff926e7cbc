"""Three ways to run one pipeline: as Mirage's code was released, as its paper says, and ours.

Every field of a preset is a field of `WorldModel` of the same name, so that
`model.replace(**dataclasses.asdict(PRESETS["paper"]))` is what a preset does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Any

from mirage_jax.diffusion.samplers import KINDS, METHODS
from mirage_jax.memory.readout import CELLS
from mirage_jax.world.conditioners import LAYOUTS
from mirage_jax.world.context_frames import CHOICES


@dataclasses.dataclass(frozen=True)
class Preset:
    """How memory is written and read, what a chunk is shown, and how it is sampled.

    Attributes:
      layout: of the memory context; the weights must have been trained with it.
      cells: see `WorldModel`, as are all others.
    """

    layout: str
    cells: str
    depth_resize: str
    reencode: bool
    clip_tokens: bool
    static_only: bool
    first_again: bool
    preceding: int
    references: int
    choice: str
    steps: int
    shift: float
    method: str
    schedule: str


RELEASED = Preset(
    layout="score",
    cells="corner",
    depth_resize="bilinear",
    reencode=False,
    clip_tokens=True,
    static_only=False,
    first_again=True,
    preceding=8,
    references=4,
    choice="voxels",
    steps=20,
    shift=5.0,
    method="unipc",
    schedule="wan_unipc",
)
"""Mirage's released code (microsoft/LatentSpatialMemory, commit b2cd738), with the second chunk
that it means to generate: there read-outs are split along channels instead of time."""

PAPER = Preset(
    layout="visibility",
    cells="centre",
    depth_resize="bilinear",
    reencode=True,
    clip_tokens=False,
    static_only=True,
    first_again=False,
    preceding=9,
    references=4,
    choice="voxels",
    steps=40,
    shift=5.0,
    method="unipc",
    schedule="wan_unipc",
)
"""Mirage's paper (arXiv 2606.09828)."""

DEFAULT = Preset(
    layout="folded",
    cells="centre",
    depth_resize="median",
    reencode=True,
    clip_tokens=False,
    static_only=True,
    first_again=False,
    preceding=9,
    references=4,
    choice="coverage",
    steps=20,
    shift=5.0,
    method="unipc",
    schedule="uniform",
)
"""Ours, see docs/method.md."""

PRESETS = {"released": RELEASED, "paper": PAPER, "default": DEFAULT}

VAE_TILES: dict[str, tuple[int, ...]] = {"released": (30, 52), "paper": (), "default": ()}
"""`LatentEncoder.tile` of each preset."""

_WORDS = {
    "layout": LAYOUTS,
    "cells": CELLS,
    "depth_resize": ("median", "bilinear"),
    "choice": CHOICES,
    "method": (*METHODS, "staggered"),
    "schedule": KINDS,
}


def with_fields(preset: Preset, assignments: Iterable[str]) -> Preset:
    """A preset with fields changed, given as texts `name=value`.

    Raises:
      ValueError: naming a field that there is none of, or whose value is none of its values.
    """
    kinds = {field.name: type(getattr(preset, field.name)) for field in dataclasses.fields(preset)}
    changes: dict[str, Any] = {}
    for text in assignments:
        name, equals, value = text.partition("=")
        if name not in kinds or not equals:
            raise ValueError(f"preset: found {text!r}, expected NAME=VALUE of {', '.join(kinds)}")
        changes[name] = _parse(name, value, kinds[name])
    return dataclasses.replace(preset, **changes)


def _parse(name: str, text: str, kind: type) -> Any:
    words = ("true", "false") if kind is bool else _WORDS.get(name)
    if words is not None:
        if text not in words:
            raise ValueError(f"preset: {name}: found {text!r}, expected {' or '.join(words)}")
        return text == "true" if kind is bool else text
    try:
        number = kind(text)
    except ValueError as error:
        raise ValueError(f"preset: {name}: found {text!r}, expected {kind.__name__}") from error
    least = 1 if name == "steps" else 0
    if not number >= least:
        raise ValueError(f"preset: {name}: found {text!r}, expected {least} or more")
    return number
