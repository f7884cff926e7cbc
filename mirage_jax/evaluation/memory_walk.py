"""What a memory costs on a long walk: elements, bytes and milliseconds, fused and appended.

The walk goes to and fro along a recorded clip, true pictures at true poses, so that after the first
pass nothing new is to be seen: whatever still grows then is what fusion does not recognise. What is
written is what a rollout writes, tokens and depth of the geometry head.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, UInt8

from mirage_jax import memory
from mirage_jax.evaluation.stopwatch import median_times
from mirage_jax.geometry import Camera
from mirage_jax.memory import LatentMemory, WriteReport, edit
from mirage_jax.world import WorldModel
from mirage_jax.world.latent_encoder import LatentEncoder, to_model_range

COUNTS = ("written", "fused", "contradicted", "evicted", "dropped")


@dataclasses.dataclass(frozen=True)
class WalkedClip:
    """A recorded clip to walk along.

    Attributes:
      video: its pictures, of the model's size.
      intrinsics: `fx, fy, cx, cy` in pixels.
      cam2world: its poses.
    """

    video: UInt8[np.ndarray, "f height width 3"]
    intrinsics: Float[np.ndarray, "4"]
    cam2world: Float[np.ndarray, "f 4 4"]


def to_and_fro(frames: int, length: int, chunk: int) -> Int[np.ndarray, " length"]:
    """Numbers of the frames of a chunk of a walk from the first frame to the last and back.

    Chunks share a frame. The walk turns one frame before the last of the clip, so that chunks of
    half its length do not begin at the same frames again and again.
    """
    path = [*range(frames - 1), *range(frames - 3, 0, -1)]
    start = chunk * (length - 1)
    return np.take(path, np.arange(start, start + length), mode="wrap")


def measure(
    model: WorldModel,
    clips: Mapping[str, Sequence[WalkedClip]],
    *,
    chunks: int,
    repeats: int = 7,
    advance: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """Walks along clips of every world with three memories.

    "fused" has the model's capacity, "tight" half of what that held in the end, "appended" room for
    all. Elements and bytes are means over the clips. Reading is timed on the first clip, all
    memories in turns: as it is, and of its elements alone without the free slots between them.

    Args:
      model: encoder, head and conditioner of a trained work directory.
      clips: by world, one at least of each.
      chunks: of a walk.
      repeats: runs per median.
      advance: called after each memory of each clip, `3 * clips` times.

    Returns:
      A dict ready for JSON: `chunks`, `device`, `match` and under `worlds`, by world and memory,
      `capacity`, `after_chunks` (by number: `elements`, `bytes`, `read_ms`, `compact_read_ms` and
      `read_ratio` of the two), `growth` (of elements over the last half of the walk), `aligned`
      (share of frames whose depth was scaled) and what became of all cells.

    Raises:
      ValueError: if the model's memory is not one that can be fused, or for fewer than two chunks.
    """
    if chunks < 2:
        raise ValueError(f"chunks: found {chunks}, expected at least 2")
    model = _with_memory(model, fuse=True)
    fusion = model.memory.fusion(model.context_frames)
    if (
        fusion is None
        or model.conditioner.stores != "tokens"
        or model.conditioner.cells != "centre"
    ):
        raise ValueError(
            f"conditioner: found {model.conditioner.kind!r} with cells "
            f"{model.conditioner.cells!r}, expected one that fuses tokens of cells 'centre'"
        )
    worlds = {name: _world(model, some, chunks, repeats, advance) for name, some in clips.items()}
    return {
        "chunks": chunks,
        "chunk_frames": model.chunk_frames,
        "device": str(jax.devices()[0].device_kind),
        "match": model.memory.match,
        "worlds": worlds,
    }


def _world(
    model: WorldModel,
    clips: Sequence[WalkedClip],
    chunks: int,
    repeats: int,
    advance: Callable[[], object],
) -> dict[str, Any]:
    marks = sorted({1, min(10, chunks), chunks // 2, chunks})
    cells = int(np.prod(model.grid))
    found: dict[str, Any] = {}
    kept: dict[str, list[LatentMemory]] = {}
    keyframes = range(model.chunk_frames)[model.written_frames(model.chunk_frames)]
    everything = cells * (1 + chunks * len(keyframes))
    encoded = [_encode(model, clip, chunks) for clip in clips]
    for name in ("fused", "tight", "appended"):
        capacity = model.memory.capacity
        if name == "tight":
            capacity = max(int(found["fused"]["after_chunks"][str(chunks)]["elements"]) // 2, cells)
        elif name == "appended":
            capacity = everything
        walker = _with_memory(model, fuse=name != "appended")
        walks = []
        for walk in encoded:
            walks.append(list(_walk(walker, walk, capacity, marks)))
            advance()
        found[name] = _summary(walks, capacity, marks, chunks)
        kept[name] = [bank for bank, *_ in walks[0] if bank is not None]
    for place, mark in enumerate(marks):
        banks = {name: kept[name][place] for name in kept}
        for name, times in _read_times(model, clips[0], mark - 1, banks, repeats).items():
            found[name]["after_chunks"][str(mark)] |= times
    return found


class _Seen(NamedTuple):
    """What there is to write of a chunk, or of the first picture, and when."""

    latents: Float[Array, "l h w c"]
    is_image: Bool[Array, " l"]
    camera: Camera
    times: Float[Array, " k"]


def _encode(model: WorldModel, clip: WalkedClip, chunks: int) -> list[_Seen]:
    """The first picture and all chunks of a walk, each encoded once, as rollouts encode theirs."""
    images = partial(jax.jit(LatentEncoder.encode_images), model.encoder)
    video = partial(jax.jit(LatentEncoder.encode), model.encoder)
    latents = images(to_model_range(clip.video[:1]))
    zero = jnp.zeros(1, jnp.float32)
    walk = [_Seen(latents, jnp.ones(1, bool), _camera(model, clip, np.array([0])), zero)]
    known: dict[bytes, Array] = {}
    written = model.written_frames(model.chunk_frames)
    for chunk in range(chunks):
        frames = to_and_fro(len(clip.video), model.chunk_frames, chunk)
        if (latents := known.get(frames.tobytes())) is None:
            pictures = to_model_range(clip.video[frames])
            latents = (
                images(pictures[written]) if model.memory.reencode else video(pictures[None])[0]
            )
            known[frames.tobytes()] = latents
        is_image = jnp.arange(len(latents)) <= (len(latents) if model.memory.reencode else 0)
        times = chunk * (model.chunk_frames - 1) + np.arange(model.chunk_frames)[written]
        seen = _camera(model, clip, frames[written])
        walk.append(_Seen(latents, is_image, seen, jnp.asarray(times, jnp.float32)))
    return walk


def _write(model: WorldModel, bank: LatentMemory, seen: _Seen) -> tuple[LatentMemory, WriteReport]:
    return model.observe(bank, *seen)[:2]


def _walk(
    model: WorldModel, walk: Sequence[_Seen], capacity: int, marks: Sequence[int]
) -> Iterator[tuple[LatentMemory | None, int, int, dict[str, int], Any]]:
    """After each chunk: the memory if it is to be kept, elements, bytes, counts, depth scales."""
    write = jax.jit(_write)
    bank, _ = write(model, model.conditioner.create(capacity), walk[0])
    for number, seen in enumerate(walk[1:], 1):
        bank, report = write(model, bank, seen)
        counts = {name: int(getattr(report, name)) for name in COUNTS}
        scales = None if report.depth_scale is None else np.asarray(report.depth_scale)
        kept = bank if number in marks else None
        yield kept, int(bank.valid.sum()), memory.nbytes(bank), counts, scales


def _summary(
    walks: Sequence[Sequence[tuple]], capacity: int, marks: Sequence[int], chunks: int
) -> dict[str, Any]:
    elements = np.array([[step[1] for step in walk] for walk in walks])
    size = np.array([[step[2] for step in walk] for walk in walks])
    scales = [step[4] for walk in walks for step in walk if step[4] is not None]
    aligned = float(np.mean(np.concatenate(scales) != 1)) if scales else 0.0
    growth = elements[:, -1].mean() / max(elements[:, chunks // 2 - 1].mean(), 1) - 1
    return {
        "capacity": capacity,
        "after_chunks": {
            str(mark): {
                "elements": float(elements[:, mark - 1].mean()),
                "bytes": float(size[:, mark - 1].mean()),
            }
            for mark in marks
        },
        "growth": float(growth),
        "aligned": aligned,
        **{name: sum(step[3][name] for walk in walks for step in walk) for name in COUNTS},
    }


def _read_times(
    model: WorldModel, clip: WalkedClip, chunk: int, banks: Mapping[str, LatentMemory], repeats: int
) -> dict[str, dict[str, float]]:
    frames = to_and_fro(len(clip.video), model.chunk_frames, chunk)
    camera = _camera(model, clip, frames)
    read = jax.jit(partial(model.conditioner.read, encoder=model.encoder))
    both = [bank for found in banks.values() for bank in (found, _without_free_slots(found))]
    times = [time.ms for time in median_times([partial(read, b, camera) for b in both], repeats)]
    return {
        name: {"read_ms": whole, "compact_read_ms": small, "read_ratio": whole / small}
        for name, whole, small in zip(banks, times[::2], times[1::2], strict=True)
    }


def _without_free_slots(mem: LatentMemory) -> LatentMemory:
    small = edit.compact(mem)
    return edit.with_capacity(small, int(small.count))


def _with_memory(model: WorldModel, *, fuse: bool) -> WorldModel:
    options = dataclasses.replace(model.memory, fuse=fuse)
    return model.replace(memory=options)  # type: ignore[attr-defined]


def _camera(model: WorldModel, clip: WalkedClip, frames: Any) -> Camera:
    poses = jnp.asarray(clip.cam2world[frames], jnp.float32)
    intrinsics = jnp.asarray(clip.intrinsics, jnp.float32)
    return Camera(jnp.broadcast_to(intrinsics, (len(poses), 4)), poses, model.size)
