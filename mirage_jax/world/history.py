"""What a training sample is: a past written into memory with noise, and a chunk to predict."""

from __future__ import annotations

import dataclasses
import functools
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray

from mirage_jax import memory
from mirage_jax.chunks import TEMPORAL_STRIDE, chunks_of_clip, frames_of_latents
from mirage_jax.geometry import Camera
from mirage_jax.memory.fusion import FusionOptions
from mirage_jax.memory.movers import MoverOptions
from mirage_jax.parallel import map_batch
from mirage_jax.settings import Settings, setting
from mirage_jax.world import context_frames, scenarios
from mirage_jax.world.conditioners import Conditioner, Frames, Visibility, camera_rays
from mirage_jax.world.latent_clip import LatentClip
from mirage_jax.world.latent_encoder import LatentEncoder
from mirage_jax.world.moving import free_of_bodies
from mirage_jax.world.options import ContextFrameOptions
from mirage_jax.world.predicted_clip import Keyframes, true_keyframes

NO_FRAMES = ContextFrameOptions()


@dataclasses.dataclass(frozen=True)
class NoiseAugmentation(Settings):
    """Noise on the history, so that sampling from estimates is nothing new to the denoiser."""

    depth: float = setting(
        0.0,
        "Largest standard deviation of the relative depth error of a frame; each frame draws its "
        "own, half of them 0, and its confidence says so.",
        least=0,
    )
    pose: float = setting(
        0.0, "Standard deviation of a frame's pose error, metres and radians.", least=0
    )
    tokens: float = setting(
        0.0, "Standard deviation of noise on tokens (latents have about 1).", least=0
    )


def confidence_of_depth_error(relative_error: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """The confidence stored for an element whose depth is off by about this share."""
    return jnp.exp(-5.0 * relative_error)


class History(NamedTuple):
    """Keyframes of a clip as a rollout would have found them.

    Attributes:
      tokens: image-mode latents.
      depth: of the cells in metres; 0 everywhere in keyframes that are not remembered.
      static: share of a cell that stands still.
      confidence: in the depth of each cell.
      camera: of the keyframes.
    """

    tokens: Float[Array, "k h w c"]
    depth: Float[Array, "k h w"]
    static: Float[Array, "k h w"]
    confidence: Float[Array, "k h w"]
    camera: Camera

    @property
    def grid(self) -> tuple[int, int]:
        """Cells (h, w)."""
        return int(self.depth.shape[-2]), int(self.depth.shape[-1])


_normal = functools.partial(jax.random.normal, dtype=jnp.float32)


def draw_history(
    clip: LatentClip,
    keyframes: Array,
    size: tuple[int, int],
    *,
    key: PRNGKeyArray | None = None,
    noise: NoiseAugmentation | None = None,
    seen: Keyframes | None = None,
) -> History:
    """The chosen keyframes of one clip, with noise or as they are.

    Args:
      clip: one clip, no batch dimension.
      keyframes: which keyframes are remembered, bool [K].
      size: picture size that the intrinsics refer to.
      key: randomness of the noise; None leaves what is true.
      noise: on tokens, depth and poses.
      seen: what is remembered of the keyframes; None: what is true.
    """
    tokens, depth, static, confidence = true_keyframes(clip) if seen is None else seen
    count, poses = len(tokens), clip.cam2world[::TEMPORAL_STRIDE]
    if key is not None and noise is not None:
        keys = jax.random.split(key, 4)
        tokens = tokens + noise.tokens * _normal(keys[0], tokens.shape)
        error = noise.depth * jnp.maximum(
            jax.random.uniform(keys[1], (count,), jnp.float32, minval=-1.0, maxval=1.0), 0.0
        )
        depth = depth * jnp.exp(error[:, None, None] * _normal(keys[2], depth.shape))
        confidence = confidence * confidence_of_depth_error(error)[:, None, None]
        poses = jitter_poses(keys[3], jnp.asarray(poses), noise.pose)
    depth = jnp.where(keyframes[:, None, None], depth, 0.0)
    camera = Camera(jnp.broadcast_to(clip.intrinsics, (count, 4)), poses, size)
    return History(tokens, depth, static, confidence, camera)


def write_history(
    conditioner: Conditioner,
    history: History,
    fusion: FusionOptions | None = None,
    capacity: int | None = None,
    movers: MoverOptions | None = None,
) -> memory.LatentMemory:
    """A fresh memory of these keyframes, of the cells that stand still, fused as a rollout's is.

    Args:
      conditioner: of the memory.
      history: the keyframes.
      fusion: see `Conditioner.write`.
      capacity: its number of elements; None has room for every cell.
      movers: how rollouts keep bodies, whose cells they then leave out sooner; None: they do not.
    """
    static = history.static
    if movers is not None:
        static = free_of_bodies(static, history.grid, movers)
    frames = Frames(
        history.tokens,
        history.depth,
        history.camera,
        times=jnp.arange(len(history.depth), dtype=jnp.float32),
        static=static,
        confidence=history.confidence,
    )
    empty = conditioner.create(capacity or history.depth.size)
    return conditioner.write(empty, frames, fusion)[0]


def jitter_poses(
    key: PRNGKeyArray, cam2world: Float[Array, "k 4 4"], scale: float
) -> Float[Array, "k 4 4"]:
    """Moves and turns each camera by a normal error of `scale` metres and radians."""
    turn_key, move_key = jax.random.split(key)
    x, y, z = scale * _normal(turn_key, (3, cam2world.shape[0]))
    zero = jnp.zeros_like(x)
    skew = jnp.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1).reshape(-1, 3, 3)
    # Second order is exact to scale^3, far below the noise itself.
    rotation = jnp.eye(3, dtype=jnp.float32)[None] + skew + 0.5 * skew @ skew
    moved = cam2world.at[:, :3, :3].set(rotation @ cam2world[:, :3, :3])
    return moved.at[:, :3, 3].add(scale * _normal(move_key, (cam2world.shape[0], 3)))


