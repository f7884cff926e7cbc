"""What bodies show along the chunks of a clip, from histories kept as rollouts keep theirs.

Bodies need masks and pictures, which the latents of a clip do not hold. What a denoiser trains on
is therefore read where the clip is encoded: for each situation of `scenarios` its keyframes are
brought into an empty table, one after the other, and the table is read along the chunk, moved on to
the time of each frame. Of the situation in which the future is remembered time runs backwards.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from mirage_jax.chunks import TEMPORAL_STRIDE, chunks_of_clip, latents_of_frames
from mirage_jax.geometry import Camera
from mirage_jax.memory.fusion import FusionOptions
from mirage_jax.memory.movers import MoverOptions
from mirage_jax.world import moving
from mirage_jax.world.conditioners import BodyReader, Frames
from mirage_jax.world.conditioners.base import View
from mirage_jax.world.latent_encoder import LatentEncoder
from mirage_jax.world.scenarios import last_chunk_scenarios, scenarios


@dataclasses.dataclass(frozen=True)
class BodyReads:
    """How bodies are kept and read.

    Attributes:
      conditioner: with `movers`, as the denoiser has it.
      options: of the table; its `fps` is that of the frame numbers.
      fusion: how what stands still is written; None appends it.
    """

    conditioner: BodyReader
    options: MoverOptions
    fusion: FusionOptions | None


def body_reads(
    settings: BodyReads,
    keyframes: Frames,
    camera: Camera,
    times: Float[Array, " f"],
    *,
    encoder: LatentEncoder,
    encode: Callable[[Float[Array, "n s s 3"]], Float[Array, "n a a c"]],
    chunk_frames: int,
    last_only: bool = False,
) -> Float[Array, "s ..."]:
    """What bodies show along the chunk of every situation a training sample may be in.

    Args:
      settings: how they are kept and read.
      keyframes: every fourth frame of a clip, with pictures, and depth and motion of their pixels;
        their times do not count.
      camera: of all frames.
      times: numbers of all frames, which may leave some out.
      encoder: of pictures.
      encode: its image-mode latents of pictures, as is best under `vmap`.
      chunk_frames: frames of a chunk.
      last_only: whether the last chunk alone is generated.

    Returns:
      Of each situation what `BodyReader.read_bodies` gives.
    """
    conditioner, options = settings.conditioner, settings.options
    keyframes = keyframes._replace(times=times[::TEMPORAL_STRIDE])
    chunks = chunks_of_clip(len(camera), chunk_frames)
    latents = latents_of_frames(chunk_frames)
    if last_only:
        table = last_chunk_scenarios(chunks, latents)
    else:
        table = scenarios(chunks, latents, between=True)  # whose first rows are those without
    left_out = chunks - 1 if last_only else 0
    found = []
    for chunk, remembered in zip(table.chunk, table.keyframes, strict=True):
        start = (left_out + int(chunk)) * (chunk_frames - 1)
        chosen = np.flatnonzero(remembered)
        backwards = chosen[0] * TEMPORAL_STRIDE > start
        order = chosen[::-1] if backwards else chosen
        seen = jax.tree.map(lambda part, order=order: part[order], keyframes)
        along = slice(start, start + chunk_frames)
        # The first frame of a chunk is given; time that passes before the second passes unseen.
        now = times[along].at[0].set(times[start + 1] - 1)
        if backwards:
            seen = seen._replace(times=times[-1] - seen.times)
            now = times[-1] - times[along]
        empty = conditioner.create(math.prod(seen.tokens.shape[:-1]))
        still = moving.free_of_bodies(seen.static, seen.tokens.shape[1:3], options)
        bank, _ = conditioner.write(empty, seen._replace(static=still), settings.fusion)
        bodies, _ = moving.observe(
            moving.start(seen.camera, conditioner.token_channels, options),
            bank,
            seen.pictures,
            seen.static < 0.5,
            seen.depth,
            seen.camera,
            seen.times,
            encode=encode,
            stride=conditioner.stride,
            options=options,
            measured=True,
            batched=True,
        )
        view = View(camera[along], now, encoder, bodies, options)
        found.append(conditioner.read_bodies(bank, view, backwards=bool(backwards)))
    return jnp.stack(found)
