"""Writing that keeps a memory small: what it shows already is fused, what is wrong goes.

Frame by frame, every element is projected into the frame. One that lies where the cell it falls
into was lifted to *agrees* with the cell: nothing is added, and of the two tokens the better view
stays, unblended, since a mean of views is sharp in none. What agrees with nothing is an element of
its own. An element that the frame looks through, well in front of everything around it, is
*contradicted*; it goes when that has happened several times with no agreement between. Where room
is wanting the elements that are worth least make place for the newest.

Elements are compared in space, since on a floor or at an edge two points of one cell differ in
depth by more than any tolerance, and within an octave of scale: near and far views of one place are
different tokens. Cost per frame is Theta(N + h w) as of a read-out; nothing depends on the order in
which a parallel device works (minima, sums of integers, and scatters to distinct slots alone).
"""

from __future__ import annotations

import dataclasses
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Int, Num

from mirage_jax import geometry
from mirage_jax.memory import eviction, pooling, readout, sharded
from mirage_jax.memory.bank import (
    ELEMENT_FIELDS,
    LatentMemory,
    WriteReport,
    cells_of_frames,
    written_splits,
)
from mirage_jax.memory.collectives import ALONE, Collectives, ShardCollectives
from mirage_jax.memory.split import split_axes
from mirage_jax.parallel.explicit_axes import compiler_splits
from mirage_jax.settings import Settings, setting


@dataclasses.dataclass(frozen=True)
class FusionOptions(Settings):
    """When a written cell and an element of the memory are the same, and when an element goes."""

    match: float = setting(
        0.15, "Distance within which a cell agrees with an element, in cells.", above=0, most=1
    )
    depth_error: float = setting(
        0.25, "Relative error of depth that is allowed for, along the line of sight.", least=0
    )
    octaves: float = setting(
        1.0, "Largest ratio of the two sizes, as a power of two, of what agrees.", above=0
    )
    clearance: float = setting(
        0.25,
        "Share of its depth by which a frame must see past an element to contradict it.",
        above=0,
        below=1,
    )
    misses: int = setting(3, "Contradictions in a row after which an element goes.", least=1)
    align: float = setting(
        0.5,
        "A frame's depth is scaled to agree with the memory where so much larger a share of it "
        "then does; 1 = never.",
        least=0,
        most=1,
    )


DEFAULT = FusionOptions()

BETTER = 1.1
"""How much better a view must be to replace another: without a margin equal ones would take turns,
and each leaves room beside the point that it moves the element to."""
LESS_CONFIDENCE = 0.7
"""What a contradiction leaves of an element's confidence."""
SAME_DEPTH = 0.15
"""Relative difference within which two depths count as equal when a frame is aligned."""
LEAST_OVERLAP = 0.25
"""Share of a frame's cells that the memory must show before its depth is aligned."""
MOST_SCALE = 3.0
"""Depth is not scaled by more than this, or by less than its inverse."""


class _Frame(NamedTuple):
    """One frame to be written: its rows of a memory, and the depth of its cells (0 = left out)."""

    rows: dict[str, Array]
    depth: Float[Array, "h w"]
    intrinsics: Float[Array, "4"]
    cam2world: Float[Array, "4 4"]