def chunk_camera(clip: LatentClip, chunk: Array, size: tuple[int, int]) -> Camera:
    """Cameras of the frames of chunk number `chunk` (traced) of one clip."""
    return _cameras(clip, chunk_start(clip, chunk), chunk_frames(clip), size)


def chunk_frames(clip: LatentClip) -> int:
    """Frames of a chunk of one clip."""
    return frames_of_latents(clip.chunks.shape[1])


def chunk_start(clip: LatentClip, chunk: Array) -> Array:
    """Number of the first frame of chunk number `chunk` (traced) of those a clip has latents of."""
    step = chunk_frames(clip) - 1
    left_out = (clip.cam2world.shape[0] - 1) // step - clip.chunks.shape[0]
    return (chunk + left_out) * step


def situations(clips: LatentClip, *, between: bool = False) -> scenarios.Scenarios:
    """The situations of a batch of clips, by how many of their chunks have latents.

    Args:
      clips: the batch.
      between: of whole clips, whether the chunks between the first and the last are generated too.
    """
    count, latents = clips.chunks.shape[1:3]
    whole = chunks_of_clip(clips.cam2world.shape[1], frames_of_latents(latents))
    if count < whole:
        return scenarios.last_chunk_scenarios(whole, latents)
    return scenarios.scenarios(whole, latents, between=between)


def _cameras(clip: LatentClip, start: Array, frames: int, size: tuple[int, int]) -> Camera:
    poses = jax.lax.dynamic_slice_in_dim(clip.cam2world, start, frames)
    return Camera(jnp.broadcast_to(clip.intrinsics, (frames, 4)), poses, size)


class Sample(NamedTuple):
    """What the denoiser gets, but for noise and text.

    Attributes:
      target: latents of the chunk.
      rays: of the chunk's cameras.
      context: of the chunk and of the preceding latents; None without memory.
      frames: `reference` and `preceding` latents and their `frame_mask`, as `Denoiser` has them;
        empty where there are never any.
    """

    target: Array
    rays: Array
    context: Array | None
    frames: dict[str, Any]


