"""What texts of flags mean that absl has no type for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from mirage_jax.cli.helpers import common
from mirage_jax.io.exports import stored_architecture
from mirage_jax.io.workdir import Workdir
from mirage_jax.world import loading
from mirage_jax.world.model import WorldModel
from mirage_jax.world.sampling import memory_scale


def two_numbers(flag: str, words: Sequence[str], expected: str, least: int = 1) -> tuple[int, int]:
    """Two whole numbers from `least`.

    Raises:
      UserError: naming the flag and what was `expected`, on anything else.
    """
    whole = all(word.strip().isdecimal() for word in words)
    if len(words) != 2 or not whole or min(map(int, words)) < least:
        raise common.UserError(f"--{flag}: found {','.join(words)!r}, expected {expected}")
    return int(words[0]), int(words[1])


def vae_tile(words: Sequence[str] | None) -> tuple[int, ...] | None:
    """`LatentEncoder.tile` as --vae_tile says it; None where it says nothing."""
    if words is None:
        return None
    expected = "ROWS,COLUMNS of cells, or 0,0 for whole pictures"
    tile = two_numbers("vae_tile", words, expected, least=0)
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


def as_asked(
    model: WorldModel,
    workdir: Workdir,
    *,
    denoiser: str,
    size: tuple[int, int] | None,
    chunk_frames: int | None,
) -> WorldModel:
    """The model with the size and the length of chunks that flags ask for.

    Args:
      model: as it was loaded.
      workdir: where from.
      denoiser: which of the work directory.
      size: (H, W) that is wanted, if any is.
      chunk_frames: of --chunk_frames, if it was given.

    Raises:
      UserError: if the weights were trained for another size, or not for chunks of this length.
    """
    changed: dict[str, Any] = {}
    made = stored_architecture(workdir.model(f"denoiser_{denoiser}"))
    sizes = loading.trained_sizes(workdir.root, denoiser)
    if size in sizes:
        changed["size"] = size
    if chunk_frames in made.get("chunk_lengths", ()):
        changed["chunk_frames"] = chunk_frames
    model = model.replace(**changed)  # type: ignore[attr-defined]
    known = sizes or (model.size,)
    wanted = {
        "video_size": (size, known),
        "chunk_frames": (chunk_frames, (model.chunk_frames,)),
    }
    for name, (found, trained) in wanted.items():
        if found not in (None, *trained):
            raise common.UserError(
                f"--{name}: found {found}, expected {' or '.join(map(str, trained))}, which the "
                "weights were trained for"
            )
    return model
