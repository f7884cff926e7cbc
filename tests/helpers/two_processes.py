"""One process of a run of several, for a test.

python tests/parallel/two_processes.py WORKDIR DEVICES COORDINATOR PROCESSES PROCESS STEPS
"""

import sys

import jax
import numpy as np
from rich.console import Console

from data_pipelines import loading
from helpers.tiny_task import Regression, settings
from mirage_jax import parallel, training
from mirage_jax.parallel import processes


class Points:
    """Random access to 40 points, each a pure function of its index."""

    def __len__(self):
        return 40

    def __getitem__(self, index):
        return {"x": np.random.default_rng(index).normal(size=4).astype(np.float32)}

    def __repr__(self):
        return "Points()"


def held_out():
    for number in range(2):
        yield {"x": np.random.default_rng(100 + number).normal(size=(8, 4)).astype(np.float32)}


def main(workdir: str, devices: str, coordinator: str, count: str, number: str, steps: str) -> None:
    jax.config.update("jax_num_cpu_devices", int(devices))
    if int(count) > 1:
        processes.initialize(coordinator, processes=int(count), process=int(number), timeout=300)
    # Parameters are split between the processes, samples between the devices of each.
    mesh = parallel.make_mesh(fsdp=2, data=-1)
    share = processes.batch_share(mesh)
    state = training.fit(
        Regression(),
        lambda start: loading.batches(
            Points(), batch_size=8, seed=3, start_batch=start, shard=share
        ),
        workdir=workdir,
        mesh=mesh,
        eval_batches=held_out,
        on_step=lambda step, _: print("step", step, flush=True),
        **settings(int(steps), console=Console(quiet=True), eval_every=3),
    )
    kernel = processes.fetch(state.params)["Dense_0"]["kernel"]
    spread = state.params["Dense_0"]["kernel"].sharding.shard_shape((4, 8))
    processes.first_alone("printed", lambda: print("process", number, share, spread))
    print("kernel", number, kernel.shape, float(np.abs(kernel).sum()))


if __name__ == "__main__":
    main(*sys.argv[1:])
