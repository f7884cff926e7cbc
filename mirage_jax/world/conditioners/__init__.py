"""From the memory to the denoiser's context: one small frozen object per kind.

A conditioner says what is stored of a written frame and what is read of it along a chunk. It is
kept with the weights; training, rollouts and evaluation call the same object:

    context = conditioner(memory, camera, times, encoder)    # [latents, h, w, conditioner.channels]

| kind | stored | read |
|---|---|---|
| `Surfels` | a token a cell | latents of the video in which each token is a small picture |
| `Folded` | a token a cell | all frames of a latent on a finer grid, with confidence and depth |
| `Visibility` | a token a cell | the token and whether there is one (paper section 3.2) |
| `Score` | a token a cell | the token and the latents of a white video (released code) |
| `Rgb` | a colour a pixel | the encoded rendering and where it has points: the baseline |
| `Nothing` | nothing | nothing |
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mirage_jax.settings import from_mapping
from mirage_jax.world.conditioners.base import Conditioner, Frames, Nothing
from mirage_jax.world.conditioners.bodies import BodyReader
from mirage_jax.world.conditioners.colours import Rgb
from mirage_jax.world.conditioners.rays import RAY_CHANNELS, camera_rays
from mirage_jax.world.conditioners.surfels import Surfels
from mirage_jax.world.conditioners.tokens import Folded, Score, Visibility

__all__ = [
    "BODY_KINDS",
    "KINDS",
    "RAY_CHANNELS",
    "BodyReader",
    "Conditioner",
    "Folded",
    "Frames",
    "Nothing",
    "Rgb",
    "Score",
    "Surfels",
    "Visibility",
    "camera_rays",
    "from_stored",
    "make",
    "to_fields",
]

KINDS: dict[str, type[Conditioner]] = {
    kind.kind: kind for kind in (Folded, Surfels, Visibility, Score, Rgb, Nothing)
}

BODY_KINDS = tuple(name for name, kind in KINDS.items() if issubclass(kind, BodyReader))
"""Those that can show bodies that move."""


def make(kind: str, where: str = "conditioner", **fields: Any) -> Conditioner:
    """The conditioner called `kind`; ValueError names `where` and what does not fit."""
    if kind not in KINDS:
        raise ValueError(f"{where}: found {kind!r}, expected one of {', '.join(KINDS)}")
    return from_mapping(KINDS[kind], fields, where)


def to_fields(conditioner: Conditioner) -> dict[str, Any]:
    """Kind and fields, as weights store them; `from_stored` is the inverse."""
    return {"kind": conditioner.kind, **dataclasses.asdict(conditioner)}


def from_stored(stored: Any, where: str) -> Conditioner:
    """A conditioner from what `to_fields` gave; ValueError names `where` and the field."""
    if not isinstance(stored, Mapping) or "kind" not in stored:
        raise ValueError(f"{where}: found {stored!r}, expected a kind and its fields")
    fields = {name: value for name, value in stored.items() if name != "kind"}
    return make(str(stored["kind"]), where, **fields)
