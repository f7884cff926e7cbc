"""Rollout: a world walked along a camera path, chunk by chunk (paper, Algorithm 1).

A rollout of any length needs no more device memory than one chunk, the bank and the frames that may
be shown again.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray, UInt8

from mirage_jax import memory
from mirage_jax.geometry import Camera, check_cam2world
from mirage_jax.world.conditioners import TEMPORAL_STRIDE, latents_of_frames
from mirage_jax.world.latent_encoder import LatentEncoder, to_uint8
from mirage_jax.world.model import World, WorldModel, check_world

Look = Callable[
    [UInt8[np.ndarray, "k height width 3"], list[int], Camera, Float[np.ndarray, "k h w"]],
    tuple[Float[np.ndarray, "k dh dw"], Float[np.ndarray, "k sh sw"] | None],
]
"""A source of depth that is not the model's head: pictures, their numbers along the path,
cameras, and the depth of what the memory already holds of them (0 = nothing) to depth in
metres (0 = unknown, inf = sky) and, where it knows, what stands still (1) and what moves (0)."""


@flax.struct.dataclass
class Chunk:
    """What `rollout` hands to its callback.

    Attributes:
      index: number of the chunk, from 0.
      video: its new frames (the very first picture included in chunk 0), uint8 [T, H, W, 3].
      world: the state after the chunk.
      report: what was written to memory.
      references: slots of the past's frames that it was shown.
      preceding: latents of the chunk before that it was shown.
    """

    index: int
    video: UInt8[np.ndarray, "t height width 3"]
    world: World
    report: memory.WriteReport
    references: tuple[int, ...] = ()
    preceding: int = 0


def chunks_of_path(poses: int, chunk_frames: int, name: str = "camera path") -> int:
    """Chunks that a path of `poses` poses (the first one being the picture's) makes.

    Raises:
      ValueError: naming `name`, unless poses = 1 + n (chunk_frames - 1), n >= 1.
    """
    count, rest = divmod(poses - 1, chunk_frames - 1)
    if rest or count < 1:
        step = chunk_frames - 1
        below, above = 1 + max(count, 1) * step, 1 + (max(count, 0) + 1) * step
        raise ValueError(
            f"{name}: found {poses} poses, expected 1 + {step} n, for example "
            f"{below} or {max(above, below + step)}"
        )
    return count


def chunk_bounds(poses: int, chunk_frames: int) -> list[tuple[int, int]]:
    """First and last pose of every chunk of a path whose last chunk may be a short one.

    Raises:
      ValueError: unless both are 1 + 4 n, n >= 1.
    """
    for name, count in (("camera path", poses), ("chunk", chunk_frames)):
        if count <= TEMPORAL_STRIDE or (count - 1) % TEMPORAL_STRIDE:
            raise ValueError(
                f"{name}: found {count} poses, expected 1 + {TEMPORAL_STRIDE} n and at least "
                f"{1 + TEMPORAL_STRIDE}"
            )
    step = chunk_frames - 1
    return [(first, min(first + step, poses - 1)) for first in range(0, poses - 1, step)]


def rollout(
    model: WorldModel,
    world: World,
    path: Float[np.ndarray, "f 4 4"],
    key: PRNGKeyArray,
    on_chunk: Callable[[Chunk], None] | None = None,
    *,
    intrinsics: Float[np.ndarray, "f 4"] | None = None,
    look: Look | None = None,
    short_last: bool = False,
) -> World:
    """Walks a world along a camera path, chunk by chunk.

    The device holds one chunk and the memory, whatever the length of the path: keep what you need
    of the frames in `on_chunk`.

    Args:
      model: the trained parts.
      world: where to start; its pose is the path's first.
      path: cam2world of every frame, the first being the frame the world is at.
      key: randomness; chunk n uses `fold_in(key, n)`, n counted from the start of the world, so
        that a continued world gives what an unbroken one would.
      on_chunk: called after each chunk.
      intrinsics: of every frame; by default the world's.
      look: depth of what was generated; by default the model's head tells.
      short_last: whether the last chunk may be shorter than the others.

    Raises:
      ValueError: on a path of the wrong length, bad poses, or one that starts elsewhere; or if the
        world is another model's.
    """
    check_world(world, model)
    poses = check_cam2world(path, "camera path")
    if not short_last:
        chunks_of_path(len(poses), model.chunk_frames)
    bounds = chunk_bounds(len(poses), model.chunk_frames)
    gap = float(np.abs(poses[0] - np.asarray(world.cam2world)).max())
    if gap > 1e-3:
        raise ValueError(
            f"camera path: its first pose is {gap:.3g} away from the world's, expected the same"
        )
    advance, decode = jax.jit(WorldModel.advance), jax.jit(LatentEncoder.decode)
    in_parts = _in_parts(model, look)
    whole = look is None and intrinsics is None and world.past is None and model.layout == "folded"
    step = model.chunk_frames - 1
    for first, last in bounds:
        number = -((1 - int(world.frames)) // step)  # a short chunk counts as one
        chunk_poses = jnp.asarray(poses[first : last + 1], jnp.float32)
        chunk_key = jax.random.fold_in(key, number)
        fresh = int(world.frames) == 1
        shown: dict[str, Any] = {}
        if whole:
            world, latents, report = advance(model, world, chunk_poses, chunk_key)
            pictures = None
        else:
            lens = world.intrinsics if intrinsics is None else intrinsics[first : last + 1]
            lens = jnp.broadcast_to(jnp.asarray(lens, jnp.float32), (len(chunk_poses), 4))
            camera = Camera(lens, chunk_poses, model.size)
            world, latents, pictures, report, shown = in_parts(world, camera, chunk_key, fresh)
        if on_chunk is not None:
            if pictures is None:
                pictures = decode(model.encoder, latents[None])[0]
            video = to_uint8(pictures)
            on_chunk(Chunk(number, video if fresh else video[1:], world, report, **shown))
    return world


def _in_parts(model: WorldModel, look: Look | None) -> Callable[..., tuple[Any, ...]]:
    """`WorldModel.advance` in parts: with references, and the host may look at the pictures."""
    choose, generate = jax.jit(WorldModel.choose), jax.jit(WorldModel.generate)
    remember = jax.jit(WorldModel.remember, static_argnames="fresh")
    held_depth, decode = jax.jit(WorldModel.held_depth), jax.jit(LatentEncoder.decode)
    encode_white = jax.jit(LatentEncoder.encode_white, static_argnums=(1, 2))
    scores: dict[int, Array] = {}

    def advance(world: World, camera: Camera, key: PRNGKeyArray, fresh: bool) -> tuple[Any, ...]:
        slots, preceding, score = None, 0, None
        if world.past is not None:
            preceding = model.shown_before(world.past)
            if model.references:
                slots = choose(model, world.past, world.bank, camera)
        if model.layout == "score":
            count = latents_of_frames(len(camera)) + preceding
            if count not in scores:
                scores[count] = encode_white(model.encoder, count, model.size)
            score = scores[count]
        latents, context = generate(model, world, camera, key, slots, score)
        pictures = decode(model.encoder, latents[None])[0]
        depth = static = None
        if look is not None:
            written = model.written_frames(len(camera), fresh)
            seen, done = camera[written], int(world.frames) - 1
            numbers = [done + i for i in range(len(camera))[written]]
            held = np.asarray(held_depth(model, world.bank, seen))
            depth, static = look(to_uint8(pictures[written]), numbers, seen, held)
        world, report = remember(
            model,
            world,
            latents,
            context,
            camera,
            pictures=pictures,
            depth=depth,
            static=static if model.static_only else None,
            fresh=fresh,
        )
        found = () if slots is None else tuple(int(n) for n in np.asarray(slots) if n >= 0)
        shown = {"references": found, "preceding": preceding}
        return world, latents, pictures, report, shown

    return advance
