"""Which frames of a clip are in memory, and which chunk is to be generated, in a training sample.

A recorded clip leaves a place and comes back: `chunks` chunks of latents, each sharing its first
latent with the one before, and a keyframe at the end of every latent. Three situations of a rollout
are trained on: the first chunk, when only the first picture is remembered; a later chunk, when all
before it is; and, reading the clip's own return as the past, the first chunk again with everything
after it remembered.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Int, PRNGKeyArray


@dataclasses.dataclass(frozen=True)
class Scenarios:
    """The situations a sample is drawn from.

    Attributes:
      chunk: which chunk is generated, [S].
      keyframes: which keyframes may be in memory, [S, K].
      probability: how often each is drawn, [S]; sums to 1.
      goes_on: whether the chunk follows on the one before it in the clip, [S].
    """

    chunk: np.ndarray
    keyframes: np.ndarray
    probability: np.ndarray
    goes_on: np.ndarray


FIRST, RETURN, REVERSED = 0, 1, 2
"""Indices into `scenarios`: first chunk, last chunk, first chunk remembered from the last.

`last_chunk_scenarios` has the first two.
"""


def scenarios(
    chunks: int,
    latents_per_chunk: int,
    probability: tuple[float, float, float] = (0.2, 0.5, 0.3),
    *,
    between: bool = False,
) -> Scenarios:
    """The situations for clips of `chunks` chunks; keyframe k is frame 4 k.

    Args:
      chunks: of a clip.
      latents_per_chunk: of a chunk, one of them shared with the chunk before.
      probability: of the three.
      between: share that of the last chunk with those between the first and it, as rows after the
        three; for short chunks, of which the last sees little of the way back. Nothing precedes
        them as far as context frames go, which are cached for the last chunk alone.
    """
    if chunks < 2:
        raise ValueError(
            f"chunks: found {chunks}, expected at least 2 (one to leave, one to return)"
        )
    keys_per_chunk = latents_per_chunk - 1
    index = np.arange(chunks * keys_per_chunk + 1)
    middle = range(1, chunks - 1) if between else range(0)
    first, later, backwards = probability
    share = later / (1 + len(middle))
    remembered = [index == 0, index <= (chunks - 1) * keys_per_chunk, index >= keys_per_chunk]
    return Scenarios(
        chunk=np.array([0, chunks - 1, 0, *middle]),
        keyframes=np.stack(remembered + [index <= n * keys_per_chunk for n in middle]),
        probability=np.array([first, share, backwards, *(share for _ in middle)]),
        goes_on=np.array([False, True, False, *(False for _ in middle)]),
    )


def last_chunk_scenarios(
    chunks: int, latents_per_chunk: int, probability: tuple[float, float] = (0.2, 0.8)
) -> Scenarios:
    """The situations of clips whose last chunk alone is generated, and has latents.

    Its keyframes may come from anywhere (`data_pipelines.return_windows`). Either its first picture
    alone is remembered, or that and all before it.
    """
    start = (chunks - 1) * (latents_per_chunk - 1)
    index = np.arange(chunks * (latents_per_chunk - 1) + 1)
    return Scenarios(
        chunk=np.array([0, 0]),
        keyframes=np.stack([index == start, index <= start]),
        probability=np.array(probability),
        goes_on=np.array([False, True]),
    )


def draw(
    key: PRNGKeyArray, table: Scenarios, *, keep_all: float = 0.5
) -> tuple[Int[Array, ""], Bool[Array, " k"]]:
    """Draws a situation and a history of one or more of its keyframes.

    With probability `keep_all` the whole history is written; else each keyframe is kept with a
    probability that is itself uniform, so that sparse and dense memories are equally common.
    """
    uniform = functools.partial(jax.random.uniform, dtype=jnp.float32)
    which, whole, share, coins, spare = jax.random.split(key, 5)
    scenario = jax.random.choice(
        which, len(table.chunk), p=jnp.asarray(table.probability, jnp.float32)
    )
    allowed = jnp.asarray(table.keyframes)[scenario]
    kept = allowed & (uniform(coins, allowed.shape) < uniform(share))
    fallback = jnp.argmax(jnp.where(allowed, uniform(spare, allowed.shape), -1.0))
    kept = jnp.where(kept.any(), kept, jnp.arange(allowed.size) == fallback)
    keyframes = jnp.where(uniform(whole) < keep_all, allowed, kept)
    return scenario, keyframes
