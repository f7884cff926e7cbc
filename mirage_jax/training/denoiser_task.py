"""Training the denoiser with the memory in the loop: write a history, read it, predict velocity."""

from __future__ import annotations

import dataclasses
import functools
import math
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, Float, PRNGKeyArray

from mirage_jax import memory
from mirage_jax.diffusion import flow
from mirage_jax.geometry import Camera
from mirage_jax.io.pictures import contact_sheet
from mirage_jax.nn.denoiser import Denoiser
from mirage_jax.parallel import processes
from mirage_jax.training import clean_frames
from mirage_jax.training.clean_frames import NO_FRAMES, CleanFrames
from mirage_jax.training.latent_cache import FIELDS, LatentClip
from mirage_jax.training.memory_view import cloud_view, decode_each, token_view
from mirage_jax.training.task import Params, Samples, Task
from mirage_jax.world import sample_chunk
from mirage_jax.world import scenarios as histories
from mirage_jax.world.conditioners import camera_rays, memory_context, plain_context
from mirage_jax.world.latent_encoder import LatentEncoder, to_uint8

MEMORY_KINDS = ("latent", "rgb", "none")


@dataclasses.dataclass(frozen=True)
class Perturbation:
    """How a training history is spoilt, so that sampling from estimates is nothing new.

    Attributes:
      depth: largest standard deviation of the relative depth error of a frame; each frame draws its
        own, half of them 0, and its confidence says so.
      pose: standard deviation of a frame's pose error, in metres and radians.
      tokens: standard deviation of noise added to tokens (latents have about 1).
    """

    depth: float = 0.0
    pose: float = 0.0
    tokens: float = 0.0


@dataclasses.dataclass(frozen=True)
class Readout:
    """How the memory is read for the denoiser; see `conditioning.memory_context`."""

    reads: int = 4
    fine: int = 2
    prefer: str = "nearest"
    footprint: int = 1


def confidence_of_depth_error(relative_error: Float[Array, "*b"]) -> Float[Array, "*b"]:
    """The confidence stored for an element whose depth is off by about this share."""
    return jnp.exp(-5.0 * relative_error)


class History(NamedTuple):
    """Keyframes of a clip as a rollout would have found them.

    Attributes:
      tokens: image-mode latents.
      depth: of the cells in metres; 0 everywhere in keyframes that are not remembered.
      confidence: in the depth of each keyframe.
      camera: of the keyframes.
    """

    tokens: Float[Array, "k h w c"]
    depth: Float[Array, "k h w"]
    confidence: Float[Array, " k"]
    camera: Camera


def draw_history(
    clip: LatentClip,
    keyframes: Array,
    size: tuple[int, int],
    *,
    key: PRNGKeyArray | None = None,
    perturbation: Perturbation | None = None,
) -> History:
    """The chosen keyframes of one clip, spoilt or as they are.

    Args:
      clip: one clip, no batch dimension.
      keyframes: which keyframes are remembered, bool [K].
      size: picture size that the intrinsics refer to.
      key: randomness of the perturbation; None leaves what is true.
      perturbation: how far tokens, depth and poses are moved.
    """
    count = len(clip.tokens)
    tokens, depth, poses = clip.tokens, clip.depth, clip.cam2world[:: _stride(clip)]
    confidence = jnp.ones(count)
    if key is not None and perturbation is not None:
        keys = jax.random.split(key, 4)
        tokens = tokens + perturbation.tokens * jax.random.normal(keys[0], tokens.shape)
        error = perturbation.depth * jnp.maximum(
            jax.random.uniform(keys[1], (count,), minval=-1.0, maxval=1.0), 0.0
        )
        depth = depth * jnp.exp(error[:, None, None] * jax.random.normal(keys[2], depth.shape))
        confidence = confidence_of_depth_error(error)
        poses = jitter_poses(keys[3], jnp.asarray(poses), perturbation.pose)
    depth = jnp.where(keyframes[:, None, None], depth, 0.0)
    camera = Camera(jnp.broadcast_to(clip.intrinsics, (count, 4)), poses, size)
    return History(jnp.asarray(tokens), jnp.asarray(depth), confidence, camera)


def write_history(history: History, static: Float[Array, "k h w"]) -> memory.LatentMemory:
    """A fresh memory of these keyframes, of the cells that stand still."""
    tokens, depth, confidence, camera = history
    bank = memory.create(depth.size, tokens.shape[-1])
    bank, _ = memory.write(
        bank,
        tokens,
        depth,
        camera,
        static=static,
        confidence=jnp.broadcast_to(confidence[:, None, None], depth.shape),
        times=jnp.arange(len(depth), dtype=jnp.float32),
    )
    return bank


