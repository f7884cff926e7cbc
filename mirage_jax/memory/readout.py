"""Z-buffered read-out of a memory at target poses: what each cell of a future picture will show.

Work is Theta(N + h w) per pose (N elements): segment-min of depth over cells, segment-min of index
among the elements that reach it, then one gather of h w tokens. Sorting N elements by depth and
scattering N tokens, as released code does, costs Theta(N log N + N C), and its duplicate writes
have no defined order on a parallel device. Both reductions run on scalars in one dimension: XLA on
a CPU runs a scatter serially, and scattering token rows would cost as much as everything else
together.
"""

from __future__ import annotations

import math
from typing import Any, Literal

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int

from mirage_jax import geometry
from mirage_jax.memory.bank import LatentMemory
from mirage_jax.memory.collectives import ALONE, Collectives
from mirage_jax.memory.host_checks import check_camera, check_counts
from mirage_jax.origin import check_times
from mirage_jax.parallel.explicit_axes import compiler_splits, spec_of_views

# Elements nearer than this (metres) are behind or inside the lens.
NEAR = 1e-3
# Above every slot number, so that it loses every minimum.
NO_SLOT = np.int32(2**31 - 1)

CELLS = ("centre", "corner")
"""Which point of a cell its token stands for, see `read`."""


@flax.struct.dataclass
class ReadOut:
    """What a memory shows at target poses; leading dimensions are those of the camera.

    Attributes:
      tokens: `[..., h, w, C]`, zero where nothing is known.
      visible: `[..., h, w]` float32, 1 where an element is seen.
      depth: `[..., h, w]` float32, z-depth of that element in metres, 0 where empty.
      age: `[..., h, w]` float32, time of reading minus time of the element, 0 where empty.
      source: `[..., h, w]` int32, slot of the element, -1 where empty.
    """

    tokens: Any
    visible: Any
    depth: Any
    age: Any
    source: Any


@compiler_splits(lambda mem, camera, *_, **__: spec_of_views(camera))
def read(
    mem: LatentMemory,
    camera: geometry.Camera,
    grid: tuple[int, int],
    *,
    time: Any = None,
    prefer: Literal["nearest", "best_view"] = "nearest",
    tolerance: float = 0.05,
    footprint: int = 1,
    cells: str = "centre",
    far: float | int = math.inf,
) -> ReadOut:
    """Projects the memory into target views (paper section 3.2) with an exact, deterministic
    z-buffer.

    An element falls into the cell that contains its projection (cell centres at +0.5, `floor`). Of
    the elements of a cell the nearest wins, of equally near ones the lowest slot. Pure, jittable,
    vmappable, differentiable in the tokens.

    Args:
      mem: the memory.
      camera: target cameras, any leading dimensions.
      grid: cells `(h, w)` of the read-out; need not be the grid that was written.
      time: time of reading, a number or one per camera; by default the newest time in the memory.
      prefer: "nearest", or "best_view": among the elements within `tolerance` of the nearest depth
        of the cell take the one whose stored view is most like the current one (least angle between
        the two viewing directions in radians plus absolute log ratio of the two distances), since
        the nearest of many equally good elements is an arbitrary old view.
      tolerance: relative depth that counts as the same surface, for "best_view".
      footprint: odd width in cells of the splat of an element; 1 is the exact z-buffer, 3 closes
        the holes that open when the camera moves closer, at the cost of wider foreground edges.
      cells: "centre" as above, or "corner" as in Mirage's released code (see `memory.released`):
        the coordinates of a projection are rounded, halves to even, elements at any depth in front
        of the lens count, and of equally near ones the *highest* slot wins.
      far: elements of a greater z-depth are not seen, metres.
    Returns:
      A `ReadOut`.
    Raises:
      ValueError: for an unknown `prefer` or `cells`, an even `footprint`, a camera or grid of
        another shape, or a NumPy camera or a time that float32 does not keep.
    """
    return read_shard(
        mem,
        camera,
        grid,
        ALONE,
        time=time,
        prefer=prefer,
        tolerance=tolerance,
        footprint=footprint,
        cells=cells,
        far=far,
    )


