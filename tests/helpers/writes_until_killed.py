"""A program that a test kills: it writes a latent cache and an export, again and again.

python tests/helpers/writes_until_killed.py FOLDER

Everything is either of content 0 or of content 1, in turn.
"""

import itertools
import sys
from pathlib import Path

import numpy as np

from helpers import tiny_world
from mirage_jax import trajectories, weights
from mirage_jax.training import latent_cache

CACHE, EXPORT = "train.array_record", "export"


def key(which: int) -> dict:
    return {"encoder": f"content {which}"}


def clips(which: int):
    return tiny_world.latent_clips(40, trajectories.make("look_away", 9), seed=which)


def params(which: int) -> dict:
    rng = np.random.default_rng(which)
    return {"dense": {"kernel": rng.normal(size=(300, 1000 + which)).astype(np.float32)}}


def architecture(which: int) -> dict:
    return {"kind": "test", "width": 1000 + which}


def write(folder: Path, which: int, batch) -> None:
    path = folder / CACHE
    if latent_cache.stale(path, key(which)):
        latent_cache.write_cache(path, [batch])
        latent_cache.write_key(path, key(which))
    weights.export(folder / EXPORT, params(which), architecture(which))


def main(folder: str) -> None:
    batches = [clips(0), clips(1)]
    for which in itertools.cycle((0, 1)):
        write(Path(folder), which, batches[which])
        print("written", flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
