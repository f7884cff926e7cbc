"""A real denoiser on cached clips read by grain; also a program that kills itself at a step.

python tests/training/tiny_denoiser.py WORKDIR CACHE STEP
"""

import os
import signal
import sys
from pathlib import Path

from data_pipelines import loading
from helpers import tiny_world
from helpers.tiny_task import settings
from mirage_jax import training
from mirage_jax.training.denoiser_task import DenoiserTask
from mirage_jax.training.latent_cache import LatentSource
from mirage_jax.world.history import NoiseAugmentation

STEPS = 12


def fit(workdir: Path, cache: Path, **changes):
    """Trains to step 12, with a checkpoint every third."""
    task = DenoiserTask(
        tiny_world.denoiser(tiny_world.READOUT.channels),
        tiny_world.READOUT,
        tiny_world.SIZE,
        chunks=2,
        chunk_latents=2,
        noise=NoiseAugmentation(depth=0.03, pose=0.01, tokens=0.05),
    )
    source = LatentSource([cache])
    return training.fit(
        task,
        lambda start: loading.batches(source, batch_size=2, seed=3, start_batch=start),
        workdir=workdir,
        **settings(STEPS, **{"save_every": 3, "log_every": 2, **changes}),
    )


def main(workdir: str, cache: str, last: str) -> None:
    def die(step: int, _: dict[str, float]) -> None:
        if step == int(last):
            os.kill(os.getpid(), signal.SIGKILL)

    fit(Path(workdir), Path(cache), on_step=die)


if __name__ == "__main__":
    main(*sys.argv[1:])
