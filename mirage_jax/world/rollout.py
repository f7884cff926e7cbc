"""Rollout: a world walked along a camera path, chunk by chunk (paper, Algorithm 1).

A rollout of any length needs no more device memory than one chunk, the bank and the context frames.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from mirage_jax import memory
from mirage_jax.chunks import chunk_bounds, chunks_of_path, latents_of_frames
from mirage_jax.geometry import Camera, check_cam2world, check_intrinsics
from mirage_jax.memory.tiles import TiledMemory
from mirage_jax.origin import Origin, check_positions
from mirage_jax.plausible import odd_intrinsics, refuse
from mirage_jax.world import on_mesh, tiled_world
from mirage_jax.world.chunk_step import ChunkStep, chunk_number
from mirage_jax.world.latent_encoder import to_uint8
from mirage_jax.world.model import WorldModel
from mirage_jax.world.state import World, check_world

DepthEstimator = Callable[
    [UInt8[np.ndarray, "k height width 3"], list[int], Camera, Float[np.ndarray, "k h w"]],
    tuple[Float[np.ndarray, "k dh dw"], Float[np.ndarray, "k sh sw"] | None],
]
"""Depth that is not the head's: pictures, their numbers along the path, cameras (relative to the
world's origin), and the depth of
what the memory already holds of them (0 = nothing) to depth in metres (0 = unknown, inf = sky) and,
where it is known, what stands still (1) and what moves (0)."""


@flax.struct.dataclass
class Chunk:
    """One step of a rollout.

    Attributes:
      index: number of the chunk, from 0 for a world that started from one picture.
      video: its new frames (the very first picture included in chunk 0), uint8 [T, H, W, 3].
      world: the state after the chunk.
      report: what was written to memory.
      references: slots of the reference frames that it was denoised beside.
      preceding: latents of the chunk before that it was denoised beside.
    """

    index: int
    video: UInt8[np.ndarray, "t height width 3"]
    world: World
    report: memory.WriteReport
    references: tuple[int, ...] = ()
    preceding: int = 0

    def __repr__(self) -> str:
        return f"Chunk(index={self.index}, video of {np.shape(self.video)}, {self.world})"


def rollout(
    model: WorldModel,
    world: World,
    path: Float[np.ndarray, "f 4 4"],
    key: PRNGKeyArray | int | None = None,
    *,
    intrinsics: Float[np.ndarray, "n 4"] | None = None,
    depth_estimator: DepthEstimator | None = None,
    short_last: bool = False,
    noise: Sequence[Float[Array | np.ndarray, "l h w c"]] | None = None,
    insist: bool = False,
    tiles: TiledMemory | None = None,
) -> Iterator[Chunk]:
    """Walks a world along a camera path, chunk by chunk.

    The device holds one chunk and the memory, whatever the length of the path: keep what you need
    of the frames. Everything is checked before the first chunk is asked for.

    Args:
      model: the trained parts.
      world: where to start; its pose is the path's first.
      path: cam2world of every frame, the first being the frame the world is at (`World.pose`), in
        the coordinates the world comes from; far from their zero as float64.
      key: randomness, or a seed of it; `jax.random.key(0)` by default. Chunk n uses
        `fold_in(key, n)`, n counted from the start of the world, so that a continued world gives
        what an unbroken one would.
      intrinsics: of every frame; by default the world's.
      depth_estimator: of what was generated; by default the model's head.
      short_last: whether the last chunk may be shorter than the others.
      noise: of the latents of every chunk, standard normal, in place of what the key gives: for
        comparisons in which nothing else differs.
      insist: take intrinsics that look like other pictures'; those of a world that does are taken.
      tiles: the world's memory, if it is larger than the device: `tiles.from_memory(world.bank)`
        for a new world. It is read, and written to, in place of `world.bank`, which afterwards
        holds what the last chunk might show; the frames are those of a rollout without tiles.

    Raises:
      ValueError: on a path of the wrong length, bad poses or intrinsics, or one that starts
        elsewhere; on noise that does not fit the chunks; if the world is another model's, or the
        tiles another world's; if guidance is asked for without a text, another strength of a memory
        branch there is none of, or references in a way that needs the whole memory at once.
        While chunks are made: naming the chunk, if its latents are not finite.
    """
    check_world(world, model)
    step = ChunkStep(model)
    poses = check_cam2world(path, "camera path")
    if poses.ndim != 3:
        raise ValueError(f"camera path: found shape {poses.shape}, expected [frames, 4, 4]")
    if not short_last:
        chunks_of_path(len(poses), model.chunk_frames)
    bounds = chunk_bounds(len(poses), model.chunk_frames)
    poses = world.origin.relative(poses)
    gap = float(np.abs(poses[0] - np.asarray(world.cam2world)).max())
    if gap > 1e-3:
        raise ValueError(
            f"camera path: its first pose is {gap:.3g} away from the world's, expected the same"
        )
    check_positions(poses[:, :3, 3], "camera path")
    if intrinsics is not None:
        intrinsics = check_intrinsics(intrinsics, model.size)
        if intrinsics.shape != (len(poses), 4):
            raise ValueError(
                f"intrinsics: found shape {intrinsics.shape}, expected {(len(poses), 4)}, one for "
                "each pose"
            )
        known = odd_intrinsics(np.asarray(world.intrinsics), model.size)
        refuse("intrinsics", odd_intrinsics(intrinsics, model.size), insist or bool(known))
    if noise is not None:
        _check_noise(noise, bounds, (*model.grid, model.denoiser.in_channels))
    if tiles is not None:
        tiled_world.check(tiles, world, model)
    key = jax.random.key(key or 0) if key is None or isinstance(key, int) else key
    return _chunks(step, world, poses, key, bounds, intrinsics, depth_estimator, noise, tiles)


def _check_noise(noise: Any, bounds: list[tuple[int, int]], latent: tuple[int, ...]) -> None:
    expected = [(latents_of_frames(last + 1 - first), *latent) for first, last in bounds]
    found = [tuple(np.shape(each)) for each in noise]
    if found != expected:
        raise ValueError(
            f"noise: found {len(found)} arrays of shapes {found}, expected one for each chunk, of "
            f"shapes {expected}"
        )


def _chunks(
    step: ChunkStep,
    world: World,
    poses: np.ndarray,
    key: PRNGKeyArray,
    bounds: list[tuple[int, int]],
    intrinsics: np.ndarray | None,
    depth_estimator: DepthEstimator | None,
    noise: Any,
    tiles: TiledMemory | None,
) -> Iterator[Chunk]:
    model, memory_depth = step.model, jax.jit(WorldModel.memory_depth)

    # What is compiled would be compiled again for every other origin.
    origin, world = world.origin, world.replace(origin=Origin())  # type: ignore[attr-defined]
    if tiles is None:
        world = on_mesh.place_world(world)
    for position, (first, last) in enumerate(bounds):
        done = int(world.frames)
        number = chunk_number(done, model.chunk_frames)
        chunk_poses = jnp.asarray(poses[first : last + 1], jnp.float32)
        lens = world.intrinsics if intrinsics is None else intrinsics[first : last + 1]
        lens = jnp.broadcast_to(jnp.asarray(lens, jnp.float32), (len(chunk_poses), 4))
        camera = Camera(lens, chunk_poses, model.size)

        gathered = None
        if tiles is not None:
            gathered = tiled_world.gather(tiles, model, camera)
            world = world.replace(bank=gathered.memory)  # type: ignore[attr-defined]

        given = None if noise is None else noise[position]
        generated = step.generate(world, camera, key, number, given)
        fresh, depth, static = done == 1, None, None
        if depth_estimator is not None:
            written = model.written_frames(len(camera), fresh)
            seen = camera[written]
            frames = [done - 1 + i for i in range(len(camera))[written]]
            known = np.asarray(memory_depth(model, world.bank, seen))
            depth, static = depth_estimator(
                to_uint8(generated.pictures[written]), frames, seen, known
            )
        before = world
        world, report = step.remember(
            world,
            generated,
            camera,
            depth=depth,
            static=static if model.memory.static_only else None,
        )
        if tiles is not None and gathered is not None:
            world = tiled_world.absorb(tiles, gathered, before, world)
        video, slots = to_uint8(generated.pictures), generated.slots
        yield Chunk(
            number,
            video if fresh else video[1:],
            world.replace(origin=origin),  # type: ignore[attr-defined]
            report,
            () if slots is None else tuple(int(n) for n in np.asarray(slots) if n >= 0),
            generated.preceding,
        )
