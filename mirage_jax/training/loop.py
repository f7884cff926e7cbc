"""The one training loop: any `Task`, any mesh, one compiled step, exact resume.

Order of operations in a step: dispatch it; while the devices work, fetch the metrics of the step
before and draw the next batch; then, where due, evaluate, draw samples, save.  A save follows the
step it is named after, and the data position in it is the number of batches consumed by then.
"""

import dataclasses
import math
import os
import signal
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import optax
from flax import linen as nn
from jax.experimental import multihost_utils
from jax.sharding import Mesh
from rich.console import Console

from mirage_jax.parallel import mesh as meshes
from mirage_jax.parallel import rules as sharding_rules
from mirage_jax.training import checkpoints, metrics
from mirage_jax.training import state as states
from mirage_jax.training.export import compare_tensors, flatten, load_export
from mirage_jax.training.state import TrainState
from mirage_jax.training.task import Params, Task, parameter_count

STEP_FIELD, DATA_FIELD, ELAPSED_FIELD = "time/step", "time/data", "time/elapsed"


class Diverged(ValueError):
    """The loss stopped being a number."""


class Terminated(SystemExit):
    """SIGTERM came; the state was saved. Exit status 143, as the shell gives for SIGTERM."""

    def __init__(self, message: str) -> None:
        super().__init__(128 + signal.SIGTERM)
        self.message = message

    def __str__(self) -> str:
        return self.message


