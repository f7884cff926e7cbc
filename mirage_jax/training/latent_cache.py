"""Clips encoded once: what the geometry head and the denoiser train on when the encoder is frozen.

A cached clip holds the latents of each of its chunks, the image-mode tokens of its keyframes (every
fourth frame encoded alone: a clip's own latents carry its motion and read badly from another pose),
and the keyframes' depth and motion at latent resolution. The memory itself is not cached: it is
written and read inside the training step.
"""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import flax.struct
import jax.numpy as jnp
import numpy as np
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter
from jaxtyping import Array, Float
from safetensors.numpy import load, save

from mirage_jax import memory
from mirage_jax.geometry import Camera
from mirage_jax.world.conditioners import TEMPORAL_STRIDE, latents_of_frames


@flax.struct.dataclass
class LatentClip:
    """One clip (or a batch, with a leading dimension on every field) as the denoiser sees it.

    Attributes:
      chunks: normalised latents of each chunk encoded on its own, [N, T', h, w, C].
      tokens: normalised image-mode latents of the keyframes, [K, h, w, C]; keyframe k is frame 4 k.
      depth: metres at the keyframes' cells, 0 = unknown, [K, h, w].
      static: share of a keyframe's cell that does not move, [K, h, w].
      intrinsics: `fx, fy, cx, cy` of the picture, [4].
      cam2world: poses relative to the first frame, [F, 4, 4].
      rgb_chunks: latents of the colour cloud rendered along the chunk of each scenario
        (`histories.scenarios`), [S, T', h, w, C]; S = 0 where the baseline is not trained.
      rgb_hits: share of each cell's pixels that the cloud covers, per frame, [S, T', h, w, 4].
      preceding: normalised latents of the frames right before the last chunk, encoded as a clip of
        their own, [P, h, w, C]; P = 0 where chunks are not shown what precedes them.
    """

    chunks: Float[Array | np.ndarray, "*b n t h w c"]
    tokens: Float[Array | np.ndarray, "*b k h w c"]
    depth: Float[Array | np.ndarray, "*b k h w"]
    static: Float[Array | np.ndarray, "*b k h w"]
    intrinsics: Float[Array | np.ndarray, "*b 4"]
    cam2world: Float[Array | np.ndarray, "*b f 4 4"]
    rgb_chunks: Float[Array | np.ndarray, "*b s t h w c"]
    rgb_hits: Float[Array | np.ndarray, "*b s t h w 4"]
    preceding: Float[Array | np.ndarray, "*b p h w c"]


_HALF = ("chunks", "tokens", "rgb_chunks", "rgb_hits", "preceding")
"""Stored as float16: far finer than the noise the denoiser is trained with."""

FIELDS = tuple(field.name for field in dataclasses.fields(LatentClip))


def keyframe_depth(
    depth: Float[np.ndarray, "f height width"], sky_depth: float
) -> Float[np.ndarray, "k height width"]:
    """Depth of the keyframes with the sky (inf) put at `sky_depth` metres.

    Under a turning camera the sky is as good a landmark as any, so it is remembered, far away.
    """
    keyframes = depth[::TEMPORAL_STRIDE]
    return np.where(np.isinf(keyframes), np.float32(sky_depth), keyframes)


def encode_clip(
    video: Float[Array, "f height width 3"],
    depth: Float[Array, "k height width"],
    moving: Float[Array, "k height width"],
    intrinsics: Float[Array, "4"],
    cam2world: Float[Array, "f 4 4"],
    *,
    encode: Callable[[Array], Array],
    chunk_frames: int,
    rgb: Callable[[Array, Array, Array, Camera], tuple[Array, Array]] | None = None,
    preceding: int = 0,
) -> LatentClip:
    """Encodes one clip.

    Args:
      video: frames in [-1, 1].
      depth: metres of the keyframes, 0 = unknown.
      moving: 1 where a keyframe's pixel belongs to something that moves.
      intrinsics: of the pictures.
      cam2world: relative to the first frame.
      encode: normalised latents of a batch of videos, [B, T, H, W, 3] -> [B, T', h, w, C].
      chunk_frames: frames of a chunk, neighbours sharing one.
      rgb: the colour-cloud baseline, see `rgb_baseline.contexts`.
      preceding: frames before the last chunk to encode as well, 0 or 1 + 4 n.

    Raises:
      ValueError: if there are fewer frames before the last chunk.
    """
    count = (video.shape[0] - 1) // (chunk_frames - 1)
    starts = [n * (chunk_frames - 1) for n in range(count)]
    chunks = encode(jnp.stack([video[s : s + chunk_frames] for s in starts]))
    height, width = video.shape[1:3]
    keyframes = video[::TEMPORAL_STRIDE]
    tokens = encode(keyframes[:, None])[:, 0]
    cells = tokens.shape[1], tokens.shape[2]
    camera = Camera(jnp.broadcast_to(intrinsics, (video.shape[0], 4)), cam2world, (height, width))
    if rgb is None:
        rgb_chunks = jnp.zeros((0, *chunks.shape[1:]), chunks.dtype)
        rgb_hits = jnp.zeros((0, *chunks.shape[1:4], TEMPORAL_STRIDE), chunks.dtype)
    else:
        rgb_chunks, rgb_hits = rgb(keyframes, depth, 1.0 - moving, camera)
    return LatentClip(
        chunks=chunks,
        tokens=tokens,
        depth=memory.pool_depth(depth, cells)[0],
        static=memory.pool_static(1.0 - moving, cells),
        intrinsics=intrinsics,
        cam2world=cam2world,
        rgb_chunks=rgb_chunks,
        rgb_hits=rgb_hits,
        preceding=_encode_before(video, starts[-1], preceding, encode)
        if preceding
        else chunks[0, :0],
    )


