"""What the denoiser is told about a target latent: what the memory shows there, and its rays.

A latent after the first covers four frames, and the camera moves between them. The memory is
therefore read at the pose of each covered frame, on a grid finer than the latents', and all of it
is folded into the channels of the latent's cell: reading is cheap, and a read-out taken at the last
pose alone does not say what the other frames show.
"""

from __future__ import annotations

from typing import Any, Literal

import jax.numpy as jnp
import numpy as np
from einops import rearrange
from jaxtyping import Array, Float

from mirage_jax import memory
from mirage_jax.geometry import Camera, pluecker_rays, relative_pose

TEMPORAL_STRIDE = 4
"""Frames covered by every latent after the first (causal VAE)."""

READOUT_EXTRAS = 3
"""Channels beside the token: visibility, confidence and inverse depth."""


def latents_of_frames(frames: int) -> int:
    """Latents that cover `frames` frames; raises ValueError unless frames = 1 + 4 n."""
    if frames < 1 or (frames - 1) % TEMPORAL_STRIDE:
        raise ValueError(f"frames: found {frames}, expected 1 + {TEMPORAL_STRIDE} n")
    return 1 + (frames - 1) // TEMPORAL_STRIDE


def frames_per_latent(
    per_frame: Float[Array | np.ndarray, "frames *rest"], reads: int = TEMPORAL_STRIDE
) -> Float[Array, "latents reads *rest"]:
    """Groups a per-frame array by the latents that cover the frames.

    The first latent covers one frame, which is repeated. Of the four frames of each later latent
    the last of each of `reads` equal parts is kept, so that `reads=1` gives the latent's own pose.

    Raises:
      ValueError: if the frame count is not 1 + 4 n or `reads` does not divide 4.
    """
    latents = latents_of_frames(per_frame.shape[0])
    if TEMPORAL_STRIDE % reads:
        raise ValueError(f"reads: found {reads}, expected a divisor of {TEMPORAL_STRIDE}")
    first = jnp.repeat(per_frame[:1], reads, axis=0)[None]
    step = TEMPORAL_STRIDE // reads
    rest = per_frame[1:].reshape(latents - 1, TEMPORAL_STRIDE, *per_frame.shape[1:])
    return jnp.concatenate([first, rest[:, step - 1 :: step]], axis=0)


def latent_cameras(camera: Camera, reads: int) -> Camera:
    """Cameras [frames] -> [latents, reads], grouped by `frames_per_latent`."""
    return Camera(
        intrinsics=frames_per_latent(camera.intrinsics, reads),
        cam2world=frames_per_latent(camera.cam2world, reads),
        size=camera.size,
    )


def context_channels(token_channels: int, *, reads: int, fine: int, footprint: int = 1) -> int:
    """Channels of `memory_context`."""
    per_read = token_channels + READOUT_EXTRAS
    if footprint > 1:
        per_read += token_channels + 1
    return reads * fine * fine * per_read


def memory_context(
    bank: memory.LatentMemory,
    camera: Camera,
    grid: tuple[int, int],
    *,
    reads: int = TEMPORAL_STRIDE,
    fine: int = 2,
    prefer: Literal["nearest", "best_view"] = "nearest",
    footprint: int = 1,
) -> Float[Array, "latents h w channels"]:
    """Reads the memory for a chunk of frames and folds the result into its latents' cells.

    Args:
      bank: the memory.
      camera: cameras of the chunk's frames, leading dimension [frames], frames = 1 + 4 n.
      grid: cells (h, w) of a latent.
      reads: poses read for each latent (1, 2 or 4).
      fine: the read-out grid is `fine` times finer than the latents' in height and width.
      prefer: which hit a cell keeps, see `memory.read`.
      footprint: odd width in cells of the read-out grid. A cell that no element falls into shows
        the nearest element whose square of this width covers it, in channels of its own: what falls
        near a cell is not what falls into it, and a finer grid than was written has many holes.

    Returns:
      Of every read: tokens, [tokens of holes,] visibility, confidence and inverse depth [and where
      holes were filled]; zero where nothing is stored. Brackets: with `footprint` > 1.
    """
    height, width = grid
    cameras = latent_cameras(camera, reads)
    readout = memory.read(bank, cameras, (height * fine, width * fine), prefer=prefer)
    hit, depth, source = readout.visible, readout.depth, readout.source
    tokens, flags = [readout.tokens], []
    if footprint > 1:
        near_depth, near = memory.splat(jnp.where(hit > 0, depth, jnp.inf), source, footprint)
        filled = (near >= 0) & (source < 0)
        tokens.append(jnp.where(filled[..., None], bank.tokens[near], 0))
        flags.append(filled.astype(jnp.float32))
        depth, source = jnp.where(filled, near_depth, depth), jnp.where(filled, near, source)
    shown = (source >= 0).astype(jnp.float32)
    confidence = shown * bank.confidence[source]
    inverse_depth = shown / jnp.maximum(depth, 0.1)
    extras = jnp.stack([hit, confidence, inverse_depth, *flags], axis=-1)
    fields = jnp.concatenate([*tokens, extras.astype(bank.tokens.dtype)], axis=-1)
    return rearrange(
        fields, "t r (h fh) (w fw) c -> t h w (r fh fw c)", fh=fine, fw=fine, h=height, w=width
    )


LAYOUTS = ("folded", "visibility", "score")
"""What a denoiser's memory context holds, see `layout_channels`."""


def layout_channels(layout: str, token_channels: int, **readout: Any) -> int:
    """Channels of the memory context of one cell in one of `LAYOUTS`.

    "folded" is that of `memory_context` with the options `readout`; "visibility" the tokens and
    whether there is one (paper section 3.2); "score" the tokens and as many channels of the latent
    of an all-white video, as the branches of Mirage's release and of Spatia have it.

    Raises:
      ValueError: if there is no such layout.
    """
    if layout not in LAYOUTS:
        raise ValueError(f"context: found {layout!r}, expected one of {', '.join(LAYOUTS)}")
    if layout == "folded":
        return context_channels(token_channels, **readout)
    return token_channels + 1 if layout == "visibility" else 2 * token_channels


def plain_context(
    bank: memory.LatentMemory,
    camera: Camera,
    grid: tuple[int, int],
    *,
    cells: str = "centre",
    visibility: bool,
) -> Float[Array, "latents h w channels"]:
    """Reads the memory at the pose of the last frame that each latent covers, on the latents' grid.

    Args:
      bank: the memory.
      camera: cameras of the frames, leading dimension [frames], frames = 1 + 4 n.
      grid: cells (h, w) of a latent.
      cells: see `memory.read`.
      visibility: whether a last channel says where the memory shows anything.
    """
    readout = memory.read(bank, latent_cameras(camera, 1)[:, 0], grid, cells=cells)
    if not visibility:
        return readout.tokens
    seen = readout.visible[..., None].astype(readout.tokens.dtype)
    return jnp.concatenate([readout.tokens, seen], axis=-1)


def camera_rays(camera: Camera, grid: tuple[int, int]) -> Float[Array, "latents h w 24"]:
    """Pluecker rays of all four frames of each latent, relative to the chunk's first camera.

    Directions are unit vectors; moments are in metres.
    """
    first = jnp.broadcast_to(camera.cam2world[:1], camera.cam2world.shape)
    relative = relative_pose(first, camera.cam2world)
    rays = pluecker_rays(Camera(camera.intrinsics, relative, camera.size), grid)
    return rearrange(frames_per_latent(rays), "t r h w c -> t h w (r c)", r=TEMPORAL_STRIDE, c=6)


RAY_CHANNELS = 6 * TEMPORAL_STRIDE
