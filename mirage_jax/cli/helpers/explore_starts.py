"""The model of `mirage explore` and where a walk begins: from its flags, read and compiled."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from ml_collections import ConfigDict

from mirage_jax.cli.helpers import capture_start
from mirage_jax.cli.helpers.common import UserError
from mirage_jax.cli.helpers.generated_shape import Started, size_of_start
from mirage_jax.cli.helpers.prompts import Prompting
from mirage_jax.explore import pace
from mirage_jax.explore.kinds import Kinds
from mirage_jax.explore.starts import Prompts, Start, Starts
from mirage_jax.geometry import Camera
from mirage_jax.io.framing import Framing
from mirage_jax.io.image_files import read_rgb
from mirage_jax.io.picture_files import read_picture
from mirage_jax.world import WorldModel, loading, on_mesh, shipped
from mirage_jax.world.bodies import with_body_fields
from mirage_jax.world.session import Session, SessionOptions
from mirage_jax.world.state import World
from mirage_jax.world.warming import chunk_seconds, denoise_steps
from mirage_jax.world.world_file import WORLD, read_world_file

CLIP_FRAMES = 17
"""Frames of a clip that a walk begins from."""

CLIP_STRIDE = 4
"""Of them, one in so many is remembered."""

Progress = Callable[[str, float], None]


@dataclasses.dataclass(frozen=True)
class Entries:
    """What the flags say that is walked with and from; one of the last three at most.

    Attributes:
      workdir: of the model; the weights that ship by default.
      fov: degrees across the shorter side of pictures.
      image: a picture.
      world: a saved world.
      clip: a folder of footage with camera poses.
      clip_scene: which of its scenes; "" for the only one.
      config: whose `data` says how footage is read.
      denoiser: "latent", or "student" of few steps.
      decoder: of the pictures, as of `loading.load`.
      bodies: whether bodies that move are kept, likewise.
      body_fields: other numbers for them, of `MoverOptions`.
      prompts: what the model is told.
    """

    workdir: str
    fov: float
    image: str = ""
    world: str = ""
    clip: str = ""
    clip_scene: str = ""
    config: ConfigDict = dataclasses.field(default_factory=ConfigDict)
    denoiser: str = "latent"
    decoder: str = "auto"
    bodies: bool | None = None
    body_fields: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    prompts: Prompting = dataclasses.field(default_factory=Prompting)

    def __post_init__(self) -> None:
        given = [name for name in ("image", "world", "clip") if getattr(self, name)]
        if len(given) > 1:
            raise UserError(
                f"found {' and '.join(f'--{name}' for name in given)}, expected one of them"
            )
        for name in given:
            if not Path(getattr(self, name)).exists():
                raise UserError(f"--{name}: {getattr(self, name)}: no such file")

    def check(self) -> None:
        """Looks at the file before anything else is done.

        Raises:
          ValueError, OSError: naming it, if it is not what its flag asks for.
        """
        if self.image:
            read_rgb(Path(self.image), at_least=1)
        if self.world and not (Path(self.world).is_file() and WORLD.is_ours(Path(self.world))):
            raise UserError(f"--world: {self.world}: not a saved world, expected one")
        if self.clip:
            footage = capture_start.footage(self.config, self.clip, (1, 1))
            footage.scenes()
            try:
                footage.chosen(self.clip_scene)
            except ValueError as error:
                raise UserError(f"--clip_scene: {error}") from error


def make_starts(
    entries: Entries,
    options: SessionOptions,
    progress: Progress,
    *,
    mesh: Mesh | None = None,
    adapts: bool = False,
) -> Starts:
    """Reads the model, makes the first world, and compiles all that a walk runs.

    Args:
      entries: of the flags.
      options: of all sessions.
      progress: told what is done, and which share of all is.
      adapts: whether the pace follows what the machine can do. Bodies move on by the frame, so that
        it would change how fast they walk: with them it stays that of the options.
      mesh: in force, over whose devices the model is split; None: it is not.

    Raises:
      ValueError, OSError: if anything cannot be read or does not fit.
    """
    progress("reading the weights", 0.0)

    sizes = loading.trained_sizes(entries.workdir, entries.denoiser)
    begun = Started(entries.image, entries.clip, entries.world, entries.clip_scene)

    def read(memory: str) -> tuple[WorldModel, Prompts | None]:
        model = loading.load(
            entries.workdir,
            memory=memory,
            decoder=entries.decoder,
            bodies=entries.bodies if memory == entries.denoiser else False,
        )
        if memory == entries.denoiser:
            model = with_body_fields(model, entries.body_fields)
        size = size_of_start(entries.config, sizes, begun, model.conditioner.grid)
        model = model.replace(size=size or model.size)  # type: ignore[attr-defined]
        model, prompts = entries.prompts.told(model, entries.world)
        return model if mesh is None else on_mesh.place_model(model, mesh), prompts

    model, prompts = read(entries.denoiser)
    if len(sizes) > 1:
        others = ", ".join("{}x{}".format(*size) for size in sizes if size != model.size)
        shape = "{}x{}".format(*model.size)
        progress(f"pictures of {shape}; the weights were trained on {others} too", 0.0)
    kinds = {"latent": model}
    if "rgb" in loading.stored_memories(entries.workdir):
        kinds["rgb"] = read("rgb")[0]
    starts = _starts(model, entries, options)
    progress(f"{starts[0].name}: the first picture", 0.1)
    session = starts[0].begin()
    walks = Kinds(session, kinds)
    for kind in kinds:
        walks.follow(kind)
    for number, walk in enumerate((session, *walks.others)):

        def warmed(what: str, share: float, number: int = number) -> None:
            progress(what, 0.2 + 0.75 * (number + share) / len(kinds))

        walk.warm_up(warmed)
    progress("timing the steps", 0.99)
    steps = denoise_steps(session)
    if model.movers is not None:
        adapts = False
    if adapts:
        frames = options.chunk_frames - 1
        options = dataclasses.replace(options, fps=pace.first(chunk_seconds(session), frames))
    several = kinds if len(kinds) > 1 else {}
    return Starts(model, options, starts, entries.fov, steps, prompts, adapts, several)


def _starts(model: WorldModel, entries: Entries, options: SessionOptions) -> tuple[Start, ...]:
    def session(start: Any, camera: Camera | None = None) -> Session:
        return Session(model, start, options=options, camera=camera)

    if entries.world:
        path = Path(entries.world)
        return (Start(path.stem, lambda: session(read_world_file(path, model))),)
    if entries.clip:
        world = _world_of_clip(model, entries)
        return (Start(Path(entries.clip).name, lambda: session(world)),)
    if entries.image:
        path = Path(entries.image)
        picture, camera = read_picture(path, model.size, entries.fov)
        return (Start(path.stem, lambda: session(picture, camera)),)
    return tuple(
        Start(name, partial(session, Framing(picture.shape[:2], model.size).picture(picture)))
        for name, picture in shipped.start_pictures().items()
    )


def _world_of_clip(model: WorldModel, entries: Entries) -> World:
    source = capture_start.footage(entries.config, entries.clip, model.size)
    scene = source.chosen(entries.clip_scene)
    opened = source.open(scene)
    frames = np.flatnonzero(opened.good)[:CLIP_FRAMES:CLIP_STRIDE]
    if not len(frames):
        raise ValueError(f"{opened.file}: found no frame with a pose, expected some")
    clip = source.read(scene, frames)
    camera = Camera(clip.intrinsics, clip.cam2world, model.size)
    return model.start(clip.video, camera, depth=clip.depth)
