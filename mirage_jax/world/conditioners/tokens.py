"""Conditioners that read the memory of latent tokens."""

from __future__ import annotations

import dataclasses
from typing import ClassVar

import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from mirage_jax import memory
from mirage_jax.chunks import frames_per_latent, latent_cameras
from mirage_jax.geometry import Camera
from mirage_jax.memory.readout import CELLS, flatten
from mirage_jax.settings import setting
from mirage_jax.world import moving
from mirage_jax.world.conditioners.base import Conditioner, View
from mirage_jax.world.conditioners.bodies import BodyReader, times_of
from mirage_jax.world.latent_encoder import LatentEncoder


@dataclasses.dataclass(frozen=True)
class Folded(BodyReader):
    """The memory read at the poses of all frames of a latent, folded into the latent's cells.

    A latent after the first covers four frames, and the camera moves between them. The memory is
    therefore read at the pose of each covered frame, on a grid finer than the latents', and all of
    it is folded into the channels of the latent's cell: reading is cheap, and a read-out taken at
    the last pose alone does not say what the other frames show.

    Of every read: tokens, [tokens of holes,] visibility, confidence and inverse depth [and where
    holes were filled]; zero where nothing is stored. Brackets: with `footprint` > 1. With `movers`,
    behind all these: token, alpha, age and uncertainty of the body that is there by then.
    """

    kind = "folded"
    _FLAGS: ClassVar[int] = 3  # visibility, confidence, inverse depth

    footprint: int = setting(
        1,
        "Odd width in cells of the read-out grid: a cell that no element falls into shows the "
        "nearest one whose square covers it, in channels of its own. 1 = nothing.",
        least=1,
    )

    @property
    def _folded_into_cell(self) -> int:
        """Reads, and cells of each, that are folded into one cell."""
        return self.reads * self.fine * self.fine

    @property
    def body_channels(self) -> int:
        """The last of `read_channels`: what bodies show; none without `movers`."""
        per_read = self.token_channels + moving.FLAGS if self.movers else 0
        return self._folded_into_cell * per_read

    @property
    def read_channels(self) -> int:
        per_read = self.token_channels + self._FLAGS
        if self.footprint > 1:
            per_read += self.token_channels + 1
        return self._folded_into_cell * per_read + self.body_channels

    def read_view(self, bank: memory.LatentMemory, view: View) -> Float[Array, "latents h w r"]:
        height, width = self.grid(view.camera.size)
        cameras = latent_cameras(view.camera, self.reads)
        cells = (height * self.fine, width * self.fine)
        readout = memory.read(bank, cameras, cells, prefer=self.prefer)
        hit, depth, source = readout.visible, readout.depth, readout.source
        tokens, flags = [readout.tokens], []
        if self.footprint > 1:
            near_depth, near = memory.splat(
                jnp.where(hit > 0, depth, jnp.inf), source, self.footprint
            )
            # What falls near a cell is not what falls into it, and a finer grid than was written
            # has many holes.
            filled = (near >= 0) & (source < 0)
            tokens.append(jnp.where(filled[..., None], bank.tokens[near], 0))
            flags.append(filled.astype(jnp.float32))
            depth, source = jnp.where(filled, near_depth, depth), jnp.where(filled, near, source)
        present = (source >= 0).astype(jnp.float32)
        confidence = present * bank.confidence[source]
        inverse_depth = present / jnp.maximum(depth, 0.1)
        extras = jnp.stack([hit, confidence, inverse_depth, *flags], axis=-1)
        fields = jnp.concatenate([*tokens, extras.astype(bank.tokens.dtype)], axis=-1)
        if not self.movers:
            return self._folded(fields)
        bodies = view.bodies
        if bodies is None:
            bodies = self._read_bodies_before(bank, view, readout.depth)
        return jnp.concatenate([self._folded(fields), bodies.astype(fields.dtype)], axis=-1)

    def read_bodies(
        self, bank: memory.LatentMemory, view: View, *, backwards: bool = False
    ) -> Float[Array, "latents h w r"]:
        """The last `body_channels` of `read_view`."""
        height, width = self.grid(view.camera.size)
        cameras = latent_cameras(view.camera, self.reads)
        cells = (height * self.fine, width * self.fine)
        depth = memory.read(bank, cameras, cells, prefer=self.prefer).depth
        return self._read_bodies_before(bank, view, depth, backwards)

    def _read_bodies_before(
        self,
        bank: memory.LatentMemory,
        view: View,
        static_depth: Float[Array, "latents reads gh gw"],
        backwards: bool = False,
    ) -> Float[Array, "latents h w r"]:
        """`read_bodies` where the depth of what stands still is known, 0 for none, in each read."""
        cameras = latent_cameras(view.camera, self.reads)
        found = moving.read_channels(
            view.movers,
            bank,
            flatten(cameras),
            frames_per_latent(times_of(view), self.reads).reshape(-1),
            static_depth.reshape(-1, *static_depth.shape[2:]),
            channels=self.token_channels,
            options=view.mover_options,
            backwards=backwards,
        )
        return self._folded(found.reshape(*cameras.shape, *found.shape[1:]))

    def _folded(
        self, fields: Float[Array, "latents reads gh gw c"]
    ) -> Float[Array, "latents h w r"]:
        """All reads of a latent, and all finer cells of a cell, as channels of the cell."""
        fine = {"fh": self.fine, "fw": self.fine}
        return rearrange(fields, "t r (h fh) (w fw) c -> t h w (r fh fw c)", **fine)


@dataclasses.dataclass(frozen=True)
class Visibility(Conditioner):
    """The token read at the pose of each latent, and whether there is one (paper section 3.2)."""

    kind = "visibility"

    @property
    def read_channels(self) -> int:
        return self.token_channels + 1

    def read_view(self, bank: memory.LatentMemory, view: View) -> Float[Array, "latents h w r"]:
        readout = _read_latents(bank, view.camera, self)
        seen = readout.visible[..., None].astype(readout.tokens.dtype)
        return jnp.concatenate([readout.tokens, seen], axis=-1)


@dataclasses.dataclass(frozen=True)
class Score(Conditioner):
    """The token, and the latents of an all-white video: Mirage's released branch and Spatia's."""

    kind = "score"

    cells: str = setting(
        "corner", "Point of a cell that its token stands for, see `memory.read`.", choices=CELLS
    )

    @property
    def channels(self) -> int:
        return 2 * self.token_channels

    @property
    def read_channels(self) -> int:
        return self.token_channels

    def read_view(self, bank: memory.LatentMemory, view: View) -> Float[Array, "latents h w r"]:
        return _read_latents(bank, view.camera, self).tokens

    def constants(
        self, encoder: LatentEncoder | None, latents: int, size: tuple[int, int]
    ) -> Float[Array, "latents h w k"] | None:
        if encoder is None:
            raise ValueError("encoder: found none, expected one to encode a white video with")
        return encoder.encode_white(latents, size)


def _read_latents(
    bank: memory.LatentMemory, camera: Camera, conditioner: Conditioner
) -> memory.ReadOut:
    """The memory at the pose of the last frame that each latent covers, on the latents' grid."""
    cameras = latent_cameras(camera, 1)[:, 0]
    return memory.read(bank, cameras, conditioner.grid(camera.size), cells=conditioner.cells)
