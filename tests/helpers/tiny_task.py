"""The smallest task there is, for tests of the loop; also a program that a test can kill.

python tests/training/tiny_task.py WORKDIR STEPS SECONDS_PER_STEP [LOADER_WORKERS SECONDS]

With the last two it reads as stages do, and kills itself so many seconds after step 9.
"""

import dataclasses
import os
import signal
import sys
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from rich.console import Console

from data_pipelines import loading
from mirage_jax import training


class MLP(nn.Module):
    width: int = 8

    @nn.compact
    def __call__(self, x):
        for _ in range(2):
            init = nn.with_logical_partitioning(nn.initializers.lecun_normal(), ("embed", "mlp"))
            x = nn.tanh(nn.Dense(self.width, kernel_init=init)(x))
        return nn.Dense(1)(x)


class Regression(training.Task):
    """Learns the first coordinate of a noisy input; needs params, data order and key to repeat."""

    def __init__(self, width: int = 8, frozen=None):
        self.model = MLP(width)
        self.frozen = frozen
        self.traces = 0

    def init(self, key):
        return self.model.init(key, jnp.zeros((1, 4)))["params"]

    def loss(self, params, batch, key, *, train, frozen=None):
        self.traces += 1
        x = batch["x"] + 0.1 * train * jax.random.normal(key, batch["x"].shape)
        target = batch["x"][:, :1] * (1.0 if frozen is None else frozen["gain"])
        error = self.model.apply({"params": params}, x) - target
        loss = jnp.square(error).mean()
        return loss, {"absolute": jnp.abs(error).mean()}


class Batches:
    """Endless, random, and a pure function of the batch number, like the real loader."""

    def __init__(self, start: int, size: int = 4, delay: float = 0.0):
        self.number, self.size, self.delay, self.closed = start, size, delay, False

    def __iter__(self):
        return self

    def __next__(self):
        time.sleep(self.delay)
        x = np.random.default_rng(self.number).normal(size=(self.size, 4)).astype(np.float32)
        self.number += 1
        return {"x": x}

    def close(self):
        self.closed = True


class Records:
    """Clips of the smallest kind: random access, and it can be sent to loader processes."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return {"x": np.random.default_rng(index).normal(size=4).astype(np.float32)}


def jitter(element, rng):
    return {"x": element["x"] + rng.normal(size=4).astype(np.float32)}


def loaded(start: int, workers: int = 0):
    """Batches as stages read them: shuffled anew in each epoch, changed at random on the way."""
    return loading.batches(
        Records(), jitter, batch_size=4, seed=1, workers=workers, start_batch=start
    )


def settings(steps: int, **changes):
    """Arguments of `training.fit`; changes are of them or of the fields of its settings."""
    schedule = training.warmup_cosine(1e-2, steps=20, warmup=2)
    numbers = {"steps": steps, "ema_decay": 0.9, "log_every": 3, "save_every": 4}
    fields = {field.name for field in dataclasses.fields(training.LoopSettings)}
    numbers |= {name: value for name, value in changes.items() if name in fields}
    return {
        "settings": training.LoopSettings(**numbers),
        "optimizer": training.adamw(schedule),
        "schedule": schedule,
        "console": Console(quiet=True),
        **{name: value for name, value in changes.items() if name not in fields},
    }


def main(workdir: str, steps: str, delay: str, workers: str = "", moment: str = "") -> None:
    def report(step: int, _: dict[str, float]) -> None:
        print("step", step, flush=True)
        if workers:
            time.sleep(float(delay))
            if step == 9:
                die = (os.getpid(), signal.SIGKILL)
                threading.Timer(float(moment), os.kill, die).start()

    def batches(start: int):
        return loaded(start, int(workers)) if workers else Batches(start, delay=float(delay))

    training.fit(
        Regression(),
        batches,
        workdir=workdir,
        on_step=report,
        **settings(int(steps), console=Console()),
    )


if __name__ == "__main__":
    main(*sys.argv[1:])
