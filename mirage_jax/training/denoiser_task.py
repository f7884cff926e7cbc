"""Training the denoiser with the memory in the loop: write a history, read it, predict velocity."""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jaxtyping import Array, PRNGKeyArray

from mirage_jax.chunks import latents_of_frames
from mirage_jax.diffusion import flow
from mirage_jax.diffusion.samplers import VelocityFn
from mirage_jax.io.pictures import contact_sheet
from mirage_jax.memory.fusion import FusionOptions
from mirage_jax.memory.movers import MoverOptions
from mirage_jax.nn.denoiser import Denoiser
from mirage_jax.parallel import map_batch, processes
from mirage_jax.training.memory_view import cloud_view, decode_each, token_view
from mirage_jax.training.task import Params, Samples, Task
from mirage_jax.world import history, scenarios
from mirage_jax.world.conditioners import Conditioner
from mirage_jax.world.context_frames import keep_references
from mirage_jax.world.generated_clip import GeneratedClip
from mirage_jax.world.history import NO_FRAMES, NoiseAugmentation, Sample
from mirage_jax.world.latent_clip import LatentClip, from_fields
from mirage_jax.world.latent_encoder import LatentEncoder, to_uint8
from mirage_jax.world.options import ContextFrameOptions, SamplerOptions
from mirage_jax.world.predicted_clip import HistoryHead, Keyframes, true_keyframes
from mirage_jax.world.sampling import sample_chunk


@dataclasses.dataclass(frozen=True)
class Preview:
    """What a sample sheet of the denoiser needs.

    Attributes:
      encoder: to decode what was sampled.
      clips: a few held-out clips, as a batch.
      sampler: how to sample.
      fps: frames per second of the video.
    """

    encoder: LatentEncoder
    clips: LatentClip
    sampler: SamplerOptions = SamplerOptions()
    fps: float = 8.0


def _coin(key: PRNGKeyArray, number: int, share: float) -> Array:
    return jax.random.uniform(jax.random.fold_in(key, number), dtype=jnp.float32) < share


def after_first(count: int, latents: int) -> Array:
    """1 for the latents that are generated, 0 for the first, which is given; [count, latents]."""
    return jnp.broadcast_to(jnp.arange(latents) > 0, (count, latents)).astype(jnp.float32)