def _stride(clip: LatentClip) -> int:
    return (clip.cam2world.shape[-3] - 1) // (clip.tokens.shape[-4] - 1)


def jitter_poses(
    key: PRNGKeyArray, cam2world: Float[Array, "k 4 4"], scale: float
) -> Float[Array, "k 4 4"]:
    """Moves and turns each camera by a normal error of `scale` metres and radians."""
    turn_key, move_key = jax.random.split(key)
    x, y, z = scale * jax.random.normal(turn_key, (3, cam2world.shape[0]))
    zero = jnp.zeros_like(x)
    skew = jnp.stack([zero, -z, y, z, zero, -x, -y, x, zero], axis=-1).reshape(-1, 3, 3)
    # Second order is exact to scale^3, far below the noise itself.
    rotation = jnp.eye(3) + skew + 0.5 * skew @ skew
    moved = cam2world.at[:, :3, :3].set(rotation @ cam2world[:, :3, :3])
    return moved.at[:, :3, 3].add(scale * jax.random.normal(move_key, (cam2world.shape[0], 3)))


def chunk_camera(clip: LatentClip, chunk: Array, size: tuple[int, int]) -> Camera:
    """Cameras of the frames of chunk number `chunk` (traced) of one clip."""
    frames = (clip.cam2world.shape[0] - 1) // clip.chunks.shape[0] + 1
    return _cameras(clip, chunk * (frames - 1), frames, size)


def _cameras(clip: LatentClip, start: Array, frames: int, size: tuple[int, int]) -> Camera:
    poses = jax.lax.dynamic_slice_in_dim(clip.cam2world, start, frames)
    return Camera(jnp.broadcast_to(clip.intrinsics, (frames, 4)), poses, size)


def rgb_context(clip: LatentClip, scenario: Array) -> Float[Array, "t h w m"]:
    """The baseline's context: the encoded rendering of the colour cloud and where it has points."""
    return jnp.concatenate([clip.rgb_chunks[scenario], clip.rgb_hits[scenario]], axis=-1)


class Inputs(NamedTuple):
    """What the denoiser gets, but for noise and text.

    Attributes:
      target: latents of the chunk.
      rays: of the chunk's cameras.
      context: what the memory shows of the chunk and of the preceding latents, if there is one.
      clean: `reference` and `preceding` latents and their `frame_mask`, as `Denoiser` has them;
        empty where none are ever shown.
    """

    target: Array
    rays: Array
    context: Array | None
    clean: dict[str, Any]


def sample_inputs(
    clip: LatentClip,
    scenario: Array,
    keyframes: Array,
    *,
    kind: str,
    size: tuple[int, int],
    table: histories.Scenarios,
    readout: Readout,
    frames: CleanFrames = NO_FRAMES,
    key: PRNGKeyArray | None = None,
    perturbation: Perturbation | None = None,
) -> Inputs:
    """What one clip in one situation comes to; arguments as in `DenoiserTask`."""
    chunk = jnp.asarray(table.chunk)[scenario]
    grid = clip.tokens.shape[1], clip.tokens.shape[2]
    camera = chunk_camera(clip, chunk, size)
    target = clip.chunks[chunk]
    rays = camera_rays(camera, grid)
    if kind == "none":
        return Inputs(target, rays, None, {})
    if kind == "rgb":
        return Inputs(target, rays, rgb_context(clip, scenario), {})
    history = draw_history(clip, keyframes, size, key=key, perturbation=perturbation)
    bank = write_history(history, jnp.asarray(clip.static))
    read = functools.partial(memory_context, bank, grid=grid, **dataclasses.asdict(readout))
    context = read(camera)
    if not frames:
        return Inputs(target, rays, context, {})
    reference, there = clean_frames.references(
        history.tokens, history.depth, history.camera, camera, frames.references
    )
    follows = jnp.asarray(table.goes_on)[scenario]
    if frames.preceding:
        start = chunk * (len(camera) - 1)
        before = _cameras(clip, start - frames.preceding, frames.preceding, size)
        context = jnp.concatenate([context, read(before)])
    shown = jnp.concatenate([there, jnp.broadcast_to(follows, frames.preceding_latents)])
    clean = {"reference": reference, "preceding": clip.preceding, "frame_mask": shown}
    return Inputs(target, rays, context, clean)


