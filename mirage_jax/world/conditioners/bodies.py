"""What conditioners that show moving bodies have in common."""

from __future__ import annotations

import dataclasses
from typing import Literal

import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from mirage_jax import memory
from mirage_jax.chunks import frames_per_latent, latent_cameras
from mirage_jax.geometry import Camera
from mirage_jax.memory.readout import flatten
from mirage_jax.settings import setting
from mirage_jax.world import moving
from mirage_jax.world.conditioners.base import Conditioner, View


@dataclasses.dataclass(frozen=True)
class BodyReader(Conditioner):
    """Reads bodies at the poses of the frames that a latent covers, on a grid finer than its own.

    All reads, and all finer cells of a cell, are folded into the channels of the latent's cell. Of
    every one: token, alpha, age and uncertainty of the body that is there by then.
    """

    reads: int = setting(4, "Poses read for each latent.", choices=(1, 2, 4))
    fine: int = setting(2, "The read-out grid relative to the latents'.", least=1)
    prefer: Literal["nearest", "best_view"] = setting(
        "nearest", "Which hit a cell keeps, see `memory.read`.", choices=("nearest", "best_view")
    )
    movers: bool = setting(
        False, "Show bodies that move as well, in channels of their own behind the others."
    )

    @property
    def body_channels(self) -> int:
        """The last of `read_channels`: what bodies show; none without `movers`."""
        per_read = self.token_channels + moving.FLAGS if self.movers else 0
        return self._folded_into_cell * per_read

    @property
    def _folded_into_cell(self) -> int:
        """Reads, and cells of each, that are folded into one cell."""
        return self.reads * self.fine * self.fine

    def read_bodies(
        self, bank: memory.LatentMemory, view: View, *, backwards: bool = False
    ) -> Float[Array, "latents h w r"]:
        """What bodies show along a chunk: the last `body_channels` of `read_view`.

        Args:
          bank: what stands still.
          view: with bodies.
          backwards: whether the times of the frames decrease.
        """
        height, width = self.grid(view.camera.size)
        cameras = latent_cameras(view.camera, self.reads)
        cells = (height * self.fine, width * self.fine)
        depth = memory.read(bank, cameras, cells, prefer=self.prefer).depth
        return self.read_bodies_before(bank, view, depth, backwards=backwards)

    def read_bodies_before(
        self,
        bank: memory.LatentMemory,
        view: View,
        static_depth: Float[Array, "latents reads gh gw"],
        *,
        backwards: bool = False,
    ) -> Float[Array, "latents h w r"]:
        """`read_bodies` where the depth of what stands still is known, 0 for none, in each read."""
        cameras = latent_cameras(view.camera, self.reads)
        found = self._bodies(bank, view, cameras, static_depth, backwards)
        return self._folded(found)

    def _folded(
        self, fields: Float[Array, "latents reads gh gw c"]
    ) -> Float[Array, "latents h w r"]:
        """All reads of a latent, and all finer cells of a cell, as channels of the cell."""
        fine = {"fh": self.fine, "fw": self.fine}
        return rearrange(fields, "t r (h fh) (w fw) c -> t h w (r fh fw c)", **fine)

    def _bodies(
        self,
        bank: memory.LatentMemory,
        view: View,
        cameras: Camera,
        static_depth: Float[Array, "latents reads h w"],
        backwards: bool = False,
    ) -> Float[Array, "latents reads h w c"]:
        """What bodies show in each read; where times are not given, at the table's own."""
        lead, step = cameras.shape, -1 if backwards else 1
        if view.times is None:
            now = jnp.zeros(()) if view.movers is None else view.movers.time
            times = jnp.broadcast_to(now * view.mover_options.fps, lead)
        else:
            times = frames_per_latent(view.times, self.reads)
        found = moving.read_channels(
            view.movers,
            bank,
            flatten(cameras)[::step],
            times.reshape(-1)[::step],
            static_depth.reshape(-1, *static_depth.shape[2:])[::step],
            channels=self.token_channels,
            options=view.mover_options,
        )
        return found[::step].reshape(*lead, *found.shape[1:])
