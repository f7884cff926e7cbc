"""Training one task on one source of clips: what all stages have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from rich.console import Console

from data_pipelines import loading
from data_pipelines.mixture import Mixture
from data_pipelines.tolerance import SKIPPED, Substituting, skipped_by, told_file
from mirage_jax.parallel import processes
from mirage_jax.parallel.rules import Rules
from mirage_jax.training.chunk_lengths import ByLength, mixed_batches
from mirage_jax.training.loop import fit
from mirage_jax.training.loop_settings import LoopSettings
from mirage_jax.training.optimizers import OptimizerSettings, make_optimizer
from mirage_jax.training.prepared import Prefetched, Prepared
from mirage_jax.training.task import Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageOptions:
    """How and where a stage is trained.

    Attributes:
      loop: settings of the loop.
      optimizer: and its learning rates.
      batch_size: over all processes.
      workers: loader processes; 0: threads of this process.
      mesh: devices.
      rules: logical axis rules.
      init_from: where parameters come from, see `initialisation.initial_params`; None: scratch.
      config: JSON-serialisable, stored in the checkpoints.
      console: where to print.
      skip_share: of the records, how many may be skipped because they cannot be read.
      batch_seconds: how long the loader may take for a batch.
    """

    loop: LoopSettings
    optimizer: OptimizerSettings
    batch_size: int
    workers: int
    mesh: Mesh
    rules: Rules
    init_from: str | Mapping[str, Any] | None
    config: Mapping[str, Any]
    console: Console
    skip_share: float = 0.01
    batch_seconds: float = 600.0


def train_task(
    task: Task,
    source: Any,
    folder: Path,
    options: StageOptions,
    *,
    name: str,
    transform: Any = None,
    prepare: Callable[[Any], Any] | None = None,
    mixture: Mixture | None = None,
    eval_batches: Callable[[], Iterable[Any]] | None = None,
) -> Any:
    """Trains one task on one source and returns the averaged parameters, on the host.

    Args:
      task: what to train.
      source: random access to elements, see `loading.batches`, or several by length of chunks. Of
        a task with several `batch_shapes` a batch of every shape is compiled for beforehand: of
        every length, and of every set of a mixture whose sets are apart.
      folder: for checkpoints and logs.
      options: how and where.
      name: shown on the progress line.
      transform: of an element, see `loading.batches`.
      prepare: of a batch, on the devices of this process: the task gets what it returns.
      mixture: of the sets that the source is made of, see `loading.batches`.
      eval_batches: of held-out clips, see `loop.fit`.
    """
    optimizer, schedule = make_optimizer(options.optimizer, options.loop.steps)
    seed = options.loop.seed

    share = processes.batch_share(options.mesh)
    sources = source.sources if isinstance(source, ByLength) else {0: source}
    told = {length: folder / "skipped" / str(length or "") for length in sources}

    def batches(length: int, start: int) -> Any:
        drawn = loading.batches(
            sources[length],
            transform,
            batch_size=options.batch_size,
            seed=seed,
            workers=options.workers,
            start_batch=start,
            shard=share,
            mixture=mixture,
            skip_share=options.skip_share,
            seconds=options.batch_seconds,
            say=lambda text: options.console.print(f"{name}: {text}", markup=False),
            told=told[length],
        )
        return drawn if prepare is None else Prepared(Prefetched(drawn), prepare)

    def examples() -> Iterator[Any]:
        clips = options.batch_size // share[1]
        for one in sources.values():
            lengths = mixture.lengths if mixture is not None and mixture.apart else (len(one),)
            read = Substituting(one, lengths)
            for first in np.cumsum((0, *lengths[:-1])):
                element = read[int(first)]
                del element[SKIPPED]
                if transform is not None:
                    element = transform(element, np.random.default_rng(seed))
                batch = {name: np.stack([value] * clips) for name, value in element.items()}
                yield batch if prepare is None else prepare(batch)

    def all_batches(start: int) -> Any:
        drawn = (
            mixed_batches(batches, tuple(sources), seed, start)
            if isinstance(source, ByLength)
            else batches(0, start)
        )
        shapes = examples() if task.batch_shapes > 1 else ()
        return Prepared(drawn, examples=shapes, computes=prepare is not None)

    state = fit(
        task,
        all_batches,
        options.loop,
        workdir=folder,
        optimizer=optimizer,
        schedule=schedule,
        mesh=options.mesh,
        rules=options.rules,
        init_from=options.init_from,
        eval_batches=eval_batches,
        config=options.config,
        name=name,
        console=options.console,
    )
    skipped = {n for one in told.values() for n in skipped_by(told_file(one, *share))}
    if skipped:
        total = len(next(iter(sources.values())))
        text = f"{name}: {len(skipped)} of {total} clips skipped, see {folder / 'skipped'}"
        options.console.print(text, markup=False, soft_wrap=True)
    return processes.fetch(state.best_params)