def fit(
    task: Task,
    batches_factory: Callable[[int], Iterable[Any]],
    *,
    workdir: str | Path,
    steps: int,
    optimizer: optax.GradientTransformation,
    mesh: Mesh | None = None,
    rules: sharding_rules.Rules | None = None,
    seed: int = 0,
    ema_decay: float = 0.0,
    schedule: optax.Schedule | None = None,
    log_every: int = 50,
    sample_every: int = 0,
    save_every: int = 500,
    eval_batches: Callable[[], Iterable[Any]] | None = None,
    eval_every: int = 0,
    keep: int = 2,
    init_from: str | Path | Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
    max_seconds: float | None = None,
    name: str = "training",
    console: Console | None = None,
) -> TrainState:
    """Trains `task` up to step `steps` and returns the state.

    Starts from the newest intact checkpoint in `workdir`; without one from the parameters of
    `init_from`; without that from scratch; and prints which.  Calling it again after any kind of
    interruption goes on as if there had been none, bit for bit on the same devices.

    Args:
      task: what to train.
      batches_factory: `batches_factory(n)` yields endless batches, the first being the one after
        the n-th of the run: trees of numpy arrays [batch, ...], of this process's share.
      workdir: folder for checkpoints, metrics.jsonl, tensorboard/ and samples/.
      steps: last step of the run; a later call may name a larger one to go on.
      optimizer: any optax transformation, see `optimizers.adamw`.
      mesh: default: all devices on the data axis.
      rules: logical axis rules, default `parallel.preset("full")`.
      seed: of the parameters and of every step's randomness.
      ema_decay: of the parameter average; 0: none is kept.
      schedule: learning rate by step, only to be logged.
      log_every: steps between lines of metrics.
      sample_every: steps between sample sheets, drawn with the averaged parameters; 0: none.
      save_every: steps between checkpoints; 0: only at the end.
      eval_batches: held-out batches, finite, drawn anew for every evaluation.
      eval_every: steps between evaluations of the averaged parameters; 0: only at the end.
      keep: checkpoints kept.
      init_from: where parameters come from, see `initial_params`.
      config: JSON-serialisable, stored in the checkpoints.
      on_step: called with (step, metrics) one step late.
      max_seconds: stop, saying so, once this call has taken so long; the last step is saved.
      name: shown on the progress line.
      console: where to print.

    Raises:
      ValueError: on batches that end, change shape or do not divide by the mesh; on a checkpoint of
        another architecture.
      Diverged: if the loss is not finite; the checkpoints are from before.
      CheckpointError: if a checkpoint cannot be written, or none of those present is intact.
      Terminated: after SIGTERM, once the state is saved. (After SIGINT: KeyboardInterrupt.)
    """
    _check_counts(steps=steps, log_every=log_every, keep=keep)
    workdir = Path(workdir).resolve()
    first_process = jax.process_index() == 0
    phases = metrics.Phases()
    mesh = meshes.make_mesh() if mesh is None else mesh
    rules = sharding_rules.preset("full") if rules is None else rules
    console = console or Console(quiet=not first_process)

    def say(text: str) -> None:
        console.print(f"{name}: {text}", markup=False, highlight=False, soft_wrap=True)

    with (
        jax.set_mesh(mesh),
        nn.logical_axis_rules(rules),
        checkpoints.Checkpoints(workdir, keep=keep) as store,
    ):
        since = time.monotonic()
        build = states.Builder(task, optimizer, mesh, rules, seed=seed, with_ema=ema_decay > 0)
        state, meta = _start(build, store, init_from, say)
        start = int(meta["step"])
        say(
            f"{parameter_count(build.abstract.params):,} parameters, mesh "
            + " ".join(
                f"{axis}={size}" for axis, size in mesh.shape.items() if size > 1 or axis == "data"
            )
        )
        phases.add("start", since)
        if start >= steps:
            say(f"already at step {start} of {steps}")
            return state

        run = _Run(task, mesh, rules, phases)
        stop = _StopRequest()
        step_fn = states.make_step(task, optimizer, ema_decay=ema_decay, schedule=schedule)
        means = metrics.Mean()
        means.restore(meta["means"])
        writer = metrics.MetricsWriter(workdir, start_step=start, active=first_process)
        batches = iter(batches_factory(int(meta["batches"])))
        line = metrics.ProgressLine(name, steps, start=start, console=console, active=first_process)
        fixed_meta = {
            "config": config,
            "git": checkpoints.git_revision(Path(__file__).parent),
            "jax": jax.__version__,
            "mesh": dict(mesh.shape),
        }
        elapsed_before = float(meta["seconds"])
        pending: tuple[int, Any] | None = None
        last_tick = time.monotonic()
        waited = 0.0

        def fetch() -> None:
            """Metrics of the last dispatched step; blocks until it is done."""
            nonlocal pending, last_tick, waited
            if pending is None:
                return
            number, on_device = pending
            pending = None
            values = {key: float(value) for key, value in jax.device_get(on_device).items()}
            if not all(math.isfinite(values[key]) for key in ("loss", "grad_norm")):
                store.wait()
                raise Diverged(
                    f"{name}: step {number}: loss {values['loss']}, gradient norm "
                    f"{values['grad_norm']}, expected finite numbers; checkpoints of the steps "
                    f"{store.steps()} are from before"
                )
            now = time.monotonic()
            seconds, last_tick = now - last_tick, now
            means.add({**values, STEP_FIELD: seconds, DATA_FIELD: waited})
            waited = 0.0
            line.update(number, loss=values["loss"], seconds=seconds)
            if number % log_every == 0 or number == steps:
                elapsed = {ELAPSED_FIELD: elapsed_before + phases.elapsed}
                writer.scalars(number, {**means.take(), **elapsed})
                line.report(number)
            if on_step is not None:
                on_step(number, values)

        def save(number: int) -> None:
            seconds = elapsed_before + phases.elapsed
            store.save(
                state,
                {**fixed_meta, "batches": number, "means": means.state(), "seconds": seconds},
            )

        done = start
        try:
            with stop:
                while done < steps:
                    since = time.monotonic()
                    batch = run.place(_next(batches, done))
                    waited += time.monotonic() - since
                    since = phases.add("data", since)
                    if run.compiled is None:
                        run.compile(step_fn, build, batch)
                        since = phases.add("compile", since)
                        last_tick, waited = since, 0.0
                    state, on_device = run.step(state, batch)
                    done += 1
                    fetch()
                    pending = (done, on_device)
                    ended = done < steps and (
                        stop.requested(done, log_every)
                        or _out_of_time(phases.elapsed, max_seconds, done, log_every)
                    )
                    last = done == steps or ended
                    if last or _due(done, log_every) or _due(done, save_every):
                        # An extra wait for one step in many; a line is then never a step behind a
                        # checkpoint that holds the sums it empties.
                        fetch()
                    since = phases.add("step", since)
                    if ended:
                        save(done)
                        break
                    if eval_batches is not None and (done == steps or _due(done, eval_every)):
                        results = run.evaluate(state, eval_batches())
                        writer.scalars(done, {f"eval/{k}": v for k, v in results.items()})
                        line.say(
                            f"{name}: step {done}: held out "
                            + ", ".join(f"{k} {v:.4g}" for k, v in results.items())
                        )
                        since = phases.add("evaluate", since)
                    if sample_every and (done == steps or _due(done, sample_every)):
                        picture = task.sample_sheet(state.best_params, done)
                        if picture is not None:
                            path = writer.picture(done, np.asarray(picture))
                            line.say(f"{name}: step {done}: samples in {path}")
                        since = phases.add("samples", since)
                    # Last, so that a run killed before this line does all of the above again.
                    if last or _due(done, save_every):
                        save(done)
                        phases.add("save", since)
                    last_tick = time.monotonic()
        finally:
            line.close()
            writer.close()
            close = getattr(batches, "close", None)
            if close is not None:
                close()
        since = time.monotonic()
        store.wait()
        phases.add("save", since)
        if stop.signal is not None:
            stop.leave(f"{name}: stopped by {stop.name} at step {done} of {steps}, saved")
        if done < steps:
            say(f"stopped after {max_seconds:g} s at step {done} of {steps} (max_seconds), saved")
        say(f"step {done}, {metrics.format_seconds(phases.elapsed)} ({phases.summary()})")
        return state


