"""A student of few steps beside its teacher, on held-out returns: PSNR, SSIM and LPIPS.

PSNR alone misleads: the fewer steps, the nearer to the mean of what may be there, and the mean of
many pictures is blurred and has the highest PSNR. So LPIPS stands beside it.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from mirage_jax.evaluation import image_metrics, lpips
from mirage_jax.evaluation.protocol import REVISITED_FRAMES, HeldOut, in_batches, returning_chunk
from mirage_jax.world import WorldModel
from mirage_jax.world.options import SamplerOptions


def samplers(
    teacher: SamplerOptions, student: SamplerOptions | None, steps: Sequence[int], many: int
) -> dict[str, dict[int, SamplerOptions]]:
    """How either is sampled, by its name and the number of steps.

    Args:
      teacher: its sampler; also run in `many` steps.
      student: likewise; None where there is none.
      steps: how many both take.
      many: steps in which the teacher is at its best.
    """
    counts = sorted({*steps, many})
    found = {"teacher": {n: dataclasses.replace(teacher, steps=n) for n in counts}}
    if student is not None:
        found["student"] = {n: dataclasses.replace(student, steps=n) for n in sorted(set(steps))}
    return found


def measure(
    models: Mapping[str, WorldModel],
    options: Mapping[str, Mapping[int, SamplerOptions]],
    worlds: Mapping[str, HeldOut],
    *,
    seed: int,
    weights: lpips.Weights | None,
    advance: Callable[[], Any] = lambda: None,
) -> dict[str, dict[str, dict[int, dict[str, float]]]]:
    """Mean scores of the revisited frames, by world, model and number of steps.

    Args:
      models: "teacher" and, where there is one, "student".
      options: of `samplers`.
      worlds: held-out clips by world.
      seed: of the noise, the same for all.
      weights: of LPIPS; None leaves it out.
      advance: called after each of them.
    """
    run = jax.jit(returning_chunk)
    kept = jnp.asarray(0.0)
    found: dict[str, dict[str, dict[int, dict[str, float]]]] = {}
    for world, held_out in worlds.items():
        truth = held_out.video[:, -REVISITED_FRAMES:]
        found[world] = {}
        for name, by_steps in options.items():
            rows = found[world].setdefault(name, {})
            for steps, sampler in by_steps.items():
                fitted: Any = held_out.fitted(models[name])
                model = fitted.replace(sampler=sampler)
                video = in_batches(
                    lambda batch, key, model=model: run(model, batch, key, kept),
                    held_out.clips,
                    16,
                    seed,
                )[:, -REVISITED_FRAMES:]
                rows[steps] = {
                    metric: float(score(truth, video).mean())
                    for metric, score in image_metrics.METRICS.items()
                }
                if weights is not None:
                    rows[steps]["lpips"] = float(lpips.lpips(truth, video, weights).mean())
                advance()
    return found
