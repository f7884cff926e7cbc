"""The explicit RGB point-cloud memory: the baseline that latent memory is measured against.

The same bank and the same z-buffer with pixels for tokens: a point per pixel of every written
frame, rendered at full picture size, to be encoded by the VAE before the denoiser can use it.
Sharing the code keeps the comparison about what is stored, not about who wrote the faster scatter.
"""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Num, UInt8

from mirage_jax import geometry
from mirage_jax.memory import bank, pooling, readout


def create(capacity: int) -> bank.LatentMemory:
    """An empty cloud of at most `capacity` points with uint8 colours."""
    return bank.create(capacity, 3, jnp.uint8)


def write(
    mem: bank.LatentMemory,
    video: UInt8[Array | np.ndarray, "t H W 3"],
    depth: Float[Array | np.ndarray, "t H W"],
    camera: geometry.Camera,
    *,
    static: Any = None,
    times: Num[Array | np.ndarray, t] | None = None,
) -> tuple[bank.LatentMemory, bank.WriteReport]:
    """Appends every static pixel of known depth; arguments and errors as for `memory.write`."""
    return bank.write(mem, video, depth, camera, static=static, times=times)


def read(
    mem: bank.LatentMemory,
    camera: geometry.Camera,
    size: tuple[int, int] | None = None,
    *,
    footprint: int = 3,
    time: Any = None,
) -> tuple[Float[Array, "*b H W 3"], Float[Array, "*b H W"]]:
    """Renders the cloud.

    Args:
      mem: the cloud.
      camera: target cameras, any leading dimensions.
      size: of the picture; by default the camera's.
      footprint: odd width of a point's splat in pixels, which closes the holes between points and
        hides what lies behind them; 1 leaves them open.
      time: as for `memory.read`.
    Returns:
      `(video, visible)`: colours in [-1, 1], mid-grey (0) where nothing is known, and a float mask.
    """
    out = readout.read(mem, camera, size or camera.size, time=time)
    height, width = out.source.shape[-2:]
    own = jnp.where(out.visible > 0, out.depth, jnp.inf).reshape(-1, height, width)
    source = out.source.reshape(own.shape)
    depth, splat = readout.spread(own, source, footprint)
    # A pixel keeps its own point unless a neighbour's is another, nearer surface: on a wall every
    # neighbour is as near or nearer, and taking theirs would move the picture by a pixel.
    source = jnp.where(own <= depth * (1.0 + pooling.SAME_SURFACE), source, splat)
    source = source.reshape(out.source.shape)
    visible = (source >= 0).astype(jnp.float32)
    colours = mem.tokens[jnp.maximum(source, 0)].astype(jnp.float32) / 127.5 - 1.0
    return colours * visible[..., None], visible


def nbytes(mem: bank.LatentMemory) -> int:
    """Bytes of position and colour of the points written so far (host side).

    The bank's bookkeeping (viewing origin, time, confidence) is not counted: a colour cloud can do
    without it, and the baseline must not look larger than it has to be.
    """
    return int(mem.count) * (mem.xyz.dtype.itemsize + mem.tokens.dtype.itemsize) * 3
