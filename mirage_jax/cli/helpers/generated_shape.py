"""Which of the picture shapes that weights were trained for a rollout is generated in."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

from ml_collections import ConfigDict

from mirage_jax.cli.helpers import capture_start
from mirage_jax.io.framing import nearest_shape
from mirage_jax.io.image_files import read_rgb
from mirage_jax.world.world_file import read_world_file


@dataclasses.dataclass(frozen=True)
class Started:
    """What a rollout starts from: one of the files, and the scene of a clip that has several."""

    image: str | None = ""
    clip: str | None = ""
    world: str | None = ""
    scene: str | None = ""


def size_of_start(
    config: ConfigDict,
    sizes: Sequence[tuple[int, int]],
    started: Started,
    grid: Callable[[tuple[int, int]], tuple[int, int]],
) -> tuple[int, int] | None:
    """The size whose shape is nearest to what a rollout starts from; None where nothing is.

    Args:
      config: of whose `data` footage is read by.
      sizes: to choose from.
      started: what is started from.
      grid: cells (h, w) of pictures of a size.

    Raises:
      FileNotFoundError, ValueError: if the file cannot be read.
    """
    if not sizes:
        return None
    if started.image:
        return nearest_shape(sizes, read_rgb(Path(started.image), at_least=1).shape[:2])
    if started.clip:
        own = capture_start.own_size(config, started.clip, started.scene or "")
        return nearest_shape(sizes, own)
    if started.world:
        cells = read_world_file(Path(started.world)).world.latent.shape[:2]
        return next((size for size in sizes if grid(size) == cells), None)
    return None