@compiler_splits(written_splits)
def write(
    mem: LatentMemory,
    tokens: Num[Array | np.ndarray, "t h w c"],
    depth: Float[Array | np.ndarray, "t H W"],
    camera: geometry.Camera,
    *,
    static: Num[Array | np.ndarray, "t hs ws"] | Bool[Array | np.ndarray, "t hs ws"] | None = None,
    confidence: Float[Array | np.ndarray, "t h w"] | None = None,
    times: Num[Array | np.ndarray, " t"] | None = None,
    options: FusionOptions = DEFAULT,
) -> tuple[LatentMemory, WriteReport]:
    """Writes T frames one after the other; arguments and errors as for `memory.write`.

    Pure and jittable, of static shapes. Only where pinned elements fill the memory is anything
    refused (`WriteReport.dropped`).

    Args:
      mem, tokens, depth, camera, static, confidence, times: see `memory.write`.
      options: what counts as the same.
    """
    cells = cells_of_frames(
        mem, tokens, depth, camera, static=static, confidence=confidence, times=times
    )
    frames, h, w = cells.depth.shape
    camera = geometry.complete_camera(camera, "memory.fusion.write")
    grid_camera = geometry.resize_camera(camera, (h, w))
    rows = {name: row.reshape(frames, h * w, *row.shape[1:]) for name, row in cells.rows.items()}
    each = _Frame(
        rows,
        cells.depth,
        jnp.asarray(grid_camera.intrinsics, jnp.float32),
        jnp.asarray(grid_camera.cam2world, jnp.float32),
    )

    mem, counts = _write_frames(mem, each, options)
    scales = counts.pop("depth_scale")
    report = WriteReport(
        unknown_depth=cells.unknown_depth,
        moving=cells.moving,
        depth_scale=scales,
        **{name: jnp.sum(count, dtype=jnp.int32) for name, count in counts.items()},
    )
    return mem, report


def _write_frames(
    mem: LatentMemory, frames: _Frame, options: FusionOptions
) -> tuple[LatentMemory, dict[str, Array]]:
    """Writes one frame after the other; where slots are split over devices each keeps its own."""

    def write(mem: LatentMemory, frames: _Frame, shards: Collectives) -> Any:
        return jax.lax.scan(lambda mem, one: _write_frame(mem, one, options, shards), mem, frames)

    axes = split_axes(mem.capacity)
    if not axes:
        return write(mem, frames, ALONE)

    # The compiler would gather all slots on every device.
    def local(mem: LatentMemory, frames: _Frame) -> Any:
        return write(mem, frames, ShardCollectives(axes, mem.capacity))

    parts, whole = sharded.specs(axes), PartitionSpec()
    return jax.shard_map(local, in_specs=(parts, whole), out_specs=(parts, whole))(mem, frames)


def _write_frame(
    mem: LatentMemory, frame: _Frame, options: FusionOptions, shards: Collectives
) -> tuple[LatentMemory, dict[str, Array]]:
    """Writes a frame to the elements of one shard; what is counted is of all of them."""
    h, w = frame.depth.shape
    grid, none = (h, w), shards.slots(mem.capacity)
    view = geometry.Camera(frame.intrinsics[None], frame.cam2world[None], grid)
    hits = readout.project_to_cells(mem.xyz, mem.valid, view, grid)
    scale = align(shards.minimum(readout.nearest_depth(hits)), frame.depth, options.align)
    rows, depth = _scaled(frame.rows, scale), frame.depth * scale
    keep = rows["valid"]

    agrees, mismatch = agreement(mem, hits, rows, view, options)
    winner = _least_slot(hits, agrees, mismatch, shards)  # of every cell, `none` if there is none
    fused = keep & (winner < none)
    mem, contradicted = _judge(mem, hits, agrees, depth, options)

    wanted = keep & ~fused
    number = jnp.sum(wanted, dtype=jnp.int32)
    mem, evicted = eviction.make_room(mem, number, spared=agrees, shards=shards)
    free = eviction.free_slots(mem.valid, jnp.cumsum(wanted, dtype=jnp.int32), shards)
    written = wanted & (free < none)

    # What replaces an element's view keeps its history, which `_judge` has brought up to date.
    held = _rows_of(mem, winner, shards)
    for name in ("seen", "pinned"):
        rows = rows | {name: jnp.where(fused, held[name], rows[name])}
    slot = jnp.where(fused & _is_better(held, rows), winner, none)
    index, owned = shards.local_index(jnp.where(written, free, slot))
    index = jnp.where(owned, index, mem.capacity)
    placed = {
        name: getattr(mem, name).at[index].set(rows[name], mode="drop") for name in ELEMENT_FIELDS
    }
    top = jnp.max(jnp.where(written, free + 1, 0), initial=0)
    dropped = jnp.sum(wanted & ~written, dtype=jnp.int32)
    mem = mem.replace(  # type: ignore[attr-defined]
        **placed,
        count=jnp.maximum(mem.count, top.astype(jnp.int32)),
        frames=mem.frames + 1,
        dropped=mem.dropped + dropped,
        evicted=mem.evicted + evicted,
    )
    return mem, {
        "written": jnp.sum(written, dtype=jnp.int32),
        "fused": jnp.sum(fused, dtype=jnp.int32),
        "dropped": dropped,
        "contradicted": shards.total(contradicted),
        "evicted": evicted,
        "depth_scale": scale,
    }


