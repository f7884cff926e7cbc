"""Stage 1 of the memory: what was added to a pretrained denoiser is trained, the rest is frozen."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from mirage_jax.parallel import rules
from mirage_jax.training.denoiser_task import DenoiserTask
from mirage_jax.training.task import Params

ADDED = ("branch", "memory_hint", "ray_adapter")
"""Parts of a `Denoiser` that a pretrained video model does not have; all start as no change."""


@dataclasses.dataclass(frozen=True)
class BranchTask(DenoiserTask):
    """`DenoiserTask` with the backbone frozen: it has no gradient and no optimizer state.

    The gradient with respect to tokens still runs back through every block, for hints enter all
    along the stack (arXiv 2606.09828, section on training, stage 1).

    Attributes:
      frozen: the backbone, boxed with its logical axis names so that it is split over the devices;
        see `freeze_backbone`.
    """

    frozen: Any = None

    def init(self, key: PRNGKeyArray) -> Params:
        return {name: part for name, part in super().init(key).items() if name in ADDED}

    def loss(
        self,
        params: Params,
        batch: dict[str, Array],
        key: PRNGKeyArray,
        *,
        train: bool,
        **extra: Any,
    ) -> tuple[Array, dict[str, Array]]:
        return super().loss(joined(extra["frozen"], params), batch, key, train=train)

    def sample_sheet(self, params: Params, step: int) -> np.ndarray | None:
        return super().sample_sheet(joined(rules.unboxed(self.frozen), params), step)


def joined(frozen: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters of the denoiser, as an export has them."""
    return {**frozen, **params}


def freeze_backbone(task: DenoiserTask, values: Mapping[str, Any] | None = None) -> BranchTask:
    """The task that trains only what was added to a pretrained denoiser.

    Args:
      task: the task that trains everything.
      values: parameters of the backbone, nested dict of arrays; parts that were added are left out.
        None: their shapes alone, to compile with.

    Raises:
      ValueError: if a tensor is missing or of another shape.
    """

    def fill(path: Any, box: Any) -> Any:
        found: Any = values
        for key in path:
            found = found.get(key.key) if isinstance(found, Mapping) else None
        shape = rules.unboxed(box).shape
        if found is None or found.shape != shape:
            own = jax.tree_util.keystr(path, simple=True, separator="/")
            what = "none" if found is None else found.shape
            raise ValueError(f"backbone tensor {own!r}: found {what}, expected {shape}")
        return box.replace_boxed(found)

    frozen = {
        name: part
        for name, part in jax.eval_shape(lambda: task.init(jax.random.key(0))).items()
        if name not in ADDED
    }
    if values is not None:
        frozen = jax.tree_util.tree_map_with_path(fill, frozen, is_leaf=rules.is_box)
    fields = {field.name: getattr(task, field.name) for field in dataclasses.fields(DenoiserTask)}
    return BranchTask(**fields, frozen=frozen)
