"""The latent memory bank: a pytree of world points that carry latent tokens, and how to write to
it.

One element per latent cell of every written frame (paper section 3.1): the cell centre lifted by
its depth, with the cell's token. The capacity is static, so that everything jits; what did not fit
is counted and reported, never dropped silently.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import PartitionSpec
from jaxtyping import Array, Bool, Float, Num

from mirage_jax import geometry
from mirage_jax.memory import pooling, surface
from mirage_jax.memory.host_checks import check_camera, check_counts, check_finite
from mirage_jax.memory.split import split_axes
from mirage_jax.origin import check_times
from mirage_jax.parallel.explicit_axes import compiler_splits, spec_of

# A cell is written if more than this share of it is static.
STATIC_SHARE = 0.5


@flax.struct.dataclass
class LatentMemory:
    """A set of N element slots; leading dimensions may be added by `vmap`.

    `write` fills slots from the front; `fusion` and `edit` may free any of them again.

    Attributes:
      xyz: `[N, 3]` float32, world position of the element, metres.
      tokens: `[N, C]`, the latent token (or any feature) seen there.
      valid: `[N]` bool, whether the slot holds an element that may be read.
      confidence: `[N]` float32 in [0, 1].
      frame: `[N]` int32, number of the written frame it comes from.
      time: `[N]` float32, time of that frame (its number unless the writer gave times).
      origin: `[N, 3]` float32, optical centre it was seen from: viewing direction and distance.
      size: `[N]` float32, metres that the element's cell spans where it lies (depth over focal
        length in cells); 0 = unknown.
      tangents: `[N, 2, 3]` float32, the way along its surface that the element's cell spans, in
        metres, to the right and down as it was seen; 0 = unknown. `[N, 0, 3]` where the memory
        keeps none.
      seen: `[N]` int32, written frames that showed it, the first included.
      missed: `[N]` int32, frames since that looked through it.
      pinned: `[N]` bool, whether it stays whatever is written.
      count: int32, slots used so far: all elements lie below it.
      frames: int32, frames written so far.
      dropped: int32, elements that did not fit, in total.
      evicted: int32, elements that had to make room, in total.
    """

    xyz: Any
    tokens: Any
    valid: Any
    confidence: Any
    frame: Any
    time: Any
    origin: Any
    size: Any
    tangents: Any
    seen: Any
    missed: Any
    pinned: Any
    count: Any
    frames: Any
    dropped: Any
    evicted: Any

    @property
    def capacity(self) -> int:
        """Number of element slots N."""
        return self.xyz.shape[-2]

    @property
    def channels(self) -> int:
        """Channels C of a token."""
        return self.tokens.shape[-1]


COUNTERS = ("count", "frames", "dropped", "evicted")
"""Fields of a memory that are one number; all others have a row for every slot."""
ELEMENT_FIELDS = tuple(f.name for f in dataclasses.fields(LatentMemory) if f.name not in COUNTERS)


@flax.struct.dataclass
class WriteReport:
    """What became of the cells given to `write`, and of elements that went, int32.

    The first five sum to all cells.

    Attributes:
      written: cells that now are elements of their own.
      unknown_depth: cells left out because their depth is 0, NaN or infinite.
      moving: cells of known depth left out because they are not static.
      dropped: cells that should have been written and did not fit.
      fused: cells that showed what an element holds already, see `fusion.write`.
      contradicted: elements removed because frame after frame looked through them.
      evicted: elements removed to make room.
      depth_scale: `[T]` float32, what the depth of each frame was multiplied by to agree with the
        memory; None where it is taken as it is.
      movers: what became of moving bodies (`movers.MoverReport`); None where none are kept.
    """

    written: Any
    unknown_depth: Any
    moving: Any
    dropped: Any
    fused: Any = 0
    contradicted: Any = 0
    evicted: Any = 0
    depth_scale: Any = None
    movers: Any = None

    @property
    def counts(self) -> dict[str, Any]:
        """Numbers of cells and elements by name, without what is no such number."""
        return {name: n for name, n in vars(self).items() if name not in ("depth_scale", "movers")}


def create(
    capacity: int, channels: int, dtype: Any = jnp.float32, *, tangents: bool = True
) -> LatentMemory:
    """An empty memory.

    Args:
      capacity: element slots; one written frame takes at most `h * w` of them.
      channels: channels of a token.
      dtype: of the tokens; positions are always float32.
      tangents: whether elements keep how their surface is turned.
    Raises:
      ValueError: if capacity or channels are not positive.
    """
    check_counts("memory: capacity, channels", (capacity, channels), 2)
    return LatentMemory(
        xyz=jnp.zeros((capacity, 3), jnp.float32),
        tokens=jnp.zeros((capacity, channels), dtype),
        valid=jnp.zeros((capacity,), bool),
        confidence=jnp.zeros((capacity,), jnp.float32),
        frame=jnp.zeros((capacity,), jnp.int32),
        time=jnp.zeros((capacity,), jnp.float32),
        origin=jnp.zeros((capacity, 3), jnp.float32),
        size=jnp.zeros((capacity,), jnp.float32),
        tangents=jnp.zeros((capacity, 2 if tangents else 0, 3), jnp.float32),
        seen=jnp.zeros((capacity,), jnp.int32),
        missed=jnp.zeros((capacity,), jnp.int32),
        pinned=jnp.zeros((capacity,), bool),
        **{name: jnp.zeros((), jnp.int32) for name in COUNTERS},
    )


def nbytes(mem: LatentMemory) -> int:
    """Bytes held by the elements there are (host side; free slots are not counted)."""
    rows = [getattr(mem, name) for name in ELEMENT_FIELDS]
    per_element = sum(np.dtype(a.dtype).itemsize * int(np.prod(a.shape[1:])) for a in rows)
    return per_element * int(np.sum(np.asarray(mem.valid)))


def written_splits(mem: LatentMemory, *_: Any, **__: Any) -> tuple[LatentMemory, PartitionSpec]:
    """How explicit axes split what a write returns: the memory as before, the report not."""
    return jax.tree.map(spec_of, mem), PartitionSpec()


@compiler_splits(written_splits)
def write(
    mem: LatentMemory,
    tokens: Num[Array | np.ndarray, "t h w c"],
    depth: Num[Array | np.ndarray, "t H W"],
    camera: geometry.Camera,
    *,
    static: Num[Array | np.ndarray, "t hs ws"] | Bool[Array | np.ndarray, "t hs ws"] | None = None,
    confidence: Float[Array | np.ndarray, "t h w"] | None = None,
    times: Num[Array | np.ndarray, " t"] | None = None,
) -> tuple[LatentMemory, WriteReport]:
    """Appends the cells of T frames that are static and of known depth (paper section 3.1, eq. 2).

    Pure and jittable; under `jit` donate `mem` to update it in place. Cells that are left out take
    no slot. Once the capacity is used up, further cells are counted as dropped; slots that were
    freed below `count` are not used again, as `fusion.write` does.

    Args:
      mem: the memory to extend.
      tokens: one token per cell, cast to the memory's dtype.
      depth: z-depth in metres at any multiple of the token resolution; 0, NaN and inf are unknown.
      camera: leading dimension T; the pose at which each token (and depth) was seen.
      static: 1 = keep, 0 = moving, at the resolution of `depth` or of `tokens`. Moving pixels have
        no weight in the depth of their cell, and a cell is kept if more than half of it is static.
      confidence: in [0, 1]; by default the share of the cell's pixels that lie on its surface.
      times: by default the running number of the frame.
    Returns:
      The extended memory and the counts of what happened to each cell.
    Raises:
      ValueError: if shapes do not fit each other or the memory, or if NumPy arrays hold positions
        or times that float32 does not keep apart (see `mirage_jax.origin`).
    """
    cells = cells_of_frames(
        mem, tokens, depth, camera, static=static, confidence=confidence, times=times
    )
    found = jnp.sum(cells.rows["valid"], dtype=jnp.int32)
    written = jnp.minimum(found, mem.capacity - mem.count)
    dropped = found - written
    old = {name: getattr(mem, name) for name in ELEMENT_FIELDS}
    mem = mem.replace(  # type: ignore[attr-defined]
        **_append(old, cells.rows, cells.rows["valid"], mem.count, written),
        count=mem.count + written,
        frames=mem.frames + len(tokens),
        dropped=mem.dropped + dropped,
    )
    report = WriteReport(
        written=written, unknown_depth=cells.unknown_depth, moving=cells.moving, dropped=dropped
    )
    return mem, report


@dataclasses.dataclass(frozen=True)
class Cells:
    """The cells of T frames as rows of a memory, frame by frame.

    Attributes:
      rows: by name of `ELEMENT_FIELDS`, `[T * h * w, ...]`; those to be written are `valid`.
      depth: `[T, h, w]` float32, metres, 0 in cells that are not to be written.
      unknown_depth, moving: counts of the others, see `WriteReport`.
    """

    rows: dict[str, Array]
    depth: Array
    unknown_depth: Array
    moving: Array


def cells_of_frames(
    mem: LatentMemory,
    tokens: Any,
    depth: Any,
    camera: geometry.Camera,
    *,
    static: Any = None,
    confidence: Any = None,
    times: Any = None,
) -> Cells:
    """Lifts the cells of frames to rows of a memory; arguments and errors as for `write`."""
    tokens, depth, static, confidence, times = (
        np.asarray(x) if isinstance(x, list | tuple) else x
        for x in (tokens, depth, static, confidence, times)
    )
    camera = geometry.complete_camera(camera, "memory.write")
    for name, given, axes in (
        ("tokens", tokens, "T, h, w, C"),
        ("depth", depth, "T, H, W"),
        ("static", static, "T, H, W"),
    ):
        if given is not None and np.ndim(given) != axes.count(",") + 1:
            raise ValueError(
                f"memory.write: {name} has shape {np.shape(given)}, expected [{axes}] with an axis "
                "of frames"
            )
    frames, h, w, channels = tokens.shape
    grid = (h, w)
    _check_write(mem, tokens, depth, camera, static, confidence, times)
    depth = pooling.without_nan(depth)
    cell_depth, share = pooling.pool_depth(depth, grid)
    known = cell_depth > 0
    is_static = jnp.ones_like(known)
    if static is not None:
        is_static = pooling.pool_static(static, grid) > STATIC_SHARE
        if static.shape == depth.shape:
            still = jnp.asarray(static, jnp.float32) > STATIC_SHARE
            cell_depth, share = pooling.pool_depth(jnp.where(still, depth, 0.0), grid)
            known = jnp.where(is_static, cell_depth > 0, known)
    keep = (known & is_static).reshape(-1)

    total = frames * h * w
    numbers = mem.frames + jnp.arange(frames, dtype=jnp.int32)
    when = numbers if times is None else jnp.asarray(times)
    if confidence is not None:
        share = jnp.asarray(confidence, jnp.float32)
    focal = geometry.resize_camera(camera, grid).intrinsics[:, :2]
    span = cell_depth / jnp.sqrt(focal[:, 0] * focal[:, 1])[:, None, None]
    written_depth = jnp.where(known & is_static, cell_depth, 0.0)
    tangents = jnp.zeros((total, 0, 3), jnp.float32)
    if mem.tangents.shape[-2]:
        tangents = surface.tangents(written_depth, camera).reshape(total, 2, 3)
    rows = {
        "xyz": geometry.lift(cell_depth, camera).reshape(total, 3),
        "tokens": jnp.asarray(tokens).reshape(total, channels).astype(mem.tokens.dtype),
        "valid": keep,
        "confidence": share.reshape(total),
        "frame": jnp.repeat(numbers, h * w),
        "time": jnp.repeat(when.astype(jnp.float32), h * w),
        "origin": jnp.repeat(jnp.asarray(camera.centre, jnp.float32), h * w, axis=0),
        "size": jnp.asarray(span, jnp.float32).reshape(total),
        "tangents": tangents,
        "seen": jnp.ones(total, jnp.int32),
        "missed": jnp.zeros(total, jnp.int32),
        "pinned": jnp.zeros(total, bool),
    }
    return Cells(
        rows,
        depth=written_depth,
        unknown_depth=jnp.sum(~known, dtype=jnp.int32),
        moving=jnp.sum(known & ~is_static, dtype=jnp.int32),
    )


def _append(
    old: dict[str, Array], new: dict[str, Array], keep: Array, count: Array, written: Array
) -> dict[str, Array]:
    """Places the first `written` kept rows of `new` behind the first `count` rows of `old`."""
    axes = split_axes(old["xyz"].shape[0])
    if not axes:
        return _append_here(old, new, keep, count, written)

    # The compiler would gather all rows on every device.
    def local(old: Any, new: Any, keep: Array, count: Array, written: Array) -> dict[str, Array]:
        first = jax.lax.axis_index(axes) * old["xyz"].shape[0]
        return _append_here(old, new, keep, count, written, first)

    rows, whole = PartitionSpec(axes), PartitionSpec()
    return jax.shard_map(local, in_specs=(rows, *[whole] * 4), out_specs=rows)(
        old, new, keep, count, written
    )


def _append_here(
    old: dict[str, Array],
    new: dict[str, Array],
    keep: Array,
    count: Array,
    written: Array,
    first: Array | int = 0,
) -> dict[str, Array]:
    """`_append`, where `old` are rows from number `first` on."""
    total, capacity = keep.shape[0], old["xyz"].shape[0]
    block = min(total, capacity)
    # One scatter of scalars finds the source row of every slot; whole rows are only ever gathered.
    slot = jnp.where(keep, jnp.cumsum(keep, dtype=jnp.int32) - 1, total)
    rows = jnp.arange(total, dtype=jnp.int32)
    source = jnp.zeros((total,), jnp.int32).at[slot].set(rows, mode="drop")
    # The window must lie inside the bank, so near its end it starts before `count`.
    start = jnp.clip(count - first, 0, capacity - block)
    place = first + start + jnp.arange(block, dtype=jnp.int32) - count
    fresh = (place >= 0) & (place < written)
    row = source[jnp.clip(place, 0, total - 1)]

    def update(previous: Array, values: Array) -> Array:
        window = jax.lax.dynamic_slice_in_dim(previous, start, block, axis=0)
        mask = fresh.reshape(-1, *(1,) * (previous.ndim - 1))
        window = jnp.where(mask, values[row].astype(previous.dtype), window)
        return jax.lax.dynamic_update_slice_in_dim(previous, window, start, axis=0)

    return {name: update(old[name], new[name]) for name in new}


def _check_write(
    mem: LatentMemory,
    tokens: Any,
    depth: Any,
    camera: geometry.Camera,
    static: Any,
    confidence: Any,
    times: Any,
) -> None:
    frames, h, w, channels = tokens.shape
    check_camera(camera, "memory.write")
    check_finite(tokens, "memory.write: tokens")
    check_times(times, "memory.write: times")
    if channels != mem.channels:
        raise ValueError(
            f"memory.write: tokens have {channels} channels, the memory holds {mem.channels}"
        )
    for name, given in (("depth", depth), ("static", static)):
        if given is not None and given.shape[0] != frames:
            raise ValueError(
                f"memory.write: {frames} frames of tokens but {given.shape[0]} frames of {name}"
            )
    if camera.shape != (frames,):
        raise ValueError(
            f"memory.write: camera has leading dimensions {camera.shape}, expected ({frames},): "
            "one pose per frame of tokens"
        )
    for name, given, expected in (
        ("confidence", confidence, (frames, h, w)),
        ("times", times, (frames,)),
    ):
        if given is not None and np.shape(given) != expected:
            raise ValueError(
                f"memory.write: {name} has shape {np.shape(given)}, expected {expected}"
            )
