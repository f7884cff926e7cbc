"""A world whose memory lies in tiles: before a chunk what it may show, after it what is new."""

from __future__ import annotations

import math

import jax.numpy as jnp

from mirage_jax.geometry import Camera
from mirage_jax.memory.tiles import Gathered, TiledMemory
from mirage_jax.world.model import WorldModel
from mirage_jax.world.state import World


def check(tiles: TiledMemory, world: World, model: WorldModel) -> None:
    """Checks that a rollout of this world can use these tiles.

    Raises:
      ValueError: if they hold other frames or channels than the world's memory, what is written
        is fused, or references are chosen by what the whole memory holds.
    """
    found = tiles.counters["frames"], tiles.channels
    expected = int(world.bank.frames), world.bank.channels
    if found != expected:
        raise ValueError(
            f"tiles: found {found[0]} written frames of {found[1]} channels, expected the world's "
            f"{expected[0]} of {expected[1]}"
        )
    if model.memory.fuse:
        raise ValueError(
            "memory: fuse: found True, which rewrites and frees elements of the whole memory, "
            "expected False for a memory in tiles, which is appended to"
        )
    options = model.context_frames
    if options.references and options.choice != "coverage":
        raise ValueError(
            f"context_frames: choice: found {options.choice!r}, which goes through the whole "
            "memory, expected 'coverage' for a memory in tiles"
        )


def gather(tiles: TiledMemory, model: WorldModel, camera: Camera) -> Gathered:
    """What a chunk of these cameras may show, with room for what it may write."""
    written = len(range(*model.written_frames(len(camera), fresh=True).indices(len(camera))))
    room = model.conditioner.create(written * math.prod(model.grid)).capacity
    # Cells may stand for their corners: then half a cell about the picture is seen too.
    return tiles.gather(camera, margin=float(model.conditioner.stride), room=room)


def absorb(tiles: TiledMemory, gathered: Gathered, before: World, after: World) -> World:
    """Writes to the tiles what a chunk wrote.

    Args:
      tiles: the whole memory.
      gathered: what the chunk saw of it.
      before: the world with that.
      after: the world that the chunk left.

    Returns:
      That world, its context frames numbering elements as the whole memory does.
    """
    shift = tiles.count - int(gathered.used)
    tiles.absorb(gathered, after.bank)
    old, new = before.context_frames, after.context_frames
    if old is None or new is None:
        return after
    slots = jnp.arange(len(new.elements))
    added = (slots >= old.keyframes.count) & (slots < new.keyframes.count)
    elements = new.elements + jnp.where(added, shift, 0)
    return after.replace(  # type: ignore[attr-defined]
        context_frames=new.replace(elements=elements)  # type: ignore[attr-defined]
    )
