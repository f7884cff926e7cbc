"""What fusing, wrong depth and a budget do to a return: paired scores of the generated pictures.

The protocol's history (`protocol`), written in several ways: appended or fused, as its depth is or
with some frames' depth scaled, or all of the head's, and into memories with room for a part of its
cells only. Weights, clips and noise are the same in all, so that differences are the memory's.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from mirage_jax.evaluation import image_metrics, protocol
from mirage_jax.evaluation.depth_quality import head_depth
from mirage_jax.evaluation.protocol import HeldOut
from mirage_jax.world import WorldModel
from mirage_jax.world.latent_clip import LatentClip

WRONG_SHARE = 0.1
"""Of the frames, whose depth is scaled."""
WRONG_SCALE = 1.3


@dataclasses.dataclass(frozen=True)
class Case:
    """One way to write the history.

    Attributes:
      name: of the row.
      fused: or appended.
      wrong: whether `WRONG_SHARE` of the frames have depth times `WRONG_SCALE`.
      predicted: whether depth is the geometry head's, not the true one.
      room: elements that the memory has room for, as a share of the history's cells.
    """

    name: str
    fused: bool
    wrong: bool = False
    predicted: bool = False
    room: float = 1.0


CASES = (
    Case("appended", fused=False),
    Case("fused", fused=True),
    Case("appended, a tenth of the depths x 1.3", fused=False, wrong=True),
    Case("fused, a tenth of the depths x 1.3", fused=True, wrong=True),
    Case("appended, depth of the head", fused=False, predicted=True),
    Case("fused, depth of the head", fused=True, predicted=True),
    *(
        Case(f"{name}, room for 1/{part}", fused=name == "fused", room=1 / part)
        for part in (2, 4, 8)
        for name in ("appended", "fused")
    ),
)


def measure(
    model: WorldModel,
    held_out: HeldOut,
    *,
    cases: tuple[Case, ...] = CASES,
    seed: int = 0,
    batch_size: int = 16,
    advance: Callable[[], object] = lambda: None,
) -> dict[str, Any]:
    """PSNR of the revisited frames in every case.

    Args:
      model: encoder, head and denoiser of a trained work directory.
      held_out: the clips.
      cases: the first is what the others are compared with.
      seed: of the noise, and of which frames have wrong depth.
      batch_size: clips sampled at once.
      advance: called after every case.

    Returns:
      A dict ready for JSON: `clips`, and under `cases` by name `elements` (room), `psnr` (dB) and
      `change` with `change_error`: mean and standard error over the clips of the paired difference
      to the first case.
    """
    true = held_out.clips
    scaled = with_wrong_depth(true, seed)
    predicted = dataclasses.replace(true, depth=head_depth(model, true).remembered)
    cells = history_cells(true)
    truth = held_out.video[:, -protocol.REVISITED_FRAMES :]
    scores: dict[str, np.ndarray] = {}
    found: dict[str, Any] = {}
    for case in cases:
        capacity = max(1, round(case.room * cells))
        options = dataclasses.replace(model.memory, fuse=True, fuse_histories=case.fused)
        run = jax.jit(functools.partial(protocol.returning_chunk, capacity=capacity))
        generate = functools.partial(run, dataclasses.replace(model, memory=options))
        clips = scaled if case.wrong else predicted if case.predicted else true
        video = protocol.in_batches(generate, clips, batch_size, seed)
        psnr = image_metrics.psnr(truth, video[:, -protocol.REVISITED_FRAMES :]).mean(axis=-1)
        scores[case.name] = psnr
        change = psnr - scores[cases[0].name]
        found[case.name] = {
            "elements": capacity,
            "psnr": float(psnr.mean()),
            "change": float(change.mean()),
            "change_error": float(change.std(ddof=1) / np.sqrt(len(change))),
        }
        advance()
    return {"clips": len(held_out), "cases": found}


def history_cells(clips: LatentClip) -> int:
    """Cells of the keyframes before the last chunk, all of which an ample memory holds."""
    chunks, latents = clips.chunks.shape[1:3]
    return ((chunks - 1) * (latents - 1) + 1) * int(np.prod(clips.depth.shape[2:]))


def with_wrong_depth(clips: LatentClip, seed: int) -> LatentClip:
    """Clips of whose keyframes `WRONG_SHARE`, drawn one by one, have depth times `WRONG_SCALE`."""
    wrong = np.random.default_rng(seed).random(clips.depth.shape[:2]) < WRONG_SHARE
    scale: Float[np.ndarray, "b k"] = np.where(wrong, WRONG_SCALE, 1.0).astype(np.float32)
    return dataclasses.replace(clips, depth=jnp.asarray(clips.depth) * scale[..., None, None])


def table(worlds: Mapping[str, Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Rows of text, the first naming the columns: PSNR and the paired change for every world."""
    head = ["memory"]
    for world in worlds:
        head += [f"{world}: elements", "PSNR dB", "change"]
    rows = [tuple(head)]
    for name in next(iter(worlds.values()))["cases"]:
        row = [name]
        for found in worlds.values():
            case = found["cases"][name]
            change = f"{case['change']:+.2f} +- {case['change_error']:.2f}"
            row += [str(case["elements"]), f"{case['psnr']:.2f}", change]
        rows.append(tuple(row))
    return rows
