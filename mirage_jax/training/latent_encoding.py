"""Filling the latent cache: every clip of a recorded world is encoded once."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import track

from data_pipelines import loading
from data_pipelines.card import read_card
from data_pipelines.tolerance import Skipped
from mirage_jax.parallel import make_mesh
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
from mirage_jax.world.latent_clip import LatentClip, from_fields
from mirage_jax.world.latent_encoder import LatentEncoder


def cache_key(
    encoder_id: str, clips: Path, split: str, settings: EncodingSettings, cache: Path
) -> dict[str, Any]:
    """What decides what is in the cache of a recorded world, for `latent_cache.stale`.

    Args:
      encoder_id: identifies the weights of the encoder, see `weights.fingerprint`.
      clips: folder of the recorded world.
      split: "train" or "eval".
      settings: of the cache.
      cache: that the key is compared with, see `clips_id`.
    """
    key = {
        "encoder": encoder_id,
        "clips": clips_id(clips, split, cache),
        **dataclasses.asdict(settings),
    }
    if settings.depth_network:
        key["depth_unit"] = "poses"  # that estimated depth is in; caches without it have metres
    # A cache made without these is what it was before there were any.
    for name in ("depth_network", "last_only", "bodies", "movers_up"):
        if not key[name]:
            del key[name]
    return key


_NOT_OF_CLIPS = ("plan", "seconds", "peak_mib")
"""What a card says of how a split was recorded, and not of what: a shard made anew changes it."""


def clips_id(clips: Path, split: str, cache: Path) -> str:
    """Identifies the clips of a split of a recorded world, by what its card says of them.

    Args:
      clips: folder of the recorded world.
      split: "train" or "eval".
      cache: that is compared with it; one made earlier may go by all that the card says, and then
        they are identified by that.
    """
    entry = dict(read_card(clips)["splits"].get(split, {}))
    entry.pop("plan", None)
    older = _hash(entry)
    if older in latent_cache.values_of(cache, "clips"):
        return older
    return _hash({name: value for name, value in entry.items() if name not in _NOT_OF_CLIPS})


def _hash(entry: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(entry, sort_keys=True).encode()).hexdigest()


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
    file_clips: int = latent_cache.FILE_CLIPS,
    share: tuple[int, int] = (0, 1),
    skip_share: float = 0.0,
) -> None:
    """Makes the cache of a recorded world unless the one there has the same key, and says so.

    A cache of many clips has several files. Those that are there and up to date are kept, so that
    it goes on where it was killed; files of other keys are replaced or removed. A clip that cannot
    be read is left out, and said beside the file that it would be in.

    Args:
      encoder: what encodes.
      encoder_id: of `cache_key`.
      clips, split, settings, console, depth_of: of `encode_clips`.
      out: file of the cache, from whose name those of several are made.
      say: called with a line of text.
      file_clips: clips of a file at most.
      share: (i, n): of its files the i-th of each n is made here.
      skip_share: of the clips that may be left out because they cannot be read, 0 to 1; those of
        files made before, or elsewhere by now, count.

    Raises:
      LockedError: if another process is making one of these files.
      ValueError: if `file_clips` is no multiple of the clips that are encoded at once; if more
        clips cannot be read than may be left out, naming the first of them.
    """
    if file_clips % BATCH:
        raise ValueError(f"file_clips: found {file_clips}, expected a multiple of {BATCH}")
    key = cache_key(encoder_id, clips, split, settings, out)
    if not latent_cache.stale_files(out, key):
        say(f"{out}: up to date")
        return
    source = loading.ClipSource(clips, split, REQUIRED_FIELDS, optional=OPTIONAL_FIELDS)
    files = latent_cache.planned_files(out, len(source), file_clips)
    skipped = Skipped(source, skip_share, say)
    for number, file in enumerate(files):
        if not latent_cache.stale(file, latent_cache.part_key(key, number, len(files))):
            skipped.reasons |= latent_cache.skipped_clips(file)

    def make(file: Path, chosen: range) -> dict[int, str]:
        _encode(encoder, source, chosen, file, settings, console, depth_of, skipped, say)
        return {n: why for n, why in skipped.reasons.items() if n in chosen}

    latent_cache.make_stale_files(
        out,
        key,
        len(source),
        make,
        file_clips=file_clips,
        share=share,
        purpose=f"encoding {clips.name} {split}",
        say=say,
    )


BATCH = 4
"""Clips that are encoded at once on a device."""


def encode_clips(
    encoder: LatentEncoder,
    clips: Path,
    split: str,
    out: Path,
    *,
    settings: EncodingSettings,
    console: Console | None = None,
    depth_of: DepthOf | None = None,
) -> int:
    """Encodes every clip of a recorded world once, into one file; returns how many there are.

    Args:
      encoder: what encodes.
      clips: folder of the recorded world.
      split: "train" or "eval".
      out: file to write.
      settings: of the cache.
      console: where to show progress; None shows none.
      depth_of: estimates the depth of pictures of clips that have none; None refuses those.

    Raises:
      ValueError: naming the clip, for one that cannot be read, or without depth where nothing
        estimates it.
    """
    source = loading.ClipSource(clips, split, REQUIRED_FIELDS, optional=OPTIONAL_FIELDS)
    whole, none = range(len(source)), Skipped(source, 0.0, lambda _: None)
    return _encode(encoder, source, whole, out, settings, console, depth_of, none, lambda _: None)


def _encode(
    encoder: LatentEncoder,
    source: loading.ClipSource,
    chosen: range,
    out: Path,
    settings: EncodingSettings,
    console: Console | None,
    depth_of: DepthOf | None,
    skipped: Skipped,
    say: Callable[[str], None],
) -> int:
    """Encodes some clips of a source, no more than two batches in memory at a time."""
    estimates = depth_of is not None
    devices = jax.local_devices()
    mesh = None
    if devices[0].platform != "cpu":  # whose devices share cores: nothing would be gained
        mesh = make_mesh(devices=devices)
    encode = ClipEncoder(encoder, settings, mesh=mesh, depth_of=depth_of)
    size = BATCH * (1 if mesh is None else len(devices))
    shown = track(chosen, f"encoding {out.stem}", console=console, disable=console is None)
    elements = _read(source, shown, EncoderInputs(settings.sky_depth, estimates), skipped)

    def batches() -> Iterator[LatentClip]:
        pending: tuple[Any, int] | None = None
        while group := list(itertools.islice(elements, size)):
            # Of what fills the batch nothing is estimated.
            filler = {**group[-1], "known": np.array(True)}
            filled = [*group, *[filler] * (size - len(group))]
            batch = {name: np.stack([e[name] for e in filled]) for name in filled[0]}
            # The devices work on this one while the one before is written, the next one read.
            encoded = encode(batch)
            if pending is not None:
                yield _first(*pending)
            pending = encoded, len(group)
        if pending is not None:
            yield _first(*pending)

    count = latent_cache.write_cache(out, batches())
    if encode.estimated:
        say(f"{out}: {encode.scale_report()}")
    return count


def _read(
    source: loading.ClipSource, chosen: Iterable[int], inputs: EncoderInputs, skipped: Skipped
) -> Iterator[dict[str, np.ndarray]]:
    """What the encoder takes of some clips of a source, without those that cannot be read."""
    whole = np.random.default_rng(0)  # not asked for anything: nothing is cut
    folder = source.paths[0].parent
    for index in chosen:
        try:
            clip = source[index]
        except ValueError:
            skipped.add(np.array([index]))
            continue
        try:
            yield inputs(clip, whole)
        except ValueError as error:
            known = str(error).startswith(str(folder))
            raise error if known else ValueError(f"{folder}: {error}") from error


def _first(encoded: Any, count: int) -> LatentClip:
    """The first clips of a batch, on the host."""
    found = from_fields(jax.device_get(encoded))
    return jax.tree.map(lambda leaf: leaf[:count], found)


def load_clips(path: Path) -> LatentClip:
    """The cached clips of a cache as one batch of numpy arrays."""
    source = LatentSource([path])
    records = [source[i] for i in range(len(source))]
    fields: dict[str, Any] = {name: np.stack([r[name] for r in records]) for name in records[0]}
    return from_fields(fields)