@dataclasses.dataclass(frozen=True)
class DenoiserTask(Task):
    """Flow matching on the latents of a chunk, given memory, rays and the chunk's first latent.

    Attributes:
      denoiser: the network; its `memory_channels` are those of the conditioner.
      conditioner: from the memory to its context.
      size: picture size (H, W) that is generated.
      chunks: chunks of a clip.
      chunk_latents: latents of a chunk.
      context_frames: earlier frames that a chunk is denoised beside; their references are chosen by
        coverage. Needs a conditioner that stores tokens.
      fusion: how histories are written, see `Conditioner.write`.
      movers: how rollouts keep bodies, where they do, see `history.write_history`.
      noise: on histories written to the memory; those of the RGB baseline are true.
      head: sees the histories of some samples as a rollout would; None: all are true.
      predicted: share of those samples.
      constants: of the conditioner, for the latents of a chunk and those that precede it, by the
        cells (h, w) of a latent of each picture size that batches come in; {}: it has none.
      encoder: for kinds of conditioner that encode what they read.
      shift: noise-level shift.
      drop_memory: share of samples that see an empty memory.
      drop_text: share of samples whose text tokens are zeroed, where batches have text.
      per_frame: one noise level per latent instead of per sample (diffusion forcing), to be sampled
        with the method "staggered".
      prior: parameters of the denoiser's memory prior (`prior_fit`), if it has one.
      preview: clips to draw sample sheets of, if any.
      lengths: of chunks that batches come in, `chunk_latents` being the longest; how many.
      sizes: of pictures that batches come in, all of one in a batch; how many.
    """

    denoiser: Denoiser
    conditioner: Conditioner
    size: tuple[int, int]
    chunks: int
    chunk_latents: int
    context_frames: ContextFrameOptions = NO_FRAMES
    fusion: FusionOptions | None = None
    movers: MoverOptions | None = None
    noise: NoiseAugmentation = NoiseAugmentation()
    head: HistoryHead | None = None
    predicted: float = 0.0
    constants: Mapping[tuple[int, int], Any] = dataclasses.field(default_factory=dict)
    encoder: LatentEncoder | None = None
    shift: float = 1.0
    drop_memory: float = 0.1
    drop_text: float = 0.0
    per_frame: bool = False
    prior: Params | None = None
    preview: Preview | None = None
    lengths: int = 1
    sizes: int = 1

    @property
    def batch_shapes(self) -> int:  # type: ignore[override]
        return self.lengths * self.sizes

    def __post_init__(self) -> None:
        found, expected = self.denoiser.memory_channels, self.conditioner.channels
        if found != expected:
            raise ValueError(
                f"denoiser: found {found} memory channels, expected {expected} as the conditioner "
                f"{self.conditioner.kind!r} has"
            )
        if self.lengths > 1 and self.conditioner.kind in ("score", "rgb"):
            raise ValueError(
                f"chunk_lengths: found {self.lengths} with the conditioner "
                f"{self.conditioner.kind!r}, expected one, which its context is encoded for"
            )
        if not self.context_frames:
            return
        if self.conditioner.stores != "tokens" or self.context_frames.choice != "coverage":
            raise ValueError(
                f"context_frames: found {self.context_frames} with the conditioner "
                f"{self.conditioner.kind!r}, expected one that stores tokens, and references that "
                "are chosen by coverage"
            )
        if self.context_frames.preceding:
            latents_of_frames(self.context_frames.preceding)

    def sample(
        self,
        batch: LatentClip,
        key: PRNGKeyArray,
        *,
        train: bool = True,
        generated: GeneratedClip | None = None,
        share: float = 1.0,
    ) -> Sample:
        """A batch as the denoiser gets it.

        In training histories are noisy, or seen by the head, and memories sometimes dropped,
        references with them; else all is true and kept. Chunks may be shorter than `chunk_latents`.

        Args:
          batch: the clips.
          key: randomness of situation, history and noise.
          train: see above.
          generated: the same clips, their chunk before the last generated.
          share: of the samples that go on after that chunk, how many do so after the generated one.
        """
        table = history.situations(batch, between=self.lengths > 1)
        size, constants = self.pictures_of(batch)

        def one(
            clip: LatentClip,
            key: PRNGKeyArray,
            predicted: Keyframes | None,
            generated: GeneratedClip | None,
        ) -> Sample:
            draw_key, noise_key, drop_key = jax.random.split(key, 3)
            scenario, keyframes = scenarios.draw(draw_key, table)
            seen = true_keyframes(clip)
            if predicted is not None:
                chosen = _coin(key, 3, self.predicted)
                seen = jax.tree.map(functools.partial(jnp.where, chosen), predicted, seen)
            if generated is not None:
                chosen = _coin(key, 4, share) & jnp.asarray(table.goes_on)[scenario]
                either = functools.partial(jnp.where, chosen)
                clip, seen = jax.tree.map(either, generated, GeneratedClip(clip, seen))
            found = history.make_sample(
                clip,
                scenario,
                keyframes,
                conditioner=self.conditioner,
                size=size,
                table=table,
                options=self.context_frames,
                fusion=self.fusion,
                constants=constants,
                encoder=self.encoder,
                key=noise_key if train else None,
                noise=self.noise,
                seen=seen,
                movers=self.movers,
            )
            if not train or found.context is None:
                return found
            kept = jax.random.uniform(drop_key, dtype=jnp.float32) >= self.drop_memory
            frames = dict(found.frames)
            if frames:
                references = self.context_frames.references
                frames["frame_mask"] = keep_references(frames["frame_mask"], kept, references)
            context = self.conditioner.drop(found.context, kept)
            return found._replace(context=context, frames=frames)

        keys = jax.random.split(key, batch.chunks.shape[0])
        sees = self.head if train and self.predicted else None
        predicted = None if sees is None else sees(batch)
        return map_batch(one, batch, keys, predicted, generated)

    def pictures_of(self, batch: LatentClip) -> tuple[tuple[int, int], Any]:
        """Size (H, W) of the pictures of a batch, and the conditioner's constants for it.

        Raises:
          ValueError: for a size that lacks where others have constants.
        """
        height, width = grid = batch.chunks.shape[3], batch.chunks.shape[4]
        stride = self.conditioner.stride
        size = height * stride, width * stride
        if all(one is None for one in self.constants.values()):
            return size, None
        if grid not in self.constants:
            known = ", ".join(f"{h * stride}x{w * stride}" for h, w in self.constants)
            raise ValueError(
                f"constants: found none for pictures of {size[0]}x{size[1]} (height x width), "
                f"expected pictures of {known}"
            )
        return size, self.constants[grid]

    def init(self, key: PRNGKeyArray) -> Params:
        channels = self.denoiser.in_channels
        cells = tuple(2 * p for p in self.denoiser.patch[1:])
        latents = jnp.zeros((1, self.chunk_latents, *cells, channels), jnp.float32)
        params = self.denoiser.init(key, latents, jnp.zeros(latents.shape[:2], jnp.float32))[
            "params"
        ]
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
        sample_key, sigma_key, noise_key = jax.random.split(key, 3)
        sample = self.sample(from_fields(batch), sample_key, train=train)
        target = sample.target
        count, latents = target.shape[:2]
        sigma = flow.sample_sigma(
            sigma_key, count, latents, shift=self.shift, per_frame=self.per_frame
        )
        sigma = sigma.at[:, 0].set(0.0)
        noise = jax.random.normal(noise_key, target.shape, jnp.float32)
        noisy = flow.add_noise(target, noise, sigma)
        text = batch.get("text")
        if text is not None:
            text_key = jax.random.fold_in(key, 3)  # 0..2 give the keys of the split above
            kept = jax.random.uniform(text_key, (count, 1, 1), jnp.float32) >= self.drop_text
            text = text * kept.astype(text.dtype)
        velocity = self.velocity_fn(params, sample, text)(noisy, flow.TIMESTEPS * sigma)
        return flow.flow_loss(velocity, target, noise, after_first(count, latents)), {}

    def velocity_fn(self, params: Params, sample: Sample, text: Array | None) -> VelocityFn:
        """The denoiser on what a batch of samples shows it.

        Args:
          params: all of the denoiser.
          sample: of `sample`.
          text: encoded text tokens, if there are any.
        """

        def velocity(latents: Array, timestep: Array) -> Any:
            return self.denoiser.apply(
                {"params": params},
                latents,
                timestep,
                memory=sample.context,
                rays=sample.rays if self.denoiser.ray_channels else None,
                text=text,
                **sample.frames,
            )

        return velocity

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
        made = processes.fetch(self._jitted_returns(nn.unbox(params), encoder, clips))
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

    @functools.cached_property
    def _jitted_returns(self) -> Callable[..., dict[str, Array]]:
        """Kept, so that one training compiles the sampler once and not for every sheet."""
        assert self.preview is not None
        return jax.jit(functools.partial(self._returns, sampler=self.preview.sampler))

    def _returns(
        self, params: Params, encoder: LatentEncoder, clips: LatentClip, sampler: SamplerOptions
    ) -> dict[str, Array]:
        """Videos by what they show; "memory" where the denoiser has one."""
        size, constants = self.pictures_of(clips)
        target, rays, context, frames = history.returning_samples(
            clips,
            conditioner=self.conditioner,
            size=size,
            options=self.context_frames,
            fusion=self.fusion,
            constants=constants,
            encoder=self.encoder,
            movers=self.movers,
        )
        key = jax.random.key(0)
        sampled = sample_chunk(
            self.denoiser, params, target[:, 0], context, rays, key, sampler, **frames
        )
        videos = {"decoded": decode_each(encoder, target)}
        if self.conditioner.stores == "tokens":
            tokens = history.returning_tokens(
                clips, self.conditioner, size, self.fusion, self.movers
            )
            videos["memory"] = token_view(encoder, tokens)
        elif context is not None:
            videos["memory"] = cloud_view(encoder, context)
        return {**videos, "generated": decode_each(encoder, sampled)}
