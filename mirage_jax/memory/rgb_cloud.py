"""The explicit RGB point-cloud memory: the baseline that latent memory is measured against.

The same bank and the same z-buffer with pixels for tokens: a point per pixel of every written
frame, rendered at full picture size, to be encoded by the VAE before the denoiser can use it.
Sharing the code keeps the comparison about what is stored, not about who wrote the faster scatter.
`create`, `write` and `read` are called as those of `mirage_jax.memory` are.
"""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Num

from mirage_jax import geometry
from mirage_jax.memory import bank, dispatch, edit, pooling, readout
from mirage_jax.parallel.explicit_axes import compiler_splits, spec_of_views


def create(capacity: int, channels: int = 3, dtype: Any = jnp.uint8) -> bank.LatentMemory:
    """An empty cloud of at most `capacity` points; arguments and errors as for `memory.create`.

    A point has no surface: its cloud keeps no tangents.
    """
    return bank.create(capacity, channels, dtype, tangents=False)


def write(
    mem: bank.LatentMemory,
    tokens: Num[Array | np.ndarray, "t H W c"],
    depth: Float[Array | np.ndarray, "t H W"],
    camera: geometry.Camera,
    *,
    static: Num[Array | np.ndarray, "t hs ws"] | Bool[Array | np.ndarray, "t hs ws"] | None = None,
    confidence: Float[Array | np.ndarray, "t H W"] | None = None,
    times: Num[Array | np.ndarray, " t"] | None = None,
) -> tuple[bank.LatentMemory, bank.WriteReport]:
    """Appends every static pixel of known depth.

    Arguments and errors as for `memory.write`; the tokens are pictures.

    Raises:
      ValueError: also if the pictures are not of the cloud's dtype: a cast from [-1, 1] to uint8
        would leave nothing of them.
    """
    if tokens.dtype != mem.tokens.dtype:
        raise ValueError(
            f"rgb_cloud.write: found {tokens.dtype} pictures, expected {mem.tokens.dtype}"
        )
    return bank.write(mem, tokens, depth, camera, static=static, confidence=confidence, times=times)


@compiler_splits(lambda mem, camera, *_, **__: spec_of_views(camera))
def read(
    mem: bank.LatentMemory,
    camera: geometry.Camera,
    grid: tuple[int, int],
    *,
    time: Any = None,
    prefer: Literal["nearest", "best_view"] = "nearest",
    tolerance: float = 0.05,
    footprint: int = 3,
) -> readout.ReadOut:
    """Renders the cloud.

    Args:
      mem: the cloud.
      camera: target cameras, any leading dimensions.
      grid: pixels `(H, W)` of the picture.
      time, prefer, tolerance: as for `memory.read`.
      footprint: odd width of a point's splat in pixels, which closes the holes between points and
        hides what lies behind them; 1 leaves them open.
    Returns:
      A `ReadOut` whose tokens are the picture: float32, uint8 colours brought to [-1, 1], mid-grey
      (0) where nothing is known.
    Raises:
      ValueError: as for `memory.read`.
    """
    out = dispatch.read(mem, camera, grid, time=time, prefer=prefer, tolerance=tolerance)
    own = jnp.where(out.visible > 0, out.depth, jnp.inf).reshape(-1, *grid)
    own_source = out.source.reshape(own.shape)
    depth, source = readout.splat(own, own_source, footprint)
    # A pixel keeps its own point unless a neighbour's is another, nearer surface: on a wall every
    # neighbour is as near or nearer, and taking theirs would move the picture by a pixel.
    keeps = own <= depth * (1.0 + pooling.SAME_SURFACE)
    source = jnp.where(keeps, own_source, source)
    visible, slot = source >= 0, jnp.maximum(source, 0)
    colours = mem.tokens[slot].astype(jnp.float32)
    if mem.tokens.dtype == jnp.uint8:
        colours = colours / 127.5 - 1.0
    when = readout.newest_time(mem) if time is None else time
    age = readout.reading_time(when, camera.shape) - mem.time[slot]
    rendered = readout.ReadOut(
        tokens=colours * visible[..., None],
        visible=visible.astype(jnp.float32),
        depth=jnp.where(visible, jnp.where(keeps, own, depth), 0.0),
        age=jnp.where(visible, age, 0.0),
        source=source,
    )
    return jax.tree.map(lambda x: x.reshape(*camera.shape, *x.shape[1:]), rendered)


def merged(mem: bank.LatentMemory, voxel: float) -> bank.LatentMemory:
    """The cloud with one point a voxel, the newest, in the first slots (host side).

    Args:
      mem: the cloud.
      voxel: edge of the cubes, metres.
    Raises:
      ValueError: if the edge is not above 0.
    """
    if not voxel > 0:
        raise ValueError(f"rgb_cloud.merged, voxel: found {voxel}, expected metres above 0")
    slots = np.flatnonzero(np.asarray(mem.valid))[::-1]  # the newest first
    cubes = np.floor(np.asarray(mem.xyz)[slots] / voxel).astype(np.int64)
    _, first = np.unique(cubes, axis=0, return_index=True)
    kept = np.zeros(mem.capacity, bool)
    kept[slots[first]] = True
    return edit.compact(dataclasses.replace(mem, valid=jnp.asarray(kept)))


POINT_BYTES = 3 * 4 + 3
"""Of a point with 8-bit colours, see `nbytes`."""


def nbytes(mem: bank.LatentMemory) -> int:
    """Bytes of position and colour of the points written so far (host side).

    The bank's bookkeeping (viewing origin, time, confidence) is not counted: a colour cloud can do
    without it, and the baseline must not look larger than it has to be.
    """
    per_point = 3 * mem.xyz.dtype.itemsize + mem.channels * mem.tokens.dtype.itemsize
    return int(mem.count) * per_point