def returning_inputs(
    clips: LatentClip,
    *,
    kind: str,
    size: tuple[int, int],
    readout: Readout,
    frames: CleanFrames = NO_FRAMES,
) -> Inputs:
    """What a batch coming back comes to, the whole true history in memory."""
    table = histories.scenarios(clips.chunks.shape[1], clips.chunks.shape[2])
    scenario = histories.RETURN

    def one(clip: LatentClip) -> Inputs:
        return sample_inputs(
            clip,
            jnp.asarray(scenario),
            jnp.asarray(table.keyframes[scenario]),
            kind=kind,
            size=size,
            table=table,
            readout=readout,
            frames=frames,
        )

    return jax.vmap(one)(clips)


def returning_tokens(clips: LatentClip, size: tuple[int, int]) -> Float[Array, "b t h w m"]:
    """What the memory of `returning_inputs` shows at each latent: a token a cell, and whether."""
    table = histories.scenarios(clips.chunks.shape[1], clips.chunks.shape[2])

    def one(clip: LatentClip) -> Array:
        history = draw_history(clip, jnp.asarray(table.keyframes[histories.RETURN]), size)
        bank = write_history(history, jnp.asarray(clip.static))
        camera = chunk_camera(clip, jnp.asarray(table.chunk[histories.RETURN]), size)
        grid = clip.tokens.shape[1], clip.tokens.shape[2]
        return plain_context(bank, camera, grid, visibility=True)

    return jax.vmap(one)(clips)


@dataclasses.dataclass(frozen=True)
class Preview:
    """What a sample sheet of the denoiser needs.

    Attributes:
      encoder: to decode what was sampled.
      clips: a few held-out clips, as a batch.
      steps, shift, method: of the sampler, see `sample_chunk`.
      fps: frames per second of the video.
    """

    encoder: LatentEncoder
    clips: LatentClip
    steps: int = 4
    shift: float = 1.0
    method: str = "euler"
    fps: float = 8.0


