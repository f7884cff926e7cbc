"""Recording and encoding take as much memory for many clips as for few."""

import dataclasses
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.recording import record
from data_pipelines.sources.procedural import ProceduralSource
from helpers import tiny_world
from mirage_jax.io.process_memory import peak_mib
from mirage_jax.nn.video_vae import LatentStats
from mirage_jax.training.clip_encoding import EncodingSettings
from mirage_jax.training.latent_encoding import encode_clips
from mirage_jax.world.latent_encoder import LatentEncoder

FEW, MANY = 8, 40
CLIP_MIB = 33 * 64 * 64 * (3 + 4 + 4) / 2**20
"""Of 33 frames with depth and masks: 1.4."""
_FORGET = Path("/proc/self/clear_refs")


class Copies(ProceduralSource):
    """One room, shifted: made as fast as it is written."""

    def clips(self, world, count, seed):
        clip = next(super().clips(world, 1, seed))
        for number in range(count):
            video = np.roll(clip.video, number, 2)
            yield dataclasses.replace(clip, video=video, name=f"{world}-{seed}-{number}")


def forget_peak():
    try:
        _FORGET.write_text("5")
    except OSError:
        pytest.skip("this system does not let a process forget its peak of memory")


def test_the_peak_is_that_of_what_was_allocated():
    if not _FORGET.exists():
        pytest.skip("Linux alone tells")
    forget_peak()
    before = peak_mib()
    block = np.ones(200 << 17)  # 200 MiB
    after = peak_mib()
    assert 190 <= after - before <= 230 and block.size
    del block
    forget_peak()
    assert peak_mib() < after - 150


def test_four_times_the_clips_take_no_more_memory(tmp_path):
    if not _FORGET.exists():
        pytest.skip("Linux alone tells")
    encoder = LatentEncoder(None, LatentStats(jnp.zeros(3), jnp.ones(3)), tiny_world.MeanColours())
    settings = EncodingSettings(chunk_frames=17, sky_depth=200.0)
    recorded, encoded = {}, {}
    source = Copies(size=64, frames=33, train_worlds=1, ball=False)
    for count in (FEW, FEW, MANY):  # the first time for what is compiled and loaded
        folder = tmp_path / f"clips-{len(list(tmp_path.iterdir()))}"
        forget_peak()
        record(source, folder, "train", count, workers=0, progress=False, shard_clips=count)
        recorded[count] = peak_mib()
        forget_peak()
        encode_clips(encoder, folder, "train", folder / "latents.array_record", settings=settings)
        encoded[count] = peak_mib()
    grown = (MANY - FEW) * CLIP_MIB
    assert recorded[MANY] - recorded[FEW] < grown / 2, recorded
    assert encoded[MANY] - encoded[FEW] < grown / 2, encoded
