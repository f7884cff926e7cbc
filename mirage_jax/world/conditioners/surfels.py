"""The conditioner that draws tokens at the pixels, and codes the drawing as latents."""

from __future__ import annotations

import dataclasses

import jax.numpy as jnp
from jaxtyping import Array, Float

from mirage_jax import memory
from mirage_jax.chunks import TEMPORAL_STRIDE
from mirage_jax.memory import holes, surfels
from mirage_jax.world import moving
from mirage_jax.world.conditioners.base import View
from mirage_jax.world.conditioners.bodies import BodyReader, times_of
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
    latent that is to be generated, linear in the tokens. With `movers`, bodies are drawn over it,
    pixel by pixel, where nothing stands before them, in no channels of their own.

    The latent, zero where nothing is stored in the whole picture; then, for all four frames that it
    covers, the share of the cell in which something is, and the mean of inverse depth there times
    that share. Every frame is read, and its pixels: `reads` says nothing here.
    """

    kind = "surfels"
    encodes = True

    @property
    def read_channels(self) -> int:
        return self.token_channels + 2 * TEMPORAL_STRIDE

    def poses_read(self, frames: int) -> int:
        return frames

    def read_view(self, bank: memory.LatentMemory, view: View) -> Float[Array, "latents h w r"]:
        video, depth = self.draw(bank, view, filled=True)
        drawn, grid = depth > 0, self.grid(view.camera.size)
        shares = cell_shares(drawn.astype(jnp.float32), grid)
        inverse = jnp.where(drawn, 1.0 / jnp.maximum(depth, moving.LEAST_DEPTH), 0.0)
        latents = _encoder(view).encode_patches(video[None])[0]
        shown = jnp.max(shares, axis=(-3, -2, -1), keepdims=True) > 0
        fields = [jnp.where(shown, latents, 0.0), shares, cell_shares(inverse, grid)]
        return jnp.concatenate(fields, axis=-1)

    def draw(
        self, bank: memory.LatentMemory, view: View, *, filled: bool = False
    ) -> tuple[Float[Array, "frames height width 3"], Float[Array, "frames height width"]]:
        """The video that the memory shows, and its z-depth, 0 where nothing is.

        `filled` continues there what is around, as before it is encoded; else it is grey.
        """
        video, parts = self._still(bank, view)
        if filled:
            video = holes.fill(video, to_pixels(parts > 0, view.camera.size).astype(jnp.float32))
        return self._with_bodies(video, parts, bank, view)

    def read_bodies(
        self, bank: memory.LatentMemory, view: View, *, backwards: bool = False
    ) -> Float[Array, "frames height width 4"]:
        """Colour in [-1, 1] and inverse depth in 1/m of bodies, zero at pixels that show none."""
        return self._bodies_before(bank, view, self._still(bank, view)[1], backwards)

    def _bodies_before(
        self,
        bank: memory.LatentMemory,
        view: View,
        parts: Float[Array, "frames th tw"],
        backwards: bool = False,
    ) -> Float[Array, "frames height width 4"]:
        return moving.read_pictures(
            view.movers,
            bank,
            view.camera,
            times_of(view),
            parts,
            decode=_encoder(view).decode_patches,
            options=view.mover_options,
            backwards=backwards,
        )

    def _with_bodies(
        self,
        video: Float[Array, "frames height width 3"],
        parts: Float[Array, "frames th tw"],
        bank: memory.LatentMemory,
        view: View,
    ) -> tuple[Array, Array]:
        """The video with bodies drawn over it, and the z-depth of its pixels, 0 = nothing."""
        bodies, depth = view.bodies, to_pixels(parts, view.camera.size)
        if not self.movers or (bodies is None and view.movers is None):
            return video, depth
        if bodies is None:
            bodies = self._bodies_before(bank, view, parts)
        bodies = bodies.astype(video.dtype)
        there = bodies[..., 3] > 0
        return (
            jnp.where(there[..., None], bodies[..., :3], video),
            jnp.where(there, 1.0 / jnp.where(there, bodies[..., 3], 1.0), depth),
        )

    def _still(
        self, bank: memory.LatentMemory, view: View
    ) -> tuple[Float[Array, "frames height width 3"], Float[Array, "frames th tw"]]:
        """The video of what stands still alone, and the z-depth of its parts, 0 = nothing."""
        camera = view.camera
        height, width = self.grid(camera.size)
        cells = (height * self.fine, width * self.fine)
        readout = memory.read(bank, camera, cells, prefer=self.prefer)
        # What is decoded follows the smaller of memory and views; both are known when compiling.
        tokens = readout.tokens if bank.capacity > readout.source.size else bank.tokens
        patches = _encoder(view).decode_patches(tokens)
        return surfels.render(bank, patches, camera, readout.source)


def _encoder(view: View) -> LatentEncoder:
    if view.encoder is None:
        raise ValueError("encoder: found none, expected one whose linear path draws tokens")
    return view.encoder
