"""Optimizers and learning rates by name, clipping, and which parameters are decayed."""

from typing import Any

import jax
import optax

NOT_DECAYED = ("bias", "scale", "gamma", "norm", "modulation", "positions")
"""A parameter whose own name contains one of these takes no weight decay, nor does any vector."""

FITTED = ("linear_encoder", "linear_decoder", "memory_prior")
"""Modules whose parameters come from a closed form; they are not decayed either."""

BETAS = (0.9, 0.99)
"""Of AdamW, unless a config has its own."""


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


Recipe = tuple[optax.GradientTransformation, optax.Schedule]


def recipe(
    learning_rate: float,
    *,
    steps: int,
    warmup: int,
    weight_decay: float,
    betas: tuple[float, float] = BETAS,
    optimizer: str = "adamw",
    schedule: str = "cosine",
    clip_norm: float = 1.0,
) -> Recipe:
    """The optimizer and schedule of a stage, by name; short runs warm up for all but a step.

    Args:
      learning_rate, steps, warmup, schedule: of `learning_rates`.
      weight_decay: decoupled from the gradient; of the parameters that `decayed` names.
      betas: of Adam and Lion; the first is the momentum of SGD.
      optimizer: one of `OPTIMIZERS`.
      clip_norm: global norm that gradients are clipped to; 0: they are not.

    Raises:
      ValueError: if a name is unknown; see also `learning_rates`.
    """
    rates = learning_rates(
        schedule, learning_rate, steps=steps, warmup=min(warmup, steps - 1), final=0.02
    )
    b1, b2 = betas
    if optimizer == "adamw":
        return adamw(rates, weight_decay=weight_decay, clip_norm=clip_norm, b1=b1, b2=b2), rates
    if optimizer == "lion":
        inner = optax.lion(rates, b1=b1, b2=b2, weight_decay=weight_decay, mask=decayed)
    elif optimizer == "sgd":
        inner = optax.chain(
            optax.trace(decay=b1, nesterov=True),
            optax.add_decayed_weights(weight_decay, mask=decayed),
            optax.scale_by_learning_rate(rates),
        )
    else:
        known = ", ".join(OPTIMIZERS)
        raise ValueError(f"optimizer: found {optimizer!r}, expected one of {known}")
    return _clipped(inner, clip_norm), rates


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