def _encode_before(
    video: Array, start: int, frames: int, encode: Callable[[Array], Array]
) -> Array:
    """Latents of the `frames` frames before frame `start`."""
    if latents_of_frames(frames) and frames > start:
        raise ValueError(
            f"preceding: found {frames}, expected at most the {start} frames before the last chunk"
        )
    return encode(video[None, start - frames : start])[0]


def write_cache(path: Path, clips: Iterable[LatentClip]) -> int:
    """Writes batches of clips (numpy leaves, leading dimension) to one ArrayRecord file.

    The file appears under its name only when it is complete, and without the key (`write_key`) of
    the one it replaces. Returns the number of clips.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    writer = ArrayRecordWriter(os.fspath(partial), "group_size:1,uncompressed")
    count = 0
    try:
        for batch in clips:
            for index in range(len(batch.chunks)):
                writer.write(_to_bytes(batch, index))
                count += 1
    finally:
        writer.close()
    _key_file(path).unlink(missing_ok=True)
    os.replace(partial, path)
    return count


def write_key(path: Path, key: Mapping[str, Any]) -> None:
    """Says beside a finished cache, in `<name>.json`, what it was made from."""
    partial = _key_file(path).with_suffix(".partial_key")
    partial.write_text(json.dumps(key, indent=1, sort_keys=True) + "\n", encoding="utf-8")
    partial.replace(_key_file(path))


def stale(path: Path, key: Mapping[str, Any]) -> str:
    """Why a cache must be made anew to be one of `key`; "" if it is one.

    Args:
      path: the cache.
      key: what decides what is in it, JSON-serialisable; see `write_key`.
    """
    if not path.exists():
        return "there is none yet"
    try:
        found = json.loads(_key_file(path).read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return "it does not say what it was made from"
    expected = json.loads(json.dumps(key))
    names = sorted(found.keys() | expected.keys())
    changed = ", ".join(name for name in names if found.get(name) != expected.get(name))
    return changed and f"made with another {changed}"


def _key_file(path: Path) -> Path:
    return path.with_suffix(".json")


def _to_bytes(batch: LatentClip, index: int) -> bytes:
    record = {}
    for name in FIELDS:
        dtype = np.float16 if name in _HALF else np.float32
        record[name] = np.ascontiguousarray(getattr(batch, name)[index], dtype)
    return save(record)


class LatentSource:
    """Random access to cached clips, over several files (one per world)."""

    def __init__(self, paths: Iterable[Path]):
        self.paths = [os.fspath(path) for path in paths]
        missing = [path for path in self.paths if not os.path.exists(path)]
        if missing:
            raise ValueError(
                f"{missing[0]}: no such latent cache; run `mirage train` from the start"
            )
        self._records = ArrayRecordDataSource(self.paths)

    def __len__(self) -> int:
        return len(self._records)

    def __getitem__(self, index: int) -> dict[str, Any]:
        record = load(self._records[index])
        missing = [name for name in FIELDS if name not in record]
        if missing:
            raise ValueError(
                f"{', '.join(self.paths)}: field {missing[0]!r}: found none in clip {index}, "
                "expected one; run `mirage train --stage=cache`"
            )
        return {name: np.asarray(record[name], np.float32) for name in FIELDS}

    def __repr__(self) -> str:
        return f"LatentSource({self.paths}, {len(self)} clips)"
