"""AdamW with warmup, cosine decay and clipping, and which parameters are decayed."""

from typing import Any

import jax
import optax

NOT_DECAYED = ("bias", "scale", "gamma", "norm", "modulation", "positions")
"""A parameter whose own name contains one of these takes no weight decay, nor does any vector."""

FITTED = ("linear_encoder", "linear_decoder", "memory_prior")
"""Modules whose parameters come from a closed form; they are not decayed either."""

BETAS = (0.9, 0.99)
"""Of AdamW, unless a config has its own."""


def warmup_cosine(
    learning_rate: float, *, steps: int, warmup: int = 0, final: float = 0.0
) -> optax.Schedule:
    """Linear up over `warmup` steps, then half a cosine down to `final` x the peak at `steps`.

    Raises:
      ValueError: if the warmup is not shorter than the run or a rate is negative.
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
    cosine = optax.cosine_decay_schedule(learning_rate, steps - warmup, alpha=final)
    if not warmup:
        return cosine
    # From lr/warmup rather than 0: a short run should not spend its first step standing still.
    ramp = optax.linear_schedule(learning_rate / warmup, learning_rate, max(warmup - 1, 1))
    return optax.join_schedules([ramp, cosine], [warmup])


def recipe(
    learning_rate: float,
    *,
    steps: int,
    warmup: int,
    weight_decay: float,
    betas: tuple[float, float] = BETAS,
) -> tuple[optax.GradientTransformation, optax.Schedule]:
    """AdamW and the schedule that stages train with; short runs warm up for all but a step."""
    schedule = warmup_cosine(learning_rate, steps=steps, warmup=min(warmup, steps - 1), final=0.02)
    b1, b2 = betas
    return adamw(schedule, weight_decay=weight_decay, b1=b1, b2=b2), schedule


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
    return optax.chain(optax.clip_by_global_norm(clip_norm), adam) if clip_norm else adam


def decayed(params: Any) -> Any:
    """Tree of bools: True where weight decay applies, see `NOT_DECAYED` and `FITTED`."""

    def one(path: Any, leaf: Any) -> bool:
        names = [key.key for key in path if isinstance(key, jax.tree_util.DictKey)]
        own = str(names[-1]).lower() if names else ""
        fitted = any(name in FITTED for name in names)
        return leaf.ndim > 1 and not fitted and not any(word in own for word in NOT_DECAYED)

    return jax.tree_util.tree_map_with_path(one, params)
