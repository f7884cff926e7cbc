"""Cached clips in chunks of several lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mirage_jax.cli.helpers import build
from mirage_jax.io.workdir import Workdir
from mirage_jax.training.chunk_lengths import ByLength
from mirage_jax.training.latent_cache import LatentSource
from mirage_jax.training.sources import of_worlds


def caches(
    config: ConfigDict, memory: str, splits: Sequence[str] = ("train", "eval")
) -> list[tuple[str, int]]:
    """Split and, of caches beside the main ones, frames of a chunk, of the main ones 0.

    Training reads all lengths, evaluation the main one.
    """
    others = _others(config, memory) if "train" in splits else []
    return [*((split, 0) for split in splits), *(("train", n) for n in others)]


def of_all_lengths(
    config: ConfigDict,
    workdir: Workdir,
    memory: str,
    texts: Mapping[str, np.ndarray] | None,
    whole: Any,
) -> Any:
    """What a denoiser trains on: `whole`, or chunks of all lengths where there are several.

    Args:
      config: the experiment.
      workdir: with the caches.
      memory: of the denoiser.
      texts: embedded, by world.
      whole: source of chunks of the main length.
    """
    others = _others(config, memory)
    if not others:
        return whole
    worlds = workdir.recorded(config.worlds)

    def source(chunk_frames: int) -> Any:
        def read(world: str) -> LatentSource:
            rgb = memory == "rgb"
            return LatentSource(
                [workdir.latents(world, "train", rgb=rgb, chunk_frames=chunk_frames)]
            )

        return of_worlds(worlds, read, texts)

    return ByLength({**{n: source(n) for n in others}, config.chunk_frames: whole})


def _others(config: ConfigDict, memory: str) -> list[int]:
    return [n for n in build.chunk_lengths(config, memory) if n != config.chunk_frames]
