"""One loop for every stage: a `Task` says what, `fit` trains it, checkpoints it and shows it."""

from mirage_jax.training.checkpoints import CheckpointError, load_params
from mirage_jax.training.guard import Diverged, Guard
from mirage_jax.training.loop import fit
from mirage_jax.training.loop_settings import LoopSettings
from mirage_jax.training.optimizers import OptimizerSettings, adamw, make_optimizer, warmup_cosine
from mirage_jax.training.preemption import Terminated
from mirage_jax.training.state import TrainState
from mirage_jax.training.task import Task
from mirage_jax.weights import export, load_export

__all__ = [
    "CheckpointError",
    "Diverged",
    "Guard",
    "LoopSettings",
    "OptimizerSettings",
    "Task",
    "Terminated",
    "TrainState",
    "adamw",
    "export",
    "fit",
    "load_export",
    "load_params",
    "make_optimizer",
    "warmup_cosine",
]
