"""Coding long clips latent by latent: memory of one latent's frames, with the same result."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float


def code_streamed(
    code_chunk: Callable[[Array, Any], tuple[Any, Any]],
    x: Float[Array, "b t h w c"],
    frames: int,
) -> Any:
    """Codes a clip in a loop that hands the VAE's cache from one latent to the next.

    Args:
      code_chunk: `VideoVAE.encode_chunk` or `VideoVAE.decode_chunk`, with its parameters.
      x: a clip of 1 + n `frames` frames, or latents.
      frames: of the clip in every latent after the first; 1 if `x` are latents.

    Returns:
      The result for the whole of `x`, as of a single call.
    """
    first, cache = code_chunk(x[:, :1], None)
    if x.shape[1] == 1:
        return first

    def step(cache: Any, part: Array) -> tuple[Any, Any]:
        out, cache = code_chunk(part, cache)
        return cache, out

    parts = rearrange(x[:, 1:], "b (n k) h w c -> n b k h w c", k=frames)
    _, rest = jax.lax.scan(step, cache, parts)

    def join(head: Array, tail: Array) -> Array:
        tail = rearrange(tail, "n b k h w c -> b (n k) h w c")
        return jnp.concatenate([head, tail], axis=1)

    return jax.tree.map(join, first, rest)
