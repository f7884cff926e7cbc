"""The state of a rollout: everything that is carried from chunk to chunk."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import flax.struct
import numpy as np
from jaxtyping import Float

from mirage_jax import memory
from mirage_jax.geometry import check_cam2world, check_intrinsics
from mirage_jax.memory.movers import Movers
from mirage_jax.origin import Origin
from mirage_jax.world.context_frames import ContextFrames

if TYPE_CHECKING:
    from mirage_jax.world.model import WorldModel


@flax.struct.dataclass
class World:
    """A world, so far as it is known; a pytree that can be saved, copied and continued.

    Attributes:
      bank: the memory.
      latent: normalised latent of the last frame alone, [h, w, C]; the next chunk starts from it.
      cam2world: pose of the last frame, [4, 4], relative to the origin as all positions are.
      intrinsics: of the pictures, [4].
      frames: frames so far, those it was started from included; also the time.
      context_frames: earlier frames that chunks may be denoised beside; None where there are none.
      origin: what positions and times are relative to, in float64 and on the host; static.
      movers: bodies that move; None where they are not kept.
    """

    bank: memory.LatentMemory
    latent: Any
    cam2world: Any
    intrinsics: Any
    frames: Any
    context_frames: ContextFrames | None = None
    origin: Origin = flax.struct.field(pytree_node=False, default=Origin())
    movers: Movers | None = None

    @property
    def pose(self) -> Float[np.ndarray, "4 4"]:
        """cam2world of the last frame in the coordinates the world comes from, float64."""
        return self.origin.absolute(np.asarray(self.cam2world))

    def __repr__(self) -> str:
        return f"World(frames={self.frames}, {self.bank.count} slots of memory used)"


def check_world(world: World, model: WorldModel, name: str = "world") -> None:
    """Checks that a model can continue a world.

    Raises:
      ValueError: naming `name`, if cells or channels are not the model's, or the camera is none.
    """
    expected = (*model.grid, model.denoiser.in_channels)
    stored = model.conditioner.create(1).channels
    found = tuple(world.latent.shape)
    if found != expected or world.bank.channels != stored:
        raise ValueError(
            f"{name}: found a last latent [h, w, C] of {found} and a memory of "
            f"{world.bank.channels} channels, but the model's latents are {expected} and its "
            f"memory has {stored}"
        )
    if model.context_frames and world.context_frames is None:
        options = model.context_frames
        raise ValueError(
            f"{name}: found no earlier frames, but the model denoises beside "
            f"{options.preceding} preceding and {options.references} reference frames"
        )
    check_intrinsics(world.intrinsics, model.size, f"{name}: intrinsics")
    check_cam2world(world.cam2world, f"{name}: cam2world")
