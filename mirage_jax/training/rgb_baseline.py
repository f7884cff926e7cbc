"""The colour-cloud baseline's conditioning: render the cloud along a chunk, encode the rendering.

The same keyframes, poses and depth as the latent memory gets, at a point per pixel instead of a
token per cell; the encoded rendering goes into the same denoiser input.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Bool, Float

from mirage_jax.geometry import Camera
from mirage_jax.memory import rgb_cloud
from mirage_jax.world import scenarios as histories
from mirage_jax.world.conditioners import TEMPORAL_STRIDE, frames_per_latent


def render(
    keyframes: Float[Array, "k height width 3"],
    depth: Float[Array, "k height width"],
    static: Float[Array, "k height width"],
    chosen: Bool[Array, " k"] | Bool[np.ndarray, " k"],
    history: Camera,
    target: Camera,
) -> tuple[Float[Array, "t height width 3"], Float[Array, "t height width"]]:
    """Writes the chosen keyframes as coloured points and renders them at the target poses.

    Returns:
      Pictures in [-1, 1], grey where there is no point, and where there is one.
    """
    count, height, width = depth.shape
    colours = jnp.round((keyframes + 1.0) * 127.5).astype(jnp.uint8)
    cloud = rgb_cloud.create(count * height * width)
    depth = jnp.where(jnp.asarray(chosen)[:, None, None], depth, 0.0)
    cloud, _ = rgb_cloud.write(cloud, colours, depth, history, static=static)
    rendered = rgb_cloud.read(cloud, target, target.size)
    return rendered.tokens, rendered.visible


def cell_shares(
    visible: Float[Array, "t height width"], grid: tuple[int, int]
) -> Float[Array, "l h w 4"]:
    """Share of each cell's pixels that have a point, for every frame that a latent covers."""
    h, w = grid
    shares = rearrange(visible, "t (h fh) (w fw) -> t h w fh fw", h=h, w=w).mean((-2, -1))
    return rearrange(frames_per_latent(shares), "l r h w -> l h w r", r=TEMPORAL_STRIDE)


def contexts(
    keyframes: Float[Array, "k height width 3"],
    depth: Float[Array, "k height width"],
    static: Float[Array, "k height width"],
    camera: Camera,
    *,
    encode: Callable[[Array], Array],
    chunk_frames: int,
) -> tuple[Float[Array, "s l h w c"], Float[Array, "s l h w 4"]]:
    """The baseline's context of every situation a training sample may be in, histories whole."""
    chunks = (camera.cam2world.shape[0] - 1) // (chunk_frames - 1)
    table = histories.scenarios(chunks, 1 + (chunk_frames - 1) // TEMPORAL_STRIDE)
    history = camera[::TEMPORAL_STRIDE]
    renderings = []
    for chunk, chosen in zip(table.chunk, table.keyframes, strict=True):
        start = int(chunk) * (chunk_frames - 1)
        target = camera[start : start + chunk_frames]
        renderings.append(render(keyframes, depth, static, chosen, history, target))
    videos, visible = zip(*renderings, strict=True)
    # Encoded together: XLA's CPU backend (jaxlib 0.10.2) crashes on one video at a time under vmap.
    latents = encode(jnp.stack(videos))
    grid = latents.shape[2], latents.shape[3]
    return latents, jnp.stack([cell_shares(mask, grid) for mask in visible])