@dataclasses.dataclass(frozen=True)
class DenoiserTask(Task):
    """Flow matching on the latents of a chunk, given memory, rays and the chunk's first latent.

    Attributes:
      denoiser: the network; its `memory_channels` fit `kind`.
      kind: "latent" (the memory), "rgb" (the colour-cloud baseline) or "none".
      size: picture size (H, W).
      chunks: chunks of a clip.
      chunk_latents: latents of a chunk.
      readout: how the memory is read.
      frames: how much of its past a chunk is shown clean; needs the kind "latent".
      perturbation: how histories written to the memory are spoilt; the baseline's are true.
      shift: noise-level shift.
      drop_memory: share of samples that see an empty memory.
      drop_text: share of samples whose text tokens are zeroed, where batches have text.
      per_frame: one noise level per latent instead of per sample (diffusion forcing), to be sampled
        with the method "staggered".
      prior: parameters of the denoiser's memory prior (`prior_fit`), if it has one.
      preview: clips to draw sample sheets of, if any.
    """

    denoiser: Denoiser
    kind: str
    size: tuple[int, int]
    chunks: int
    chunk_latents: int
    readout: Readout = Readout()
    frames: CleanFrames = NO_FRAMES
    perturbation: Perturbation = Perturbation()
    shift: float = 1.0
    drop_memory: float = 0.1
    drop_text: float = 0.0
    per_frame: bool = False
    prior: Params | None = None
    preview: Preview | None = None

    def __post_init__(self) -> None:
        if self.kind not in MEMORY_KINDS:
            raise ValueError(f"memory kind: found {self.kind!r}, expected one of {MEMORY_KINDS}")
        if self.frames and self.kind != "latent":
            raise ValueError(f"frames: found {self.frames} with the memory kind {self.kind!r}")

    @property
    def table(self) -> histories.Scenarios:
        return histories.scenarios(self.chunks, self.chunk_latents)

    def inputs(self, batch: LatentClip, key: PRNGKeyArray, *, train: bool = True) -> Inputs:
        """What a batch comes to.

        In training histories are spoilt and memories sometimes dropped, references with them; else
        all is true and kept.
        """

        def one(clip: LatentClip, key: PRNGKeyArray):
            draw_key, noise_key, drop_key = jax.random.split(key, 3)
            scenario, keyframes = histories.draw(draw_key, self.table)
            found = sample_inputs(
                clip,
                scenario,
                keyframes,
                kind=self.kind,
                size=self.size,
                table=self.table,
                readout=self.readout,
                frames=self.frames,
                key=noise_key if train else None,
                perturbation=self.perturbation,
            )
            if not train or found.context is None:
                return found
            kept, clean = jax.random.uniform(drop_key) >= self.drop_memory, dict(found.clean)
            if clean:
                references = self.frames.references
                clean["frame_mask"] = clean_frames.keep_references(
                    clean["frame_mask"], kept, references
                )
            return found._replace(context=found.context * kept, clean=clean)

        size = batch.chunks.shape[0]
        return jax.vmap(one)(batch, jax.random.split(key, size))

    def init(self, key: PRNGKeyArray) -> Params:
        channels = self.denoiser.in_channels
        cells = tuple(2 * p for p in self.denoiser.patch[1:])
        latents = jnp.zeros((1, self.chunk_latents, *cells, channels))
        params = self.denoiser.init(key, latents, jnp.zeros(latents.shape[:2]))["params"]
        if self.prior is None:
            return params
        boxed = {
            name: leaf.replace_boxed(jnp.asarray(self.prior[name]))
            for name, leaf in params["memory_prior"].items()
        }
        return {**params, "memory_prior": boxed}

    def loss(
        self, params: Params, batch: dict[str, Array], key: PRNGKeyArray, *, train: bool, **_: Any
    ) -> tuple[Array, dict[str, Array]]:
        """Mean squared velocity error over the latents after the first.

        Beside the fields of `LatentClip` a batch may hold `text`, encoded text tokens [B, l, e].
        """
        clip = LatentClip(**{name: batch[name] for name in FIELDS})
        inputs_key, sigma_key, noise_key = jax.random.split(key, 3)
        target, rays, context, clean = self.inputs(clip, inputs_key, train=train)
        count, latents = target.shape[:2]
        sigma = flow.sample_sigma(
            sigma_key, count, latents, shift=self.shift, per_frame=self.per_frame
        )
        sigma = sigma.at[:, 0].set(0.0)
        noise = jax.random.normal(noise_key, target.shape)
        noisy = flow.add_noise(target, noise, sigma)
        text = batch.get("text")
        if text is not None:
            text_key = jax.random.fold_in(key, 3)  # 0..2 give the keys of the split above
            kept = jax.random.uniform(text_key, (count, 1, 1)) >= self.drop_text
            text = text * kept.astype(text.dtype)
        velocity: Any = self.denoiser.apply(
            {"params": params},
            noisy,
            flow.TIMESTEPS * sigma,
            memory=context,
            rays=rays,
            text=text,
            **clean,
        )
        mask = jnp.broadcast_to(jnp.arange(latents) > 0, (count, latents)).astype(jnp.float32)
        loss = flow.flow_loss(velocity, target, noise, mask)
        return loss, {}

    def tokens(self, batch: dict[str, Array]) -> int:
        """Tokens of the chunks that are denoised."""
        clips, _, latents, height, width, _ = batch["chunks"].shape
        return clips * latents * height * width // math.prod(self.denoiser.patch)

    def samples(self, params: Params, step: int) -> Samples | None:
        """True returns, what the memory shows of them, and generated ones, from the whole history.

        The video has a row for each clip: true, and generated beside it.
        """
        if self.preview is None:
            return None
        clips, encoder = self.preview.clips, self.preview.encoder
        how = {name: getattr(self.preview, name) for name in ("steps", "shift", "method")}
        returns = jax.jit(functools.partial(self._returns, **how))
        made = processes.fetch(returns(nn.unbox(params), encoder, clips))
        # In this order: a jitted function gives back dicts in that of the alphabet.
        shown = [name for name in ("decoded", "memory", "generated") if name in made]
        videos = {name: to_uint8(made[name]) for name in shown}
        rows = {
            f"clip {number + 1}, {name}": video[number]
            for number in range(len(clips.chunks))
            for name, video in videos.items()
        }
        pair = np.concatenate([videos["decoded"], videos["generated"]], axis=3)
        return Samples(contact_sheet(rows), np.concatenate(pair, axis=1), self.preview.fps)

    def _returns(
        self, params: Params, encoder: LatentEncoder, clips: LatentClip, **how: Any
    ) -> dict[str, Array]:
        """Videos by what they show; "memory" where the denoiser has one."""
        target, rays, context, clean = returning_inputs(
            clips, kind=self.kind, size=self.size, readout=self.readout, frames=self.frames
        )
        sampled = sample_chunk(
            self.denoiser, params, target[:, 0], context, rays, jax.random.key(0), **how, **clean
        )
        videos = {"decoded": decode_each(encoder, target)}
        if self.kind == "latent":
            videos["memory"] = token_view(encoder, returning_tokens(clips, self.size))
        elif context is not None:
            videos["memory"] = cloud_view(encoder, context)
        return {**videos, "generated": decode_each(encoder, sampled)}
