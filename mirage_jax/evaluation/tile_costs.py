"""What reading a memory in tiles costs, against a memory that holds nothing but what is in view.

Both are read in turns in the same run, since times of different runs on a shared machine do not
compare.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from mirage_jax import memory
from mirage_jax.evaluation.efficiency import room
from mirage_jax.evaluation.stopwatch import median_times
from mirage_jax.geometry import Camera
from mirage_jax.memory import readout
from mirage_jax.memory.bank import COUNTERS
from mirage_jax.memory.tiles import TiledMemory

FRAMES_PER_ROOM = 30
"""Frames that look once around each room: about half of what they show is in a view."""
APART = 10.0
"""Metres from room to room along x; a view along z sees its own room alone."""


def measure(
    elements: int,
    *,
    place: str = "host",
    channels: int = 48,
    grid: tuple[int, int] = (44, 80),
    poses: int = 20,
    repeats: int = 15,
    seed: int = 0,
    on_write: Callable[[int], Any] | None = None,
) -> dict[str, Any]:
    """Times views of a street of rooms, in the middle of it.

    Args:
      elements: of the whole memory.
      place: where it lies, see `memory.tiles.TiledMemory`.
      channels: of a token.
      grid: cells `(h, w)` of the frames that are written and of the read.
      poses: of a chunk, which turn by 23 degrees in all.
      repeats: runs per median.
      seed: of the tokens.
      on_write: told how many elements are written so far.

    Returns:
      Sizes (`elements`, `bytes`, `channels`, `grid`, `poses`), `place`, and under `view` and
      `chunk` dicts with `in_view` (elements that some pose shows or hides), `alone_ms` (reading a
      memory of these elements alone), `tiled_ms`, `ratio` of the two, `cpu_ratio` of their CPU
      times (which a machine that does other things too changes less) and `identical`: whether the
      tokens and depths are the same. A `view` is read by `TiledMemory.read`; a `chunk` is gathered
      and read at all its poses, as a rollout does; `gathered` are the elements in its tiles.
    """
    size = (16 * grid[0], 16 * grid[1])
    tiled, camera = street(elements, grid, size, channels, place, seed, on_write)
    middle = elements // (FRAMES_PER_ROOM * grid[0] * grid[1]) // 2 * APART
    chunk = _turning(camera, middle, poses)
    view = jax.tree.map(lambda leaf: leaf[poses // 2], chunk)
    gather = partial(tiled.gather, chunk)
    gathered = gather()
    read = jax.jit(partial(memory.read, grid=grid))
    races = {}
    for name, cameras, ours in (
        ("view", view, lambda: tiled.read(view, grid)),
        ("chunk", chunk, lambda: read(gather().memory, chunk)),
    ):
        alone, count = _in_view(gathered.memory, cameras, grid)
        theirs = partial(read, alone, cameras)
        a, b = theirs(), ours()
        same = [np.array_equal(getattr(a, key), getattr(b, key)) for key in ("tokens", "depth")]
        alone_times, tiled_times = median_times([theirs, ours], repeats)
        races[name] = {
            "in_view": count,
            "alone_ms": alone_times.ms,
            "tiled_ms": tiled_times.ms,
            "ratio": tiled_times.ms / alone_times.ms,
            "cpu_ratio": tiled_times.cpu_ms / max(alone_times.cpu_ms, 1e-6),
            "identical": all(same),
        }
    return {
        "device": str(jax.devices()[0].device_kind),
        "place": place,
        "elements": tiled.count,
        "bytes": tiled.nbytes,
        "channels": channels,
        "grid": list(grid),
        "poses": poses,
        "gathered": int(gathered.memory.valid.sum()),
        **races,
    }


def street(
    elements: int,
    grid: tuple[int, int],
    size: tuple[int, int],
    channels: int,
    place: Any = "host",
    seed: int = 0,
    on_write: Callable[[int], Any] | None = None,
) -> tuple[TiledMemory, Camera]:
    """A memory of equal rooms side by side, and the cameras that look around the first of them."""
    camera, depth = room(FRAMES_PER_ROOM, size, grid)
    cells = depth.size
    mem = memory.create(cells, channels)
    tokens = np.random.default_rng(seed).standard_normal((*depth.shape, channels), np.float32)
    mem, _ = jax.jit(memory.write)(mem, tokens, depth, camera)
    mem = jax.tree.map(np.asarray, mem)
    tiled = TiledMemory(channels, place=place)
    for start in range(0, elements, cells):
        shift = np.array([start // cells * APART, 0, 0], np.float32)
        here = mem.replace(xyz=mem.xyz + shift, origin=mem.origin + shift)
        tiled.append(here, 0, min(cells, elements - start))
        if on_write is not None:
            on_write(tiled.count)
    return tiled, camera


def _turning(camera: Camera, x: float, poses: int) -> Camera:
    angle = np.linspace(-0.2, 0.2, poses)
    pose = np.tile(np.eye(4, dtype=np.float32), (poses, 1, 1))
    pose[:, 0, 0] = pose[:, 2, 2] = np.cos(angle)
    pose[:, 0, 2], pose[:, 2, 0] = np.sin(angle), -np.sin(angle)
    pose[:, 0, 3] = x
    lens = np.tile(np.asarray(camera.intrinsics[0], np.float32), (poses, 1))
    return jax.tree.map(jnp.asarray, Camera(lens, pose, camera.size))


def _in_view(
    mem: memory.LatentMemory, camera: Camera, grid: tuple[int, int]
) -> tuple[memory.LatentMemory, int]:
    """A memory of the elements that fall into a cell of some view, in their order."""

    @jax.jit
    def seen(mem: memory.LatentMemory, camera: Camera) -> Any:
        views = readout.flatten(camera)
        return readout.project_to_cells(mem.xyz, mem.valid, views, grid).inside.any(axis=0)

    kept = np.flatnonzero(seen(mem, camera))
    rows = {
        name: getattr(mem, name) if name in COUNTERS else getattr(mem, name)[kept]
        for name in mem.__dataclass_fields__
    }
    return memory.LatentMemory(**rows), len(kept)
