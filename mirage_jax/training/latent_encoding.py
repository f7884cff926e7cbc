"""Filling the latent cache: every clip of a recorded world is encoded once."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import track

from data_pipelines import loading
from data_pipelines.card import read_card
from mirage_jax.io.lock import locked
from mirage_jax.training import latent_cache
from mirage_jax.training.clip_encoding import (
    OPTIONAL_FIELDS,
    REQUIRED_FIELDS,
    ClipEncoder,
    DepthOf,
    EncoderInputs,
    EncodingSettings,
)
from mirage_jax.training.latent_cache import LatentSource
from mirage_jax.world.latent_clip import LatentClip
from mirage_jax.world.latent_encoder import LatentEncoder


def cache_key(
    encoder_id: str, clips: Path, split: str, settings: EncodingSettings
) -> dict[str, Any]:
    """What decides what is in the cache of a recorded world, for `latent_cache.stale`.

    Args:
      encoder_id: identifies the weights of the encoder, see `weights.fingerprint`.
      clips: folder of the recorded world.
      split: "train" or "eval".
      settings: of the cache.
    """
    recorded = json.dumps(read_card(clips)["splits"].get(split), sort_keys=True)
    key = {
        "encoder": encoder_id,
        "clips": hashlib.sha256(recorded.encode()).hexdigest(),
        **dataclasses.asdict(settings),
    }
    for name in ("depth_network", "last_only"):  # a cache made without them is what it was
        if not key[name]:
            del key[name]
    return key


def refresh_cache(
    encoder: LatentEncoder,
    encoder_id: str,
    clips: Path,
    split: str,
    out: Path,
    settings: EncodingSettings,
    *,
    say: Callable[[str], None],
    console: Console | None = None,
    depth_of: DepthOf | None = None,
) -> None:
    """Makes the cache of a recorded world unless the one there has the same key, and says so.

    Args:
      encoder: what encodes.
      encoder_id: of `cache_key`.
      clips, split, out, settings, console, depth_of: of `encode_clips`.
      say: called with a line of text.

    Raises:
      LockedError: if another process is making it.
    """
    key = cache_key(encoder_id, clips, split, settings)
    if not latent_cache.stale(out, key):
        say(f"{out}: up to date")
        return
    with locked(out.with_suffix(".lock"), f"encoding {clips.name} {split}"):
        # Again: another process may just have made it.
        if reason := latent_cache.stale(out, key):
            say(f"{out}: {reason}")
            encode_clips(
                encoder, clips, split, out, settings=settings, console=console, depth_of=depth_of
            )
            latent_cache.write_key(out, key)


def encode_clips(
    encoder: LatentEncoder,
    clips: Path,
    split: str,
    out: Path,
    *,
    settings: EncodingSettings,
    batch_size: int = 4,
    console: Console | None = None,
    depth_of: DepthOf | None = None,
) -> int:
    """Encodes every clip of a recorded world once; returns how many there are.

    Args:
      encoder: what encodes.
      clips: folder of the recorded world.
      split: "train" or "eval".
      out: file to write.
      settings: of the cache.
      batch_size: clips encoded at once.
      console: where to show progress; None shows none.
      depth_of: estimates the depth of pictures of clips that have none; None refuses those.

    Raises:
      ValueError: naming the clip, for one without depth where nothing estimates it.
    """
    source = loading.ClipSource(clips, split, REQUIRED_FIELDS, optional=OPTIONAL_FIELDS)
    inputs = EncoderInputs(settings.sky_depth, estimates=depth_of is not None)
    encode = ClipEncoder(encoder, settings, depth_of=depth_of)
    whole = np.random.default_rng(0)  # not asked for anything: nothing is cut

    def batches() -> Iterator[LatentClip]:
        starts = range(0, len(source), batch_size)
        label = f"encoding {clips.name} {split}"
        for start in track(starts, label, console=console, disable=console is None):
            index = np.minimum(np.arange(start, start + batch_size), len(source) - 1)
            try:
                elements = [inputs(source[int(i)], whole) for i in index]
            except ValueError as error:
                raise ValueError(f"{clips}: {error}") from error
            batch = {name: np.stack([e[name] for e in elements]) for name in elements[0]}
            encoded = LatentClip(**jax.device_get(encode(batch)))
            keep = min(batch_size, len(source) - start)
            yield jax.tree.map(lambda leaf, keep=keep: leaf[:keep], encoded)

    return latent_cache.write_cache(out, batches())


def load_clips(path: Path) -> LatentClip:
    """The cached clips of a file as one batch of numpy arrays."""
    source = LatentSource([path])
    records = [source[i] for i in range(len(source))]
    fields: dict[str, Any] = {name: np.stack([r[name] for r in records]) for name in records[0]}
    return LatentClip(**fields)
