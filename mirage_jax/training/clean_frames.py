"""Frames that a training sample is shown clean, beside its chunk, as `world_model` shows them.

*Reference* frames are those of the history that saw most of what the chunk will show; *preceding*
ones are the end of the chunk before, where the chunk follows on one. How many there are differs
from sample to sample, so a batch has room for all and says which are there.
"""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Bool, Float

from mirage_jax.geometry import Camera
from mirage_jax.memory import retrieval
from mirage_jax.world import context_frames as past
from mirage_jax.world.conditioners import latent_cameras, latents_of_frames


@dataclasses.dataclass(frozen=True)
class CleanFrames:
    """How much of its past a chunk is shown.

    Attributes:
      references: frames of the history, at most.
      preceding: frames at the end of the chunk before, 0 or 1 + 4 n; encoded as a clip of their own
        (`WorldModel` with `reencode`).
    """

    references: int = 0
    preceding: int = 0

    def __post_init__(self) -> None:
        if self.references < 0:
            raise ValueError(f"references: found {self.references}, expected 0 or more")
        if self.preceding:
            latents_of_frames(self.preceding)

    def __bool__(self) -> bool:
        return self.references > 0 or self.preceding > 0

    @property
    def preceding_latents(self) -> int:
        return latents_of_frames(self.preceding) if self.preceding else 0


NO_FRAMES = CleanFrames()


def references(
    tokens: Float[Array, "k h w c"],
    depth: Float[Array, "k h w"],
    camera: Camera,
    targets: Camera,
    count: int,
) -> tuple[Float[Array, "r h w c"], Bool[Array, " r"]]:
    """The frames to show with a chunk, chosen by `retrieval.retrieve`.

    Args:
      tokens: latents of the history's frames.
      depth: of their cells in metres; frames without any are not in the history.
      camera: of the frames.
      targets: of the chunk's frames.
      count: of references.

    Returns:
      Their latents and which of them there are, as `past.take` orders them.
    """
    stored, height, width = depth.shape
    store = retrieval.create(stored, (height, width))
    store = retrieval.add(store, depth, camera, jnp.arange(stored))
    slots, _ = retrieval.retrieve(store, latent_cameras(targets, 1)[:, 0], count)
    return past.take(tokens, slots)


def keep_references(
    shown: Bool[Array, "*b f"], kept: Bool[Array, ""], count: int
) -> Bool[Array, "*b f"]:
    """`shown` without its first `count`, the references, unless they are `kept`."""
    return shown & (kept | (jnp.arange(shown.shape[-1]) >= count))