def _rows_of(
    mem: LatentMemory, slot: Int[Array, " cells"], shards: Collectives
) -> dict[str, Array]:
    """What a cell and the element it agrees with are compared by, of the elements in these slots;
    anything where there is none."""
    index, owned = shards.local_index(jnp.minimum(slot, shards.slots(mem.capacity) - 1))
    names = ("seen", "pinned", "size", "confidence")
    return {name: shards.from_owner(getattr(mem, name)[index], owned) for name in names}


# -- what agrees ---------------------------------------------------------------------------------


def agreement(
    mem: LatentMemory,
    hits: readout.Hits,
    rows: dict[str, Array],
    view: geometry.Camera,
    options: FusionOptions,
) -> tuple[Bool[Array, " n"], Float[Array, " n"]]:
    """Which elements lie where the cell that they fall into was lifted to, and how far off.

    The distance is that of an ellipsoid around the lifted cell, `match` cells across and longer by
    `depth_error` of the depth along the line of sight.
    """
    cell = jnp.minimum(hits.segment, hits.cells - 1)
    point, size = rows["xyz"][cell], rows["size"][cell]
    ray = point - jnp.asarray(view.centre, jnp.float32)
    range_ = jnp.maximum(jnp.linalg.norm(ray, axis=-1), readout.NEAR)
    offset = mem.xyz - point
    along = jnp.sum(offset * ray, axis=-1) / range_
    across = jnp.maximum(jnp.sum(offset * offset, axis=-1) - along * along, 0.0)
    reach = options.match * size
    far = reach + options.depth_error * range_
    mismatch = across / jnp.maximum(reach, 1e-9) ** 2 + (along / jnp.maximum(far, 1e-9)) ** 2
    known_size = jnp.where(mem.size > 0, mem.size, size)
    ratio = jnp.abs(jnp.log2(known_size / jnp.maximum(size, 1e-9)))
    alike = (mismatch <= 1.0) & (ratio <= options.octaves)
    return hits.inside[0] & rows["valid"][cell] & alike, mismatch


def _least_slot(
    hits: readout.Hits,
    candidate: Bool[Array, " n"],
    mismatch: Float[Array, " n"],
    shards: Collectives,
) -> Int[Array, " cells"]:
    """Slot of the best candidate of every cell, the lowest of equals; the capacity for none."""
    values = jax.lax.optimization_barrier(jnp.where(candidate, mismatch, jnp.inf))
    best = shards.minimum(readout.least(hits, values))
    first = candidate & (values == best[hits.segment])
    slots = shards.minimum(readout.lowest_slot(hits, first, shards.first_slot))
    return jnp.minimum(slots, shards.slots(len(mismatch)))


def _is_better(held: dict[str, Array], rows: dict[str, Array]) -> Bool[Array, " cells"]:
    """Whether a cell is seen from nearer, or with more confidence, than the element it agrees with.

    Confidence per size of the cell; of equals the newer. Of pinned elements no view is better.
    """
    now = rows["confidence"] * held["size"]
    return (now > BETTER * held["confidence"] * rows["size"]) & ~held["pinned"]


