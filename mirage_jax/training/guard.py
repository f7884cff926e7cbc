"""Steps that are skipped: their loss or gradient is not finite, or the gradient far too large.

`optax.apply_if_finite` looks at gradients alone, lets the average of the parameters move on, and
after some failures applies the bad update. Here the whole state stays as it is, and the
loop rolls back to a checkpoint when steps keep failing: damaged parameters stay damaged.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import struct
from jaxtyping import Array, Bool, Float, Int

from mirage_jax.settings import Settings, setting


class Diverged(ValueError):
    """Steps kept being skipped, and rolling back to a checkpoint could not help."""


@dataclasses.dataclass(frozen=True)
class Guard(Settings):
    """When a step is skipped, and when the run rolls back to a checkpoint.

    A step whose loss or gradient norm is not finite is always skipped. Before `window` steps have
    been accepted `spike` is no limit.
    """

    spike: float = setting(
        0.0, "Skip gradients of more than this many times the average norm; 0: none.", least=0
    )
    window: int = setting(100, "Accepted steps that the average is taken over.", least=1)
    patience: int = setting(10, "Skipped steps in a row before the run rolls back.", least=1)
    rollbacks: int = setting(3, "Roll-backs to the same checkpoint before it gives up.", least=0)

    def __post_init__(self) -> None:
        super().__post_init__()
        if 0 < self.spike <= 1:
            raise ValueError(f"spike: found {self.spike}, expected 0 or more than 1")


@struct.dataclass
class GuardState:
    """What the verdict depends on; part of the state of a run, so that resuming changes nothing.

    Attributes:
      norm: running average of the gradient norms of accepted steps, float32 scalar.
      skipped: steps skipped so far, int32 scalar.
    """

    norm: Any
    skipped: Any


def begin() -> GuardState:
    """The state before the first step."""
    return GuardState(norm=jnp.zeros((), jnp.float32), skipped=jnp.zeros((), jnp.int32))


def judge(
    guard: Guard,
    state: GuardState,
    step: Int[Array, ""],
    loss: Float[Array, ""],
    norm: Float[Array, ""],
) -> tuple[Bool[Array, ""], GuardState]:
    """Whether a step counts, and the state after it.

    Args:
      guard: the limits.
      state: before the step.
      step: steps taken before it, skipped ones included.
      loss: of this step.
      norm: global norm of its gradient.
    """
    accepted = step - state.skipped
    ok = jnp.isfinite(loss) & jnp.isfinite(norm)
    if guard.spike:
        ok &= (accepted < guard.window) | (norm <= guard.spike * state.norm)
    # The plain mean at first, which has seen nothing but real norms.
    weight = 1.0 / jnp.minimum(accepted + 1, guard.window).astype(jnp.float32)
    average = state.norm + weight * (norm - state.norm)
    after = GuardState(
        norm=jnp.where(ok, average, state.norm),
        skipped=state.skipped + jnp.where(ok, 0, 1).astype(jnp.int32),
    )
    return ok, after


def choose(ok: Bool[Array, ""], new: Any, old: Any) -> Any:
    """The tree `new` where the step counts, else `old`."""
    return jax.tree.map(lambda a, b: jnp.where(ok, a, b), new, old)


class SkipTracker:
    """Counts skipped steps on the host.

    Attributes:
      streak: skipped steps in a row.
      exhausted: whether there were too many; stays so until the run has rolled back, for a good
        step may be on its way already.
      last: the newest skipped step, for a message.
    """

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._rollbacks = 0
        self.streak = 0
        self.exhausted = False
        self.last = ""

    @property
    def may_roll_back(self) -> bool:
        return self._rollbacks < self._guard.rollbacks

    def update(self, number: int, values: Mapping[str, float]) -> bool:
        """Takes in the metrics of a step; True if it is the first skipped one of a streak."""
        if not values["skipped"]:
            self.streak = 0
            return False
        self.streak += 1
        self.exhausted |= self.streak >= self._guard.patience
        loss, norm = values["loss"], values["grad_norm"]
        self.last = f"step {number}: loss {loss:.4g}, gradient norm {norm:.4g}"
        if math.isfinite(norm) and math.isfinite(loss):
            self.last += f", more than {self._guard.spike:g} times its average"
        return self.streak == 1

    def rolled_back(self) -> None:
        self._rollbacks += 1
        self.streak, self.exhausted = 0, False

    def saved(self) -> None:
        """There is a new checkpoint; roll-backs to it count from zero."""
        self._rollbacks = 0
