"""Distribution matching on a student's own rollouts: the step after consistency distillation.

Student and critic are trained side by side, by one loss and one optimizer. What each must not learn
from the other's part is held back: the student's samples reach the critic without a gradient, and
the critic's estimate the student. The teacher stays as it is.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from mirage_jax.diffusion import distribution_matching as matching
from mirage_jax.diffusion import flow
from mirage_jax.diffusion.consistency import end_of_path
from mirage_jax.nn.video_vae import LatentStats, VideoVAE
from mirage_jax.parallel import map_batch
from mirage_jax.training.denoiser_task import DenoiserTask, after_first
from mirage_jax.training.task import Params, Samples, Task
from mirage_jax.training.teacher import frozen_teacher, teacher_velocity, whole_params
from mirage_jax.world import history, sample_chunk, scenarios
from mirage_jax.world.generated_clip import GeneratedClip, before_last, with_generated
from mirage_jax.world.history import Sample
from mirage_jax.world.latent_clip import LatentClip, from_fields
from mirage_jax.world.latent_encoder import LatentEncoder
from mirage_jax.world.options import SamplerOptions
from mirage_jax.world.predicted_clip import HistoryHead, Keyframes


@dataclasses.dataclass(frozen=True)
class MatchingTask(Task):
    """`distribution_matching` for what the student samples, at the end of rollouts of its own.

    Trained are {"student": ..., "critic": ...}, both as `base.init` makes them; the student's part
    of them is a denoiser. Its samples are drawn as they are once it is trained, in so many steps.

    Attributes:
      base: the denoiser's own task; of a `BranchTask` the branch alone is student and critic,
        beside the backbone that they share with their teacher.
      frozen: see `matched`.
      sampling_steps: in which the student is sampled.
      shift: of the noise levels of these steps; those at which teacher and critic are asked have
        `base.shift`.
      cfg_scale: guidance of the teacher by the text, which becomes part of the student; 1 = none.
      critic_steps: steps of the critic for one of the student, which moves in the last of them.
      rollouts: share of the samples that go on after another chunk which see a memory that the
        student's own chunk was written to; 0: all histories are those of `base`.
      vae: module of the encoder of `frozen`, if it has one.
    """

    base: DenoiserTask
    frozen: Any
    sampling_steps: int = 2
    shift: float = 1.0
    cfg_scale: float = 1.0
    critic_steps: int = 5
    rollouts: float = 1.0
    vae: VideoVAE | None = None
    needs_step: bool = True

    def __post_init__(self) -> None:
        if self.rollouts and "head" not in self.frozen:
            raise ValueError(
                f"rollouts: found {self.rollouts} without a geometry head, expected one, which "
                "sees what the student generates"
            )

    @property
    def batch_shapes(self) -> int:  # type: ignore[override]
        return self.base.batch_shapes

    def init(self, key: PRNGKeyArray) -> Params:
        return {"student": self.base.init(key), "critic": self.base.init(key)}

    def loss(
        self,
        params: Params,
        batch: dict[str, Array],
        key: PRNGKeyArray,
        *,
        train: bool,
        frozen: Any = None,
        ema: Any = None,
        step: Any = None,
    ) -> tuple[Array, dict[str, Array]]:
        """`matching_loss` of the student, where it is its turn, and `critic_loss`, one added.

        Batches are those of `DenoiserTask`; of their chunks the first latents alone are used.
        Text is never left out, as in `DistillTask`. In evaluation histories are true, and it is
        always the student's turn.
        """
        sample_key, draw_key, match_key, critic_key, roll_key = jax.random.split(key, 5)
        clips, text = from_fields(batch), batch.get("text")
        generated = None
        if train and self.rollouts:
            generated = self.roll_out(params["student"], clips, text, roll_key, frozen)
        sample = self.base.sample(
            clips, sample_key, train=train, generated=generated, share=self.rollouts
        )

        def student_turn() -> tuple[Array, Array]:
            x0 = self._sampled(params["student"], sample, text, draw_key, frozen)
            found = self._matching(params["critic"], x0, sample, text, match_key, frozen)
            return found, jax.lax.stop_gradient(x0)

        def critic_turn() -> tuple[Array, Array]:
            held = jax.lax.stop_gradient(params["student"])
            return jnp.zeros((), jnp.float32), self._sampled(held, sample, text, draw_key, frozen)

        if train and self.critic_steps > 1:
            turn = (step + 1) % self.critic_steps == 0
            found, x0 = jax.lax.cond(turn, student_turn, critic_turn)
        else:
            found, x0 = student_turn()
        sigma, noise, mask = self._noise(critic_key, x0)
        critic = self.base.velocity_fn(
            whole_params(self.base, frozen, params["critic"]), sample, text
        )
        learnt = matching.critic_loss(critic, x0, noise, sigma, mask)
        return found + learnt, {"matching": found, "critic": learnt}

    def roll_out(
        self,
        student: Params,
        clips: LatentClip,
        text: Array | None,
        key: PRNGKeyArray,
        frozen: Mapping[str, Any],
    ) -> GeneratedClip:
        """Clips whose chunk before the last the student has generated, without a gradient.

        It is sampled to the end, from a memory of all keyframes up to its first, which the geometry
        head has seen in the true chunks.

        Args:
          student: its parameters.
          clips: a batch.
          text: encoded text tokens, if there are any.
          key: of the student's noise.
          frozen: of `matched`, unboxed.

        Raises:
          ValueError: see `generated_clip.before_last` and `with_generated`.
        """
        number, head = before_last(clips), frozen["head"]
        table = history.situations(clips, between=True)
        row = scenarios.FIRST if number == 0 else len(table.chunk) - 1
        size, constants = self.base.pictures_of(clips)

        def one(clip: LatentClip, seen: Keyframes) -> Sample:
            return history.make_sample(
                clip,
                jnp.asarray(row),
                jnp.asarray(table.keyframes[row]),
                conditioner=self.base.conditioner,
                size=size,
                table=table,
                options=self.base.context_frames,
                fusion=self.base.fusion,
                constants=constants,
                encoder=self.base.encoder,
                seen=seen,
                movers=self.base.movers,
            )

        sample = map_batch(one, clips, head(clips))
        held = jax.lax.stop_gradient(student)  # before, or the way back through it is traced too
        latents = self._sampled(held, sample, text, key, frozen)
        encoder = None
        if self.vae is not None:
            stats = LatentStats(**frozen["encoder"]["stats"])
            encoder = LatentEncoder(frozen["encoder"]["vae"], stats, self.vae)
        return with_generated(clips, latents, head, encoder)

    def _sampled(
        self,
        student: Params,
        sample: Sample,
        text: Array | None,
        key: PRNGKeyArray,
        frozen: Mapping[str, Any],
    ) -> Array:
        """The student's chunks, sampled as they are once it is trained."""
        return sample_chunk(
            self.base.denoiser,
            whole_params(self.base, frozen, student),
            sample.target[:, 0],
            sample.context,
            sample.rays,
            key,
            SamplerOptions(self.sampling_steps, self.shift, "consistency"),
            text=text,
            **sample.frames,
        )

    def _matching(
        self,
        critic: Params,
        x0: Array,
        sample: Sample,
        text: Array | None,
        key: PRNGKeyArray,
        frozen: Mapping[str, Any],
    ) -> Array:
        """`matching_loss` at a drawn noise level."""
        sigma, noise, mask = self._noise(key, x0)
        noisy = flow.add_noise(jax.lax.stop_gradient(x0), noise, sigma)
        held = whole_params(self.base, frozen, jax.lax.stop_gradient(critic))
        networks = (
            teacher_velocity(self.base, frozen, sample, text, self.cfg_scale),
            self.base.velocity_fn(held, sample, text),
        )
        real, fake = (end_of_path(velocity, noisy, sigma) for velocity in networks)
        return matching.matching_loss(x0, real, fake, mask)

    def _noise(self, key: PRNGKeyArray, x0: Array) -> tuple[Array, Array, Array]:
        """Level of every latent, noise, and which latents count."""
        level_key, noise_key = jax.random.split(key)
        mask = after_first(*x0.shape[:2])
        sigma = mask * matching.draw_levels(level_key, len(x0), self.base.shift)[:, None]
        return sigma, jax.random.normal(noise_key, x0.shape, jnp.float32), mask

    def tokens(self, batch: dict[str, Array]) -> int:
        return self.base.tokens(batch)

    def samples(self, params: Params, step: int) -> Samples | None:
        return self.base.samples(params["student"], step)


def matched(
    base: DenoiserTask,
    values: Mapping[str, Any] | None = None,
    *,
    head: HistoryHead | None = None,
    encoder: LatentEncoder | None = None,
    **options: Any,
) -> MatchingTask:
    """The task that brings a student's samples to the distribution of its teacher's.

    Args:
      base: the denoiser's own task; of a `BranchTask` with its backbone frozen.
      values: parameters of the teacher, nested dict of arrays; None: their shapes alone.
      head: sees what the student generates; rollouts need it.
      encoder: decodes and encodes for heads with `reencode`.
      options: of `MatchingTask`.

    Raises:
      ValueError: if a tensor is missing or of another shape, or the head for rollouts.
    """
    frozen = frozen_teacher(base, values)
    if head is not None:
        frozen["head"] = head
    if encoder is not None:
        stats = {"mean": encoder.stats.mean, "std": encoder.stats.std}
        frozen["encoder"] = {"vae": encoder.params, "stats": stats}
        options["vae"] = encoder.vae
    return MatchingTask(base, frozen, **options)
