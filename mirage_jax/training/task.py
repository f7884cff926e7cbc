"""The interface of a training stage; everything else is `loop.fit`."""

import dataclasses
from typing import Any, Protocol, runtime_checkable

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

Params = Any
"""Nested dict of arrays, leaves possibly boxed with their logical axis names."""


@dataclasses.dataclass(frozen=True)
class Samples:
    """What parameters can do, to look at.

    Attributes:
      sheet: a picture uint8 [height, width, 3].
      video: of the same samples, uint8 [T, H, W, 3], or None.
      fps: frames of it per second.
    """

    sheet: np.ndarray
    video: np.ndarray | None = None
    fps: float = 8.0


@runtime_checkable
class Task(Protocol):
    """One training stage. Inherit to get all but `init` and `loss` for nothing.

    Attributes:
      frozen: arrays the loss needs and does not train, e.g. those of the encoder. Those boxed with
        their logical axis names are split over the devices, the others repeated on each. They enter
        the jitted step as an argument; closed over instead they would be compiled in as constants,
        once more per compilation.
      needs_ema: whether the loss needs the averaged parameters too, which it gets as `ema`.
      needs_step: whether it needs the number of the step, which it gets as `step`.
      batch_shapes: in how many shapes batches come; a program is compiled for each.
    """

    frozen: Any = None
    needs_ema: bool = False
    needs_step: bool = False
    batch_shapes: int = 1

    def init(self, key: PRNGKeyArray) -> Params:
        """Fresh parameters. Traced, so that they are made sharded; boxed leaves welcome."""
        ...

    def loss(
        self,
        params: Params,
        batch: Any,
        key: PRNGKeyArray,
        *,
        train: bool,
        frozen: Any = None,
        ema: Any = None,
        step: Any = None,
    ) -> tuple[Float[Array, ""], dict[str, Float[Array, ""]]]:
        """Loss of one batch and metrics to log beside it; pure and jittable.

        Args:
          params: unboxed parameters.
          batch: tree of arrays [batch, ...] as the batches deliver it.
          key: randomness of this step.
          train: False during evaluation: no dropout, no noise augmentation.
          frozen: the arrays of `self.frozen`, unboxed; passed only where the task has any.
          ema: the averaged parameters before this step; passed only where the task needs them.
          step: steps taken before this one, int32 scalar; likewise. 0 during evaluation.
        """
        ...

    def evaluate(
        self, params: Params, batch: Any, key: PRNGKeyArray, *, frozen: Any = None
    ) -> dict[str, Float[Array, ""]]:
        """Metrics of one held-out batch, jitted and averaged by the loop. Default: the loss's."""
        extra = {} if frozen is None else {"frozen": frozen}
        if self.needs_ema:
            extra["ema"] = params
        if self.needs_step:
            extra["step"] = jnp.zeros((), jnp.int32)
        loss, metrics = self.loss(params, batch, key, train=False, **extra)
        return {"loss": loss, **metrics}

    def tokens(self, batch: Any) -> int:
        """Tokens the network works on in a batch, to report a rate of; 0 where there are none."""
        return 0

    def samples(self, params: Params, step: int) -> Samples | None:
        """What the parameters can do, to look at; None where there is nothing to see."""
        return None


def parameter_count(params: Params) -> int:
    """Number of scalars in a tree."""
    return sum(leaf.size for leaf in jax.tree.leaves(params))
