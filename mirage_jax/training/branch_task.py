"""Fine-tuning a pretrained denoiser: what was added to it is trained, the rest is frozen.

Stage 1 of the paper trains the control branch (here also the projections of the read-out and of the
camera rays), stage 2 the branch and a low-rank adapter of the backbone (arXiv 2606.09828, section
on training).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, PRNGKeyArray

from mirage_jax.nn.lora import LoRA
from mirage_jax.parallel import rules
from mirage_jax.training.denoiser_task import DenoiserTask
from mirage_jax.training.task import Params, Samples

ADDED = ("branch", "memory_hint", "ray_adapter")
"""Parts of a `Denoiser` that a pretrained video model does not have; all start as no change."""

ADAPTER = "lora"
"""Where the trained parameters hold the low-rank adapter."""


@dataclasses.dataclass(frozen=True)
class BranchTask(DenoiserTask):
    """`DenoiserTask` with the backbone frozen: it has no gradient and no optimizer state.

    The gradient with respect to tokens still runs back through every block, for hints enter all
    along the stack.

    Attributes:
      frozen: the backbone, boxed with its logical axis names so that it is split over the devices;
        see `freeze_backbone`.
      lora: the adapter of the backbone that is trained too, if any.
      lora_dropout: share of its inputs left out in training, see `LoRA.beside`.
    """

    frozen: Any = None
    lora: LoRA | None = None
    lora_dropout: float = 0.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0.0 <= self.lora_dropout < 1.0:
            raise ValueError(f"lora_dropout: found {self.lora_dropout}, expected 0 <= it < 1")

    def init(self, key: PRNGKeyArray) -> Params:
        params = {name: part for name, part in super().init(key).items() if name in ADDED}
        if self.lora is not None:
            params[ADAPTER] = self.lora.init(jax.random.fold_in(key, 1), self.frozen)
        return params

    def loss(
        self,
        params: Params,
        batch: dict[str, Array],
        key: PRNGKeyArray,
        *,
        train: bool,
        **extra: Any,
    ) -> tuple[Array, dict[str, Array]]:
        own = jax.random.fold_in(key, 4) if train else None  # 0..3 are those of `DenoiserTask`
        return super().loss(self.beside(extra["frozen"], params, own), batch, key, train=train)

    def samples(self, params: Params, step: int) -> Samples | None:
        whole = self.whole(rules.unboxed(self.frozen), rules.unboxed(params))
        return super().samples(whole, step)

    def whole(self, frozen: Mapping[str, Any], params: Mapping[str, Any]) -> dict[str, Any]:
        """All parameters of the denoiser, the adapter merged, as an export has them."""
        parts = {**frozen, **params}
        adapter = parts.pop(ADAPTER, None)
        return parts if self.lora is None else self.lora.merge(parts, adapter)

    def beside(
        self, frozen: Mapping[str, Any], params: Mapping[str, Any], key: PRNGKeyArray | None = None
    ) -> dict[str, Any]:
        """All parameters of the denoiser, the adapter beside the kernels, as it trains.

        Args:
          frozen, params: of the backbone, and of what is trained.
          key: randomness of the adapter's dropout; None leaves nothing out.
        """
        parts = {**frozen, **params}
        adapter = parts.pop(ADAPTER, None)
        if self.lora is None:
            return parts
        return self.lora.beside(parts, adapter, dropout=self.lora_dropout, key=key)


def freeze_backbone(
    task: DenoiserTask,
    values: Mapping[str, Any] | None = None,
    lora: LoRA | None = None,
    lora_dropout: float = 0.0,
) -> BranchTask:
    """The task that trains what was added to a pretrained denoiser, and nothing else of it.

    Kernels of the blocks, nearly all of the backbone, are kept in the type that the denoiser
    multiplies in: nothing else is done with them.

    Args:
      task: the task that trains everything.
      values: parameters of the backbone, nested dict of arrays; parts that were added are left out.
        None: their shapes alone, to compile with.
      lora: an adapter to train beside.
      lora_dropout: share of its inputs left out in training.

    Raises:
      ValueError: if a tensor is missing or of another shape, or the share is not below 1.
    """

    def fill(path: Any, box: Any) -> Any:
        shape, dtype = rules.unboxed(box).shape, np.dtype(np.float32)
        if path[0].key == "blocks" and path[-1].key == "kernel":
            dtype = np.dtype(task.denoiser.dtype)
        if values is None:
            return box.replace_boxed(jax.ShapeDtypeStruct(shape, dtype))
        found: Any = values
        for key in path:
            found = found.get(key.key) if isinstance(found, Mapping) else None
        if found is None or found.shape != shape:
            own = jax.tree_util.keystr(path, simple=True, separator="/")
            what = "none" if found is None else found.shape
            raise ValueError(f"backbone tensor {own!r}: found {what}, expected {shape}")
        return box.replace_boxed(np.asarray(found).astype(dtype))

    abstract = jax.eval_shape(lambda: task.init(jax.random.key(0)))
    backbone = {name: part for name, part in abstract.items() if name not in ADDED}
    frozen = jax.tree_util.tree_map_with_path(fill, backbone, is_leaf=rules.is_box)
    fields = {field.name: getattr(task, field.name) for field in dataclasses.fields(DenoiserTask)}
    return BranchTask(**fields, frozen=frozen, lora=lora, lora_dropout=lora_dropout)


def starting_params(
    values: Mapping[str, Any], branch_layers: tuple[int, ...]
) -> dict[str, Any] | None:
    """What training starts from: `values` of the added parts, or copies of the backbone's blocks.

    Args:
      values: parameters of a pretrained denoiser. With a branch, that is gone on from; without one,
        each block of the branch starts as a copy of the block it runs beside (paper, section on
        training).
      branch_layers: blocks that the branch runs beside.

    Returns:
      Nested dict of float32 arrays for some of the trained parameters; None if there are none.
    """

    def copies(leaf: Any) -> np.ndarray:
        return np.stack([np.asarray(leaf[i], np.float32) for i in branch_layers])

    if any(name in values for name in ADDED):
        added = {name: values[name] for name in ADDED if name in values}
        return jax.tree.map(lambda leaf: np.asarray(leaf, np.float32), added)
    if not branch_layers:
        return None
    return {"branch": {"blocks": {"block": jax.tree.map(copies, values["blocks"]["block"])}}}
