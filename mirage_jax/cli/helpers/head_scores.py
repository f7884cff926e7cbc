"""Scores of a geometry head on held-out clips, for `mirage evaluate`."""

from __future__ import annotations

import jax

from mirage_jax.evaluation import depth_quality
from mirage_jax.evaluation.protocol import HeldOut
from mirage_jax.training.geometry_task import GeometryTask
from mirage_jax.world import WorldModel
from mirage_jax.world.latent_clip import fields_of


def measure(model: WorldModel, held_out: HeldOut) -> dict[str, float | None]:
    """The head's errors in the terms it was trained with, and those of its depth alone.

    Raises:
      ValueError: if the model has no geometry head.
    """
    scores = depth_quality.measure(model, held_out)
    assert model.head is not None  # `depth_quality` has checked
    task = GeometryTask(model.head, (0, 0, 0), model.memory.sky_depth)
    loss = jax.jit(lambda params, batch: task.loss(params, batch, jax.random.key(0), train=False))
    _, errors = loss(model.head_params, fields_of(held_out.clips))
    return {name: float(value) for name, value in errors.items()} | scores
