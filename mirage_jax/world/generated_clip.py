"""Clips with a chunk that a model generated: what a rollout would be left with after it."""

from __future__ import annotations

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, Float

from mirage_jax.chunks import TEMPORAL_STRIDE
from mirage_jax.world.latent_clip import LatentClip
from mirage_jax.world.latent_encoder import LatentEncoder
from mirage_jax.world.predicted_clip import HistoryHead, Keyframes


class GeneratedClip(NamedTuple):
    """A batch of clips of whose past a chunk was generated.

    Attributes:
      clips: in the last chunk and the latents that precede it, what is given is generated.
      seen: what is remembered of the keyframes, as the geometry head sees them.
    """

    clips: LatentClip
    seen: Keyframes


def before_last(clips: LatentClip) -> int:
    """Number of the chunk before the last.

    Raises:
      ValueError: if the last alone has latents, or the clips show bodies along chunks beside which
        none could be generated.
    """
    count = clips.chunks.shape[1]
    if count < 2:
        raise ValueError(
            f"clips: found latents of {count} chunk, expected some of the chunk before the last, "
            "which is generated (windows have none)"
        )
    if clips.bodies is not None:
        raise ValueError(
            "clips: found bodies, expected none: those of a chunk that is generated are not known"
        )
    return count - 2


def with_generated(
    clips: LatentClip,
    latents: Float[Array, "b t h w c"],
    head: HistoryHead,
    encoder: LatentEncoder | None = None,
) -> GeneratedClip:
    """Clips with another chunk before the last, and what a rollout remembers of them then.

    As in `WorldModel.remember` the last chunk begins with the token that is remembered of the frame
    the two share, and is denoised beside the end of the generated one.

    Args:
      clips: a batch.
      latents: of the chunk before the last, its first one included.
      head: sees the keyframes.
      encoder: decodes the chunk, and encodes its keyframes alone; for heads with `reencode`.

    Raises:
      ValueError: see `before_last`; if an encoder is missing, or more latents precede the last
        chunk than were generated.
    """
    number, new = before_last(clips), latents.shape[1] - 1
    start, end = number * new, (number + 1) * new
    preceding = clips.preceding.shape[1]
    if preceding > new:
        raise ValueError(
            f"clips: found {preceding} preceding latents, expected at most {new}, as many as the "
            "chunk before has that are new"
        )
    chunks = jnp.asarray(clips.chunks).at[:, number].set(latents)
    tokens, before = jnp.asarray(clips.tokens), latents[:, new - preceding : new]
    if head.reencode:
        if encoder is None:
            raise ValueError("encoder: found none, expected one: the head sees re-encoded frames")
        pictures = jnp.clip(encoder.decode(latents), -1.0, 1.0)
        shown = pictures[:, TEMPORAL_STRIDE::TEMPORAL_STRIDE]
        alone = encoder.encode_images(shown.reshape(-1, *shown.shape[2:]))
        alone = alone.reshape(*shown.shape[:2], *alone.shape[1:])
        tokens = tokens.at[:, start + 1 : end + 1].set(alone)
        if preceding:
            frames = TEMPORAL_STRIDE * (preceding - 1) + 1
            last = TEMPORAL_STRIDE * new
            before = encoder.encode(pictures[:, last - frames : last])
    changed = clips.replace(chunks=chunks, tokens=tokens)  # type: ignore[attr-defined]
    seen = head(changed)
    chunks = chunks.at[:, number + 1, 0].set(seen.tokens[:, end])
    return GeneratedClip(changed.replace(chunks=chunks, preceding=before), seen)
