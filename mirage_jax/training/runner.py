"""The programs of a run on its devices: the compiled step, the evaluation, and batches for both."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from mirage_jax.parallel import (
    BATCH_AXES,
    batch_sharding,
    batch_shards,
    footprint,
    processes,
    replicated,
)
from mirage_jax.parallel import rules as sharding_rules
from mirage_jax.parallel.flops import matmul_flops
from mirage_jax.training import state as states
from mirage_jax.training.metrics import Mean
from mirage_jax.training.task import Task
from mirage_jax.training.throughput import Throughput, format_count


class Runner:
    """Compiles and runs the step and the evaluation of one call of `fit`.

    Args:
      task: what is trained.
      mesh: where.
      rules: logical axis rules, for frozen arrays.
      accumulate: parts that a batch must divide into on every device.
    """

    def __init__(
        self, task: Task, mesh: Mesh, rules: sharding_rules.Rules, *, accumulate: int = 1
    ) -> None:
        self._task = task
        self._mesh = mesh
        self._batch_sharding = batch_sharding(mesh)
        self._of_this_process = batch_shards(mesh) // processes.batch_share(mesh)[1]
        self._accumulate = accumulate
        self._frozen = None
        if task.frozen is not None:
            self._frozen = processes.put(*sharding_rules.laid_out(task.frozen, mesh, rules))
        self._programs: dict[str, Any] = {}
        self._work: list[tuple[int, int]] = []
        self._evaluate: Any = None

    def place(self, batch: Any) -> Any:
        """This process's share of a batch on the devices, leading dimension split.

        Raises:
          ValueError: if devices and micro-batches cannot share it.
        """
        _check_divides(batch, self._of_this_process * self._accumulate, self._accumulate)
        return processes.put_share(batch, self._batch_sharding)

    def must_compile(self, batch: Any) -> bool:
        """Whether there is no program yet for batches of this shape, and may be one."""
        most = self._task.batch_shapes
        return str(_shapes(batch)) not in self._programs and len(self._programs) < most

    def compile(self, step: Any, build: states.StateBuilder, batch: Any) -> tuple[Throughput, str]:
        """Ahead of time, so that a second compilation is not merely unlikely but impossible.

        Returns:
          The work of a step, on average over the shapes that are compiled, and that of this one and
          its memory as a line of text.
        """
        traced = states.trace_step(step, build, batch, self._frozen, self._mesh)
        flops = matmul_flops(traced.jaxpr)
        program = traced.lower().compile()
        self._programs[str(_shapes(batch))] = program
        devices, tokens = self._mesh.devices, self._task.tokens(batch)
        self._work.append((flops, tokens))
        means = (round(sum(values) / len(values)) for values in zip(*self._work, strict=True))
        work = Throughput(devices.flat[0].device_kind, devices.size, *means)
        text = f"a step takes {format_count(flops)}FLOP in matrix products"
        if tokens:
            text += f" for {tokens:,} tokens"
        stats = program.memory_analysis()
        return work, text if stats is None else f"{text}; {footprint.memory_of(stats, None)}"

    def step(self, state: states.TrainState, batch: Any) -> tuple[states.TrainState, Any]:
        """The next state and the metrics, both still on their way.

        Raises:
          ValueError: if the batch is of a shape that nothing was compiled for.
        """
        shapes = str(_shapes(batch))
        if shapes not in self._programs:
            known = " or ".join(self._programs)
            raise ValueError(
                f"batch: found {shapes}, expected the shapes of the first batch "
                f"{known}; give constant sizes (drop the remainder)"
            )
        with jax.transfer_guard("disallow"):
            return self._programs[shapes](state, batch, self._frozen)

    def evaluate(self, state: states.TrainState, batches: Iterable[Any]) -> dict[str, float]:
        """Mean of `task.evaluate` over batches of equal size, with the averaged parameters.

        Raises:
          ValueError: if devices cannot share a batch; every process gives all of it.
        """
        if self._evaluate is None:

            def run(params: Any, batch: Any, number: Any, extra: Any) -> Any:
                # The same randomness at every evaluation, so that they can be compared.
                key = jax.random.fold_in(jax.random.key(0), number)
                return self._task.evaluate(params, batch, key, **extra)

            self._evaluate = jax.jit(run, out_shardings=replicated(self._mesh))
        extra = {} if self._frozen is None else {"frozen": self._frozen}
        means = Mean()
        for number, batch in enumerate(batches):
            _check_divides(batch, batch_shards(self._mesh), 1)
            whole = processes.put(batch, self._batch_sharding)
            found = self._evaluate(state.best_params, whole, np.int32(number), extra)
            means.add(jax.device_get(found))
        return means.take()


def _check_divides(batch: Any, parts: int, micro_batches: int) -> None:
    for path, leaf in jax.tree_util.tree_flatten_with_path(batch)[0]:
        shape = np.shape(leaf)
        if not shape or shape[0] % parts:
            own = jax.tree_util.keystr(path, simple=True, separator="/")
            micro = f", {micro_batches} micro-batches" if micro_batches > 1 else ""
            raise ValueError(
                f"batch {own!r}: found shape {shape}, expected a leading dimension that is a "
                f"multiple of {parts} (mesh axes {' x '.join(BATCH_AXES)}{micro})"
            )


def _shapes(batch: Any) -> Any:
    return jax.tree.map(lambda leaf: f"{leaf.dtype}{leaf.shape}", batch)
