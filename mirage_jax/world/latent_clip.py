"""A clip as the geometry head and the denoiser see it: encoded, with depth and motion at the cells.

It holds the latents of each of its chunks, the image-mode tokens of its keyframes (every fourth
frame encoded alone: a clip's own latents carry its motion and read badly from another pose), and
the keyframes' depth and motion at latent resolution. The memory itself is not part of it: it is
written and read inside the training step.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np
from jax.custom_batching import custom_vmap
from jaxtyping import Array, Float

from mirage_jax import memory
from mirage_jax.chunks import (
    TEMPORAL_STRIDE,
    chunks_of_clip,
    latents_of_frames,
)
from mirage_jax.geometry import Camera
from mirage_jax.world.body_reads import BodyReads, body_reads
from mirage_jax.world.conditioners import Frames, Rgb
from mirage_jax.world.latent_encoder import LatentEncoder
from mirage_jax.world.scenarios import last_chunk_scenarios, scenarios


@flax.struct.dataclass
class LatentClip:
    """One clip, or a batch with a leading dimension on every field.

    Attributes:
      chunks: normalised latents of each chunk encoded on its own, [N, T', h, w, C]; N = 1 where
        only the last one is generated and the frames before it need not follow one another.
      tokens: normalised image-mode latents of the keyframes, [K, h, w, C]; keyframe k is frame 4 k.
      depth: metres at the keyframes' cells, 0 = unknown, [K, h, w].
      static: share of a keyframe's cell that does not move, [K, h, w].
      intrinsics: `fx, fy, cx, cy` of the picture, [4].
      cam2world: poses relative to the first frame, [F, 4, 4].
      rgb_chunks: latents of the colour cloud rendered along the chunk of each scenario
        (`scenarios.scenarios`), [S, T', h, w, C]; S = 0 where the baseline is not trained.
      rgb_hits: share of each cell's pixels that the cloud covers, per frame, [S, T', h, w, 4].
      preceding: normalised latents of the frames right before the last chunk, encoded as a clip of
        their own, [P, h, w, C]; P = 0 where chunks are not denoised beside them.
      bodies: what moving bodies show along the chunk of each scenario, [S, ...], see `body_reads`;
        None where the memory keeps none.
      moving: share of a keyframe's finer cells that moves, [K, mh, mw]; None where `static` says
        enough.
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
    bodies: Any = None
    moving: Any = None


OPTIONAL_FIELDS = ("bodies", "moving")
FIELDS = tuple(
    field.name for field in dataclasses.fields(LatentClip) if field.name not in OPTIONAL_FIELDS
)
"""Those that every clip has."""


def fields_of(clip: LatentClip) -> dict[str, Any]:
    """The fields of a clip, or of a batch, that there are."""
    found = {name: getattr(clip, name) for name in (*FIELDS, *OPTIONAL_FIELDS)}
    return {name: value for name, value in found.items() if value is not None}


def from_fields(fields: Mapping[str, Any]) -> LatentClip:
    """A clip, or a batch, from what `fields_of` gives and whatever else there is."""
    optional = {name: fields[name] for name in OPTIONAL_FIELDS if name in fields}
    return LatentClip(**{name: fields[name] for name in FIELDS}, **optional)


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
    encoder: LatentEncoder,
    chunk_frames: int,
    rgb: Rgb | None = None,
    preceding: int = 0,
    last_only: bool = False,
    bodies: BodyReads | None = None,
    times: Float[Array, " f"] | None = None,
    movers_up: int = 0,
) -> LatentClip:
    """Encodes one clip.

    Args:
      video: frames in [-1, 1].
      depth: metres of the keyframes, 0 = unknown.
      moving: 1 where a keyframe's pixel belongs to something that moves.
      intrinsics: of the pictures.
      cam2world: relative to the first frame.
      encoder: of pictures.
      chunk_frames: frames of a chunk, neighbours sharing one.
      rgb: the colour-cloud baseline, where it is to be trained.
      preceding: frames before the last chunk to encode as well, 0 or 1 + 4 n.
      last_only: whether the last chunk alone is encoded, not those before it.
      bodies: how moving bodies are kept, where the denoiser is shown them.
      times: numbers of the frames, for bodies; by default none is left out.
      movers_up: finer cells per cell, along each axis, that `moving` tells of; 0 = none.

    Raises:
      ValueError: if there are fewer frames before the last chunk.
    """
    count = chunks_of_clip(video.shape[0], chunk_frames)
    starts = [n * (chunk_frames - 1) for n in range(count - 1 if last_only else 0, count)]
    chunks = encoder.encode(jnp.stack([video[s : s + chunk_frames] for s in starts]))
    height, width = video.shape[1:3]
    keyframes = video[::TEMPORAL_STRIDE]
    tokens = encoder.encode(keyframes[:, None])[:, 0]
    cells = tokens.shape[1], tokens.shape[2]
    camera = Camera(jnp.broadcast_to(intrinsics, (video.shape[0], 4)), cam2world, (height, width))
    still, numbers = 1.0 - moving, jnp.arange(len(keyframes), dtype=jnp.float32)
    seen = Frames(tokens, depth, camera[::TEMPORAL_STRIDE], numbers, still, pictures=keyframes)
    shown = None
    if bodies is not None:
        shown = body_reads(
            bodies,
            seen,
            camera,
            jnp.arange(len(video), dtype=jnp.float32) if times is None else times,
            encoder=encoder,
            encode=_encoding_together(encoder),
            chunk_frames=chunk_frames,
            last_only=last_only,
        )
    if rgb is None:
        rgb_chunks = jnp.zeros((0, *chunks.shape[1:]), chunks.dtype)
        rgb_hits = jnp.zeros((0, *chunks.shape[1:4], TEMPORAL_STRIDE), chunks.dtype)
    else:
        contexts = rgb_contexts(
            rgb, seen, camera, encoder=encoder, chunk_frames=chunk_frames, last_only=last_only
        )
        rgb_chunks, rgb_hits = contexts[..., :-TEMPORAL_STRIDE], contexts[..., -TEMPORAL_STRIDE:]
    return LatentClip(
        chunks=chunks,
        tokens=tokens,
        depth=memory.pool_depth(depth, cells)[0],
        static=memory.pool_static(still, cells),
        intrinsics=intrinsics,
        cam2world=cam2world,
        rgb_chunks=rgb_chunks,
        rgb_hits=rgb_hits,
        preceding=_encode_before(video, starts[-1], preceding, encoder.encode)
        if preceding
        else chunks[0, :0],
        bodies=shown,
        moving=memory.pool_static(moving, (cells[0] * movers_up, cells[1] * movers_up))
        if movers_up
        else None,
    )


