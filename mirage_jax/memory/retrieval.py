"""Which stored keyframes saw what the target views will show.

The score is the share of the target's visible volume that a keyframe saw, with occlusion on both
sides: sample points lie on the target's rays from the lens to the first known surface, and a
keyframe saw a point if it falls into its picture and no nearer surface of that keyframe hides it.
Overlap of frusta alone would rank a view from the other side of a wall as high as one from this
side.
"""

from __future__ import annotations

from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int

from mirage_jax import geometry
from mirage_jax.memory import pooling, readout
from mirage_jax.parallel.explicit_axes import compiler_splits, spec_of


@flax.struct.dataclass
class Keyframes:
    """A store of K keyframe slots with their coarse depth, filled from the front.

    Attributes:
      depth: `[K, h, w]` float32, z-depth per cell in metres, 0 = unknown.
      intrinsics: `[K, 4]` float32, in cells.
      cam2world: `[K, 4, 4]` float32.
      frame: `[K]` int32, number the caller gave the frame; -1 in free slots.
      count: int32, next free slot.
      dropped: int32, keyframes that did not fit, in total.
    """

    depth: Any
    intrinsics: Any
    cam2world: Any
    frame: Any
    count: Any
    dropped: Any

    @property
    def cameras(self) -> geometry.Camera:
        """Cameras of all slots, in cells."""
        return geometry.Camera(self.intrinsics, self.cam2world, tuple(self.depth.shape[-2:]))


def create(capacity: int, grid: tuple[int, int]) -> Keyframes:
    """An empty store for `capacity` keyframes whose depth is kept at `grid` cells."""
    return Keyframes(
        depth=jnp.zeros((capacity, *grid), jnp.float32),
        intrinsics=jnp.ones((capacity, 4), jnp.float32),
        cam2world=jnp.broadcast_to(jnp.eye(4, dtype=jnp.float32), (capacity, 4, 4)),
        frame=jnp.full((capacity,), -1, jnp.int32),
        count=jnp.zeros((), jnp.int32),
        dropped=jnp.zeros((), jnp.int32),
    )


@compiler_splits(lambda keyframes, *_, **__: jax.tree.map(spec_of, keyframes))
def add(
    keyframes: Keyframes,
    depth: Float[Array | np.ndarray, "t H W"],
    camera: geometry.Camera,
    frames: Int[Array | np.ndarray, " t"],
) -> Keyframes:
    """Appends keyframes; those beyond the capacity are counted in `dropped`.

    Args:
      keyframes: the store.
      depth: z-depth in metres, at a multiple of the store's grid; 0, NaN and inf are unknown.
      camera: leading dimension T.
      frames: number of each frame, returned by `retrieve` through `keyframes.frame`.
    """
    grid = (int(keyframes.depth.shape[-2]), int(keyframes.depth.shape[-1]))
    capacity, new = keyframes.depth.shape[0], depth.shape[0]
    cells = geometry.resize_camera(camera, grid)
    slot = keyframes.count + jnp.arange(new, dtype=jnp.int32)
    written = jnp.minimum(new, capacity - keyframes.count).astype(jnp.int32)

    def place(store: Array, values: Any) -> Array:
        return store.at[slot].set(jnp.asarray(values).astype(store.dtype), mode="drop")

    return Keyframes(
        depth=place(keyframes.depth, pooling.pool_depth(depth, grid)[0]),
        intrinsics=place(keyframes.intrinsics, cells.intrinsics),
        cam2world=place(keyframes.cam2world, camera.cam2world),
        frame=place(keyframes.frame, frames),
        count=keyframes.count + written,
        dropped=keyframes.dropped + (new - written),
    )


@compiler_splits(lambda *_, **__: PartitionSpec())
def shared_view(
    keyframes: Keyframes,
    camera: geometry.Camera,
    *,
    samples: int = 4,
    tolerance: float = 0.1,
) -> tuple[Float[Array, " k"], Bool[Array, "k p"]]:
    """How much of what the target cameras will see each keyframe saw.

    Args:
      keyframes: the store; its grid is the resolution of the comparison.
      camera: target cameras, any leading dimensions; they are taken together.
      samples: points per target ray, evenly spaced up to and including the known surface, or up to
        the farthest stored depth where no surface is known.
      tolerance: a point may lie this share of the depth behind a keyframe's surface and still count
        as seen; it absorbs the slant of a surface within a cell.
    Returns:
      `(share, seen)`: per keyframe the share of sample points seen, in [0, 1], and which ones.
    """
    grid = (int(keyframes.depth.shape[-2]), int(keyframes.depth.shape[-1]))
    stored = keyframes.cameras
    used = jnp.arange(keyframes.depth.shape[0], dtype=jnp.int32) < keyframes.count
    known = (keyframes.depth > 0) & used[:, None, None]

    views = geometry.resize_camera(readout.flatten(camera), grid)
    surface = geometry.lift(keyframes.depth, stored).reshape(-1, 3)
    hits = readout.project_to_cells(surface, known.reshape(-1), views, grid)
    depth = readout.nearest_depth(hits)[:-1].reshape(len(views), *grid)
    # A keyframe's surface opens holes when seen from nearer; one ring of cells closes most of them.
    depth, _ = readout.splat(depth, jnp.zeros(depth.shape, jnp.int32), 3)
    farthest = jnp.max(jnp.where(known, keyframes.depth, 0.0))
    depth = jnp.where(jnp.isfinite(depth), depth, farthest)

    fractions = jnp.arange(1, samples + 1, dtype=jnp.float32) / samples
    along = fractions[:, None, None, None] * depth[None]
    points = jax.vmap(geometry.lift, in_axes=(0, None))(along, views).reshape(-1, 3)
    h, w = grid
    uv, z = geometry.project(points[None], stored)
    inside = (z > readout.NEAR) & (uv >= 0).all(-1) & (uv[..., 0] < w) & (uv[..., 1] < h)
    cell = jnp.where(inside[..., None], uv, 0.0).astype(jnp.int32)
    index = cell[..., 1] * w + cell[..., 0]
    front = jnp.take_along_axis(keyframes.depth.reshape(-1, h * w), index, axis=1)
    seen = inside & (front > 0) & (z <= front * (1.0 + tolerance)) & used[:, None]
    return jnp.mean(seen.astype(jnp.float32), axis=1), seen


@compiler_splits(lambda *_, **__: PartitionSpec())
def retrieve(
    keyframes: Keyframes,
    camera: geometry.Camera,
    count: int,
    *,
    samples: int = 4,
    tolerance: float = 0.1,
) -> tuple[Int[Array, " n"], Float[Array, " n"]]:
    """Chooses keyframes that together saw most of the target views, greedily.

    Each step takes the keyframe that adds the largest share of points nobody chosen before saw
    (within 1 - 1/e of the best possible set), the lowest slot at a tie.

    Returns:
      `(slots, gains)`: `count` slots of the store and the share of the targets' visible volume each
      added; slot -1 and gain 0 once nothing more is gained.
    """
    _, seen = shared_view(keyframes, camera, samples=samples, tolerance=tolerance)

    def step(missing: Array, _: None) -> tuple[Array, tuple[Array, Array]]:
        gain = jnp.mean((seen & missing[None]).astype(jnp.float32), axis=1)
        best = jnp.argmax(gain).astype(jnp.int32)
        slot = jnp.where(gain[best] > 0, best, -1)
        return missing & ~seen[best], (slot, gain[best])

    _, (slots, gains) = jax.lax.scan(step, jnp.ones_like(seen[0]), None, length=count)
    return slots, gains