def initial_params(
    source: str | Path | Mapping[str, Any], abstract: Params
) -> tuple[dict[str, Any], list[str], list[str]]:
    """Parameters of another run or export for those of `abstract` that it has under the same name.

    Args:
      source: an export, the workdir of a run (its averaged parameters, if any), or a nested dict of
        arrays.
      abstract: nested dict of `ShapeDtypeStruct`.

    Returns:
      A flat dict {name: array} of what was found, its names, and the names it does not have.

    Raises:
      ValueError: if nothing fits, or a name fits and its shape does not.
    """
    if isinstance(source, Mapping):
        name, found = "init_from", flatten(source)
    else:
        path, name = Path(source), f"init_from {source}"
        ran = (path / checkpoints.FOLDER).is_dir()
        found = flatten(checkpoints.load_params(path) if ran else load_export(path)[0])
    expected = flatten(abstract)
    loaded = sorted(found.keys() & expected.keys())
    if not loaded:
        raise ValueError(
            f"{name}: no tensor fits; found {', '.join(list(found)[:3])} ..., "
            f"expected {', '.join(list(expected)[:3])} ..."
        )
    compare_tensors(name, {n: found[n] for n in loaded}, {n: expected[n] for n in loaded})
    return {n: found[n] for n in loaded}, loaded, sorted(expected.keys() - found.keys())


def _start(
    build: states.Builder,
    store: checkpoints.Checkpoints,
    init_from: str | Path | Mapping[str, Any] | None,
    say: Callable[[str], None],
) -> tuple[TrainState, dict[str, Any]]:
    """resume > init_from > scratch."""
    restored = store.restore(build.abstract, say)
    if restored is not None:
        state, meta = restored
        say(f"resuming from step {meta['step']} in {store.directory}")
        return state, meta
    state = build.real()
    fresh = {"step": 0, "batches": 0, "means": {}, "seconds": 0.0}
    if init_from is None:
        say("starting from scratch")
        return state, fresh
    found, loaded, missing = initial_params(init_from, build.abstract.params)

    def fill(path: Any, leaf: Any, target: Any) -> Any:
        own = "/".join(str(key.key) for key in path)
        # A new buffer each time: parameters and average must not share one, they are donated.
        return jax.device_put(np.array(found[own]), target.sharding) if own in found else leaf

    params = jax.tree_util.tree_map_with_path(fill, state.params, build.abstract.params)
    state = dataclasses.replace(state, params=params)
    if state.ema is not None:
        ema = jax.tree_util.tree_map_with_path(fill, state.ema, build.abstract.ema)
        state = dataclasses.replace(state, ema=ema)
    source = "given parameters" if isinstance(init_from, Mapping) else init_from
    say(f"starting from {source}: {len(loaded)} tensors loaded, {len(missing)} fresh")
    for own in missing:
        say(f"  fresh: {own}")
    return state, fresh


