"""Models that keep bodies that move, or leave them out, however they were trained."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from mirage_jax.memory.movers import MoverOptions
from mirage_jax.settings import from_mapping
from mirage_jax.world.conditioners import Surfels
from mirage_jax.world.model import WorldModel


def with_bodies(model: WorldModel, options: MoverOptions | None = None) -> WorldModel:
    """The model, also keeping bodies that move and showing them where they are by then.

    What surfels draw of them is part of the picture that the memory shows, in no channels of its
    own, so that weights fit whether or not they were trained with bodies.

    Args:
      model: any.
      options: how they are kept; None: as the model keeps them or, where it keeps none, by default.

    Raises:
      ValueError: if the weights read their memory otherwise and were trained without bodies, or if
        there is no geometry head, which tells what moves.
    """
    if model.movers is not None:
        return model if options is None else model.replace(movers=options)  # type: ignore[attr-defined]
    kind = model.conditioner
    if not isinstance(kind, Surfels):
        raise ValueError(
            f"bodies: found weights trained without, with the conditioner {kind.kind!r}, expected "
            "ones with 'surfels', or trained with memory.movers"
        )
    if model.head is None:
        raise ValueError("bodies: found no geometry head, expected one that tells what moves")
    told, options = dataclasses.replace(kind, movers=True), options or MoverOptions()
    return model.replace(conditioner=told, movers=options)  # type: ignore[attr-defined]


def with_body_fields(model: WorldModel, fields: Mapping[str, Any]) -> WorldModel:
    """The model with other numbers for the bodies it keeps.

    Args:
      model: any, if there are no fields.
      fields: of `MoverOptions`.

    Raises:
      ValueError: if it keeps none; naming the field, if one is unknown or out of range.
    """
    if not fields:
        return model
    if model.movers is None:
        raise ValueError(
            f"movers.{min(fields)}: found it for a model that keeps no bodies, expected one that "
            "does (--bodies)"
        )
    known = dataclasses.asdict(model.movers)
    return with_bodies(model, from_mapping(MoverOptions, known | dict(fields), "movers"))


def without_bodies(model: WorldModel) -> WorldModel:
    """The model, leaving out what moves; the inverse of `with_bodies`.

    Raises:
      ValueError: if bodies have channels of their own, which its weights need.
    """
    if model.movers is None:
        return model
    kind = model.conditioner
    if not isinstance(kind, Surfels):
        raise ValueError(f"bodies: found the conditioner {kind.kind!r}, expected 'surfels'")
    told = dataclasses.replace(kind, movers=False)
    return model.replace(conditioner=told, movers=None)  # type: ignore[attr-defined]
