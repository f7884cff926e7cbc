"""What a rollout keeps beside the memory: clean frames that the denoiser is shown again.

Two kinds: *preceding* latents, the end of the chunk before, and *reference* latents, single frames
of any age that show what the coming frames will. They are the denoiser's [reference | target |
preceding] (see :mod:`mirage_jax.nn.denoiser`).
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mirage_jax.geometry import Camera
from mirage_jax.memory import Keyframes, LatentMemory, frustum_voxels, retrieval

CHOICES = ("coverage", "voxels")
"""How reference frames are chosen: `retrieval.retrieve` or `frustum_voxels.choose`."""


@flax.struct.dataclass
class Past:
    """Frames of a rollout that may be shown again.

    Attributes:
      keyframes: K slots for cameras and coarse depth of the frames that were written to memory.
      latents: `[K, h, w, C]`, the latent of each.
      elements: `[K]` int32, elements the memory held when the frame had been written.
      recent: `[P, h, w, C]`, latents that may precede the next chunk; P grows at first.
      context: `[P, h, w, M]`, what the memory showed where they are.
    """

    keyframes: Keyframes
    latents: Any
    elements: Any
    recent: Any
    context: Any


def create(slots: int, grid: tuple[int, int], channels: int, context_channels: int) -> Past:
    """A past without frames, with room for `slots` that may become references."""
    return Past(
        keyframes=retrieval.create(slots, grid),
        latents=jnp.zeros((slots, *grid, channels)),
        elements=jnp.zeros(slots, jnp.int32),
        recent=jnp.zeros((0, *grid, channels)),
        context=jnp.zeros((0, *grid, context_channels)),
    )


def add(
    past: Past,
    latents: Float[Array, "t h w c"],
    depth: Float[Array, "t H W"],
    camera: Camera,
    numbers: Int[Array, " t"],
    bank: LatentMemory,
) -> Past:
    """Adds frames that were just written to `bank`; those beyond the slots count as dropped."""
    slot = past.keyframes.count + jnp.arange(len(latents), dtype=jnp.int32)
    return past.replace(  # type: ignore[attr-defined]
        keyframes=retrieval.add(past.keyframes, depth, camera, numbers),
        latents=past.latents.at[slot].set(latents, mode="drop"),
        elements=past.elements.at[slot].set(bank.count, mode="drop"),
    )


def choose(
    past: Past, bank: LatentMemory, targets: Camera, count: int, choice: str
) -> Int[Array, " n"]:
    """Slots of at most `count` frames to show with the targets, the best first; -1 for none.

    Raises:
      ValueError: if `choice` is none of `CHOICES`.
    """
    if choice not in CHOICES:
        raise ValueError(f"choice: found {choice!r}, expected one of {', '.join(CHOICES)}")
    if choice == "coverage":
        return retrieval.retrieve(past.keyframes, targets, count)[0]
    frames = past.keyframes.cameras
    return frustum_voxels.choose(bank, targets, frames, past.elements, count)[0]


def take(
    latents: Float[Array, "k h w c"], slots: Int[Array, " n"]
) -> tuple[Float[Array, "n h w c"], Bool[Array, " n"]]:
    """Latents of chosen frames in the order `Denoiser` wants them, and which of the n there are.

    Args:
      latents: of all frames.
      slots: what `choose` gave: the best first, then -1 for none.

    Returns:
      Those there are, the best first, at the end; before them zeros.
    """
    slots = jnp.roll(slots, (slots < 0).sum())
    there = slots >= 0
    return jnp.where(there[:, None, None, None], latents[slots], 0.0), there
