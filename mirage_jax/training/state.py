"""The state of a training run, how it is made sharded, and the step that advances it."""

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import linen as nn
from flax import struct
from jax.sharding import Mesh
from jaxtyping import Array, Float, Int

from mirage_jax.parallel import rules as sharding_rules
from mirage_jax.training import guard as guards
from mirage_jax.training.accumulation import accumulated
from mirage_jax.training.task import Params, Task

Leaf = Any
"""An array; where the state serves as a tree of shapes or shardings, one of those."""


@struct.dataclass
class TrainState:
    """Everything a step reads and writes.

    Attributes:
      step: steps taken, int32 scalar.
      params: float32 master parameters.
      opt_state: of the optax optimizer.
      ema: exponential moving average of `params`, or None where it is switched off.
      key: typed key of the run; each step folds its number in, so it never changes.
      guard: what decides whether a step counts.
    """

    step: Leaf
    params: Params
    opt_state: optax.OptState
    ema: Params | None
    key: Leaf
    guard: guards.GuardState

    @property
    def best_params(self) -> Params:
        """The averaged parameters where there are any, else the parameters."""
        return self.params if self.ema is None else self.ema


def create(
    task: Task, optimizer: optax.GradientTransformation, *, seed: int, with_ema: bool
) -> TrainState:
    """A state at step 0, leaves boxed as `task.init` boxed them. Call it under `jax.jit`.

    Raises:
      ValueError: if the task needs an average and none is kept.
    """
    if task.needs_ema and not with_ema:
        raise ValueError("ema_decay: found 0, expected more: the task trains towards the average")
    key = jax.random.key(seed)
    params = task.init(jax.random.fold_in(key, 0))
    # A copy, for the step donates its input and one buffer cannot be donated twice.
    ema = jax.tree.map(jnp.copy, params) if with_ema else None
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        opt_state=optimizer.init(params),
        ema=ema,
        key=jax.random.fold_in(key, 1),
        guard=guards.begin(),
    )


def unboxed(
    task: Task, optimizer: optax.GradientTransformation, *, seed: int, with_ema: bool
) -> TrainState:
    """`create` without the boxes; unboxing must happen inside the trace."""
    return nn.unbox(create(task, optimizer, seed=seed, with_ema=with_ema))


def ema_decay_at(step: Int[Array, ""], decay: float) -> Float[Array, ""]:
    """Decay of the average at a step: short runs must not keep the initial values for long.

    min(decay, (1 + step) / (10 + step)), as in TensorFlow's ExponentialMovingAverage.
    """
    taken = step.astype(jnp.float32)
    return jnp.minimum(decay, (1.0 + taken) / (10.0 + taken))


def make_step(
    task: Task,
    optimizer: optax.GradientTransformation,
    *,
    ema_decay: float = 0.0,
    schedule: optax.Schedule | None = None,
    accumulate: int = 1,
    guard: guards.Guard | None = None,
) -> Callable[[TrainState, Any, Any], tuple[TrainState, dict[str, Float[Array, ""]]]]:
    """The training step (state, batch, frozen) -> (state, metrics), not yet jitted.

    A step that `guard` skips counts as a step and leaves parameters, optimizer and average as they
    are.  Metrics are those of `task.loss` plus `loss`, `grad_norm` (before clipping), `skipped` (0
    or 1) and, where `schedule` is given, `learning_rate`.

    Args:
      task: whose loss is minimised.
      optimizer: any optax transformation.
      ema_decay: of the parameter average, where the state has one.
      schedule: learning rate by step, only to be logged.
      accumulate: parts of a batch that are worked on one after the other, see `accumulation`.
      guard: default `Guard()`.
    """
    limits = guards.Guard() if guard is None else guard

    def step(state: TrainState, batch: Any, frozen: Any):
        key = jax.random.fold_in(state.key, state.step)
        extra = {} if frozen is None else {"frozen": frozen}
        if task.needs_ema:
            extra["ema"] = state.ema
        if task.needs_step:
            extra["step"] = state.step

        def loss_fn(params, batch, key):
            loss, metrics = task.loss(params, batch, key, train=True, **extra)
            return loss, {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}

        gradient = accumulated(jax.value_and_grad(loss_fn, has_aux=True), accumulate)
        (loss, metrics), grads = gradient(state.params, batch, key)
        norm = optax.global_norm(grads)
        ok, guarded = guards.judge(limits, state.guard, state.step, loss, norm)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        ema = state.ema
        if ema is not None:
            rate = 1.0 - ema_decay_at(state.step, ema_decay)
            ema = optax.incremental_update(params, ema, rate)
        skipped = 1.0 - ok.astype(jnp.float32)
        metrics = {**metrics, "loss": loss, "grad_norm": norm, "skipped": skipped}
        if schedule is not None:
            # The optimizer counts the steps it takes.
            metrics["learning_rate"] = schedule(state.step - state.guard.skipped)
        metrics = {name: jnp.asarray(value, jnp.float32) for name, value in metrics.items()}
        params, opt_state, ema = guards.choose(
            ok, (params, opt_state, ema), (state.params, state.opt_state, state.ema)
        )
        after = dataclasses.replace(
            state,
            step=state.step + 1,
            params=params,
            opt_state=opt_state,
            ema=ema,
            guard=guarded,
        )
        return after, metrics

    return step


class StateBuilder:
    """Makes the state of a run, and knows its shapes and shardings before.

    Used where the mesh is set, `with jax.set_mesh(mesh), nn.logical_axis_rules(rules)`.

    Attributes:
      shardings: tree of the state with a `NamedSharding` for each leaf.
      abstract: tree of the state with a sharded `ShapeDtypeStruct` for each leaf.
    """

    def __init__(
        self,
        task: Task,
        optimizer: optax.GradientTransformation,
        mesh: Mesh,
        rules: sharding_rules.Rules,
        *,
        seed: int,
        with_ema: bool,
    ) -> None:
        options: dict[str, Any] = {"seed": seed, "with_ema": with_ema}
        boxed = jax.eval_shape(lambda: create(task, optimizer, **options))
        self._create = lambda: unboxed(task, optimizer, **options)
        self.shardings: TrainState = sharding_rules.shardings(boxed, mesh, rules)
        self.abstract: TrainState = sharding_rules.placed(boxed, self.shardings)

    def initialise(self) -> TrainState:
        """The state at step 0, each leaf on its devices."""
        return jax.jit(self._create, out_shardings=self.shardings)()


def trace_step(
    step: Any, build: StateBuilder, batch: Any, frozen: Any, mesh: Mesh
) -> jax.stages.Traced:
    """The step of `make_step` as it will run, the old state's memory being reused for the new.

    Args:
      step: (state, batch, frozen) -> (state, metrics).
      build: whose shardings the new state keeps; gradients would lose theirs without.
      batch: arrays or `ShapeDtypeStruct` with shardings.
      frozen: as `batch`.
      mesh: for the metrics, which every device gets.
    """
    out = (build.shardings, sharding_rules.replicated(mesh))
    jitted = jax.jit(step, out_shardings=out, donate_argnums=0)
    return jitted.trace(build.abstract, batch, frozen)
