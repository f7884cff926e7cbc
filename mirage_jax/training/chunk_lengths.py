"""Batches of chunks of several lengths, drawn by step, so that one set of weights has them all."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

BLOCK = 1024
"""Steps whose lengths are drawn at once."""


@dataclasses.dataclass(frozen=True)
class ByLength:
    """Sources of the same clips, each cut into chunks of one length.

    Attributes:
      sources: random access to clips, by frames of a chunk.
    """

    sources: Mapping[int, Any]


def drawn_lengths(lengths: Sequence[int], seed: int, steps: int) -> np.ndarray:
    """Frames of a chunk in each of the first steps, all lengths alike; a longer draw goes on."""
    blocks = [_drawn_block(lengths, seed, block) for block in range(-(-steps // BLOCK))]
    return np.concatenate([np.zeros(0, np.int64), *blocks])[:steps]


def _drawn_block(lengths: Sequence[int], seed: int, block: int) -> np.ndarray:
    index = np.random.default_rng([seed, block]).integers(len(lengths), size=BLOCK)
    return np.asarray(lengths)[index]


def mixed_batches(
    open_batches: Callable[[int, int], Any], lengths: Sequence[int], seed: int, start: int
) -> Iterator[Any]:
    """Endless batches, each of chunks of one length, the same wherever a run was interrupted.

    Args:
      open_batches: (frames of a chunk, n) -> endless batches of such chunks from number n on.
      lengths: frames of a chunk.
      seed: of the draw of lengths.
      start: batches that were drawn before.
    """
    before = drawn_lengths(lengths, seed, start)
    opened = {n: open_batches(n, int((before == n).sum())) for n in lengths}
    streams = {n: iter(batches) for n, batches in opened.items()}
    try:
        done = start % BLOCK
        for block in itertools.count(start // BLOCK):
            for length in _drawn_block(lengths, seed, block)[done:]:
                yield next(streams[int(length)])
            done = 0
    finally:
        for batches in opened.values():
            close = getattr(batches, "close", None)
            if close is not None:
                close()
