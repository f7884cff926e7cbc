"""The one training loop: any `Task`, any mesh, one compiled step, exact resume.

Order of operations in a step: dispatch it; while the devices work, fetch the metrics of the step
before and draw the next batch; then, where due, evaluate, draw samples, save.  A save follows the
step it is named after, and the data position in it is the number of batches consumed by then.  But
for the end of a run no save is made among skipped steps, so that going back to the newest one goes
back before them.
"""

import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import jax
import optax
from flax import linen as nn
from jax.sharding import Mesh
from rich.console import Console

from mirage_jax.parallel import make_mesh, specs
from mirage_jax.parallel import rules as sharding_rules
from mirage_jax.training import checkpoints, metrics, provenance
from mirage_jax.training import initialisation as starting
from mirage_jax.training import state as states
from mirage_jax.training.guard import Guard, Watch
from mirage_jax.training.metric_logger import Journal
from mirage_jax.training.preemption import StopRequest, out_of_time
from mirage_jax.training.profiling import Profile
from mirage_jax.training.runner import Runner
from mirage_jax.training.state import TrainState
from mirage_jax.training.task import Task
from mirage_jax.training.wandb_board import WandbBoard


class Diverged(ValueError):
    """Steps kept being skipped, and going back to a checkpoint could not help."""


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
    accumulate: int = 1,
    guard: Guard | None = None,
    log_every: int = 50,
    sample_every: int = 0,
    save_every: int = 500,
    eval_batches: Callable[[], Iterable[Any]] | None = None,
    eval_every: int = 0,
    keep: int = 2,
    keep_best: str = "",
    init_from: str | Path | Mapping[str, Any] | None = None,
    config: Mapping[str, Any] | None = None,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
    max_seconds: float | None = None,
    profile_steps: tuple[int, int] = (0, 0),
    wandb: str = "",
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
      workdir: folder for checkpoints, metrics.jsonl, tensorboard/, samples/, config.json and
        parameters.txt, a table of where each parameter lies.
      steps: last step of the run; a later call may name a larger one to go on.
      optimizer: any optax transformation, see `optimizers.adamw`.
      mesh: default: all devices on the data axis.
      rules: logical axis rules, default `parallel.preset("full")`.
      seed: of the parameters and of every step's randomness.
      ema_decay: of the parameter average; 0: none is kept.
      schedule: learning rate by step, only to be logged.
      accumulate: parts of a batch that are worked on one after the other, see `accumulation`.
      guard: which steps are skipped and when the run goes back, default `Guard()`.
      log_every: steps between lines of metrics.
      sample_every: steps between sample sheets and videos, drawn with the averages; 0: none.
      save_every: steps between checkpoints; 0: only at the end.
      eval_batches: held-out batches, finite, drawn anew for every evaluation; each process gives
        all of them.
      eval_every: steps between evaluations of the averaged parameters; 0: only at the end.
      keep: checkpoints kept, the newest ones.
      keep_best: metric of `task.evaluate`; the checkpoint with the lowest is kept too, of those
        that are made at a step with an evaluation.
      init_from: where parameters come from, see `initial_params`.
      config: JSON-serialisable, stored in the checkpoints; a resumed run says what has changed.
      on_step: called with (step, metrics) one step late.
      max_seconds: stop, saying so, once this call has taken so long; the last step is saved.
      profile_steps: (first, last) step of a trace in `workdir`/profile; (0, 0): none.
      wandb: project of Weights & Biases that gets the metrics too; "": none.
      name: shown on the progress line.
      console: where to print.

    Raises:
      ValueError: on batches that end, change shape or do not divide by the mesh; on a checkpoint of
        another architecture; on parameters that the rules split and the mesh cannot.
      Diverged: if steps keep being skipped, see `Guard`; the checkpoints are from before.
      CheckpointError: if a checkpoint cannot be written, or none of those present is intact.
      Terminated: after SIGTERM, once the state is saved. (After SIGINT: KeyboardInterrupt.)
    """
    _check_counts(steps=steps, log_every=log_every, keep=keep, accumulate=accumulate)
    workdir = Path(workdir).resolve()
    first_process = jax.process_index() == 0
    phases = metrics.Phases()
    mesh = make_mesh() if mesh is None else mesh
    rules = sharding_rules.preset("full") if rules is None else rules
    guard = Guard() if guard is None else guard
    console = console or Console(quiet=not first_process)

    def say(text: str) -> None:
        console.print(f"{name}: {text}", markup=False, highlight=False, soft_wrap=True)

    with (
        jax.set_mesh(mesh),
        nn.logical_axis_rules(rules),
        checkpoints.Checkpoints(workdir, keep=keep, keep_best=int(bool(keep_best))) as store,
        Profile(workdir / "profile", profile_steps, say) as profile,
    ):
        since = time.monotonic()
        build = states.Builder(task, optimizer, mesh, rules, seed=seed, with_ema=ema_decay > 0)
        parts = {"trained": (build.abstract.params, build.shardings.params)}
        if task.frozen is not None:
            parts["frozen"] = sharding_rules.laid_out(task.frozen, mesh, rules)
        described = specs.described(parts, mesh, rules)
        state, meta = starting.begin(build, store, init_from, say)
        start = done = int(meta["step"])
        drawn = int(meta["batches"])
        if start and config and meta["config"]:
            for line in provenance.changed_fields(meta["config"], config):
                say(f"  config: {line}")
        say(
            "mesh "
            + " ".join(
                f"{axis}={size}" for axis, size in mesh.shape.items() if size > 1 or axis == "data"
            )
        )
        for line in described:
            say(line)
        phases.add("start", since)
        if start >= steps:
            say(f"already at step {start} of {steps}")
            return state
        if first_process:
            workdir.mkdir(parents=True, exist_ok=True)
            text = "\n\n".join("\n".join([line, *rows]) for line, rows in described.items())
            (workdir / "parameters.txt").write_text(text + "\n")
            if config:
                text = json.dumps(config, indent=2) + "\n"
                (workdir / "config.json").write_text(text, encoding="utf-8")

        runner = Runner(task, mesh, rules, accumulate=accumulate)
        stop, watch = StopRequest(), Watch(guard)
        step_fn = states.make_step(
            task,
            optimizer,
            ema_decay=ema_decay,
            schedule=schedule,
            accumulate=accumulate,
            guard=guard,
        )
        board = WandbBoard(workdir, wandb, name, config) if wandb and first_process else None
        elapsed_before = float(meta["seconds"])
        journal = Journal(
            name,
            steps,
            log_every=log_every,
            writer=metrics.MetricsWriter(
                workdir, start_step=start, active=first_process, extra=board
            ),
            line=metrics.ProgressLine(
                name, steps, start=start, console=console, active=first_process
            ),
            watch=watch,
            elapsed=lambda: elapsed_before + phases.elapsed,
            on_step=on_step,
        )
        journal.means.restore(meta["means"])
        batches = iter(batches_factory(drawn))
        fixed_meta = {
            "config": config,
            "git": provenance.git_revision(Path(__file__).parent),
            "jax": jax.__version__,
            "mesh": dict(mesh.shape),
        }

        def save(results: Mapping[str, float]) -> None:
            meta = {
                "batches": drawn,
                "means": journal.means.state(),
                "seconds": elapsed_before + phases.elapsed,
            }
            store.save(state, {**fixed_meta, **meta}, value=results.get(keep_best))
            watch.saved()

        def go_back() -> tuple[TrainState, int]:
            """The newest checkpoint and its step; the batches since are not seen again."""
            store.wait()
            jax.tree.map(lambda leaf: leaf.delete(), state)  # there may be no room for two
            trouble = f"{guard.patience} steps in a row were skipped, the last {watch.last}"
            if not watch.may_go_back:
                raise Diverged(
                    f"{name}: {trouble}; going back to a checkpoint {guard.rollbacks} times did "
                    f"not help; checkpoints of the steps {store.steps()} are from before"
                )
            restored = store.restore(build.abstract, say)
            if restored is None:
                raise Diverged(f"{name}: {trouble}; there is no checkpoint to go back to")
            earlier, meta = restored
            journal.say(
                f"{trouble}; going back to step {meta['step']}, past the batches up to number "
                f"{drawn}"
            )
            watch.went_back()
            journal.rewind(meta["step"], meta["means"])
            return earlier, int(meta["step"])

        try:
            with stop:
                while done < steps:
                    since = time.monotonic()
                    batch = runner.place(_next(batches, done))
                    journal.waited(time.monotonic() - since)
                    since = phases.add("data", since)
                    if runner.compiled is None:
                        journal.compiled(*runner.compile(step_fn, build, batch))
                        since = phases.add("compile", since)
                    profile.before(done + 1)
                    state, on_device = runner.step(state, batch)
                    done, drawn = done + 1, drawn + 1
                    journal.fetch()
                    journal.dispatched(done, on_device)
                    ended = done < steps and (
                        stop.requested(done) or out_of_time(phases.elapsed, max_seconds, done)
                    )
                    due = _due(done, log_every) or _due(done, save_every)
                    if due or ended or done == steps or profile.ends_with(done):
                        # An extra wait for one step in many; a line is then never a step behind a
                        # checkpoint that holds the sums it empties.
                        journal.fetch()
                        profile.after(done)
                    since = phases.add("step", since)
                    if watch.exhausted:
                        state, done = go_back()
                        since = phases.add("go back", since)
                        continue
                    results: dict[str, float] = {}
                    if eval_batches is not None and (done == steps or _due(done, eval_every)):
                        results = runner.evaluate(state, eval_batches())
                        if keep_best and keep_best not in results:
                            raise ValueError(
                                f"keep_best: found {keep_best!r}, expected one of "
                                f"{', '.join(results)}"
                            )
                        journal.evaluated(done, results)
                        since = phases.add("evaluate", since)
                    if sample_every and (done == steps or _due(done, sample_every)):
                        samples = task.samples(state.best_params, done)
                        if samples is not None:
                            journal.drew(done, samples)
                        since = phases.add("samples", since)
                    # Last, so that a run killed before this line does all of the above again.
                    if done == steps or ((ended or _due(done, save_every)) and not watch.streak):
                        save(results)
                        phases.add("save", since)
                    if ended:
                        break
                    journal.tick()
        finally:
            journal.close()
            close = getattr(batches, "close", None)
            if close is not None:
                close()
        since = time.monotonic()
        store.wait()
        phases.add("save", since)
        stop.agree()  # one may have been asked to since they last talked
        saved = "saved" if not watch.streak else f"among skipped steps; saved are {store.steps()}"
        if stop.signal is not None:
            stop.leave(f"{name}: stopped by {stop.name} at step {done} of {steps}, {saved}")
        if done < steps:
            say(f"stopped after {max_seconds:g} s at step {done} of {steps}, {saved}")
        say(f"step {done}, {metrics.format_seconds(phases.elapsed)} ({phases.summary()})")
        return state


def _due(step: int, every: int) -> bool:
    return every > 0 and step % every == 0


def _next(batches: Iterator[Any], done: int) -> Any:
    try:
        return next(batches)
    except StopIteration:
        raise ValueError(f"the batches ended after step {done}; expected endless ones") from None


def _check_counts(**counts: int) -> None:
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"{name}: found {count}, expected at least 1")
