"""What the memory costs: milliseconds and bytes, latent against RGB, as the video grows.

Peers print one number. Here reading, writing, rasterising and encoding are timed apart, next to
the bytes held, after 1, 5 and 20 chunks; and the z-buffer is timed against the way released code
does it, sort by depth and scatter, in the same run on the same elements, since times of different
runs on a shared machine do not compare.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mirage_jax import geometry, memory, trajectories
from mirage_jax.chunks import TEMPORAL_STRIDE
from mirage_jax.evaluation.stopwatch import median_times
from mirage_jax.geometry import Camera
from mirage_jax.memory import edit, fusion, readout, rgb_cloud
from mirage_jax.world.conditioners import Conditioner, Folded
from mirage_jax.world.latent_encoder import LatentEncoder


def sort_and_scatter(
    mem: memory.LatentMemory, camera: Camera, grid: tuple[int, int]
) -> Float[Array, "h w c"]:
    """The baseline read of one view: sort all elements far to near, scatter all tokens in order.

    With a duplicate-index scatter applied in order, as on one CPU thread, the last and nearest
    write wins. The sort is stable and runs over reversed slots, so that ties fall to the lowest
    slot too and its result can be compared with `memory.read` token by token.
    """
    h, w = grid
    hits = readout.project_to_cells(mem.xyz, mem.valid, readout.flatten(camera), grid)
    order = mem.capacity - 1 - jnp.argsort(-hits.z[::-1], stable=True)
    canvas = jnp.zeros((h * w + 1, mem.channels), mem.tokens.dtype)
    canvas = canvas.at[hits.segment[order]].set(mem.tokens[order])
    return canvas[:-1].reshape(h, w, mem.channels)


def read_against_sort(
    *,
    scene: Literal["all_in_view", "room"] = "all_in_view",
    elements: int = 35_200,
    channels: int = 48,
    grid: tuple[int, int] = (44, 80),
    repeats: int = 15,
    seed: int = 0,
) -> dict[str, Any]:
    """Times `memory.read` against `sort_and_scatter` on the same elements and view, both jitted.

    The ratio depends on the share of the memory that is in view, since a sort of equal keys is
    faster, so there are two scenes and the share is reported.

    Args:
      scene: "all_in_view": every element was written from the pose that is read, at random depth;
        "room": the frames look once around a room and one of them is read, so most are out of view.
      elements: slots of the memory, all filled.
      channels: of a token.
      grid: cells `(h, w)`, of the writes and of the read.
      repeats: runs per median.
      seed: of tokens and depth.
    Returns:
      `elements`, `channels`, `grid`, `in_view` (share), `read_ms`, `sort_scatter_ms`, `ratio` (how
      many times faster the read is) and `identical` (whether both give the same tokens).
    """
    h, w = grid
    frames = -(-elements // (h * w))
    rng = np.random.default_rng(seed)
    camera, depth = room(frames, (h * 16, w * 16), grid)
    if scene == "all_in_view":
        poses = np.broadcast_to(np.eye(4), (frames, 4, 4))
        camera = Camera(camera.intrinsics, poses, camera.size)
        depth = rng.uniform(1, 8, depth.shape).astype(np.float32)
    tokens = rng.normal(size=(frames, h, w, channels)).astype(np.float32)
    mem, _ = jax.jit(memory.write)(memory.create(elements, channels), tokens, depth, camera)
    view = jax.tree.map(jnp.asarray, camera[frames // 2])
    fast = jax.jit(partial(memory.read, grid=grid))
    slow = jax.jit(partial(sort_and_scatter, grid=grid))
    hits = readout.project_to_cells(mem.xyz, mem.valid, readout.flatten(view), grid)
    calls = [lambda: fast(mem, view), lambda: slow(mem, view)]
    read_ms, sort_ms = (times.ms for times in median_times(calls, repeats))
    return {
        "elements": elements,
        "channels": channels,
        "grid": list(grid),
        "in_view": float(jnp.mean(hits.inside)),
        "read_ms": read_ms,
        "sort_scatter_ms": sort_ms,
        "ratio": sort_ms / read_ms,
        "identical": bool(np.array_equal(fast(mem, view).tokens, slow(mem, view))),
    }


def measure(
    *,
    size: tuple[int, int] = (64, 64),
    conditioner: Conditioner = Folded(),
    encoder: LatentEncoder | None = None,
    chunk_frames: int = 17,
    chunks: Sequence[int] = (1, 5, 20),
    kinds: Sequence[str] = ("latent", "rgb"),
    encode: Callable[[Array], Any] | None = None,
    repeats: int = 9,
    read_benchmark: dict[str, Any] | None = None,
    most_drawn: int = 100_000_000,
    seed: int = 0,
) -> dict[str, Any]:
    """Times and sizes of latent memories and of RGB clouds for the same frames of one scene.

    All do what they do in a rollout. After a chunk the keyframe of each of its new latents is
    written, one element per cell or per pixel. Before a chunk a latent memory is read as the
    denoiser needs it (`Conditioner.read`); an RGB cloud is drawn at every frame of the same chunk,
    and the pictures are encoded. Each stage is the median of `repeats` warm runs.

    Args:
      size: picture `(H, W)`.
      conditioner: how the latent memory is read.
      encoder: for kinds of conditioner that encode what they read.
      chunk_frames: frames of a chunk, 1 + 4 n.
      chunks: after how many chunks to measure.
      kinds: of `KINDS`.
      encode: encodes a rendered video `[chunk_frames, H, W, 3]` in [-1, 1], which the RGB memory
        needs before the denoiser can use it; None leaves its time out (reported as None, not 0).
      repeats: runs per median.
      read_benchmark: keyword arguments for `read_against_sort`.
      most_drawn: points of a cloud that are projected at once. Where there are more in all pictures
        of a chunk together they are drawn picture by picture, and each time is the median of
        `FEW_REPEATS`; a cloud of which a single one has more is counted, not filled and timed: its
        times are None.
      seed: of the random tokens and colours.
    Returns:
      A dict ready for JSON: `device`, the sizes (`poses_per_chunk` of `read_grid` cells are read,
      `pictures_per_chunk` drawn, `frames_written_per_chunk` written), `read_against_sort` by scene,
      and under `after_chunks` by number of chunks and kind: `elements`, `bytes`, `write_ms`,
      `read_ms`, and of clouds `raster_ms` and `encode_ms`, of which `read_ms` is the sum (None
      without `encode`); `spread_ms` has the first and third quartiles by name.
    """
    grid, channels = conditioner.grid(size), conditioner.token_channels
    bench = _Bench(
        size,
        grid,
        channels,
        frames_written=(chunk_frames - 1) // TEMPORAL_STRIDE,
        chunk_frames=chunk_frames,
        read_latent=partial(conditioner.read, encoder=encoder),
        encode=encode,
        repeats=repeats,
        most_drawn=most_drawn,
        seed=seed,
    )
    after = {str(n): {kind: bench.after(n, kind) for kind in kinds} for n in chunks}
    return {
        "device": str(jax.devices()[0].device_kind),
        "size": list(size),
        "grid": list(grid),
        "channels": channels,
        "read_grid": [conditioner.fine * cells for cells in grid],
        "poses_per_chunk": conditioner.poses_read(chunk_frames),
        "pictures_per_chunk": chunk_frames,
        "frames_written_per_chunk": bench.frames_written,
        "read_against_sort": {
            scene: read_against_sort(scene=scene, **(read_benchmark or {}))
            for scene in ("all_in_view", "room")
        },
        "after_chunks": after,
    }


KINDS = {
    "latent": "latent, appended",
    "latent_fused": "latent, fused",
    "rgb": "RGB points",
    "rgb_merged": "RGB points, one a voxel",
}
"""Memories that are compared, and what they are called in tables."""

FEW_REPEATS = 3
"""Warm runs of a cloud that is drawn picture by picture."""

_LATENT = ("latent", "latent_fused")
_BOUNDED = ("latent_fused", "rgb_merged")


@dataclasses.dataclass(frozen=True)
class _Bench:
    """What `measure` times; fields are its arguments."""

    size: tuple[int, int]
    grid: tuple[int, int]
    channels: int
    frames_written: int
    chunk_frames: int
    read_latent: Callable[..., Array]
    encode: Callable[[Array], Any] | None
    repeats: int
    most_drawn: int
    seed: int

    def after(self, chunks: int, kind: str) -> dict[str, Any]:
        """Fills a memory to `chunks` chunks, then times the last write and one read of it."""
        latent, frames = kind in _LATENT, chunks * self.frames_written
        shape = self.grid if latent else self.size
        elements = frames * shape[0] * shape[1]
        if not latent and elements > self.most_drawn:
            counted: dict[str, Any] = {
                "elements": elements,
                "bytes": elements * rgb_cloud.POINT_BYTES,
            }
            if kind == "rgb_merged":  # cannot be told without merging
                counted = dict.fromkeys(counted)
            return counted | dict.fromkeys(("write_ms", "raster_ms", "encode_ms", "read_ms"))
        camera, depth = room(frames, self.size, self.size)
        rng = np.random.default_rng(self.seed)
        values: Any = (
            rng.normal(size=(frames, *shape, self.channels)).astype(np.float32)
            if latent
            else rng.integers(0, 256, (frames, *shape, 3), np.uint8)
        )
        mem = memory.create(elements, self.channels) if latent else rgb_cloud.create(elements)
        write = jax.jit(fusion.write if kind == "latent_fused" else memory.write)
        for chunk in range(chunks):
            part = slice(chunk * self.frames_written, (chunk + 1) * self.frames_written)
            before = mem
            last = jax.tree.map(jnp.asarray, (values[part], depth[part], camera[part]))
            mem, _ = write(mem, *last)
        writes: Callable[[], Any] = partial(write, before, *last)
        if kind == "rgb_merged":
            # As wide as a pixel at the median depth.
            voxel = float(np.median(depth)) / float(camera.intrinsics[0, 0])
            earlier = rgb_cloud.merged(before, voxel)
            writes = lambda: rgb_cloud.merged(write(earlier, *last)[0], voxel)  # noqa: E731
            mem = rgb_cloud.merged(mem, voxel)
        if kind in _BOUNDED:  # a read takes as long as there are slots
            mem = edit.compact(mem)
            mem = edit.with_capacity(mem, int(mem.count))
        targets = np.linspace(0, frames - 1, self.chunk_frames).round().astype(int)
        views = jax.tree.map(jnp.asarray, camera[targets])
        together = latent or elements * self.chunk_frames <= self.most_drawn
        repeats = self.repeats if together else min(self.repeats, FEW_REPEATS)
        draw = partial(rgb_cloud.read, grid=self.size) if together else self._draw_in_turn
        read = jax.jit(self.read_latent if latent else draw)
        wrote, drew = median_times([writes, partial(read, mem, views)], repeats)
        entry: dict[str, Any] = {
            "elements": int(jnp.sum(mem.valid)),
            "bytes": memory.nbytes(mem) if latent else rgb_cloud.nbytes(mem),
            "write_ms": wrote.ms,
            "spread_ms": {"write": wrote.spread, "read" if latent else "raster": drew.spread},
        }
        if latent:
            return entry | {"read_ms": drew.ms}
        entry |= {"raster_ms": drew.ms, "encode_ms": None, "read_ms": None}
        if self.encode is not None:
            pictures = read(mem, views).tokens
            (coded,) = median_times([partial(self.encode, pictures)], repeats)
            entry |= {"encode_ms": coded.ms, "read_ms": drew.ms + coded.ms}
            entry["spread_ms"]["encode"] = coded.spread
        return entry

    def _draw_in_turn(self, mem: memory.LatentMemory, views: Camera) -> readout.ReadOut:
        """The pictures of `rgb_cloud.read`, of which one is drawn at a time."""
        return jax.lax.map(lambda view: rgb_cloud.read(mem, view, self.size), views)


def room(
    frames: int, size: tuple[int, int], depth_size: tuple[int, int]
) -> tuple[Camera, Float[np.ndarray, "t h w"]]:
    """Cameras that look once around an empty room of 6 x 3 x 8 m, and its exact z-depth.

    A closed form, so that the benchmark needs no data; random depth would scatter an unreal number
    of elements outside every view.
    """
    half = np.array([3.0, 1.5, 4.0])
    poses = trajectories.make("full_circle", frames)
    h, w = size
    camera = Camera(np.tile([0.6 * w, 0.6 * w, w / 2, h / 2], (frames, 1)), poses, size)
    unit = np.ones((frames, *depth_size), np.float32)
    rays = (
        np.asarray(jax.jit(geometry.lift)(unit, camera), np.float64) - poses[:, None, None, :3, 3]
    )
    # From the centre of the room, the wall is where the first coordinate reaches its half width.
    depth = np.min(half / np.maximum(np.abs(rays), 1e-9), axis=-1)
    return camera, depth.astype(np.float32)
