"""What of a training run is a number or a name, with its meaning and its range."""

from __future__ import annotations

import dataclasses

from mirage_jax.settings import Settings, setting
from mirage_jax.training.guard import Guard
from mirage_jax.training.profiling import check_profile_steps


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoopSettings(Settings):
    """Settings of `loop.fit`; the optimizer has its own, `optimizers.OptimizerSettings`.

    `guard` says which steps are skipped, and when the run rolls back to a checkpoint.
    """

    steps: int = setting(dataclasses.MISSING, "Last step; a larger one later goes on.", least=1)
    seed: int = setting(
        0, "Of the parameters and of every step's randomness.", least=0, most=2**32 - 1
    )
    ema_decay: float = setting(0.0, "Of the parameter average; 0: none is kept.", least=0, below=1)
    accumulate: int = setting(1, "Parts of a batch worked on one after the other.", least=1)
    log_every: int = setting(50, "Steps between lines of metrics.", least=1)
    sample_every: int = setting(0, "Steps between sample sheets and videos; 0: none.", least=0)
    save_every: int = setting(500, "Steps between checkpoints; 0: only at the end.", least=0)
    eval_every: int = setting(0, "Steps between evaluations; 0: only at the end.", least=0)
    keep: int = setting(2, "How many of the newest checkpoints are kept.", least=1)
    keep_best: str = setting("", "Metric by whose lowest value a checkpoint is kept; '': none.")
    start_over: bool = setting(False, "Begin anew where all checkpoints are damaged.")
    max_seconds: float | None = setting(None, "Stop and save after so long; None: never.", least=0)
    profile_steps: tuple[int, int] = setting((0, 0), "First and last step of a trace.", least=0)
    wandb: str = setting("", "Project of Weights & Biases that gets the metrics too; '': none.")
    guard: Guard = dataclasses.field(default=Guard())

    def __post_init__(self) -> None:
        super().__post_init__()
        check_profile_steps(self.profile_steps)
