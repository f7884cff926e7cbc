"""Held-out clips beside what they were cached as, where the cache lacks some."""

import jax
import numpy as np
import pytest

from data_pipelines.loading import ClipSource
from data_pipelines.recording import record
from data_pipelines.sources.procedural import ProceduralSource
from helpers import tiny_world
from mirage_jax.cli.helpers import held_out_clips
from mirage_jax.training import latent_cache


@pytest.mark.parametrize(("skipped", "most"), [((), None), ((0, 2), None), ((1,), 2)])
def test_clips_stay_with_their_own_latents(tmp_path, skipped, most):
    source = ProceduralSource(size=16, frames=13, train_worlds=1, eval_worlds=1)
    record(source, tmp_path, "eval", 4, workers=0, progress=False)
    kept = [number for number in range(4) if number not in skipped]
    made = tiny_world.latent_clips(4, np.tile(np.eye(4), (9, 1, 1)))
    made.static[:] = np.arange(4).reshape(4, *[1] * (made.static.ndim - 1))
    cache = tmp_path / "latents.array_record"
    latent_cache.write_cache(cache, [jax.tree.map(lambda leaf: leaf[kept], made)])
    latent_cache.write_key(cache, {"encoder": "a"}, dict.fromkeys(skipped, "damaged"))
    found = held_out_clips.from_cache(tmp_path, cache, most)
    numbers = found.clips.static.reshape(len(found), -1)[:, 0].astype(int).tolist()
    recorded = ClipSource(tmp_path, "eval", ("video", "name"))
    assert numbers == (kept if most is None else [0, 3])
    assert found.names == [recorded[n]["name"] for n in numbers]
    for video, number in zip(found.video, numbers, strict=True):
        np.testing.assert_array_equal(video, recorded[number]["video"])
