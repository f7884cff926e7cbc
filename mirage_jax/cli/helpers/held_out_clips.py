"""The held-out clips of a work directory as evaluations take them."""

from __future__ import annotations

import jax
import numpy as np

from data_pipelines.loading import ClipSource
from mirage_jax.evaluation.protocol import HeldOut
from mirage_jax.io.workdir import Workdir
from mirage_jax.training.held_out import spread_over
from mirage_jax.training.latent_encoding import load_clips


def read(workdir: Workdir, world: str, *, rgb: bool = False, most: int | None = None) -> HeldOut:
    """Held-out clips of a world, and what they were cached as.

    Args:
      workdir: where they are.
      world: which one.
      rgb: whether the cache is that of the colour-cloud baseline.
      most: clips that are taken, spread over all of them; None: all.
    """
    source = ClipSource(workdir.worlds(world), "eval", fields=("video", "cam2world", "name"))
    cached = load_clips(workdir.latents(world, "eval", rgb=rgb))
    chosen = spread_over(len(source), min(len(source), most or len(source)))
    clips = [source[int(i)] for i in chosen]
    return HeldOut(
        video=np.stack([clip["video"] for clip in clips]),
        cam2world=np.stack([clip["cam2world"] for clip in clips]),
        names=[clip["name"] for clip in clips],
        clips=jax.tree.map(lambda leaf: leaf[np.asarray(chosen)], cached),
    )