def read_shard(
    mem: LatentMemory,
    camera: geometry.Camera,
    grid: tuple[int, int],
    shards: Collectives,
    *,
    time: Any,
    prefer: str,
    tolerance: float,
    footprint: int,
    cells: str = "centre",
    far: float | int = math.inf,
) -> ReadOut:
    """`read`, where `mem` may be one shard of a memory; every shard gets the whole result."""
    if prefer not in ("nearest", "best_view"):
        raise ValueError(f"memory.read: found prefer={prefer!r}, expected 'nearest' or 'best_view'")
    if cells not in CELLS:
        raise ValueError(f"memory.read: found cells={cells!r}, expected one of {CELLS}")
    camera = geometry.complete_camera(camera, "memory.read")
    check_counts("memory.read: grid", grid, 2)
    check_camera(camera, "memory.read")
    geometry.check_shape(camera, grid)
    check_times(time, "memory.read: time")
    lead = camera.shape
    views = flatten(camera)
    hits = project_to_cells(mem.xyz, mem.valid, views, grid, cells, far)
    depth = shards.minimum(nearest_depth(hits))
    nearest = depth[hits.segment]
    if prefer == "nearest":
        candidate = hits.z == nearest
    else:
        same_surface = hits.inside.reshape(-1) & (hits.z <= nearest * (1.0 + tolerance))
        mismatch = jnp.where(same_surface, view_mismatch(mem, views).reshape(-1), jnp.inf)
        # As for depth: the very values that are reduced must be the ones compared afterwards.
        mismatch = jax.lax.optimization_barrier(mismatch)
        best = shards.minimum(least(hits, mismatch))
        candidate = same_surface & (mismatch == best[hits.segment])
    first, sign = shards.first_slot, -1 if cells == "corner" else 1
    winner = shards.minimum(lowest_slot(hits, candidate, first, sign))
    shape = (len(views), *grid)
    source = jnp.where(winner < NO_SLOT, sign * winner, -1).reshape(shape)
    depth = depth[:-1].reshape(shape)
    if footprint != 1:
        depth, source = splat(depth, source, footprint)
    visible = source >= 0
    index, owned = shards.local_index(jnp.maximum(source, 0))
    if prefer == "best_view":
        # The winner may lie behind the nearest element, which is where the surface is not.
        per_view = hits.z.reshape(len(views), -1)
        own_depth = jnp.take_along_axis(per_view, index.reshape(len(views), -1), 1).reshape(shape)
        depth = shards.from_owner(own_depth, owned)
    if time is None:
        time = shards.maximum(newest_time(mem))
    now = reading_time(time, lead)
    tokens = shards.from_owner(mem.tokens[index], owned[..., None])
    out = ReadOut(
        tokens=jnp.where(visible[..., None], tokens, jnp.zeros((), mem.tokens.dtype)),
        visible=visible.astype(jnp.float32),
        depth=jnp.where(visible, depth, 0.0),
        age=jnp.where(visible, now - shards.from_owner(mem.time[index], owned), 0.0),
        source=source,
    )
    return jax.tree.map(lambda x: x.reshape(*lead, *x.shape[1:]), out)


def newest_time(mem: LatentMemory) -> Float[Array, ""]:
    """Time of the newest element, -inf in an empty memory: the time of reading unless given."""
    return jnp.max(jnp.where(mem.valid, mem.time, -jnp.inf))


def reading_time(time: Any, lead: tuple[int, ...]) -> Float[Array, "v 1 1"]:
    """The time of reading, a number or one per view of leading dimensions `lead`, per view."""
    return jnp.broadcast_to(jnp.asarray(time, jnp.float32), lead).reshape(-1, 1, 1)


# -- the z-buffer --------------------------------------------------------------------------------


@flax.struct.dataclass
class Hits:
    """Where N elements fall in V views; flat over `V * N`.

    Attributes:
      z: z-depth, +inf for elements that fall into no cell.
      segment: cell number over all views, or `cells` for those.
      inside: `[V, N]`, whether the element falls into a cell.
      cells: number of cells of all views together.
    """

    z: Any
    segment: Any
    inside: Any
    cells: int = flax.struct.field(pytree_node=False)


def project_to_cells(
    xyz: Float[Array, "n 3"],
    valid: Bool[Array, " n"],
    views: geometry.Camera,
    grid: tuple[int, int],
    cells: str = "centre",
    far: float | int = math.inf,
) -> Hits:
    """Finds the cell of every element in every view; `views` has one leading dimension."""
    h, w = grid
    uv, z = geometry.project(xyz[None], geometry.resize_camera(views, grid))
    near = NEAR
    if cells == "corner":
        uv, near = jnp.round(uv), 0.0
    u, v = uv[..., 0], uv[..., 1]
    # Compared as floats: a conversion of NaN or of a huge number to an integer is undefined.
    inside = valid[None] & (z > near) & (u >= 0) & (u < w) & (v >= 0) & (v < h)
    if far != math.inf:
        inside &= z <= far
    column = jnp.where(inside, u, 0.0).astype(jnp.int32)
    row = jnp.where(inside, v, 0.0).astype(jnp.int32)
    first = jnp.arange(len(views), dtype=jnp.int32)[:, None] * (h * w)
    total = len(views) * h * w
    segment = jnp.where(inside, first + row * w + column, total)
    z = jnp.where(inside, z, jnp.inf)
    # Without the barrier the compiler may compute z twice and round it differently the second time;
    # then an element would not equal the minimum it set itself.
    z, segment = jax.lax.optimization_barrier((z.reshape(-1), segment.reshape(-1)))
    return Hits(z=z, segment=segment, inside=inside, cells=total)


