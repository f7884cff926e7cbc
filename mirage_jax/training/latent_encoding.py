"""Filling the latent cache: every clip of a recorded world is encoded once."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from rich.console import Console
from rich.progress import track

from data_pipelines import loading
from data_pipelines.card import read_card
from mirage_jax.chunks import TEMPORAL_STRIDE
from mirage_jax.io.lock import locked
from mirage_jax.settings import Settings, setting
from mirage_jax.training import latent_cache
from mirage_jax.training.latent_cache import LatentSource
from mirage_jax.world.conditioners import Rgb
from mirage_jax.world.latent_clip import LatentClip, encode_clip, keyframe_depth
from mirage_jax.world.latent_encoder import LatentEncoder, to_model_range


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheSettings(Settings):
    """What decides, beside the encoder and the clips, what is in a cache."""

    chunk_frames: int = setting(dataclasses.MISSING, "Frames of a chunk, 1 + 4 n.", least=1)
    sky_depth: float = setting(
        dataclasses.MISSING, "Metres at which the sky is remembered.", above=0
    )
    rgb: bool = setting(False, "Whether to cache what the colour-cloud baseline needs, too.")
    preceding: int = setting(0, "Frames before the last chunk, 0 or 1 + 4 n.", least=0)


def cache_key(encoder_id: str, clips: Path, split: str, settings: CacheSettings) -> dict[str, Any]:
    """What decides what is in the cache of a recorded world, for `latent_cache.stale`.

    Args:
      encoder_id: identifies the weights of the encoder, see `weights.fingerprint`.
      clips: folder of the recorded world.
      split: "train" or "eval".
      settings: of the cache.
    """
    recorded = json.dumps(read_card(clips)["splits"].get(split), sort_keys=True)
    return {
        "encoder": encoder_id,
        "clips": hashlib.sha256(recorded.encode()).hexdigest(),
        **dataclasses.asdict(settings),
    }


def refresh_cache(
    encoder: LatentEncoder,
    encoder_id: str,
    clips: Path,
    split: str,
    out: Path,
    settings: CacheSettings,
    *,
    say: Callable[[str], None],
    console: Console | None = None,
) -> None:
    """Makes the cache of a recorded world unless the one there has the same key, and says so.

    Args:
      encoder: what encodes.
      encoder_id: of `cache_key`.
      clips, split, out, settings, console: of `encode_clips`.
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
            encode_clips(encoder, clips, split, out, settings=settings, console=console)
            latent_cache.write_key(out, key)


def encode_clips(
    encoder: LatentEncoder,
    clips: Path,
    split: str,
    out: Path,
    *,
    settings: CacheSettings,
    batch_size: int = 4,
    console: Console | None = None,
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
    """
    source = loading.ClipSource(clips, split)
    encode = jax.jit(functools.partial(_encode_batch, settings=settings))

    def batches() -> Iterator[LatentClip]:
        starts = range(0, len(source), batch_size)
        label = f"encoding {clips.name} {split}"
        for start in track(starts, label, console=console, disable=console is None):
            index = np.minimum(np.arange(start, start + batch_size), len(source) - 1)
            inputs = _host_inputs([source[int(i)] for i in index], settings.sky_depth)
            encoded = jax.device_get(encode(encoder, *inputs))
            keep = min(batch_size, len(source) - start)
            yield jax.tree.map(lambda leaf, keep=keep: leaf[:keep], encoded)

    return latent_cache.write_cache(out, batches())


def _host_inputs(elements: Sequence[Mapping[str, Any]], sky_depth: float) -> tuple[np.ndarray, ...]:
    poses = np.stack([e["cam2world"] for e in elements])
    relative = np.linalg.inv(poses[:, :1]) @ poses
    return (
        np.stack([e["video"] for e in elements]),
        np.stack([keyframe_depth(e["depth"], sky_depth) for e in elements]),
        np.stack([(e["mover_ids"][::TEMPORAL_STRIDE] > 0).astype(np.float32) for e in elements]),
        np.stack([e["intrinsics"][0] for e in elements]),
        relative.astype(np.float32),
    )


def _encode_batch(
    encoder: LatentEncoder, video: Any, depth: Any, moving: Any, intrinsics: Any, poses: Any,
    *, settings: CacheSettings,
) -> LatentClip:  # fmt: skip
    vae = encoder.vae
    baseline = Rgb(vae.latent_channels, vae.spatial_stride) if settings.rgb else None

    def one(*clip: Any) -> LatentClip:
        return encode_clip(
            *clip,
            encoder=encoder,
            chunk_frames=settings.chunk_frames,
            rgb=baseline,
            preceding=settings.preceding,
        )

    return jax.vmap(one)(to_model_range(video), depth, moving, intrinsics, poses)


def load_clips(path: Path) -> LatentClip:
    """The cached clips of a file as one batch of numpy arrays."""
    source = LatentSource([path])
    records = [source[i] for i in range(len(source))]
    fields: dict[str, Any] = {name: np.stack([r[name] for r in records]) for name in records[0]}
    return LatentClip(**fields)
