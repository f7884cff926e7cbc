"""Context frames: earlier frames that a chunk is denoised beside.

Two kinds: *preceding* latents, the end of the chunk before, and *reference* latents, single frames
of any age that saw what the coming frames will show. They are the denoiser's [reference | target |
preceding] (see :mod:`mirage_jax.nn.denoiser`). How many there are differs, so there is room for all
and a `frame_mask` says which are present.
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from mirage_jax.chunks import TEMPORAL_STRIDE, latent_cameras
from mirage_jax.geometry import Camera
from mirage_jax.memory import Keyframes, LatentMemory, frustum_voxels, retrieval
from mirage_jax.world.options import CHOICES


@flax.struct.dataclass
class ContextFrames:
    """Frames of a rollout that later chunks may be denoised beside.

    Attributes:
      keyframes: K slots for cameras and coarse depth of the frames that were written to memory.
      latents: `[K, h, w, C]`, the latent of each.
      elements: `[K]` int32, elements the memory held when the frame had been written.
      recent: `[P, h, w, C]`, latents that may precede the next chunk; P grows at first.
      context: `[P, h, w, R]`, what the memory showed at them, `Conditioner.read`.
    """

    keyframes: Keyframes
    latents: Any
    elements: Any
    recent: Any
    context: Any


def create(
    slots: int, grid: tuple[int, int], channels: int, context_channels: int
) -> ContextFrames:
    """No frames yet, with room for `slots` that may become references."""
    return ContextFrames(
        keyframes=retrieval.create(slots, grid),
        latents=jnp.zeros((slots, *grid, channels), jnp.float32),
        elements=jnp.zeros(slots, jnp.int32),
        recent=jnp.zeros((0, *grid, channels), jnp.float32),
        context=jnp.zeros((0, *grid, context_channels), jnp.float32),
    )


def add(
    frames: ContextFrames,
    latents: Float[Array, "t h w c"],
    depth: Float[Array, "t H W"],
    camera: Camera,
    numbers: Int[Array, " t"],
    bank: LatentMemory,
) -> ContextFrames:
    """Adds frames that were just written to `bank`; those beyond the slots count as dropped."""
    slot = frames.keyframes.count + jnp.arange(len(latents), dtype=jnp.int32)
    return frames.replace(  # type: ignore[attr-defined]
        keyframes=retrieval.add(frames.keyframes, depth, camera, numbers),
        latents=frames.latents.at[slot].set(latents, mode="drop"),
        elements=frames.elements.at[slot].set(bank.count, mode="drop"),
    )


def follow(
    frames: ContextFrames,
    latents: Float[Array, "l h w c"],
    read: Float[Array, "l h w r"],
    preceding: int,
) -> ContextFrames:
    """The end of a chunk as what precedes the next, of which the last begins it.

    Args:
      frames: before the chunk.
      latents: of the chunk.
      read: what the memory showed at them.
      preceding: frames that may precede a chunk.
    """
    count = -(-preceding // TEMPORAL_STRIDE) + 1
    new = min(len(frames.recent), 1)  # the first latent of a later chunk is there already
    return frames.replace(  # type: ignore[attr-defined]
        recent=jnp.concatenate([frames.recent, latents[new:]])[-count:],
        context=jnp.concatenate([frames.context, read[new:]])[-count:],
    )


def choose(
    frames: ContextFrames, bank: LatentMemory, targets: Camera, count: int, choice: str
) -> Int[Array, " n"]:
    """Slots of at most `count` references for the targets, the best first; -1 for none.

    Raises:
      ValueError: if `choice` is none of `CHOICES`.
    """
    if choice not in CHOICES:
        raise ValueError(f"choice: found {choice!r}, expected one of {', '.join(CHOICES)}")
    if choice == "coverage":
        return retrieval.retrieve(frames.keyframes, targets, count)[0]
    cameras = frames.keyframes.cameras
    return frustum_voxels.choose(bank, targets, cameras, frames.elements, count)[0]


def take(
    latents: Float[Array, "k h w c"], slots: Int[Array, " n"]
) -> tuple[Float[Array, "n h w c"], Bool[Array, " n"]]:
    """Latents of chosen frames in the order `Denoiser` wants them, and which of the n are present.

    Args:
      latents: of all frames.
      slots: what `choose` gave: the best first, then -1 for none.

    Returns:
      Those that are present, the best first, at the end; before them zeros.
    """
    slots = jnp.roll(slots, (slots < 0).sum())
    present = slots >= 0
    return jnp.where(present[:, None, None, None], latents[slots], 0.0), present


def references(
    tokens: Float[Array, "k h w c"],
    depth: Float[Array, "k h w"],
    camera: Camera,
    targets: Camera,
    count: int,
) -> tuple[Float[Array, "r h w c"], Bool[Array, " r"]]:
    """The references of a training sample, chosen by coverage (`retrieval.retrieve`).

    Args:
      tokens: latents of the history's frames.
      depth: of their cells in metres; frames without any are not in the history.
      camera: of the frames.
      targets: of the chunk's frames.
      count: of references.

    Returns:
      Their latents and which of them are present, as `take` orders them.
    """
    stored, height, width = depth.shape
    store = retrieval.create(stored, (height, width))
    store = retrieval.add(store, depth, camera, jnp.arange(stored, dtype=jnp.int32))
    slots, _ = retrieval.retrieve(store, latent_cameras(targets, 1)[:, 0], count)
    return take(tokens, slots)


def keep_references(
    frame_mask: Bool[Array, "*b f"], kept: Bool[Array, ""], count: int
) -> Bool[Array, "*b f"]:
    """`frame_mask` without its first `count`, the references, unless they are `kept`."""
    return frame_mask & (kept | (jnp.arange(frame_mask.shape[-1]) >= count))
