"""How good the geometry head's depth is on held-out clips, and what its errors cost a read-out.

Depth alone is scored with the scale that the head gives and with each frame's true one. The cost
is that of a memory written with it: its read-out where the clips come back, decoded, beside that of
the same memory written with true depth.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, UInt8

from mirage_jax import memory
from mirage_jax.chunks import TEMPORAL_STRIDE
from mirage_jax.evaluation.image_metrics import ROUNDING_MSE
from mirage_jax.evaluation.protocol import HeldOut
from mirage_jax.geometry import Camera
from mirage_jax.world import WorldModel
from mirage_jax.world.history import draw_history, write_history
from mirage_jax.world.latent_clip import LatentClip
from mirage_jax.world.latent_encoder import to_uint8
from mirage_jax.world.predicted_clip import keyframe_geometry

NEAR = 1.25
"""Ratio to the true depth, either way, up to which a cell counts as right."""

BATCH = 16
"""Clips decoded at once."""

Depths = Float[np.ndarray, "clips keyframes h w"]


def measure(model: WorldModel, held_out: HeldOut) -> dict[str, float | None]:
    """Scores of the head's depth.

    Args:
      model: with a geometry head; what it remembers is written as its histories are.
      held_out: clips whose last chunk comes back.

    Returns:
      `within_1.25`: share of cells whose depth is at most that factor off; `aligned_abs_rel` and
      `aligned_within_1.25`: with every frame's depth times the median ratio of true to predicted;
      sky counts in none of them. `readout_psnr` and `readout_psnr_of_true_depth`: dB of decoded
      read-outs at the keyframes of the last chunk, histories with the head's depth and with true
      one, over the pixels that the latter covers; None where it covers none.
    """
    clips = held_out.clips
    found, true = head_depth(model, clips), np.asarray(clips.depth)
    counted = (true > 0) & (true < 0.99 * model.memory.sky_depth)
    aligned = with_true_scale(found.metres, true, counted)
    _, within = scores(found.metres, true, counted)
    aligned_abs_rel, aligned_within = scores(aligned, true, counted)
    predicted = dataclasses.replace(clips, depth=found.remembered)
    psnr, psnr_true = readout_psnr(model, held_out, (predicted, clips))
    return {
        f"within_{NEAR}": within,
        "aligned_abs_rel": aligned_abs_rel,
        f"aligned_within_{NEAR}": aligned_within,
        "readout_psnr": psnr,
        "readout_psnr_of_true_depth": psnr_true,
    }


@dataclasses.dataclass(frozen=True)
class HeadDepth:
    """The head's depth of every keyframe.

    Attributes:
      metres: as predicted, also where it sees sky.
      remembered: with what it takes for sky at the distance that sky is remembered at.
    """

    metres: Depths
    remembered: Depths


def head_depth(model: WorldModel, clips: LatentClip) -> HeadDepth:
    """Depth of the keyframes as a rollout sees it: each in the chunk that it is not the first of.

    Raises:
      ValueError: if the model has no geometry head.
    """
    if model.head is None:
        raise ValueError("model: found no geometry head, expected one")
    metres, remembered = _head_depth(model, clips)
    return HeadDepth(np.asarray(metres), np.asarray(remembered))


@jax.jit
def _head_depth(model: WorldModel, clips: LatentClip) -> tuple[Array, Array]:
    assert model.head is not None
    found = keyframe_geometry(model.head, model.head_params, clips)
    sky = jnp.where(found.sky_logit > 0, model.memory.sky_depth, found.depth)
    return found.depth, sky


def with_true_scale(depth: Depths, true: Depths, counted: Bool[np.ndarray, "*shape"]) -> Depths:
    """Every frame times the median of `true / depth` over its cells that count, if some do."""
    cells = (-2, -1)
    ratio = np.where(counted, true / depth, np.nan)
    some = counted.any(axis=cells, keepdims=True)
    scale = np.nanmedian(np.where(some, ratio, 1.0), axis=cells, keepdims=True)
    return depth * scale


def scores(depth: Depths, true: Depths, counted: Bool[np.ndarray, "*shape"]) -> tuple[float, float]:
    """Mean of |depth - true| / true, and share within `NEAR`, over the cells that count."""
    depth, true = depth[counted], true[counted]
    ratio = depth / true
    return float(np.abs(ratio - 1).mean()), float((np.maximum(ratio, 1 / ratio) < NEAR).mean())


def readout_psnr(
    model: WorldModel, held_out: HeldOut, histories: tuple[LatentClip, ...]
) -> tuple[float | None, ...]:
    """PSNR of decoded read-outs, mean over the clips, of the same clips with several depths.

    Args:
      model: encoder, conditioner and size.
      held_out: true pictures.
      histories: the clips; pixels count where the last shows something.
    """
    shown = [_returning_read(model, clips) for clips in histories]
    visible = np.asarray(shown[-1].visible) > 0
    pictures = [_decoded(model, read.tokens) for read in shown]
    last = visible.shape[1] * TEMPORAL_STRIDE
    truth = held_out.video[:, -last:][:, TEMPORAL_STRIDE - 1 :: TEMPORAL_STRIDE]
    rows, columns = np.array(truth.shape[2:4]) // visible.shape[2:4]
    counted = visible.repeat(rows, axis=2).repeat(columns, axis=3)
    seen = counted.any((1, 2, 3))
    if not seen.any():
        return (None,) * len(shown)
    pixels = counted.sum((1, 2, 3))[seen]
    means = []
    for picture in pictures:
        square = np.square(picture.astype(np.float32) - truth).mean(axis=-1)
        error = (square * counted).sum((1, 2, 3))[seen] / pixels
        means.append(float((10 * np.log10(255.0**2 / np.maximum(error, ROUNDING_MSE))).mean()))
    return tuple(means)


@jax.jit
def _returning_read(model: WorldModel, clips: LatentClip) -> memory.ReadOut:
    """Read-outs at the keyframes of the last chunk but its first, [clips, keyframes, ...]."""
    last, keyframes = clips.chunks.shape[2] - 1, clips.depth.shape[1]
    before = jnp.arange(keyframes) < keyframes - last

    def one(clip: LatentClip) -> memory.ReadOut:
        history = draw_history(clip, before, model.size)
        bank = write_history(model.conditioner, history)
        poses = jnp.asarray(clip.cam2world)[::TEMPORAL_STRIDE][-last:]
        lens = jnp.broadcast_to(jnp.asarray(clip.intrinsics), (last, 4))
        return memory.read(bank, Camera(lens, poses, model.size), model.grid)

    return jax.vmap(one)(clips)


def _decoded(
    model: WorldModel, tokens: Float[Array, "b k h w c"]
) -> UInt8[np.ndarray, "b k height width 3"]:
    """Every view as a picture, so many clips at once that large pictures have room."""
    parts = [tokens[start : start + BATCH] for start in range(0, len(tokens), BATCH)]
    return np.concatenate([to_uint8(_decode(model, part)) for part in parts])


@jax.jit
def _decode(
    model: WorldModel, tokens: Float[Array, "b k h w c"]
) -> Float[Array, "b k height width 3"]:
    pictures = model.encoder.decode(tokens.reshape(-1, 1, *tokens.shape[2:]))
    return pictures.reshape(*tokens.shape[:2], *pictures.shape[2:])
