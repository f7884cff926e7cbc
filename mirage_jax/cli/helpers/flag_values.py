"""What texts of flags mean that absl has no type for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from mirage_jax.cli.helpers import common
from mirage_jax.io.exports import stored_architecture
from mirage_jax.io.workdir import Workdir
from mirage_jax.world.model import WorldModel
from mirage_jax.world.sampling import memory_scale


def two_numbers(flag: str, words: Sequence[str], expected: str) -> tuple[int, int]:
    """Two whole numbers; UserError, naming the flag and what was `expected`, on anything else."""
    if len(words) != 2 or not all(word.strip().isdecimal() for word in words):
        raise common.UserError(f"--{flag}: found {','.join(words)!r}, expected {expected}")
    return int(words[0]), int(words[1])


def vae_tile(words: Sequence[str] | None) -> tuple[int, ...] | None:
    """`LatentEncoder.tile` as --vae_tile says it; None where it says nothing."""
    if words is None:
        return None
    expected = "ROWS,COLUMNS of cells, or 0,0 for whole pictures"
    tile = two_numbers("vae_tile", words, expected)
    if tile == (0, 0):
        return ()
    if 0 in tile:
        raise common.UserError(f"--vae_tile: found {tile}, expected {expected}")
    return tile


def with_memory_scale(model: WorldModel, words: Sequence[str]) -> WorldModel:
    """The model with the strength of its memory branch that --memory_scale says."""
    if not words:
        return model
    try:
        sampler = dataclasses.replace(model.sampler, memory_scale=tuple(map(float, words)))
        memory_scale(model.denoiser, sampler)
    except ValueError as error:
        raise common.UserError(f"--memory_scale={','.join(words)}: {error}") from error
    return model.replace(sampler=sampler)  # type: ignore[attr-defined]


def with_chunk_frames(
    model: WorldModel, workdir: Workdir, denoiser: str, frames: int
) -> WorldModel:
    """The model with chunks of so many frames, if it was trained on them too; else as it is."""
    made = stored_architecture(workdir.model(f"denoiser_{denoiser}"))
    if frames not in made.get("chunk_lengths", ()):
        return model
    changed: WorldModel = model.replace(chunk_frames=frames)  # type: ignore[attr-defined]
    return changed
