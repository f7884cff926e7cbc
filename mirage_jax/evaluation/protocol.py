"""The revisit protocol: a true history, a chunk generated on the way back, scored where it returns.

Every method sees the same history, poses, first latent and noise, and takes the same number of
sampling steps. Controls are never skipped: the copies, the emptied memory and the encoder's
reconstruction need no training of their own.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from data_pipelines.loading import ClipSource
from mirage_jax.evaluation import image_metrics, lpips, results, revisit
from mirage_jax.world import WorldModel
from mirage_jax.world.context_frames import keep_references
from mirage_jax.world.history import returning_samples
from mirage_jax.world.latent_clip import LatentClip
from mirage_jax.world.latent_encoder import LatentEncoder, to_uint8

REVISITED_FRAMES = 4
"""The last frames of a clip: those the last latent covers."""

Videos = UInt8[np.ndarray, "clips frames height width 3"]


@dataclasses.dataclass(frozen=True)
class HeldOut:
    """Held-out clips of one world with what they were cached as.

    Attributes:
      video: true frames.
      cam2world: true poses.
      names: of the clips.
      clips: the same clips as `LatentClip`, numpy leaves.
    """

    video: Videos
    cam2world: Float[np.ndarray, "clips frames 4 4"]
    names: list[str]
    clips: LatentClip

    def __len__(self) -> int:
        return len(self.video)

    def fitted(self, model: WorldModel) -> WorldModel:
        """The model for pictures of these clips' size, one of those that it was trained on."""
        height, width = self.video.shape[2:4]
        return model.replace(size=(height, width))  # type: ignore[attr-defined]


def held_out(recorded: Path, clips: LatentClip, numbers: Sequence[int]) -> HeldOut:
    """Clips of the split "eval" of a recorded folder, with what they were cached as.

    Args:
      recorded: the folder.
      clips: as they were cached.
      numbers: which of the recorded clips each of them is.
    """
    source = ClipSource(recorded, "eval", fields=("video", "cam2world", "name"))
    read = [source[number] for number in numbers]
    return HeldOut(
        video=np.stack([clip["video"] for clip in read]),
        cam2world=np.stack([clip["cam2world"] for clip in read]),
        names=[clip["name"] for clip in read],
        clips=clips,
    )


def returning_chunk(
    model: WorldModel,
    batch: LatentClip,
    key: Array,
    empty: Array | float = 0.0,
    *,
    capacity: int | None = None,
) -> Float[Array, "b t height width 3"]:
    """Generates the last chunk of each clip from the whole true history before it.

    Args:
      model: encoder, conditioner, denoiser and sampler.
      batch: cached clips.
      key: of the noise.
      empty: 1 empties the memory (same weights), references included; 0 leaves it.
      capacity: elements that the memory has room for; None = all.
    """
    empty, options = jnp.asarray(empty), model.context_frames
    latents = batch.chunks.shape[2] + options.preceding_latents
    target, rays, context, frames = returning_samples(
        batch,
        conditioner=model.conditioner,
        size=model.size,
        options=options,
        fusion=model.memory.history_fusion(options),
        capacity=capacity,
        constants=model.constants(latents),
        encoder=model.encoder,
        movers=model.movers,
    )
    if context is not None:
        context = model.conditioner.drop(context, empty == 0)
    if frames:
        kept = keep_references(frames["frame_mask"], empty == 0, options.references)
        frames["frame_mask"] = kept
    latents = model.denoise(target[:, 0], context, rays, key, **frames)
    return model.encoder.decode(latents)


def in_batches(
    function: Callable[[LatentClip, Array], Array], clips: LatentClip, size: int, seed: int
) -> Videos:
    """Applies a jitted function to batches of one shape (the last is padded) as uint8 frames."""
    count = len(clips.chunks)
    parts = []
    for number, start in enumerate(range(0, count, size)):
        index = np.minimum(np.arange(start, start + size), count - 1)
        batch = jax.tree.map(lambda leaf, index=index: leaf[index], clips)
        key = jax.random.fold_in(jax.random.key(seed), number)
        parts.append(to_uint8(function(batch, key))[: min(size, count - start)])
    return np.concatenate(parts)


