"""The conditioner that draws tokens at the pixels, and codes the drawing as latents."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from mirage_jax import memory
from mirage_jax.chunks import TEMPORAL_STRIDE, frames_per_latent
from mirage_jax.geometry import Camera
from mirage_jax.memory import holes, surfels
from mirage_jax.world.conditioners.base import View
from mirage_jax.world.conditioners.bodies import BodyReader
from mirage_jax.world.conditioners.colours import cell_shares, to_pixels
from mirage_jax.world.latent_encoder import LatentEncoder


@dataclasses.dataclass(frozen=True)
class Surfels(BodyReader):
    """Every token as a small picture where it lies now, and latents of the video they make.

    A token that is read on a grid is up to half a cell beside where its element projects, as large
    as it was seen, and the denoiser would have to move and scale it. The linear path of the
    autoencoder (`nn.vae_linear_path`) decodes a token by one matrix product, and encodes a patch by
    another; between the two `memory.surfels` moves, scales and turns, for every frame of the chunk.
    Holes are filled from around them (`memory.holes`). What is read is thus an estimate of the very
    latent that is to be generated, linear in the tokens.

    The latent, zero where nothing is stored in the whole picture; then, for all four frames that it
    covers, the share of the cell in which something is, and the mean of inverse depth there times
    that share. With `movers`, behind all these, what bodies show.
    """

    kind = "surfels"
    encodes = True

    @property
    def read_channels(self) -> int:
        return self.token_channels + 2 * TEMPORAL_STRIDE + self.body_channels

    def poses_read(self, frames: int) -> int:
        return frames

    def read_view(self, bank: memory.LatentMemory, view: View) -> Float[Array, "latents h w r"]:
        video, depth, nearest = self._drawn(bank, view.camera, view.encoder)
        grid, drawn = self.grid(view.camera.size), depth > 0
        shares = cell_shares(drawn.astype(jnp.float32), grid)
        inverse = jnp.where(drawn, 1.0 / jnp.maximum(depth, 0.1), 0.0)
        known = to_pixels(drawn, view.camera.size).astype(jnp.float32)
        latents = self._encoder(view.encoder).encode_patches(holes.fill(video, known)[None])[0]
        shown = jnp.max(shares, axis=(-3, -2, -1), keepdims=True) > 0
        fields = [jnp.where(shown, latents, 0.0), shares, cell_shares(inverse, grid)]
        if self.movers:
            static_depth = frames_per_latent(nearest, self.reads)
            fields.append(self.read_bodies_before(bank, view, static_depth))
        return jnp.concatenate(fields, axis=-1)

    def draw(
        self, bank: memory.LatentMemory, camera: Camera, encoder: LatentEncoder
    ) -> tuple[Float[Array, "frames height width 3"], Float[Array, "frames th tw"]]:
        """The video that the memory shows, grey where nothing is, and the depth of its parts.

        Depth is 0 where nothing is; see `memory.surfels.render`.
        """
        return self._drawn(bank, camera, encoder)[:2]

    def _drawn(
        self, bank: memory.LatentMemory, camera: Camera, encoder: LatentEncoder | None
    ) -> tuple[Array, Array, Array]:
        """`draw`, and the depth of what is in front in each cell of the finer grid."""
        height, width = self.grid(camera.size)
        cells = (height * self.fine, width * self.fine)
        readout = memory.read(bank, camera, cells, prefer=self.prefer)
        # What is decoded follows the smaller of memory and views; both are known when compiling.
        tokens = readout.tokens if bank.capacity > readout.source.size else bank.tokens
        patches = self._encoder(encoder).decode_patches(tokens)
        video, depth = surfels.render(bank, patches, camera, readout.source)
        return video, depth, readout.depth

    def _encoder(self, encoder: LatentEncoder | None) -> LatentEncoder:
        if encoder is None:
            raise ValueError("encoder: found none, expected one whose linear path draws tokens")
        return encoder
