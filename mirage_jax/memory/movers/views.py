"""The views kept of a body: a few crops, by the direction they were seen from."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mirage_jax.memory.movers.detections import Detections
from mirage_jax.memory.movers.state import Movers, own_axes, with_rows

SAME_VIEW = 0.6
"""Radians between directions up to which a new view takes the place of an old one."""
WORSE = 0.7
"""Share of an old view's pixels that a new one must have to take its place."""


def own_direction(movers: Movers, world: Float[Array, "k 3"]) -> Float[Array, "k 3"]:
    """World vectors in each body's own axes."""
    return jnp.sum(own_axes(movers) * world[:, None, :], axis=-1)


def angles(movers: Movers, world: Float[Array, "k 3"]) -> Float[Array, "k v"]:
    """Radians between a direction and that of each view; infinite for places without one."""
    own = own_direction(movers, world)
    cosine = jnp.sum(movers.view_direction * own[:, None, :], axis=-1)
    angle = jnp.arccos(jnp.clip(cosine, -1.0, 1.0))
    return jnp.where(movers.view_valid, angle, jnp.inf)


def add(
    movers: Movers, found: Detections, source: Int[Array, " k"], shown: Bool[Array, " k"]
) -> Movers:
    """Keeps the views of the bodies that a frame shows whole.

    A view takes the place of one from about the same direction, unless that one is of many more
    pixels; else a free place, else that of the view from the nearest direction.

    Args:
      movers: the table, already corrected by what was found.
      found: what was.
      source: which detection shows each body.
      shown: which bodies are.
    """
    if movers.view_tokens.shape[-1] != found.tokens.shape[-1]:
        return movers
    direction = found.direction[source]
    apart = angles(movers, direction)
    nearest = jnp.argmin(apart, axis=-1)
    same = jnp.take_along_axis(apart, nearest[:, None], 1)[:, 0] <= SAME_VIEW
    room = ~movers.view_valid.all(axis=-1)
    place = jnp.where(same | ~room, nearest, jnp.argmin(movers.view_valid, axis=-1))
    pixels = found.pixels[source].astype(jnp.float32)
    old = jnp.take_along_axis(movers.view_pixels, place[:, None], 1)[:, 0]
    # A first view is kept though it be cut off: better than none.
    first = ~movers.view_valid.any(axis=-1)
    good = (found.whole[source] & (~same | (pixels >= WORSE * old))) | first
    values = {
        "view_valid": jnp.ones_like(shown),
        "view_tokens": found.tokens[source],
        "view_alpha": found.alpha[source],
        "view_direction": own_direction(movers, direction),
        "view_size": found.size[source],
        # What is cut off gives way to the first view that is whole.
        "view_pixels": jnp.where(found.whole[source], pixels, 0.0),
        "view_time": jnp.broadcast_to(movers.time, shown.shape),
    }
    here = (jnp.arange(movers.view_valid.shape[1])[None] == place[:, None]) & (shown & good)[
        :, None
    ]
    return with_rows(movers, here, {name: value[:, None] for name, value in values.items()})


def orient(movers: Movers, heading: Float[Array, "k 3"], known: Bool[Array, " k"]) -> Movers:
    """Gives bodies the heading that their motion tells.

    The first time, their views' directions are corrected by what was guessed before: they were seen
    from where they were seen from, and it is the body that was turned otherwise.
    """
    first = known & ~movers.oriented
    world = jax.vmap(lambda axes, own: jnp.sum(own[:, :, None] * axes[None], axis=1))(
        own_axes(movers), movers.view_direction
    )
    turned = movers.replace(  # type: ignore[attr-defined]
        heading=jnp.where(known[:, None], heading, movers.heading),
        oriented=movers.oriented | known,
    )
    axes = own_axes(turned)
    corrected = jnp.sum(axes[:, None] * world[:, :, None, :], axis=-1)
    direction = jnp.where(first[:, None, None], corrected, movers.view_direction)
    return turned.replace(view_direction=direction)  # type: ignore[attr-defined]
