"""A world that starts from many posed pictures, a few at a time: as many as a capture has."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from mirage_jax.geometry import Camera
from mirage_jax.world import moving, posed_pictures
from mirage_jax.world.latent_encoder import to_model_range
from mirage_jax.world.model import WorldModel
from mirage_jax.world.state import World

BATCH = 16
"""Pictures that are encoded and written at once, by default."""


def start_from_capture(
    model: WorldModel,
    pictures: UInt8[np.ndarray, "k height width 3"],
    camera: Camera,
    *,
    depth: Float[np.ndarray, "k dh dw"] | None = None,
    static: Float[np.ndarray, "k sh sw"] | None = None,
    capacity: int | None = None,
    insist: bool = False,
    batch: int = BATCH,
) -> World:
    """A world whose memory was written from all pictures of a capture, and that is at the last.

    As `WorldModel.start`, but pictures are encoded and written `batch` at a time, each batch fused
    with what is known already: on the device nothing but the memory grows with their number.

    Args:
      model: what encodes and writes.
      pictures, camera, depth, static, capacity, insist: as of `WorldModel.start`.
      batch: pictures at once.

    Raises:
      ValueError: as `WorldModel.start`.
    """
    depths = posed_pictures.depth_of_pictures(depth, pictures, insist)
    still = posed_pictures.maps_of_pictures(static, pictures, "static")
    pictures, camera = posed_pictures.posed_pictures(pictures, camera, model.size, insist)
    camera, origin = posed_pictures.placed(camera, None)
    count = len(pictures)
    # What is left over goes first, so that there are two programs at most.
    first = count % batch or min(batch, count)
    capacity = model.memory.capacity if capacity is None else capacity
    begin = jax.jit(WorldModel.begin, static_argnums=(5, 6))
    more = jax.jit(_more)

    def part(array: Any, begin: int, end: int) -> Any:
        return None if array is None else array[begin:end]

    maps = part(depths, 0, first), part(still, 0, first)
    seen = to_model_range(pictures[:first])
    world = begin(model, seen, camera[:first], *maps, capacity, None)[0]
    for start in range(first, count, batch):
        end = start + batch
        seen = to_model_range(pictures[start:end])
        maps = part(depths, start, end), part(still, start, end)
        world = more(model, world, seen, camera[start:end], *maps)
    return world.replace(origin=moving.timed(origin, model.movers))  # type: ignore[attr-defined]


def _more(
    model: WorldModel,
    world: World,
    pictures: Float[Array, "k height width 3"],
    camera: Camera,
    depth: Float[Array, "k dh dw"] | None,
    static: Float[Array, "k sh sw"] | None,
) -> World:
    """The world after more pictures: what `WorldModel.begin` does with its first."""
    latents = model.encoder.encode_images(pictures)
    count = len(latents)
    bank, _, _, frames, bodies = model.observe(
        world.bank,
        latents,
        jnp.ones(count, bool),
        camera,
        (world.frames + jnp.arange(count)).astype(jnp.float32),
        pictures=pictures,
        depth=depth,
        static=static,
        frames=world.context_frames,
        movers=world.movers,
    )
    kept = world.context_frames if model.memory.rewrite_first else frames
    pose = jnp.asarray(camera.cam2world[-1], jnp.float32)
    lens = jnp.asarray(camera.intrinsics[-1], jnp.float32)
    number = world.frames + count
    return World(bank, latents[-1], pose, lens, number, kept, movers=bodies)
