"""Edits of a world: what the memory is made to forget or hold elsewhere, the rest of the state must
not bring back.

Beside the memory a world has its last frame, from which the next chunk starts, and context frames,
beside which chunks are denoised. Those that show a place where the memory now shows something else
would bring it back.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from mirage_jax import memory
from mirage_jax.geometry import Camera
from mirage_jax.memory import LatentMemory, edit
from mirage_jax.memory.edit import InsertReport
from mirage_jax.origin import check_positions
from mirage_jax.world import on_mesh
from mirage_jax.world.context_frames import ContextFrames
from mirage_jax.world.state import World


@dataclasses.dataclass(frozen=True)
class EditOutcome:
    """What an edit did to a world, beside the memory itself.

    Attributes:
      memory: elements that were added, removed and changed.
      reference_frames: context frames that are no longer chosen, as they show what was changed.
      preceding_latents: latents that no longer precede the next chunk, for the same reason.
      last_frame_cells: cells of the last frame that show what was changed.
      last_frame_mended: those of them that now hold what the memory shows there.
    """

    memory: dict[str, int]
    reference_frames: int = 0
    preceding_latents: int = 0
    last_frame_cells: int = 0
    last_frame_mended: int = 0


def edit_world(
    world: World,
    change: Callable[[LatentMemory], tuple[LatentMemory, Any]],
    size: tuple[int, int],
    *,
    cells: str = "centre",
    mend: bool = True,
) -> tuple[World, EditOutcome]:
    """Edits the memory of a world, and what else shows the places that are changed.

    A frame shows a change if the memory, read out at its camera, does. Such reference frames are
    not chosen any more and such preceding latents are left out; in the last frame those cells take
    the tokens that the memory shows now. Where it shows nothing, as nobody ever looked behind what
    was deleted, they stay as they are: turn the camera away before the edit.

    Args:
      world: the world.
      change: of the memory, e.g. `lambda mem: edit.delete(mem, region)`; what it gives beside the
        memory is not looked at.
      size: (H, W) of the pictures that the world's intrinsics belong to.
      cells: which point of a cell its token stands for, see `memory.read`.
      mend: whether the last frame is changed.

    Raises:
      ValueError: if an element comes to lie farther away than float32 keeps it.
    """
    bank, _ = change(world.bank)
    _check_places(bank, "edit")
    counts = edit.diff(world.bank, bank).counts()
    grid = (int(world.latent.shape[0]), int(world.latent.shape[1]))
    camera = Camera(jnp.asarray(world.intrinsics), jnp.asarray(world.cam2world), size)
    shows = changed_cells(world.bank, bank, camera, grid, cells)

    kept, forgotten, preceding = world.context_frames, 0, 0
    if kept is not None:
        stale = stale_frames(kept, world.bank, bank, cells)
        forgotten = int(stale.sum())
        slots = jnp.arange(len(stale)) - (kept.keyframes.count - len(kept.recent))
        newest = (slots >= 0) & (slots < len(kept.recent))
        if bool(shows.any() | (stale & newest).any()):
            preceding = len(kept.recent)
        kept = _without(kept, stale, preceding > 0)

    latent, now = world.latent, _read(bank, camera, grid, cells=cells)
    mended = shows & (now.visible > 0)
    same_kind = (now.tokens.shape, now.tokens.dtype) == (latent.shape, latent.dtype)
    if mend and same_kind:
        latent = jnp.where(mended[..., None], now.tokens, latent)
    else:
        mended = jnp.zeros_like(mended)
    outcome = EditOutcome(counts, forgotten, preceding, int(shows.sum()), int(mended.sum()))
    changed = {"bank": bank, "latent": latent, "context_frames": kept}
    return on_mesh.place_world(world.replace(**changed)), outcome  # type: ignore[attr-defined]


def merge_worlds(
    world: World, other: World, pose: Float[np.ndarray, "4 4"], *, voxel: float = 0.0
) -> tuple[World, InsertReport]:
    """Adds what another world remembers, with room for all of it.

    The rollout goes on where the first ended. Frames of the other, its context frames too, are
    numbered after those of the first; its last frame counts as of the same time.

    Args:
      world: goes on.
      other: is added, with its reference frames if both have some of one size.
      pose: rigid, from the other's world to the first's, see `alignment.estimate_pose`.
      voxel: see `edit.merge`.

    Raises:
      ValueError: if an element comes to lie farther away than float32 keeps it.
    """
    pose = pose.astype(np.float32)
    room = int(jnp.sum(other.bank.valid)) - int(jnp.sum(~world.bank.valid))
    bank = edit.with_capacity(world.bank, world.bank.capacity + max(room, 0))
    later = (world.frames - other.frames).astype(jnp.float32)
    bank, report = edit.merge(bank, other.bank, pose, time=later, voxel=voxel)
    _check_places(bank, "merge")
    kept: Any = world.context_frames
    theirs: Any = other.context_frames
    both = kept is not None and theirs is not None
    if both and kept.latents.shape[1:] == theirs.latents.shape[1:]:
        kept = _joined(kept, theirs, pose, world.frames, bank.count)
    return world.replace(bank=bank, context_frames=kept), report  # type: ignore[attr-defined]


def _check_places(mem: LatentMemory, name: str) -> None:
    check_positions(np.asarray(mem.xyz)[np.asarray(mem.valid)], name)


def _joined(
    frames: ContextFrames, other: ContextFrames, pose: np.ndarray, first: Array, elements: Array
) -> ContextFrames:
    """Both context frames, the used slots of the second behind those of the first."""
    ours, theirs = int(frames.keyframes.count), int(other.keyframes.count)
    known = other.keyframes
    numbers = jnp.where(known.frame < 0, -1, known.frame + first)
    moved = known.replace(  # type: ignore[attr-defined]
        cam2world=jnp.asarray(pose @ np.asarray(known.cam2world)), frame=numbers
    )

    def joined(one: Array, two: Array) -> Array:
        return jnp.concatenate([one[:ours], two[:theirs], one[ours:]])

    names = ("depth", "intrinsics", "cam2world", "frame")
    stores = {n: joined(getattr(frames.keyframes, n), getattr(moved, n)) for n in names}
    keyframes = frames.keyframes.replace(  # type: ignore[attr-defined]
        **stores,
        count=frames.keyframes.count + theirs,
        dropped=frames.keyframes.dropped + known.dropped,
    )
    # Theirs cover elements in whichever slots were free, so that all of them count.
    covered = jnp.where(other.elements > 0, elements, 0).astype(jnp.int32)
    return frames.replace(  # type: ignore[attr-defined]
        keyframes=keyframes,
        latents=joined(frames.latents, other.latents),
        elements=joined(frames.elements, covered),
    )


def compact_world(world: World) -> World:
    """`memory.edit.compact`, with the numbers of elements in the context frames to match."""
    kept = world.context_frames
    if kept is not None:
        before = jnp.concatenate([jnp.zeros(1, jnp.int32), jnp.cumsum(world.bank.valid)])
        numbers = before[kept.elements].astype(jnp.int32)
        kept = kept.replace(elements=numbers)  # type: ignore[attr-defined]
    changed = {"bank": edit.compact(world.bank), "context_frames": kept}
    return world.replace(**changed)  # type: ignore[attr-defined]


@functools.partial(jax.jit, static_argnames=("grid", "cells"))
def changed_cells(
    before: LatentMemory,
    after: LatentMemory,
    camera: Camera,
    grid: tuple[int, int],
    cells: str = "centre",
) -> Bool[Array, "*v h w"]:
    """Cells in which two states of a memory do not show the same.

    Args:
      before: one state.
      after: the other.
      camera: from where they are looked at, any leading dimensions.
      grid: cells (h, w) of a view.
      cells: see `memory.read`.
    """
    one, other = (memory.read(mem, camera, grid, cells=cells) for mem in (before, after))
    differs = jnp.any(one.tokens != other.tokens, axis=-1)
    return differs | (one.visible != other.visible) | (one.depth != other.depth)


@functools.partial(jax.jit, static_argnames="cells")
def stale_frames(
    frames: ContextFrames, before: LatentMemory, after: LatentMemory, cells: str = "centre"
) -> Bool[Array, " k"]:
    """Which context frames show a place where two states of a memory do not show the same."""
    cameras = frames.keyframes.cameras
    used = jnp.arange(len(frames.elements)) < frames.keyframes.count

    def shows(pose: tuple[Array, Array]) -> Array:
        camera = Camera(*pose, cameras.size)
        return changed_cells(before, after, camera, cameras.size, cells).any()

    # One frame at a time: reading takes room for all elements at every pose.
    return used & jax.lax.map(shows, (cameras.intrinsics, cameras.cam2world))


_read = jax.jit(memory.read, static_argnames=("grid", "cells"))


def _without(frames: ContextFrames, stale: Array, preceding: bool) -> ContextFrames:
    """Context frames of which the stale ones are never chosen, and maybe none precede."""
    known = frames.keyframes
    keyframes = known.replace(  # type: ignore[attr-defined]
        depth=jnp.where(stale[:, None, None], 0.0, known.depth),
        frame=jnp.where(stale, -1, known.frame),
    )
    length = 0 if preceding else len(frames.recent)
    return frames.replace(  # type: ignore[attr-defined]
        keyframes=keyframes,
        latents=jnp.where(stale[:, None, None, None], 0.0, frames.latents),
        elements=jnp.where(stale, 0, frames.elements),
        recent=frames.recent[:length],
        context=frames.context[:length],
    )
