"""What tasks that make a student of a trained denoiser share: the teacher, which is frozen."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from mirage_jax.diffusion.samplers import VelocityFn, guided
from mirage_jax.parallel import rules
from mirage_jax.training.branch_task import ADDED, BranchTask
from mirage_jax.training.denoiser_task import DenoiserTask
from mirage_jax.training.task import Params
from mirage_jax.world.history import Sample


def frozen_teacher(base: DenoiserTask, values: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """ "teacher", what a student starts from, and "backbone", which a branch shares with its own.

    Args:
      base: the denoiser's own task; of a `BranchTask` with its backbone frozen.
      values: parameters of the trained denoiser, nested dict of arrays; None: their shapes alone,
        to compile with.

    Returns:
      Trees boxed with their logical axis names; "backbone" of a `BranchTask` alone.

    Raises:
      ValueError: if a tensor is missing or of another shape.
    """
    abstract = jax.eval_shape(lambda: base.init(jax.random.key(0)))
    frozen: dict[str, Any] = {}
    if isinstance(base, BranchTask):
        frozen["backbone"] = base.frozen
        abstract = {name: part for name, part in abstract.items() if name in ADDED}

    def fill(path: Any, box: Any) -> Any:
        shape = rules.unboxed(box).shape
        own = jax.tree_util.keystr(path, simple=True, separator="/")
        if values is None:
            leaf: Any = jax.ShapeDtypeStruct(shape, np.float32)
        else:
            found: Any = values
            for key in path:
                found = found.get(key.key) if isinstance(found, Mapping) else None
            if found is None or found.shape != shape:
                what = "none" if found is None else found.shape
                raise ValueError(f"teacher tensor {own!r}: found {what}, expected {shape}")
            leaf = np.asarray(found, np.float32)
        return box.replace_boxed(leaf) if rules.is_box(box) else leaf

    frozen["teacher"] = jax.tree_util.tree_map_with_path(fill, abstract, is_leaf=rules.is_box)
    return frozen


def whole_params(base: DenoiserTask, frozen: Mapping[str, Any], own: Params) -> Params:
    """All parameters of a denoiser of which `own` is trained, as it trains."""
    return base.beside(frozen["backbone"], own) if isinstance(base, BranchTask) else own


def teacher_velocity(
    base: DenoiserTask,
    frozen: Mapping[str, Any],
    sample: Sample,
    text: Array | None,
    cfg_scale: float = 1.0,
) -> VelocityFn:
    """The teacher on what a batch of samples shows it.

    Args:
      base: the denoiser's own task.
      frozen: of `frozen_teacher`, unboxed.
      sample: of `base.sample`.
      text: encoded text tokens, if there are any.
      cfg_scale: guidance by the text; 1 = none. Text that is left out is zeros.
    """
    params = {**frozen.get("backbone", {}), **frozen["teacher"]}
    velocity = base.velocity_fn(params, sample, text)
    if cfg_scale == 1.0 or text is None:
        return velocity
    return guided(velocity, base.velocity_fn(params, sample, jnp.zeros_like(text)), cfg_scale)
