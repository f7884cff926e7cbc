"""What conditioners that show moving bodies have in common."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from mirage_jax import memory
from mirage_jax.settings import setting
from mirage_jax.world.conditioners.base import Conditioner, View


@dataclasses.dataclass(frozen=True)
class BodyReader(Conditioner):
    """A conditioner that may show bodies that move, each where it is by the time of a frame."""

    reads: int = setting(4, "Poses read for each latent.", choices=(1, 2, 4))
    fine: int = setting(2, "The read-out grid relative to the latents'.", least=1)
    prefer: Literal["nearest", "best_view"] = setting(
        "nearest", "Which hit a cell keeps, see `memory.read`.", choices=("nearest", "best_view")
    )
    movers: bool = setting(False, "Show bodies that move as well.")

    def read_bodies(
        self, bank: memory.LatentMemory, view: View, *, backwards: bool = False
    ) -> Array:
        """What bodies show along a chunk, as `View.bodies` has it.

        Args:
          bank: what stands still.
          view: with bodies, or none; where times are not given, at the table's own.
          backwards: whether the times of the frames decrease.
        """
        raise NotImplementedError


def times_of(view: View) -> Float[Array, " frames"]:
    """Numbers of the frames of a view; where it has none, that of its bodies' present."""
    if view.times is not None:
        return view.times
    now = jnp.zeros(()) if view.movers is None else view.movers.time
    return jnp.broadcast_to(now * view.mover_options.fps, view.camera.shape)