def _judge(
    mem: LatentMemory,
    hits: readout.Hits,
    agrees: Bool[Array, " n"],
    depth: Float[Array, "h w"],
    options: FusionOptions,
) -> tuple[LatentMemory, Int[Array, ""]]:
    """Counts agreement and contradiction of every element, and removes what is contradicted."""
    around = _least_around(jnp.where(depth > 0, depth, 0.0)).reshape(-1)
    cell = jnp.minimum(hits.segment, hits.cells - 1)
    through = hits.inside[0] & (hits.z < around[cell] * (1.0 - options.clearance)) & ~agrees
    missed = jnp.where(agrees, 0, mem.missed + through)
    gone = through & (missed >= options.misses) & ~mem.pinned
    mem = mem.replace(  # type: ignore[attr-defined]
        valid=mem.valid & ~gone,
        seen=mem.seen + agrees,
        missed=missed,
        confidence=jnp.where(
            through & ~mem.pinned, mem.confidence * LESS_CONFIDENCE, mem.confidence
        ),
    )
    return mem, jnp.sum(gone, dtype=jnp.int32)


def _least_around(depth: Float[Array, "h w"]) -> Float[Array, "h w"]:
    """Least depth of the 3 x 3 cells around each; 0 next to a cell of unknown depth."""
    for axis in (0, 1):
        padded = jnp.pad(depth, [(1, 1) if a == axis else (0, 0) for a in (0, 1)], mode="edge")
        size = depth.shape[axis]
        parts = [jax.lax.slice_in_dim(padded, s, s + size, axis=axis) for s in range(3)]
        depth = jnp.minimum(jnp.minimum(parts[0], parts[1]), parts[2])
    return depth


# -- depth of a frame as a whole -----------------------------------------------------------------


def align(
    shown: Float[Array, " cells_and_outside"],
    depth: Float[Array, "h w"],
    gain: float | Float[Array, ""],
) -> Float[Array, ""]:
    """What to multiply a frame's depth by so that it agrees with the memory's; 1 if in doubt.

    The median ratio of what the memory shows to the frame's depth, over the cells where both are
    known. It is taken only if the memory shows enough of the frame, and if a share of the cells
    larger by `gain` agrees then.

    Args:
      shown: of the memory, `readout.nearest_depth`.
      depth: of the frame's cells, 0 = unknown.
      gain: see above.
    """
    shown = shown[:-1].reshape(depth.shape)
    both = jnp.isfinite(shown) & (depth > 0)
    ratio = jnp.where(both, shown / jnp.where(both, depth, 1.0), 0.0)
    scale = pooling.pool_depth(ratio, (1, 1))[0].reshape(())
    scale = jnp.where((scale >= 1.0 / MOST_SCALE) & (scale <= MOST_SCALE), scale, 1.0)

    def number(cells: Array) -> Array:
        return jnp.sum(cells, dtype=jnp.float32)

    def agreeing(of: Any) -> Array:
        return number(both & (jnp.abs(jnp.log(jnp.where(both, ratio, 1.0) / of)) < SAME_DEPTH))

    improved = (agreeing(scale) - agreeing(1.0)) / jnp.maximum(number(both), 1.0) > gain
    enough = number(both) >= LEAST_OVERLAP * depth.size
    return jnp.where(improved & enough, scale, 1.0)


def _scaled(rows: dict[str, Array], scale: Array) -> dict[str, Array]:
    """Rows lifted with `scale` times the depth."""
    moved = rows["origin"] + scale * (rows["xyz"] - rows["origin"])
    # As they are where nothing is scaled: origin + (xyz - origin) would be rounded.
    xyz = jnp.where(scale == 1.0, rows["xyz"], moved)
    return rows | {"xyz": xyz, "size": rows["size"] * scale, "tangents": rows["tangents"] * scale}
