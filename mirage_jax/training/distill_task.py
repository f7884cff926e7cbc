"""Causal consistency distillation: a denoiser that samples a chunk in one to four steps.

Teacher, student and average start as the same trained denoiser. Chunks, memories and context
frames are those of the denoiser's own training (teacher forcing: the history is true), so a student
goes on chunk by chunk as its teacher does.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PRNGKeyArray

from mirage_jax.diffusion.consistency import consistency_loss, draw_neighbours
from mirage_jax.diffusion.samplers import VelocityFn
from mirage_jax.training.denoiser_task import DenoiserTask, after_first
from mirage_jax.training.task import Params, Samples, Task
from mirage_jax.training.teacher import frozen_teacher, teacher_velocity, whole_params
from mirage_jax.world.latent_clip import from_fields


@dataclasses.dataclass(frozen=True)
class DistillTask(Task):
    """`consistency.consistency_loss` on the chunks that a denoiser is trained on.

    Attributes:
      base: the denoiser's own task; of a `BranchTask` the branch alone becomes a student, beside
        the backbone that it shares with its teacher.
      frozen: "teacher", the parameters that the student starts from, and "backbone", those of
        `base.frozen`, where it has any; both boxed with their logical axis names. See
        `teacher.frozen_teacher`.
      levels: noise levels that neighbours are drawn from.
      shift: of these levels.
      cfg_scale: guidance by the text that becomes part of the student; 1 = none.
    """

    base: DenoiserTask
    frozen: Any
    levels: int = 48
    shift: float = 1.0
    cfg_scale: float = 1.0
    needs_ema: bool = True

    @property
    def batch_shapes(self) -> int:  # type: ignore[override]
        return self.base.batch_shapes

    def init(self, key: PRNGKeyArray) -> Params:
        return self.base.init(key)

    def loss(
        self,
        params: Params,
        batch: dict[str, Array],
        key: PRNGKeyArray,
        *,
        train: bool,
        frozen: Any = None,
        ema: Any = None,
        **_: Any,
    ) -> tuple[Array, dict[str, Array]]:
        """The consistency loss over the latents after the first.

        Batches are those of `DenoiserTask`. Text is never left out: students have the guidance in
        them, and are sampled without.
        """
        sample_key, level_key, noise_key = jax.random.split(key, 3)
        sample = self.base.sample(from_fields(batch), sample_key, train=train)
        count, latents = sample.target.shape[:2]
        mask = after_first(count, latents)
        levels = draw_neighbours(level_key, count, self.levels, self.shift)
        sigma, following = (mask * level[:, None] for level in levels)
        noise = jax.random.normal(noise_key, sample.target.shape, jnp.float32)
        text = batch.get("text")

        def network(own: Params) -> VelocityFn:
            return self.base.velocity_fn(whole_params(self.base, frozen, own), sample, text)

        teacher = teacher_velocity(self.base, frozen, sample, text, self.cfg_scale)
        loss = consistency_loss(
            network(params), network(ema), teacher, sample.target, noise, sigma, following, mask
        )
        return loss, {}

    def tokens(self, batch: dict[str, Array]) -> int:
        return self.base.tokens(batch)

    def samples(self, params: Params, step: int) -> Samples | None:
        return self.base.samples(params, step)


def distilled(
    base: DenoiserTask, values: Mapping[str, Any] | None = None, **options: Any
) -> DistillTask:
    """The task that makes a student of a trained denoiser.

    Args:
      base: the denoiser's own task; of a `BranchTask` with its backbone frozen.
      values: parameters of the trained denoiser, nested dict of arrays; None: their shapes alone,
        to compile with.
      options: of `DistillTask`.

    Raises:
      ValueError: if a tensor is missing or of another shape.
    """
    return DistillTask(base, frozen_teacher(base, values), **options)