def _encoding_together(encoder: LatentEncoder) -> Callable[[Array], Array]:
    """`encode_images` that under `vmap` encodes the pictures of all clips at once.

    XLA's CPU backend (jaxlib 0.10.2) crashes otherwise.
    """
    leaves, structure = jax.tree.flatten(encoder)

    @custom_vmap
    def encode(pictures: Array, *leaves: Array) -> Array:
        return jax.tree.unflatten(structure, leaves).encode_images(pictures)

    @encode.def_vmap
    def together(size: int, _: Any, pictures: Array, *leaves: Array) -> tuple[Array, bool]:
        tokens = encode(pictures.reshape(-1, *pictures.shape[2:]), *leaves)
        return tokens.reshape(size, -1, *tokens.shape[1:]), True

    return lambda pictures: encode(pictures, *leaves)


def rgb_contexts(
    rgb: Rgb,
    keyframes: Frames,
    camera: Camera,
    *,
    encoder: LatentEncoder,
    chunk_frames: int,
    last_only: bool = False,
) -> Float[Array, "s l h w m"]:
    """The baseline's context of every situation a training sample may be in, histories whole.

    Args:
      rgb: the baseline.
      keyframes: of a clip, with their pictures.
      camera: of all its frames.
      encoder: of renderings.
      chunk_frames: frames of a chunk.
      last_only: whether the last chunk alone is generated.
    """
    chunks, renderings = chunks_of_clip(len(camera), chunk_frames), []
    situations = last_chunk_scenarios if last_only else scenarios
    table = situations(chunks, latents_of_frames(chunk_frames))
    left_out = chunks - 1 if last_only else 0
    for chunk, chosen in zip(table.chunk, table.keyframes, strict=True):
        start = (left_out + int(chunk)) * (chunk_frames - 1)
        depth = jnp.where(jnp.asarray(chosen)[:, None, None], keyframes.depth, 0.0)
        empty = rgb.create(math.prod(keyframes.tokens.shape[:-1]))
        cloud, _ = rgb.write(empty, keyframes._replace(depth=depth))
        renderings.append(rgb.render(cloud, camera[start : start + chunk_frames]))
    videos, visible = zip(*renderings, strict=True)
    # Encoded together: XLA's CPU backend (jaxlib 0.10.2) crashes on one video at a time under vmap.
    return rgb.encode(jnp.stack(videos), jnp.stack(visible), encoder)


def _encode_before(
    video: Array, start: int, frames: int, encode: Callable[[Array], Array]
) -> Array:
    """Latents of the `frames` frames before frame `start`."""
    if latents_of_frames(frames) and frames > start:
        raise ValueError(
            f"preceding: found {frames}, expected at most the {start} frames before the last chunk"
        )
    return encode(video[None, start - frames : start])[0]
