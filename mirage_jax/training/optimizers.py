"""Optimizers and learning rates by name, clipping, and which parameters are decayed."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import optax

from mirage_jax.settings import Settings, setting

NOT_DECAYED = ("bias", "scale", "gamma", "norm", "modulation", "positions")
"""A parameter whose own name contains one of these takes no weight decay, nor does any vector."""

FITTED = ("linear_encoder", "linear_decoder", "memory_prior")
"""Modules whose parameters come from a closed form; they are not decayed either."""

FINAL_SHARE = 0.02
"""Of the peak learning rate, at the end of schedules that go down."""

OPTIMIZERS = ("adamw", "lion", "sgd")
"""Values of `optimizer`."""

SCHEDULES = ("cosine", "linear", "constant", "wsd")
"""Values of `schedule`: after the warmup half a cosine or a straight line down, neither, or level
for four fifths of the run and then straight down ("warmup, stable, decay")."""


def warmup_cosine(
    learning_rate: float, *, steps: int, warmup: int = 0, final: float = 0.0
) -> optax.Schedule:
    """Linear up over `warmup` steps, then half a cosine down to `final` x the peak at `steps`.

    Raises:
      ValueError: if the warmup is not shorter than the run or a rate is negative.
    """
    return learning_rates("cosine", learning_rate, steps=steps, warmup=warmup, final=final)


def learning_rates(
    name: str, learning_rate: float, *, steps: int, warmup: int = 0, final: float = 0.0
) -> optax.Schedule:
    """Linear up over `warmup` steps, then on as the schedule called `name` says.

    Args:
      name: one of `SCHEDULES`.
      learning_rate: at the peak.
      steps: of the run.
      warmup: steps up to the peak.
      final: share of the peak at the last step, for schedules that go down.

    Raises:
      ValueError: if the warmup is not shorter than the run, a rate is negative or the name unknown.
    """
    if steps < 1:
        raise ValueError(f"steps: found {steps}, expected at least 1")
    if not 0 <= warmup < steps:
        raise ValueError(f"warmup: found {warmup}, expected 0 <= warmup < steps = {steps}")
    if learning_rate <= 0 or not 0 <= final <= 1:
        raise ValueError(
            f"learning_rate: found {learning_rate} with final share {final}, "
            "expected a positive rate and a share in [0, 1]"
        )
    after = _after_warmup(name, learning_rate, steps - warmup, final)
    if not warmup:
        return after
    # From lr/warmup rather than 0: a short run should not spend its first step standing still.
    ramp = optax.linear_schedule(learning_rate / warmup, learning_rate, max(warmup - 1, 1))
    return optax.join_schedules([ramp, after], [warmup])


def _after_warmup(name: str, peak: float, steps: int, final: float) -> optax.Schedule:
    if name == "cosine":
        return optax.cosine_decay_schedule(peak, steps, alpha=final)
    if name == "linear":
        return optax.linear_schedule(peak, final * peak, steps)
    if name == "constant":
        return optax.constant_schedule(peak)
    if name == "wsd":
        down = max(steps // 5, 1)
        return optax.linear_schedule(peak, final * peak, down, transition_begin=steps - down)
    raise ValueError(f"schedule: found {name!r}, expected one of {', '.join(SCHEDULES)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class OptimizerSettings(Settings):
    """An optimizer and its learning rates by name; `make_optimizer` makes them."""

    learning_rate: float = setting(dataclasses.MISSING, "At the peak.", above=0)
    warmup: int = setting(0, "Steps up to the peak; all but one of a shorter run.", least=0)
    weight_decay: float = setting(0.01, "Decoupled from the gradient, see `decayed`.", least=0)
    betas: tuple[float, float] = setting(
        (0.9, 0.99), "Of Adam and Lion; the first is the momentum of SGD.", least=0, below=1
    )
    clip_norm: float = setting(1.0, "Global norm gradients are clipped to; 0: none.", least=0)
    optimizer: str = setting("adamw", "By name.", choices=OPTIMIZERS)
    schedule: str = setting("cosine", "Of the learning rate, by name.", choices=SCHEDULES)


def make_optimizer(
    settings: OptimizerSettings, steps: int
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """The optimizer of a run of `steps` steps, and its learning rates by step."""
    rates = learning_rates(
        settings.schedule,
        settings.learning_rate,
        steps=steps,
        warmup=min(settings.warmup, steps - 1),
        final=FINAL_SHARE,
    )
    b1, b2 = settings.betas
    decay = settings.weight_decay
    if settings.optimizer == "adamw":
        clip_norm = settings.clip_norm
        return adamw(rates, weight_decay=decay, clip_norm=clip_norm, b1=b1, b2=b2), rates
    if settings.optimizer == "lion":
        inner = optax.lion(rates, b1=b1, b2=b2, weight_decay=decay, mask=decayed)
    else:
        inner = optax.chain(
            optax.trace(decay=b1, nesterov=True),
            optax.add_decayed_weights(decay, mask=decayed),
            optax.scale_by_learning_rate(rates),
        )
    return _clipped(inner, settings.clip_norm), rates


def adamw(
    schedule: optax.ScalarOrSchedule,
    *,
    weight_decay: float = 0.01,
    clip_norm: float = 1.0,
    b1: float = 0.9,
    b2: float = 0.99,
    eps: float = 1e-8,
) -> optax.GradientTransformation:
    """AdamW (Loshchilov and Hutter 2019) after clipping by global norm (`clip_norm` 0: none)."""
    adam = optax.adamw(schedule, b1=b1, b2=b2, eps=eps, weight_decay=weight_decay, mask=decayed)
    return _clipped(adam, clip_norm)


def _clipped(inner: optax.GradientTransformation, norm: float) -> optax.GradientTransformation:
    return optax.chain(optax.clip_by_global_norm(norm), inner) if norm else inner


def decayed(params: Any) -> Any:
    """Tree of bools: True where weight decay applies, see `NOT_DECAYED` and `FITTED`."""

    def one(path: Any, leaf: Any) -> bool:
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        own = str(names[-1]).lower() if names else ""
        fitted = any(name in FITTED for name in names)
        return leaf.ndim > 1 and not fitted and not any(word in own for word in NOT_DECAYED)

    return jax.tree_util.tree_map_with_path(one, params)
