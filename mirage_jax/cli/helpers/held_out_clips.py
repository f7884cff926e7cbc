"""The held-out clips of a work directory as evaluations take them."""

from __future__ import annotations

from pathlib import Path

import jax

from mirage_jax.evaluation import protocol
from mirage_jax.io.workdir import Workdir
from mirage_jax.training import latent_cache
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
    return from_cache(workdir.worlds(world), workdir.latents(world, "eval", rgb=rgb), most)


def from_cache(recorded: Path, cache: Path, most: int | None = None) -> protocol.HeldOut:
    """Clips of the split "eval" of a recorded folder that its cache has.

    Args:
      recorded: the folder.
      cache: of its clips.
      most: clips that are taken, spread over all of them; None: all.
    """
    clips, skipped = load_clips(cache), latent_cache.skipped_clips(cache)
    count = len(clips.chunks)
    chosen = spread_over(count, min(count, most or count))
    numbers = [number for number in range(count + len(skipped)) if number not in skipped]
    taken = jax.tree.map(lambda leaf: leaf[chosen], clips)
    return protocol.held_out(recorded, taken, [numbers[i] for i in chosen])
