"""What a trained model makes of a clip's second half, and what its memory shows by itself.

The first half is given with its cameras, and then how many frames are left out: models that keep
bodies move them on by so much.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from data_pipelines.clip import Clip
from data_pipelines.due_again import frame_numbers, history_frames
from mirage_jax import memory
from mirage_jax.evaluation.permanence.protocol import RECONSTRUCTION
from mirage_jax.geometry import Camera
from mirage_jax.memory import movers
from mirage_jax.memory.movers import MoverOptions, Movers
from mirage_jax.world import World, WorldModel, rollout
from mirage_jax.world.conditioners import Surfels
from mirage_jax.world.conditioners.base import View
from mirage_jax.world.latent_encoder import LatentEncoder, to_model_range, to_uint8

Video = UInt8[np.ndarray, "frames height width 3"]

METHODS = (RECONSTRUCTION, "memory", "memory_true", "readout", "readout_true")
"""Names of what `videos_of` returns."""


def videos_of(
    model: WorldModel, clip: Clip, *, seed: int, true_maps: bool = True
) -> dict[str, Video]:
    """The second half of a clip as a model has it.

    Args:
      model: trained, for pictures of the clip's size.
      clip: with depth and mover ids.
      seed: of the noise.
      true_maps: whether "memory_true" and "readout_true" are made too.

    Returns:
      "memory": generated with the head's depth and masks; "memory_true": with true depth and what
      moves left out by true masks; "readout" and "readout_true": what those memories, as they are
      after the first half, show at the same poses, decoded frame by frame; and the reconstruction.

    Raises:
      ValueError: naming the clip, if it is of another size, or the model's chunks do not fit it.
    """
    given = history_frames(clip)
    if clip.size != tuple(model.size) or clip.frames - given != model.chunk_frames - 1:
        raise ValueError(
            f"clip {clip.name!r}: found {clip.frames - given} frames of {clip.size} after those "
            f"given, expected {model.chunk_frames - 1} of {tuple(model.size)}"
        )
    model = at_rate_of(model, clip)
    found = {RECONSTRUCTION: _reconstruct(model.encoder, clip.video[given - 1 :])[1:]}
    for suffix, told in (("", False), *((("_true", True),) if true_maps else ())):
        shown = second_half(model, start(model, clip, told=told), clip, seed=seed)
        found |= {f"{name}{suffix}": video for name, video in shown.items()}
    return found


def second_half(model: WorldModel, world: World, clip: Clip, *, seed: int) -> dict[str, Video]:
    """The second half of a clip from a world that knows the first: "memory" and "readout"."""
    camera = camera_of(clip, slice(history_frames(clip), None))
    return {
        "memory": _generate(model, world, clip, seed),
        "readout": _decode_memory(model, world, camera),
    }


def at_rate_of(model: WorldModel, clip: Clip) -> WorldModel:
    """The model with its bodies kept at the frames a second of a clip: speeds, turn rates and how
    uncertain they become are told by the second, what is written by the frame."""
    if model.movers is None:
        return model
    movers_of_clip = dataclasses.replace(model.movers, fps=clip.fps)
    return model.replace(movers=movers_of_clip)  # type: ignore[attr-defined]


def start(model: WorldModel, clip: Clip, *, told: bool) -> World:
    """A world that has seen the first half of a clip, every frame of it, some time ago.

    `told` gives true depth, and true masks of what moves.
    """
    given = history_frames(clip)
    frames = slice(0, given)
    numbers = frame_numbers(clip)
    maps: dict[str, Any] = {}
    if told:
        still = clip.require("mover_ids")[frames] == 0
        maps = {"depth": clip.require("depth")[frames], "static": still.astype(np.float32)}
    world = model.start(
        clip.video[frames], camera_of(clip, frames), times=numbers[frames] - numbers[0], **maps
    )
    left_out = int(numbers[given] - numbers[given - 1] - 1)
    return world.replace(frames=world.frames + left_out)  # type: ignore[attr-defined]


def camera_of(clip: Clip, frames: slice) -> Camera:
    """Cameras of some of a clip's frames."""
    return Camera(clip.intrinsics[frames], clip.cam2world[frames].astype(np.float32), clip.size)


def _generate(model: WorldModel, world: World, clip: Clip, seed: int) -> Video:
    path = clip.cam2world[history_frames(clip) - 1 :]
    chunks = rollout(model, world, path, jax.random.key(seed))
    return np.concatenate([chunk.video for chunk in chunks])


def _reconstruct(encoder: LatentEncoder, video: Video) -> Video:
    return to_uint8(_code(encoder, to_model_range(video)[None])[0])


@jax.jit
def _code(
    encoder: LatentEncoder, video: Float[Array, "b t height width 3"]
) -> Float[Array, "b t height width 3"]:
    return encoder.decode(encoder.encode(video))


def _decode_memory(model: WorldModel, world: World, camera: Camera) -> Video:
    return to_uint8(_show(model, world, camera))


@jax.jit
def _show(model: WorldModel, world: World, camera: Camera) -> Float[Array, "t height width 3"]:
    """What the memory shows of the frames that follow, bodies where they will be by then.

    Surfels are drawn as the denoiser has them. Else cells of what stands still and views of bodies
    are decoded each by themselves; the views are then drawn at the pictures' pixels.
    """
    times = world.frames + jnp.arange(len(camera), dtype=jnp.float32)
    if isinstance(model.conditioner, Surfels):
        options = model.movers or MoverOptions()
        view = View(camera, times, model.encoder, world.movers, options)
        return jnp.clip(model.conditioner.draw(world.bank, view, filled=True)[0], -1.0, 1.0)
    still = memory.read(world.bank, camera, model.grid, cells=model.conditioner.cells)
    pictures = model.encoder.decode(still.tokens[:, None])[:, 0]
    if model.movers is not None and world.movers is not None:
        plan = movers.obstacles(world.movers, world.bank, camera.centre[0], model.movers)
        table = decoded_views(model.encoder, world.movers)
        bodies = movers.read_along(
            table,
            camera,
            times / model.movers.fps,
            model.size,
            still.depth,
            plan,
            model.movers,
        )
        pictures = jnp.where(bodies.alpha[..., None] >= 0.5, bodies.tokens, pictures)
    return jnp.clip(pictures, -1.0, 1.0)


def decoded_views(encoder: LatentEncoder, table: Movers) -> Movers:
    """The table with the views of bodies as pictures, [K, V, size, size, 3] in [-1, 1]; their
    outlines stay those of the cells."""
    slots, views, cells = table.view_tokens.shape[:3]
    tokens = table.view_tokens.reshape(slots * views, 1, cells, cells, -1)
    colours = encoder.decode(tokens)[:, 0]
    size = colours.shape[-2]
    return table.replace(  # type: ignore[attr-defined]
        view_tokens=colours.reshape(slots, views, size, size, 3)
    )
