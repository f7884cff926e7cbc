"""A rollout's start from a posed clip: footage read as `mirage record` reads it, and written."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
from jaxtyping import Float
from ml_collections import ConfigDict
from rich.console import Console

from data_pipelines.clip import Clip
from data_pipelines.sources.footage.scene import ReadOptions
from data_pipelines.sources.footage.source import FootageSource
from mirage_jax.chunks import latents_of_frames
from mirage_jax.geometry import Camera
from mirage_jax.world import WorldModel
from mirage_jax.world.capture import start_from_capture
from mirage_jax.world.walk import Walk
from mirage_jax.world.world_file import CameraPath

_RENAMED = {"fps": "picture_fps"}
READ_FIELDS = ("format", *(_RENAMED.get(f.name, f.name) for f in dataclasses.fields(ReadOptions)))
"""Fields of `config.data` that reading a capture goes by."""


@dataclasses.dataclass(frozen=True)
class Capture:
    """A posed clip that a world starts from.

    Attributes:
      clip: of the model's size, in metres as far as is known.
      scaled: whether it was said how long a unit of its cameras is.
    """

    clip: Clip
    scaled: bool

    @property
    def unknown_scale(self) -> bool:
        """Whether its distances and those that a model guesses are of different units."""
        scale = (self.clip.provenance or {}).get("scale")
        return self.clip.depth is None and scale == "arbitrary" and not self.scaled


def footage(config: ConfigDict, root: str, size: tuple[int, int]) -> FootageSource:
    """Footage of any layout of docs/data.md, with pictures of a model's size.

    Args:
      config: of whose `data` the `READ_FIELDS` are gone by.
      root: folder or file.
      size: (H, W) to come to.
    """
    data = config.get("data", {})
    options: dict[str, Any] = {name: data[name] for name in READ_FIELDS if name in data}
    return FootageSource(root=root, size=size[0], width=size[1], **options)


def own_size(config: ConfigDict, root: str, scene: str = "") -> tuple[int, int]:
    """(H, W) of the pictures of a scene as they are, of the first one where none is named."""
    source = footage(config, root, (1, 1))
    return source.open(scene or source.scenes()[0]).size


def read_capture(
    config: ConfigDict,
    root: str,
    size: tuple[int, int],
    *,
    scene: str = "",
    pictures: int = 0,
    scale: float | int = 0.0,
) -> Capture:
    """Reads a scene of footage.

    Args:
      config, root, size: of `footage`.
      scene: which of several.
      pictures: at most, evenly spread; 0 for all.
      scale: metres of a unit of the cameras; 0 where that is not said, which leaves it.

    Raises:
      ValueError: as `FootageSource.capture`.
    """
    clip = footage(config, root, size).capture(scene, pictures)
    if scale:
        poses = clip.cam2world.copy()
        poses[:, :3, 3] *= scale
        depth = None if clip.depth is None else clip.depth * np.float32(scale)
        clip = dataclasses.replace(clip, cam2world=poses, depth=depth)
    return Capture(clip, bool(scale))


def start(
    model: WorldModel,
    capture: Capture,
    *,
    frames: int,
    capacity: int | None,
    insist: bool,
    console: Console,
) -> Walk:
    """A walk yet without a path, from a memory that all pictures of a capture were written to.

    Args:
      model: what writes.
      capture: of the model's size.
      frames: to be generated, for which the memory has room too.
      capacity: elements of the memory; None for as many as could be needed.
      insist: as of `WorldModel.start`.
      console: for what was written.
    """
    clip = capture.clip
    if capacity is None:
        written = clip.frames + latents_of_frames(frames) + 1
        capacity = max(model.memory.capacity, model.grid[0] * model.grid[1] * written)
    if capture.unknown_scale:
        console.print(
            f"[yellow]{clip.name}: the cameras have a scale of their own and there is no depth: "
            "distances are guessed in metres; --clip_scale=METRES says what a unit is[/]",
            soft_wrap=True,
        )
    world = start_from_capture(
        model,
        clip.video,
        Camera(clip.intrinsics, clip.cam2world, model.size),
        depth=clip.depth,
        static=None if clip.mover_ids is None else (clip.mover_ids == 0).astype(np.float32),
        capacity=capacity,
        insist=insist,
    )
    console.print(
        f"{clip.frames} pictures of {clip.name.rpartition('/')[0]} are in memory: "
        f"{int(world.bank.valid.sum()):,} elements",
        soft_wrap=True,
    )
    times = clip.timestamps - clip.timestamps[0]
    origin = dataclasses.replace(world.origin, frame_seconds=_step(times, clip.fps))
    world = world.replace(origin=origin)  # type: ignore[attr-defined]
    before = CameraPath(origin.relative(clip.cam2world), clip.intrinsics, times, model.size)
    return Walk(world, world.pose[None], before=before, fps=clip.fps)


def _step(times: Float[np.ndarray, " n"], fps: float) -> float | None:
    """Seconds between frames as `fps` says; None where they are not that far apart."""
    steps = np.diff(times)
    return 1 / fps if len(steps) and np.abs(steps * fps - 1).max() <= 1e-2 else None