class _Run:
    """The compiled step and evaluation of one call of `fit`."""

    def __init__(
        self, task: Task, mesh: Mesh, rules: sharding_rules.Rules, phases: metrics.Phases
    ) -> None:
        self._task = task
        self._phases = phases
        self._mesh = mesh
        self._batch_sharding = sharding_rules.batch_sharding(mesh)
        self._frozen = None
        if task.frozen is not None:
            self._frozen = jax.device_put(
                sharding_rules.unboxed(task.frozen),
                sharding_rules.shardings(task.frozen, mesh, rules),
            )
        self._batch_shape: Any = None
        self._evaluate: Any = None
        self.compiled: Any = None

    def place(self, batch: Any) -> Any:
        """A host batch on the devices, leading dimension split."""
        # Shards as the whole batch sees them, over those of this process.
        shards = max(meshes.batch_shards(self._mesh) // jax.process_count(), 1)

        def one(path: Any, leaf: Any) -> jax.Array:
            leaf = leaf if isinstance(leaf, jax.Array) else np.asarray(leaf)
            if leaf.ndim == 0 or leaf.shape[0] % shards:
                own = jax.tree_util.keystr(path, simple=True, separator="/")
                raise ValueError(
                    f"batch {own!r}: found shape {leaf.shape}, expected a leading dimension that "
                    f"is a multiple of {shards} (mesh axes {' x '.join(meshes.BATCH_AXES)})"
                )
            if isinstance(leaf, jax.Array):
                return jax.device_put(leaf, self._batch_sharding)
            return jax.make_array_from_process_local_data(self._batch_sharding, leaf)

        return jax.tree_util.tree_map_with_path(one, batch)

    def compile(self, step: Any, build: states.Builder, batch: Any) -> None:
        """Ahead of time, so that a second compilation is not merely unlikely but impossible."""
        self._batch_shape = _shapes(batch)
        traced = states.trace_step(step, build, batch, self._frozen, self._mesh)
        self.compiled = traced.lower().compile()

    def step(self, state: TrainState, batch: Any) -> tuple[TrainState, Any]:
        shapes = _shapes(batch)
        if shapes != self._batch_shape:
            raise ValueError(
                f"batch: found {shapes}, expected the shapes of the first batch "
                f"{self._batch_shape}; give constant sizes (drop the remainder)"
            )
        with jax.transfer_guard("disallow"):
            return self.compiled(state, batch, self._frozen)

    def evaluate(self, state: TrainState, batches: Iterable[Any]) -> dict[str, float]:
        """Mean of `task.evaluate` over batches of equal size, with the averaged parameters."""
        if self._evaluate is None:
            extra = {} if self._frozen is None else {"frozen": self._frozen}
            self._evaluate = jax.jit(
                lambda params, batch, key, extra: self._task.evaluate(params, batch, key, **extra)
            )
            self._extra = extra
        means = metrics.Mean()
        for number, batch in enumerate(batches):
            # The same randomness at every evaluation, so that they can be compared.
            key = jax.random.fold_in(jax.random.key(0), number)
            means.add(
                jax.device_get(
                    self._evaluate(state.best_params, self.place(batch), key, self._extra)
                )
            )
        return means.take()


class _StopRequest:
    """SIGTERM and SIGINT ask for a save and an orderly end; a second SIGINT ends at once."""

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}

    @property
    def name(self) -> str:
        return signal.Signals(self.signal).name if self.signal is not None else ""

    def __enter__(self) -> None:
        # Python allows handlers in the main thread only; elsewhere signals keep their meaning.
        if threading.current_thread() is threading.main_thread():
            for number in (signal.SIGTERM, signal.SIGINT):
                self._previous[number] = signal.signal(number, self._handle)

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}

    def _handle(self, number: int, _: Any) -> None:
        if self.signal is not None and number == signal.SIGINT:
            raise KeyboardInterrupt
        self.signal = number
        os.write(2, b"\nsaving after this step, then stopping\n")

    def requested(self, step: int, every: int) -> bool:
        return _any_process(self.signal is not None, step, every)

    def leave(self, message: str) -> None:
        if self.signal == signal.SIGINT:
            raise KeyboardInterrupt(message)
        raise Terminated(message)


def _any_process(wish: bool, step: int, every: int) -> bool:
    """True on all processes if it is on one; several processes ask each other only now and then."""
    if jax.process_count() == 1:
        return wish
    if step % every:
        return False
    return bool(np.any(multihost_utils.process_allgather(np.asarray(wish))))


def _out_of_time(elapsed: float, limit: float | None, step: int, every: int) -> bool:
    return limit is not None and _any_process(elapsed >= limit, step, every)


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _next(batches: Iterator[Any], done: int) -> Any:
    try:
        return next(batches)
    except StopIteration:
        raise ValueError(f"the batches ended after step {done}; expected endless ones") from None


def _shapes(batch: Any) -> Any:
    return jax.tree.map(lambda leaf: f"{leaf.dtype}{leaf.shape}", batch)


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}: found {count}, expected at least 1")
