"""Clips to train on: with their texts, and cached in chunks of several lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from mirage_jax.cli.helpers import build, world_names
from mirage_jax.io.strict_json import read_object
from mirage_jax.io.workdir import Workdir
from mirage_jax.training import latent_cache
from mirage_jax.training.captions import Captions, WithCaptions
from mirage_jax.training.chunk_lengths import ByLength
from mirage_jax.training.latent_cache import LatentSource
from mirage_jax.training.latent_encoding import clips_id
from mirage_jax.training.sources import WithText, of_worlds


def with_text(
    config: ConfigDict,
    workdir: Workdir,
    texts: Mapping[str, np.ndarray] | None,
    world: str,
    split: str,
    source: Any,
) -> Any:
    """A source whose clips have a text: their captions by `text.captions`, or their world's prompt.

    Args:
      config: the experiment.
      workdir: with the embedded captions.
      texts: embedded prompts, by world; None or empty: there is no text.
      world, split: of the clips.
      source: recorded or cached clips.

    Raises:
      FileNotFoundError, ValueError: naming embedded captions that are missing, or of other clips or
        another text encoder than the prompts.
    """
    if not texts:
        return source
    if not config.text.get("captions", False):
        return WithText(source, texts[world])
    path = workdir.captions(world, split)
    captions = Captions(path)
    expected = {"clips": clips_id(workdir.worlds(world), split, path)}
    note = Path(config.text.embeddings).with_suffix(".json")
    if note.exists():
        expected |= read_object(note)
    for file in latent_cache.cache_files(path):
        made_from = latent_cache.made_from(file)
        for name, value in expected.items():
            if made_from.get(name) != value:
                raise ValueError(
                    f"{file}: found captions made with another {name.replace('_', ' ')} than "
                    f"{note if name != 'clips' else workdir.worlds(world)}; run `mirage encode` "
                    "again"
                )
    skipped = source.skipped() if isinstance(source, LatentSource) else {}
    return WithCaptions(source, captions, texts[world], skipped)


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
    worlds = world_names.to_train(config, workdir, "denoiser", memory)

    def source(chunk_frames: int) -> Any:
        def read(world: str) -> Any:
            rgb = memory == "rgb"
            cache = workdir.latents(world, "train", rgb=rgb, chunk_frames=chunk_frames)
            return with_text(config, workdir, texts, world, "train", LatentSource([cache]))

        return of_worlds(worlds, read)

    return ByLength({**{n: source(n) for n in others}, config.chunk_frames: whole})


def _others(config: ConfigDict, memory: str) -> list[int]:
    return [n for n in build.chunk_lengths(config, memory) if n != config.chunk_frames]