def nearest_depth(hits: Hits) -> Float[Array, " cells_and_outside"]:
    """Least depth per cell, +inf where empty; the last entry belongs to no cell."""
    return least(hits, hits.z)


def lowest_slot(
    hits: Hits, candidate: Bool[Array, " vn"], first: int | Int[Array, ""], sign: int = 1
) -> Int[Array, " cells"]:
    """Lowest slot per cell among the candidates, `NO_SLOT` where there is none.

    With a `sign` of -1: the highest, negated.

    Args:
      hits: of elements in consecutive slots.
      candidate: which of them count.
      first: slot of the first.
      sign: 1 or -1.
    """
    views, elements = hits.inside.shape
    slots = sign * (first + jnp.arange(elements, dtype=jnp.int32))
    slots = jnp.broadcast_to(slots, (views, elements)).reshape(-1)
    empty = jnp.full((hits.cells + 1,), NO_SLOT, jnp.int32)
    slots = jnp.where(candidate, slots, NO_SLOT)
    return empty.at[hits.segment].min(slots, mode="promise_in_bounds")[:-1]


def splat(
    depth: Float[Array, "*v h w"], source: Int[Array, "*v h w"], footprint: int
) -> tuple[Float[Array, "*v h w"], Int[Array, "*v h w"]]:
    """Widens every element to `footprint x footprint` cells: nearest wins, then lowest index.

    `depth` is +inf and `source` -1 where a cell is empty.

    Working on the winners of the cells gives the same result as splatting every element, since an
    element that loses its own cell loses to the same rival in every neighbouring one.

    Raises:
      ValueError: if `footprint` is not odd and positive.
    """
    if footprint < 1 or footprint % 2 == 0:
        raise ValueError(f"memory.read: found footprint={footprint}, expected an odd width")
    reach = footprint // 2
    for axis in (-2, -1):  # a minimum over a square is a minimum over rows of minima over columns
        best, owner = depth, source
        size = depth.shape[axis]
        for shift in range(-reach, reach + 1):
            if shift == 0 or abs(shift) >= size:
                continue
            moved_depth = _shift(depth, shift, axis, jnp.inf)
            moved_source = _shift(source, shift, axis, -1)
            nearer = moved_depth < best
            tie = (moved_depth == best) & (moved_source >= 0) & (moved_source < owner)
            best = jnp.where(nearer, moved_depth, best)
            owner = jnp.where(nearer | tie, moved_source, owner)
        depth, source = best, owner
    return depth, source


def view_mismatch(mem: LatentMemory, views: geometry.Camera) -> Float[Array, "v n"]:
    """How unlike the stored view of each element the current one is: radians plus |log scale|."""
    now = mem.xyz[None] - jnp.asarray(views.centre, jnp.float32)[:, None]
    then = (mem.xyz - mem.origin)[None]
    across = jnp.cross(now, jnp.broadcast_to(then, now.shape))
    angle = jnp.arctan2(jnp.sqrt(jnp.sum(across * across, axis=-1)), jnp.sum(now * then, axis=-1))
    ratio = _square_length(now) / _square_length(then)
    return angle + 0.5 * jnp.abs(jnp.log(ratio))


def _square_length(x: Array) -> Array:
    return jnp.maximum(jnp.sum(x * x, axis=-1), NEAR * NEAR)


def least(hits: Hits, values: Float[Array, " vn"]) -> Float[Array, " cells_and_outside"]:
    """Least value per cell, +inf where empty; the last entry belongs to no cell."""
    empty = jnp.full((hits.cells + 1,), jnp.inf, jnp.float32)
    return empty.at[hits.segment].min(values, mode="promise_in_bounds")


def flatten(camera: geometry.Camera) -> geometry.Camera:
    """The camera with all its leading dimensions made one."""
    count = math.prod(camera.shape)
    return camera.replace(  # type: ignore[attr-defined]
        intrinsics=jnp.asarray(camera.intrinsics, jnp.float32).reshape(count, 4),
        cam2world=jnp.asarray(camera.cam2world, jnp.float32).reshape(count, 4, 4),
    )


def _shift(values: Array, by: int, axis: int, fill: Any) -> Array:
    """`out[i] = values[i - by]`, with `fill` from outside."""
    size = values.shape[axis]
    inside = jax.lax.slice_in_dim(values, max(-by, 0), size - max(by, 0), axis=values.ndim + axis)
    shape = list(values.shape)
    shape[axis] = abs(by)
    outside = jnp.full(shape, fill, values.dtype)
    return jnp.concatenate([outside, inside] if by > 0 else [inside, outside], axis=axis)
