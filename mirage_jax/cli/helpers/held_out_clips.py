"""The held-out clips of a work directory as evaluations take them."""

from __future__ import annotations

from mirage_jax.evaluation import protocol
from mirage_jax.io.workdir import Workdir
from mirage_jax.training.held_out import spread_over
from mirage_jax.training.latent_encoding import load_clips


def read(
    workdir: Workdir, world: str, *, rgb: bool = False, most: int | None = None
) -> protocol.HeldOut:
    """Held-out clips of a world, and what they were cached as.

    Args:
      workdir: where they are.
      world: which one.
      rgb: whether the cache is that of the colour-cloud baseline.
      most: clips that are taken, spread over all of them; None: all.
    """
    clips = load_clips(workdir.latents(world, "eval", rgb=rgb))
    count = len(clips.chunks)
    chosen = spread_over(count, min(count, most or count))
    return protocol.held_out(workdir.worlds(world), clips, chosen)
