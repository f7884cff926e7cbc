"""The cached clips that a stage of `mirage train` reads, by world and by length of chunks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mirage_jax.cli.helpers import build
from mirage_jax.io.workdir import Workdir
from mirage_jax.training.chunk_lengths import ByLength
from mirage_jax.training.latent_cache import LatentSource
from mirage_jax.training.sources import Joined, WithText

Texts = Mapping[str, np.ndarray]
"""Embedded prompt of each world; empty where there are none."""


def caches(config: ConfigDict, memory: str) -> list[tuple[str, int]]:
    """Split and, of caches beside the main ones, frames of a chunk, of the main ones 0."""
    others = [n for n in build.chunk_lengths(config, memory) if n != config.chunk_frames]
    return [("train", 0), ("eval", 0), *(("train", n) for n in others)]


def main(
    config: ConfigDict, workdir: Workdir, memory: str, texts: Texts | None = None
) -> tuple[Any, Any]:
    """Clips to train on and to evaluate on, in chunks of the main length, with their text."""
    found = (_source(config, workdir, memory, texts, split) for split in ("train", "eval"))
    return next(found), next(found)


def of_all_lengths(
    config: ConfigDict, workdir: Workdir, memory: str, texts: Texts | None, whole: Any
) -> Any:
    """What a denoiser trains on: `whole`, or chunks of all lengths where there are several.

    Args:
      config, workdir, memory, texts: as of `main`.
      whole: source of chunks of the main length.
    """
    others = caches(config, memory)[2:]
    if not others:
        return whole
    sources = {n: _source(config, workdir, memory, texts, split, n) for split, n in others}
    return ByLength({**sources, config.chunk_frames: whole})


def _source(
    config: ConfigDict,
    workdir: Workdir,
    memory: str,
    texts: Texts | None,
    split: str,
    chunk_frames: int = 0,
) -> Any:
    rgb = memory == "rgb"
    paths = {
        world: workdir.latents(world, split, rgb=rgb, chunk_frames=chunk_frames)
        for world in workdir.recorded(config.worlds)
    }
    if not texts:
        return LatentSource(paths.values())
    return Joined([WithText(LatentSource([path]), texts[world]) for world, path in paths.items()])
