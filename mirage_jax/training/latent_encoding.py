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

DepthOf = Callable[[np.ndarray], np.ndarray]
"""z-depth in metres of the pixels of a uint8 picture [H, W, 3]."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class CacheSettings(Settings):
    """What decides, beside the encoder and the clips, what is in a cache."""

    chunk_frames: int = setting(dataclasses.MISSING, "Frames of a chunk, 1 + 4 n.", least=1)
    sky_depth: float = setting(
        dataclasses.MISSING, "Metres at which the sky is remembered.", above=0
    )
    rgb: bool = setting(False, "Whether to cache what the colour-cloud baseline needs, too.")
    preceding: int = setting(0, "Frames before the last chunk, 0 or 1 + 4 n.", least=0)
    depth_network: str = setting("", "Identifies what estimates the depth that clips lack.")


def cache_key(encoder_id: str, clips: Path, split: str, settings: CacheSettings) -> dict[str, Any]:
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
    if not settings.depth_network:  # a cache made without one is what it was
        del key["depth_network"]
    return key


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
    settings: CacheSettings,
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
    # What nobody knows to move is remembered as static.
    given = ("video", "intrinsics", "cam2world", "name")
    source = loading.ClipSource(clips, split, given, optional=("depth", "mover_ids"))
    encode = jax.jit(functools.partial(_encode_batch, settings=settings))

    def batches() -> Iterator[LatentClip]:
        starts = range(0, len(source), batch_size)
        label = f"encoding {clips.name} {split}"
        for start in track(starts, label, console=console, disable=console is None):
            index = np.minimum(np.arange(start, start + batch_size), len(source) - 1)
            elements = [source[int(i)] for i in index]
            maps = [_keyframe_maps(e, clips, settings.sky_depth, depth_of) for e in elements]
            inputs = _host_inputs(elements, maps)
            encoded = jax.device_get(encode(encoder, *inputs))
            keep = min(batch_size, len(source) - start)
            yield jax.tree.map(lambda leaf, keep=keep: leaf[:keep], encoded)

    return latent_cache.write_cache(out, batches())


def _keyframe_maps(
    element: Mapping[str, Any], clips: Path, sky_depth: float, depth_of: DepthOf | None
) -> tuple[np.ndarray, np.ndarray]:
    """Depth of a clip's keyframes, and 1 where something moves in them."""
    depth, movers = element["depth"], element["mover_ids"]
    keyframes = element["video"][::TEMPORAL_STRIDE]
    if depth is not None:
        depth = keyframe_depth(depth, sky_depth)
    elif depth_of is not None:
        depth = np.stack([depth_of(picture) for picture in keyframes]).astype(np.float32)
    else:
        raise ValueError(
            f"{clips}: clip {element['name']!r} has no depth; expected footage with depth, or a "
            "network that estimates it (config.data.depth_weights)"
        )
    moving = np.zeros(keyframes.shape[:3], np.float32)
    if movers is not None:
        moving[movers[::TEMPORAL_STRIDE] > 0] = 1.0
    return depth, moving


def _host_inputs(
    elements: Sequence[Mapping[str, Any]], maps: Sequence[tuple[np.ndarray, np.ndarray]]
) -> tuple[np.ndarray, ...]:
    poses = np.stack([e["cam2world"] for e in elements])
    relative = np.linalg.inv(poses[:, :1]) @ poses
    return (
        np.stack([e["video"] for e in elements]),
        np.stack([depth for depth, _ in maps]),
        np.stack([moving for _, moving in maps]),
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