def reconstruct(encoder: LatentEncoder, held_out: HeldOut, batch_size: int = 16) -> Videos:
    """The truth of the last chunk, encoded and decoded."""
    return in_batches(lambda batch, _: _decode_last(encoder, batch), held_out.clips, batch_size, 0)


@jax.jit
def _decode_last(encoder: LatentEncoder, clips: LatentClip) -> Array:
    return encoder.decode(jnp.asarray(clips.chunks)[:, -1])


def copies(held_out: HeldOut, chunk_frames: int) -> dict[str, Videos]:
    """The controls that only copy: the first picture, and the history frame of the nearest pose."""
    history = held_out.video.shape[1] - chunk_frames + 1
    nearest = np.stack(
        [
            video[revisit.nearest_view(poses[history - 1 :], poses[:history])]
            for video, poses in zip(held_out.video, held_out.cam2world, strict=True)
        ]
    )
    first = np.repeat(held_out.video[:, :1], chunk_frames, axis=1)
    return {"copy_nearest_view": nearest, "copy_first_frame": first}


def generate(
    models: Mapping[str, WorldModel], held_out: HeldOut, *, seed: int, batch_size: int = 16
) -> dict[str, Videos]:
    """The last chunk of every clip by every method.

    Args:
      models: by kind of memory ("latent" and any of "rgb", "none").
      held_out: the clips.
      seed: of the noise, shared by all methods.
      batch_size: clips sampled at once.
    """
    names = {"latent": "memory", "rgb": "rgb_memory", "none": "no_memory"}
    run = jax.jit(returning_chunk)
    videos = {}
    for memory, model in models.items():

        def sample(empty: float, model: WorldModel = model) -> Videos:
            method = lambda batch, key: run(model, batch, key, jnp.asarray(empty))  # noqa: E731
            return in_batches(method, held_out.clips, batch_size, seed)

        videos[names[memory]] = sample(0.0)
        if memory == "latent":
            videos["memory_zeroed"] = sample(1.0)
    encoder = models["latent"].encoder
    videos["vae_reconstruction"] = reconstruct(encoder, held_out, batch_size)
    return videos | copies(held_out, models["latent"].chunk_frames)


def score(
    held_out: HeldOut, videos: Mapping[str, Videos], alexnet: lpips.Weights | None = None
) -> dict[str, Any]:
    """`results.summarise` plus NMR for the generated last chunks of held-out clips.

    Args:
      held_out: the clips.
      videos: the last chunk of every clip by every method.
      alexnet: weights to measure LPIPS with too.
    """
    chunk_frames = next(iter(videos.values())).shape[1]
    history = held_out.video.shape[1] - chunk_frames + 1
    truth = held_out.video[:, -REVISITED_FRAMES:]
    scores: dict[str, dict[str, np.ndarray]] = {"psnr": {}, "ssim": {}}
    retention: dict[str, dict[str, np.ndarray]] = {"psnr": {}, "ssim": {}}
    pairs = [revisit.nmr_pairs(poses, history) for poses in held_out.cam2world]
    for method, video in videos.items():
        whole = np.concatenate([held_out.video[:, :history], video[:, 1:]], axis=1)
        for metric, function in image_metrics.METRICS.items():
            scores[metric][method] = function(truth, video[:, -REVISITED_FRAMES:])
            retention[metric][method] = np.array(
                [
                    revisit.memory_retention(clip, chosen, metric)
                    for clip, chosen in zip(whole, pairs, strict=True)
                ]
            )
    parallax = np.array(
        [
            revisit.returns_with_parallax(poses, history=history, revisit=REVISITED_FRAMES)
            for poses in held_out.cam2world
        ]
    )
    alike = None
    if alexnet is not None:
        alike = {
            method: lpips.lpips(truth, video[:, -REVISITED_FRAMES:], alexnet)
            for method, video in videos.items()
        }
    summary = results.summarise(scores["psnr"], scores["ssim"], parallax, lpips=alike)
    nmr = {metric: results.nmr_summary(values) for metric, values in retention.items()}
    return summary | {"nmr": nmr}
