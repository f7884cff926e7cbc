"""The one training loop: any `Task`, any mesh, one compiled step, exact resume.

`fit` prepares a run, `_Run.take_steps` is the loop, `_Run.roll_back` undoes steps that failed. The
order in a step: dispatch it; while the devices work, fetch the metrics of the step before and take
the next batch, which a thread draws and places; then, where due, evaluate, draw samples, save. A
save follows the step it is named after, and the data position in it is the number of batches taken
by then. But for the end of a run no save is made among skipped steps, so that rolling back to the
newest one undoes them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import optax
from flax import linen as nn
from jax.sharding import Mesh
from rich.console import Console

from mirage_jax.io.lock import locked
from mirage_jax.parallel import make_mesh, specs
from mirage_jax.parallel import rules as sharding_rules
from mirage_jax.training import metrics, provenance
from mirage_jax.training import state as states
from mirage_jax.training.checkpoints import Checkpoints
from mirage_jax.training.guard import Diverged, SkipTracker
from mirage_jax.training.initialisation import restore_or_initialise
from mirage_jax.training.loop_settings import LoopSettings
from mirage_jax.training.metric_logger import MetricLogger
from mirage_jax.training.preemption import Preemption, out_of_time
from mirage_jax.training.prepared import placed
from mirage_jax.training.profiling import Profile
from mirage_jax.training.runner import Runner
from mirage_jax.training.state import TrainState
from mirage_jax.training.task import Task
from mirage_jax.training.wandb_board import WandbBoard


def fit(
    task: Task,
    batches_factory: Callable[[int], Iterable[Any]],
    settings: LoopSettings,
    *,
    workdir: str | Path,
    optimizer: optax.GradientTransformation,
    schedule: optax.Schedule | None = None,
    mesh: Mesh | None = None,
    rules: sharding_rules.Rules | None = None,
    init_from: str | Path | Mapping[str, Any] | None = None,
    eval_batches: Callable[[], Iterable[Any]] | None = None,
    on_step: Callable[[int, dict[str, float]], None] | None = None,
    config: Mapping[str, Any] | None = None,
    name: str = "training",
    console: Console | None = None,
) -> TrainState:
    """Trains `task` up to step `settings.steps` and returns the state.

    Starts from the newest intact checkpoint in `workdir`; without one from the parameters of
    `init_from`; without that from scratch; and prints which.  Calling it again after any kind of
    interruption goes on as if there had been none, bit for bit on the same devices.

    Args:
      task: what to train.
      batches_factory: `batches_factory(n)` yields endless batches, the first being the one after
        the n-th of the run: trees of numpy arrays [batch, ...], of this process's share. The step
        is compiled for their `examples`, a batch of every shape. A thread draws the next batch,
        unless they say `computes`: drawing them runs programs on the devices.
      settings: numbers of the run.
      workdir: folder for checkpoints, metrics.jsonl, tensorboard/, samples/, config.json and
        parameters.txt, a table of where each parameter lies; of one run at a time.
      optimizer: any optax transformation, see `optimizers.adamw`.
      schedule: learning rate by step, only to be logged.
      mesh: default: all devices on the data axis.
      rules: logical axis rules, default `parallel.preset("full")`.
      init_from: where parameters come from, see `initial_params`.
      eval_batches: held-out batches, finite, drawn anew for every evaluation of the averaged
        parameters; each process gives all of them.
      on_step: called with (step, metrics) one step late.
      config: JSON-serialisable, stored in the checkpoints; a resumed run says what has changed.
      name: shown on the progress line.
      console: where to print.

    Raises:
      ValueError: on batches that end, change shape or do not divide by the mesh; on a checkpoint of
        another architecture; on parameters that the rules split and the mesh cannot.
      Diverged: if steps keep being skipped, see `Guard`; the checkpoints are from before.
      CheckpointError: if a checkpoint cannot be written or read, or all are damaged.
      LockedError: if another run is at work in `workdir`; nothing is touched.
      Terminated: after SIGTERM, once the state is saved. (After SIGINT: KeyboardInterrupt.)
    """
    run = _Run(
        task=task,
        batches_factory=batches_factory,
        settings=settings,
        workdir=Path(workdir).resolve(),
        optimizer=optimizer,
        schedule=schedule,
        mesh=make_mesh() if mesh is None else mesh,
        rules=sharding_rules.preset("full") if rules is None else rules,
        init_from=init_from,
        eval_batches=eval_batches,
        on_step=on_step,
        config=config,
        name=name,
        console=console or Console(quiet=jax.process_index() > 0),
    )
    with (
        jax.set_mesh(run.mesh),
        nn.logical_axis_rules(run.rules),
        locked(run.workdir / "lock", name, active=jax.process_index() == 0),
        Checkpoints(
            run.workdir, keep=settings.keep, keep_best=int(bool(settings.keep_best))
        ) as store,
        Profile(run.workdir / "profile", settings.profile_steps, run.say) as profile,
    ):
        run.restore(store)
        if run.step >= settings.steps:
            run.say(f"already at step {run.step} of {settings.steps}")
            return run.state
        run.open(profile)
        run.train()
        run.finish()
        return run.state


@dataclasses.dataclass(kw_only=True)
class _Run:
    """One call of `fit`: its arguments, what `restore` and `open` make of them, where it is.

    Attributes:
      state: of the newest step that was dispatched.
      step: its number.
      batches_drawn: data position; more than `step` after a roll-back.
      seconds_before: what earlier calls have spent on the run.
    """

    task: Task
    batches_factory: Callable[[int], Iterable[Any]]
    settings: LoopSettings
    workdir: Path
    optimizer: optax.GradientTransformation
    schedule: optax.Schedule | None
    mesh: Mesh
    rules: sharding_rules.Rules
    init_from: str | Path | Mapping[str, Any] | None
    eval_batches: Callable[[], Iterable[Any]] | None
    on_step: Callable[[int, dict[str, float]], None] | None
    config: Mapping[str, Any] | None
    name: str
    console: Console
    phases: metrics.Phases = dataclasses.field(default_factory=metrics.Phases)
    preemption: Preemption = dataclasses.field(default_factory=Preemption)
    state: TrainState = dataclasses.field(init=False)
    step: int = 0
    batches_drawn: int = 0
    seconds_before: float = 0.0

    def say(self, text: str) -> None:
        self.console.print(f"{self.name}: {text}", markup=False, highlight=False, soft_wrap=True)

    def restore(self, store: Checkpoints) -> None:
        """The state the run goes on from or starts with, and a description of both."""
        self.store = store
        self.builder = states.StateBuilder(
            self.task,
            self.optimizer,
            self.mesh,
            self.rules,
            seed=self.settings.seed,
            with_ema=self.settings.ema_decay > 0,
        )
        parts = {"trained": (self.builder.abstract.params, self.builder.shardings.params)}
        if self.task.frozen is not None:
            parts["frozen"] = sharding_rules.laid_out(self.task.frozen, self.mesh, self.rules)
        self.placement = specs.described(parts, self.mesh, self.rules)
        self.state, meta = restore_or_initialise(
            self.builder, store, self.init_from, self.say, start_over=self.settings.start_over
        )
        self.step, self.batches_drawn = int(meta["step"]), int(meta["batches"])
        self.seconds_before, self.unfinished_means = float(meta["seconds"]), meta["means"]
        if self.step and self.config and meta["config"]:
            for line in provenance.changed_fields(meta["config"], self.config):
                self.say(f"  config: {line}")
        axes = (f"{axis}={n}" for axis, n in self.mesh.shape.items() if n > 1 or axis == "data")
        for line in ("mesh " + " ".join(axes), *self.placement):
            self.say(line)

    def open(self, profile: Profile) -> None:
        """Logs, batches and the step, not yet compiled."""
        self.profile = profile
        first = jax.process_index() == 0
        if first:
            provenance.write_description(self.workdir, self.placement, self.config)
        settings = self.settings
        self.provenance = {
            "config": self.config,
            "git": provenance.git_revision(Path(__file__).parent),
            "jax": jax.__version__,
            "mesh": dict(self.mesh.shape),
        }
        self.runner = Runner(self.task, self.mesh, self.rules, accumulate=settings.accumulate)
        self.step_fn = states.make_step(
            self.task,
            self.optimizer,
            ema_decay=settings.ema_decay,
            schedule=self.schedule,
            accumulate=settings.accumulate,
            guard=settings.guard,
        )
        board = None
        if settings.wandb and first:
            board = WandbBoard(self.workdir, settings.wandb, self.name, self.config)
        self.skips = SkipTracker(settings.guard)
        self.logger = MetricLogger(
            self.name,
            settings,
            writer=metrics.MetricsWriter(
                self.workdir, start_step=self.step, active=first, extra=board
            ),
            line=metrics.ProgressLine(
                self.name, settings.steps, start=self.step, console=self.console, active=first
            ),
            skips=self.skips,
            elapsed=self.elapsed,
            on_step=self.on_step,
        )
        self.logger.means.restore(self.unfinished_means)
        self.batches = placed(self.batches_factory(self.batches_drawn), self.runner.place)
        self.phases.end("start")

    def compile(self, batch: Any) -> None:
        """Compiles the step for batches of this shape, unless it is compiled."""
        if self.runner.must_compile(batch):
            self.logger.compiled(*self.runner.compile(self.step_fn, self.builder, batch))
            self.phases.end("compile")

    def train(self) -> None:
        """Takes the steps of this call, listening for signals; closes logs and batches."""
        try:
            with self.preemption:
                for example in self.batches.examples:
                    self.compile(self.runner.place(example))
                self.take_steps()
        finally:
            self.logger.close()
            self.batches.close()

    def take_steps(self) -> None:
        """Takes steps until the last one, or until the run is to end early."""
        while self.step < self.settings.steps:
            self.take_step()
            ending = self.ends_early()
            self.fetch_if_due(ending)
            if self.skips.exhausted:
                self.roll_back()
                continue
            results = self.evaluate()
            self.draw_samples()
            # Last, so that a run killed before this line does all of the above again.
            self.save(results, ending)
            if ending:
                break
            self.logger.restart_clock()

    def take_step(self) -> None:
        """Dispatches a step and, while the devices work, fetches the metrics of the one before."""
        batch = next(self.batches, None)
        if batch is None:
            raise ValueError(f"the batches ended after step {self.step}; expected endless ones")
        self.logger.waited(self.phases.end("data"))
        self.compile(batch)
        self.profile.before(self.step + 1)
        self.state, on_device = self.runner.step(self.state, batch)
        self.step, self.batches_drawn = self.step + 1, self.batches_drawn + 1
        self.logger.fetch()
        self.logger.dispatched(self.step, on_device)

    def ends_early(self) -> bool:
        """Whether this step, not the last one, is to be the last of this call."""
        if self.step == self.settings.steps:
            return False
        return self.preemption.requested(self.step) or out_of_time(
            self.phases.elapsed, self.settings.max_seconds, self.step
        )

    def fetch_if_due(self, ending: bool) -> None:
        """Waits for the step where a line, a checkpoint, the trace or the run ends with it.

        One wait for many steps; a line is then never a step behind a checkpoint that holds the sums
        it empties.
        """
        due = self.due(self.settings.log_every) or self.due(self.settings.save_every)
        last = self.step == self.settings.steps
        if due or ending or last or self.profile.ends_with(self.step):
            self.logger.fetch()
            self.profile.after(self.step)
        self.phases.end("step")

    def evaluate(self) -> dict[str, float]:
        """Metrics on held-out batches where they are due, else none."""
        if self.eval_batches is None or not self.due_or_last(self.settings.eval_every):
            return {}
        results = self.runner.evaluate(self.state, self.eval_batches())
        best = self.settings.keep_best
        if best and best not in results:
            raise ValueError(f"keep_best: found {best!r}, expected one of {', '.join(results)}")
        self.logger.evaluation(self.step, results)
        self.phases.end("evaluate")
        return results

    def draw_samples(self) -> None:
        """A sheet and a video of what the averaged parameters can do, where they are due."""
        if not self.settings.sample_every or not self.due_or_last(self.settings.sample_every):
            return
        drawn = self.task.samples(self.state.best_params, self.step)
        if drawn is not None:
            self.logger.samples(self.step, drawn)
        self.phases.end("samples")

    def save(self, results: Mapping[str, float], ending: bool) -> None:
        """Starts saving a checkpoint where one is due; never one among skipped steps but the last.

        Args:
          results: of the evaluation at this step.
          ending: whether the run ends here.
        """
        due = (ending or self.due(self.settings.save_every)) and not self.skips.streak
        if self.step < self.settings.steps and not due:
            return
        meta = {
            **self.provenance,
            "batches": self.batches_drawn,
            "means": self.logger.means.state(),
            "seconds": self.elapsed(),
        }
        self.store.save(self.state, meta, value=results.get(self.settings.keep_best))
        self.skips.saved()
        self.phases.end("save")

    def roll_back(self) -> None:
        """Returns to the newest checkpoint; the batches since then are not seen again.

        Raises:
          Diverged: if there is none, or it has been returned to too often.
        """
        guard = self.settings.guard
        self.store.wait()
        jax.tree.map(lambda leaf: leaf.delete(), self.state)  # there may be no room for two
        trouble = f"{guard.patience} steps in a row were skipped, the last {self.skips.last}"
        if not self.skips.may_roll_back:
            raise Diverged(
                f"{self.name}: {trouble}; rolling back to a checkpoint {guard.rollbacks} times did "
                f"not help; checkpoints of the steps {self.store.steps()} are from before"
            )
        restored = self.store.restore(self.builder.abstract, self.logger.say)
        if restored is None:
            raise Diverged(f"{self.name}: {trouble}; there is no checkpoint to roll back to")
        self.state, meta = restored
        self.step = int(meta["step"])
        self.logger.say(
            f"{trouble}; rolling back to step {self.step}, past the batches up to number "
            f"{self.batches_drawn}"
        )
        self.skips.rolled_back()
        self.logger.rewind(self.step, meta["means"])
        self.phases.end("roll back")

    def finish(self) -> None:
        """Waits for the last save, and ends the way the run was asked to.

        Raises:
          Terminated, KeyboardInterrupt: if a signal asked for the end.
        """
        self.store.wait()
        self.phases.end("save")
        self.preemption.synchronise()  # a signal may have come since the last exchange
        at = f"at step {self.step} of {self.settings.steps}"
        saved = "saved"
        if self.skips.streak:
            saved = f"among skipped steps; saved are {self.store.steps()}"
        if self.preemption.signal is not None:
            self.preemption.exit(f"{self.name}: stopped by {self.preemption.name} {at}, {saved}")
        if self.step < self.settings.steps:
            self.say(f"stopped after {self.settings.max_seconds:g} s {at}, {saved}")
        elapsed = metrics.format_seconds(self.phases.elapsed)
        self.say(f"step {self.step}, {elapsed} ({self.phases.summary()})")

    def elapsed(self) -> float:
        """Seconds of the run, those of earlier calls included."""
        return self.seconds_before + self.phases.elapsed

    def due(self, every: int) -> bool:
        return every > 0 and self.step % every == 0

    def due_or_last(self, every: int) -> bool:
        return self.step == self.settings.steps or self.due(every)