def make_sample(
    clip: LatentClip,
    scenario: Array,
    keyframes: Array,
    *,
    conditioner: Conditioner,
    size: tuple[int, int],
    table: scenarios.Scenarios,
    options: ContextFrameOptions = NO_FRAMES,
    fusion: FusionOptions | None = None,
    capacity: int | None = None,
    constants: Array | None = None,
    encoder: LatentEncoder | None = None,
    key: PRNGKeyArray | None = None,
    noise: NoiseAugmentation | None = None,
    seen: Keyframes | None = None,
    movers: MoverOptions | None = None,
) -> Sample:
    """One clip in one situation.

    Args:
      clip: one clip, no batch dimension.
      scenario: row of the table, a traced number.
      keyframes: which of its keyframes are remembered, bool [K].
      conditioner: from the memory to the context.
      size: of the pictures (H, W).
      table: the situations.
      options: of the context frames.
      fusion: how the history is written, see `Conditioner.write`.
      capacity: elements of its memory; None has room for every cell.
      constants: of the conditioner, for the chunk's and the preceding latents.
      encoder: for kinds of conditioner that encode what they read.
      key: randomness of the noise; None for a true history.
      noise: on the history.
      seen: what is remembered of its keyframes; None: what is true.
      movers: see `write_history`.
    """
    chunk = jnp.asarray(table.chunk)[scenario]
    camera = chunk_camera(clip, chunk, size)
    target = clip.chunks[chunk]
    rays = camera_rays(camera, conditioner.grid(size))
    if conditioner.stores == "nothing":
        return Sample(target, rays, None, {})
    if conditioner.stores == "colours":
        # Rendered and encoded beforehand by the same conditioner: `latent_clip.rgb_contexts`.
        context = jnp.concatenate([clip.rgb_chunks[scenario], clip.rgb_hits[scenario]], axis=-1)
        return Sample(target, rays, context, {})
    history = draw_history(clip, keyframes, size, key=key, noise=noise, seen=seen)
    bank = write_history(conditioner, history, fusion, capacity, movers)
    # Bodies were read where the clip was encoded, by the same conditioner.
    bodies = None if clip.bodies is None else clip.bodies[scenario]
    read, frames = conditioner.read(bank, camera, encoder=encoder, bodies=bodies), {}
    if options:
        reference, present = context_frames.references(
            history.tokens, history.depth, history.camera, camera, options.references
        )
        follows = jnp.asarray(table.goes_on)[scenario]
        if options.preceding:
            start = chunk_start(clip, chunk)
            before = _cameras(clip, start - options.preceding, options.preceding, size)
            earlier = conditioner.read(bank, before, encoder=encoder)
            read = jnp.concatenate([read, earlier])
        mask = jnp.concatenate([present, jnp.broadcast_to(follows, options.preceding_latents)])
        frames = {"reference": reference, "preceding": clip.preceding, "frame_mask": mask}
    return Sample(target, rays, conditioner.complete(read, constants), frames)


def returning_samples(
    clips: LatentClip,
    *,
    conditioner: Conditioner,
    size: tuple[int, int],
    options: ContextFrameOptions = NO_FRAMES,
    fusion: FusionOptions | None = None,
    capacity: int | None = None,
    constants: Array | None = None,
    encoder: LatentEncoder | None = None,
    movers: MoverOptions | None = None,
) -> Sample:
    """A batch coming back, the whole true history in memory."""
    table = situations(clips)

    def one(clip: LatentClip) -> Sample:
        return make_sample(
            clip,
            jnp.asarray(scenarios.RETURN),
            jnp.asarray(table.keyframes[scenarios.RETURN]),
            conditioner=conditioner,
            size=size,
            table=table,
            options=options,
            fusion=fusion,
            capacity=capacity,
            constants=constants,
            encoder=encoder,
            movers=movers,
        )

    return map_batch(one, clips)


def returning_tokens(
    clips: LatentClip,
    conditioner: Conditioner,
    size: tuple[int, int],
    fusion: FusionOptions | None = None,
    movers: MoverOptions | None = None,
) -> Float[Array, "b t h w m"]:
    """What the memory of `returning_samples` shows at each latent: a token a cell, and whether."""
    table = situations(clips)
    plain = Visibility(conditioner.token_channels, conditioner.stride, conditioner.cells)

    def one(clip: LatentClip) -> Array:
        history = draw_history(clip, jnp.asarray(table.keyframes[scenarios.RETURN]), size)
        bank = write_history(plain, history, fusion, movers=movers)
        camera = chunk_camera(clip, jnp.asarray(table.chunk[scenarios.RETURN]), size)
        return plain.read(bank, camera)

    return map_batch(one, clips)
