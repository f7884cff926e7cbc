"""What the memory costs: milliseconds and bytes, latent against RGB, as the video grows.

Peers print one number. Here reading, writing, rasterising and encoding are timed apart, next to
the bytes held, after 1, 5 and 20 chunks; and the z-buffer is timed against the way released code
does it, sort by depth and scatter, in the same run on the same elements, since times of different
runs on a shared machine do not compare.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mirage_jax import geometry, memory, trajectories
from mirage_jax.chunks import TEMPORAL_STRIDE, latents_of_frames
from mirage_jax.evaluation.stopwatch import median_times
from mirage_jax.geometry import Camera
from mirage_jax.memory import readout, rgb_cloud
from mirage_jax.world.conditioners import Conditioner, Folded


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
    chunk_frames: int = 17,
    chunks: Sequence[int] = (1, 5, 20),
    encode: Callable[[Array], Any] | None = None,
    repeats: int = 9,
    read_benchmark: dict[str, Any] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """Times and sizes of the latent memory and of the RGB cloud for the same frames of one scene.

    Both do what they do in a rollout. After a chunk the keyframe of each of its new latents is
    written, one element per cell or per pixel. Before a chunk the latent memory is read as the
    denoiser needs it (`Conditioner.read`); the RGB cloud is drawn at every frame of the
    same chunk, and the pictures are encoded. Each stage is the median of `repeats` warm runs.

    Args:
      size: picture `(H, W)`.
      conditioner: how the latent memory is read.
      chunk_frames: frames of a chunk, 1 + 4 n.
      chunks: after how many chunks to measure.
      encode: encodes a rendered video `[chunk_frames, H, W, 3]` in [-1, 1], which the RGB memory
        needs before the denoiser can use it; None leaves its time out (reported as None, not 0).
      repeats: runs per median.
      read_benchmark: keyword arguments for `read_against_sort`.
      seed: of the random tokens and colours.
    Returns:
      A dict ready for JSON: `device`, the sizes (`poses_per_chunk` of `read_grid` cells are read,
      `pictures_per_chunk` drawn, `frames_written_per_chunk` written), `read_against_sort` by scene,
      and per number of chunks under `after_chunks` a dict with `latent` (elements, bytes, write_ms,
      read_ms) and `rgb` (elements, bytes, write_ms, raster_ms, encode_ms, read_ms = raster +
      encode, or None without `encode`).
    """
    written = (chunk_frames - 1) // TEMPORAL_STRIDE
    grid, channels = conditioner.grid(size), conditioner.token_channels
    after = {
        str(n): _after(
            n, size, grid, channels, written, chunk_frames, conditioner.read, encode, repeats, seed
        )
        for n in chunks
    }
    return {
        "device": str(jax.devices()[0].device_kind),
        "size": list(size),
        "grid": list(grid),
        "channels": channels,
        "read_grid": [conditioner.fine * cells for cells in grid],
        "poses_per_chunk": conditioner.reads * latents_of_frames(chunk_frames),
        "pictures_per_chunk": chunk_frames,
        "frames_written_per_chunk": written,
        "read_against_sort": {
            scene: read_against_sort(scene=scene, **(read_benchmark or {}))
            for scene in ("all_in_view", "room")
        },
        "after_chunks": after,
    }


def _after(
    chunks: int,
    size: tuple[int, int],
    grid: tuple[int, int],
    channels: int,
    frames_written: int,
    chunk_frames: int,
    read_latent: Callable[..., Array],
    encode: Callable[[Array], Any] | None,
    repeats: int,
    seed: int,
) -> dict[str, Any]:
    """Fills both memories to `chunks` chunks, then times the last write and one read of each."""
    frames = chunks * frames_written
    camera, depth = room(frames, size, size)
    rng = np.random.default_rng(seed)
    tokens = rng.normal(size=(frames, *grid, channels)).astype(np.float32)
    video = rng.integers(0, 256, (frames, *size, 3), np.uint8)
    targets = np.linspace(0, frames - 1, chunk_frames).round().astype(int)
    views = jax.tree.map(jnp.asarray, camera[targets])

    results = {}
    for kind in ("latent", "rgb"):
        values: Any = tokens if kind == "latent" else video
        per_frame = grid[0] * grid[1] if kind == "latent" else size[0] * size[1]
        mem = (
            memory.create(frames * per_frame, channels)
            if kind == "latent"
            else rgb_cloud.create(frames * per_frame)
        )
        write = jax.jit(memory.write)
        read = jax.jit(read_latent if kind == "latent" else partial(rgb_cloud.read, grid=size))
        before = mem
        for chunk in range(chunks):
            part = slice(chunk * frames_written, (chunk + 1) * frames_written)
            before = mem
            last = jax.tree.map(jnp.asarray, (values[part], depth[part], camera[part]))
            mem, _ = write(mem, *last)
        calls = [partial(write, before, *last), partial(read, mem, views)]
        write_ms, read_ms = (times.ms for times in median_times(calls, repeats))
        entry: dict[str, Any] = {
            "elements": int(mem.count),
            "bytes": memory.nbytes(mem) if kind == "latent" else rgb_cloud.nbytes(mem),
            "write_ms": write_ms,
        }
        if kind == "latent":
            entry["read_ms"] = read_ms
        else:
            encode_ms = None
            if encode is not None:
                (times,) = median_times([partial(encode, read(mem, views).tokens)], repeats)
                encode_ms = times.ms
            entry["raster_ms"] = read_ms
            entry["encode_ms"] = encode_ms
            entry["read_ms"] = None if encode_ms is None else read_ms + encode_ms
        results[kind] = entry
    return results


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
