"""What the memory shows along a chunk, decoded to pictures, for people to look at."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mirage_jax.chunks import TEMPORAL_STRIDE, latent_of_frame
from mirage_jax.world.latent_encoder import LatentEncoder

UNSEEN = -0.7
"""Grey of what the memory does not show, in [-1, 1]."""


def decode_each(
    encoder: LatentEncoder, latents: Float[Array | np.ndarray, "b l h w c"]
) -> Float[Array, "b t height width 3"]:
    """Clips decoded one after the other, so that no more memory is needed than for one."""
    return jax.lax.map(lambda one: encoder.decode(one[None])[0], jnp.asarray(latents))


def token_view(
    encoder: LatentEncoder,
    context: Float[Array, "b l h w m"],
) -> Float[Array, "b t height width 3"]:
    """Read-outs of the latent memory, each decoded as a picture that stands for a latent's frames.

    Args:
      encoder: of the tokens.
      context: of the conditioner `Visibility`: what is read at the last frame of each
        latent.
    """
    tokens, seen = context[..., :-1], context[..., -1]
    clips, latents = seen.shape[:2]
    pictures = decode_each(encoder, tokens.reshape(clips * latents, 1, *tokens.shape[2:]))
    pictures = pictures.reshape(clips, latents, *pictures.shape[2:])
    latent = latent_of_frame(latents)
    return _masked(pictures, seen)[:, latent]


def cloud_view(
    encoder: LatentEncoder,
    context: Float[Array, "b l h w m"],
) -> Float[Array, "b t height width 3"]:
    """The encoded rendering of the colour cloud, decoded, where at least half a cell has points.

    Args:
      encoder: of the rendering.
      context: of the conditioner `Rgb`.
    """
    video = decode_each(encoder, context[..., :-TEMPORAL_STRIDE])
    shares = jnp.moveaxis(context[..., -TEMPORAL_STRIDE:], -1, 2)
    clips, latents, reads, height, width = shares.shape
    per_frame = shares.reshape(clips, latents * reads, height, width)[:, reads - 1 :]
    return _masked(video, per_frame >= 0.5)


def _masked(
    video: Float[Array, "b t height width 3"], seen: Array
) -> Float[Array, "b t height width 3"]:
    """The video, grey in the cells that are not `seen` [b, t, h, w]."""
    stride = video.shape[2] // seen.shape[2], video.shape[3] // seen.shape[3]
    pixels = jnp.repeat(jnp.repeat(seen, stride[0], axis=2), stride[1], axis=3)
    return jnp.where(pixels[..., None] > 0, video, UNSEEN)
