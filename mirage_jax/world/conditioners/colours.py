"""The conditioner of the explicit baseline: a cloud of coloured points, rendered and encoded."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float

from mirage_jax import memory
from mirage_jax.chunks import TEMPORAL_STRIDE, frames_per_latent
from mirage_jax.geometry import Camera
from mirage_jax.memory import holes, rgb_cloud
from mirage_jax.world.conditioners.base import Conditioner, Frames, View
from mirage_jax.world.latent_encoder import LatentEncoder


@dataclasses.dataclass(frozen=True)
class Rgb(Conditioner):
    """The explicit baseline: a point a pixel, rendered along the frames and encoded.

    Encoded rendering, then the share of each cell's pixels that have a point, for all four frames
    of a latent.
    """

    kind = "rgb"
    stores = "colours"
    encodes = True

    @property
    def read_channels(self) -> int:
        return self.token_channels + TEMPORAL_STRIDE

    def create(self, capacity: int) -> memory.LatentMemory:
        return rgb_cloud.create(capacity * self.stride**2)

    def write(
        self,
        bank: memory.LatentMemory,
        frames: Frames,
        fusion: memory.fusion.FusionOptions | None = None,
    ) -> tuple[memory.LatentMemory, memory.WriteReport]:
        if frames.pictures is None:
            raise ValueError("pictures: found none, expected those of the frames that are written")
        size = frames.pictures.shape[1:3]
        colours = jnp.round((frames.pictures + 1.0) * 127.5).astype(jnp.uint8)
        static = None if frames.static is None else to_pixels(frames.static, size)
        return rgb_cloud.write(
            bank,
            colours,
            to_pixels(frames.depth, size),
            frames.camera,
            static=static,
            times=frames.times,
        )

    def render(
        self, bank: memory.LatentMemory, camera: Camera
    ) -> tuple[Float[Array, "frames height width 3"], Float[Array, "frames height width"]]:
        """Pictures in [-1, 1], grey where there is no point, and where there is one."""
        rendered = rgb_cloud.read(bank, camera, camera.size)
        return rendered.tokens, rendered.visible

    def encode(
        self,
        video: Float[Array, "b frames height width 3"],
        visible: Float[Array, "b frames height width"],
        encoder: LatentEncoder,
    ) -> Float[Array, "b latents h w r"]:
        """The context of renderings, whose holes are filled from around them."""
        latents = encoder.encode(holes.fill(video, visible))
        grid = latents.shape[2], latents.shape[3]
        shares = jnp.stack([cell_shares(mask, grid) for mask in visible])
        return jnp.concatenate([latents, shares], axis=-1)

    def read_view(self, bank: memory.LatentMemory, view: View) -> Float[Array, "latents h w r"]:
        if view.encoder is None:
            raise ValueError("encoder: found none, expected one to encode renderings with")
        video, visible = self.render(bank, view.camera)
        return self.encode(video[None], visible[None], view.encoder)[0]


def cell_shares(
    visible: Float[Array, "t height width"], grid: tuple[int, int]
) -> Float[Array, "l h w 4"]:
    """Share of each cell's pixels that have a point, for every frame that a latent covers."""
    h, w = grid
    shares = rearrange(visible, "t (h fh) (w fw) -> t h w fh fw", h=h, w=w).mean((-2, -1))
    return rearrange(frames_per_latent(shares), "l r h w -> l h w r", r=TEMPORAL_STRIDE)


def to_pixels(values: Any, size: tuple[int, int]) -> Any:
    """Values of cells, repeated for each of their pixels."""
    for axis, pixels in ((1, size[0]), (2, size[1])):
        values = jnp.repeat(values, pixels // values.shape[axis], axis=axis)
    return values
