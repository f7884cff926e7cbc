"""The stages of training, in order: encoder, latent cache, geometry head, denoiser.

Plain functions of modules, folders and numbers. Each ends with an export that the next one reads,
and each goes on from its newest checkpoint when called again.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh
from rich.console import Console
from rich.progress import track

from data_pipelines import loading
from data_pipelines.card import read_card
from mirage_jax.chunks import TEMPORAL_STRIDE
from mirage_jax.nn.patch_pca import pca_linear_path
from mirage_jax.nn.video_vae import VideoVAE, measure_stats, normalise
from mirage_jax.parallel import processes
from mirage_jax.training import latent_cache
from mirage_jax.training.latent_cache import LatentSource
from mirage_jax.training.loop import fit
from mirage_jax.training.optimizers import Recipe
from mirage_jax.training.task import Task
from mirage_jax.training.vae_task import VAETask
from mirage_jax.world.conditioners import Rgb
from mirage_jax.world.latent_clip import LatentClip, encode_clip, keyframe_depth
from mirage_jax.world.latent_encoder import LatentEncoder, to_model_range

PCA_CLIPS = 300
"""Clips that the linear path and the latent statistics are measured on."""


class Joined:
    """Several random-access sources, one after the other."""

    def __init__(self, sources: Sequence[Any]):
        self._sources = list(sources)
        self._ends = np.cumsum([len(source) for source in self._sources])

    def __len__(self) -> int:
        return int(self._ends[-1])

    def __getitem__(self, index: int) -> Any:
        which = int(np.searchsorted(self._ends, index, side="right"))
        start = int(self._ends[which]) - len(self._sources[which])
        return self._sources[which][index - start]

    def __repr__(self) -> str:
        return f"Joined({self._sources})"


@dataclasses.dataclass(frozen=True)
class VideoWindow:
    """A random run of frames of a video, cut to a random square at the latent grid.

    Attributes:
      frames, pixels: of the window.
      stride: pixels of a latent cell; squares start at multiples of it.
    """

    frames: int
    pixels: int
    stride: int

    def __call__(self, element: Mapping[str, Any], rng: np.random.Generator) -> dict[str, Any]:
        video = element["video"]
        start = int(rng.integers(len(video) - self.frames + 1))
        top, left = (
            self.stride * int(rng.integers((side - self.pixels) // self.stride + 1))
            for side in video.shape[1:3]
        )
        rows, columns = slice(top, top + self.pixels), slice(left, left + self.pixels)
        return {"video": video[start : start + self.frames, rows, columns]}


def spread_over(count: int, wanted: int) -> list[int]:
    """At most `wanted` indices spread evenly over `count`."""
    return np.unique(np.linspace(0, count - 1, min(count, wanted)).round().astype(int)).tolist()


def train_task(
    task: Task,
    source: Any,
    folder: Path,
    *,
    transform: Any = None,
    recipe: Recipe,
    batch_size: int,
    mesh: Mesh,
    seed: int,
    workers: int = 0,
    **options: Any,
) -> Any:
    """Trains one task on one source and returns the averaged parameters, on the host.

    Args:
      task: what to train.
      source: random access to elements, see `loading.batches`.
      folder: for checkpoints and logs.
      transform: of an element, see `loading.batches`.
      recipe: optimizer and learning rates, see `optimizers.recipe`.
      batch_size: over all processes.
      mesh: devices.
      seed: of everything random.
      workers: loader processes.
      **options: of `loop.fit`.
    """
    optimizer, schedule = recipe
    state = fit(
        task,
        lambda start: loading.batches(
            source,
            transform,
            batch_size=batch_size,
            seed=seed,
            workers=workers,
            start_batch=start,
            shard=processes.batch_share(mesh),
        ),
        workdir=folder,
        optimizer=optimizer,
        schedule=schedule,
        seed=seed,
        mesh=mesh,
        **options,
    )
    return processes.fetch(state.best_params)


def train_vae(
    vae: VideoVAE,
    clips: Sequence[Path],
    folder: Path,
    *,
    frames: int,
    pixels: int,
    kl_weight: float,
    stats_per_channel: bool,
    pca_power: float,
    steps: int,
    seed: int,
    **options: Any,
) -> LatentEncoder:
    """Trains the autoencoder on random windows of recorded clips.

    Args:
      vae: the module.
      clips: folders of recorded worlds.
      folder: for checkpoints and logs.
      frames, pixels: of a training window.
      kl_weight: see `VAETask`.
      stats_per_channel: normalise every latent channel by itself, or all by one number.
      pca_power: see `patch_pca.pca_linear_path`.
      steps: of training; 0 takes the autoencoder as it starts, with its linear path alone.
      seed: of everything random.
      **options: of `train_task`.
    """
    source = Joined([loading.ClipSource(path, "train", fields=("video",)) for path in clips])
    sample = np.stack([source[i]["video"] for i in spread_over(len(source), PCA_CLIPS)])
    linear_path = None
    if vae.linear_path:
        linear_path = pca_linear_path(
            sample,
            latent_channels=vae.latent_channels,
            spatial_stride=vae.spatial_stride,
            temporal_stride=vae.temporal_stride,
            power=pca_power,
            seed=seed,
        )
    held_out = Joined([loading.ClipSource(path, "eval", fields=("video",)) for path in clips])
    sheet = np.stack([held_out[i]["video"][:frames] for i in spread_over(len(held_out), 4)])
    task = VAETask(
        vae=vae,
        frames=frames,
        size=pixels,
        linear_path=linear_path,
        kl_weight=kl_weight,
        sheet_video=sheet,
    )
    if steps:
        params = train_task(
            task,
            source,
            folder,
            transform=VideoWindow(frames, pixels, vae.spatial_stride),
            steps=steps,
            seed=seed,
            eval_batches=lambda: _eval_windows(held_out, frames),
            name="encoder",
            **options,
        )
    else:
        params = jax.device_get(nn.unbox(jax.jit(task.init)(jax.random.key(seed))))
    encode = jax.jit(lambda p, v: vae.apply({"params": p}, to_model_range(v), method="encode")[0])
    parts = np.array_split(sample[:, :frames], len(sample) // 8 or 1)
    latents = jnp.concatenate([encode(params, part) for part in parts])
    stats = measure_stats(latents, per_channel=stats_per_channel)
    spread = normalise(latents, stats).std((0, 1, 2, 3))
    return LatentEncoder(params, stats, vae, tuple(float(value) for value in spread))


def _eval_windows(source: Any, frames: int, least: int = 8) -> Iterator[dict[str, np.ndarray]]:
    """The last window of held-out clips of every world, where the camera comes back.

    Batches are as those of `eval_batches`.
    """
    batch = _shared_evenly(least, len(source))
    chosen = spread_over(len(source), min(len(source), 64) // batch * batch)
    for start in range(0, len(chosen), batch):
        clips = [source[i]["video"][-frames:] for i in chosen[start : start + batch]]
        yield {"video": np.stack(clips)}


def cache_key(
    encoder_id: str,
    clips: Path,
    split: str,
    *,
    chunk_frames: int,
    sky_depth: float,
    rgb: bool,
    preceding: int,
) -> dict[str, Any]:
    """What decides what is in the cache of a recorded world, for `latent_cache.stale`.

    Args:
      encoder_id: tells the weights of the encoder from others, see `export.fingerprint`.
      clips, split, chunk_frames, sky_depth, rgb, preceding: of `cache_latents`.
    """
    recorded = json.dumps(read_card(clips)["splits"].get(split), sort_keys=True)
    return {
        "encoder": encoder_id,
        "clips": hashlib.sha256(recorded.encode()).hexdigest(),
        "chunk_frames": chunk_frames,
        "sky_depth": sky_depth,
        "rgb": rgb,
        "preceding": preceding,
    }


def refresh_cache(
    encoder: LatentEncoder,
    encoder_id: str,
    clips: Path,
    split: str,
    out: Path,
    *,
    chunk_frames: int,
    sky_depth: float,
    rgb: bool,
    preceding: int,
    say: Callable[[str], None],
    **options: Any,
) -> None:
    """Makes the cache of a recorded world unless the one there is of the same making, and says so.

    Args:
      encoder: what encodes.
      encoder_id: of `cache_key`.
      clips, split, out, chunk_frames, sky_depth, rgb, preceding: of `cache_latents`.
      say: called with a line of text.
      **options: of `cache_latents`.
    """
    making: dict[str, Any] = {
        "chunk_frames": chunk_frames,
        "sky_depth": sky_depth,
        "rgb": rgb,
        "preceding": preceding,
    }
    key = cache_key(encoder_id, clips, split, **making)
    reason = latent_cache.stale(out, key)
    if not reason:
        say(f"{out}: up to date")
        return
    say(f"{out}: {reason}")
    cache_latents(encoder, clips, split, out, **making, **options)
    latent_cache.write_key(out, key)


def cache_latents(
    encoder: LatentEncoder,
    clips: Path,
    split: str,
    out: Path,
    *,
    chunk_frames: int,
    sky_depth: float,
    rgb: bool = False,
    preceding: int = 0,
    batch_size: int = 4,
    console: Console | None = None,
) -> int:
    """Encodes every clip of a recorded world once; returns how many there are.

    For `chunk_frames` and `preceding` see `latent_clip.encode_clip`; for `sky_depth`,
    `latent_clip.keyframe_depth`; `rgb` caches what the colour-cloud baseline needs, too.
    """
    source = loading.ClipSource(clips, split)
    making: dict[str, Any] = {"chunk_frames": chunk_frames, "rgb": rgb, "preceding": preceding}
    encode = jax.jit(functools.partial(_encode_batch, **making))

    def batches() -> Iterator[LatentClip]:
        starts = range(0, len(source), batch_size)
        label = f"encoding {clips.name} {split}"
        for start in track(starts, label, console=console, disable=console is None):
            index = np.minimum(np.arange(start, start + batch_size), len(source) - 1)
            inputs = _host_inputs([source[int(i)] for i in index], sky_depth)
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
    *, chunk_frames: int, rgb: bool, preceding: int,
) -> LatentClip:  # fmt: skip
    vae = encoder.vae
    baseline = Rgb(vae.latent_channels, vae.spatial_stride) if rgb else None

    def one(*clip: Any) -> LatentClip:
        return encode_clip(
            *clip, encoder=encoder, chunk_frames=chunk_frames, rgb=baseline, preceding=preceding
        )

    return jax.vmap(one)(to_model_range(video), depth, moving, intrinsics, poses)


def load_clips(path: Path) -> LatentClip:
    """The cached clips of a file as one batch of numpy arrays."""
    source = LatentSource([path])
    records = [source[i] for i in range(len(source))]
    fields: dict[str, Any] = {name: np.stack([r[name] for r in records]) for name in records[0]}
    return LatentClip(**fields)


def eval_batches(source: Any, least: int = 16) -> Iterator[dict[str, np.ndarray]]:
    """Whole batches of a held-out source of cached clips, spread over its worlds.

    A batch has `least` clips, or as many more as the devices can share evenly; where there are
    fewer, as many of them as can be shared. None at all where there are fewer than devices.
    """
    batch = _shared_evenly(least, len(source))
    order = np.random.default_rng(0).permutation(len(source))
    for start in range(0, len(source) - batch + 1, batch):
        records = [source[int(i)] for i in order[start : start + batch]]
        yield {name: np.stack([r[name] for r in records]) for name in records[0]}


def _shared_evenly(least: int, available: int) -> int:
    devices = jax.device_count()
    return max(min(-(-least // devices), available // devices), 1) * devices
