"""When the cache of a recorded world is made anew."""

import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.recording import record
from data_pipelines.sources.procedural import ProceduralSource
from helpers import tiny_world
from helpers.made_clips import bare
from mirage_jax.io.lock import LockedError, locked
from mirage_jax.nn.video_vae import LatentStats
from mirage_jax.training.clip_encoding import EncodingSettings
from mirage_jax.training.latent_encoding import load_clips, refresh_cache
from mirage_jax.world.latent_encoder import LatentEncoder


@pytest.fixture
def refresh(tmp_path):
    """Makes the cache of two clips if need be; returns what was said."""
    source = ProceduralSource(size=16, frames=13, train_worlds=1, eval_worlds=1)
    options = {"shard_clips": 2, "workers": 0, "progress": False}
    stats = LatentStats(jnp.zeros(3), jnp.ones(3))
    colours = LatentEncoder(None, stats, tiny_world.MeanColours())
    record(source, tmp_path / "clips", "train", 2, **options)

    def run(encoder="a", **changes):
        said = []
        settings = EncodingSettings(**{"chunk_frames": 5, "sky_depth": 200.0} | changes)
        place = (tmp_path / "clips", "train", tmp_path / "train.array_record")
        refresh_cache(colours, encoder, *place, settings, say=said.append)
        return said[0]

    return run


def test_a_cache_is_remade_when_what_it_was_made_from_changes(refresh, tmp_path):
    path = tmp_path / "train.array_record"
    assert "there is none yet" in refresh()
    made = path.stat()

    def untouched():
        return path.stat().st_mtime_ns == made.st_mtime_ns and path.stat().st_ino == made.st_ino

    # A newer encoder file with the same weights changes nothing.
    assert "up to date" in refresh() and untouched()
    before = load_clips(path)
    assert "made with another sky_depth" in refresh(sky_depth=50.0) and not untouched()
    sky = before.depth == 200
    after = load_clips(path)
    np.testing.assert_array_equal(after.depth, np.where(sky, 50, before.depth))
    assert "another chunk_frames, sky_depth" in refresh(chunk_frames=9)
    assert load_clips(path).chunks.shape[1:3] == (1, 3)
    assert "another chunk_frames, encoder" in refresh(encoder="b")
    assert "another rgb" in refresh(encoder="b", rgb=True)
    assert load_clips(path).rgb_chunks.shape[1] == 3
    assert "another preceding" in refresh(encoder="b", rgb=True, preceding=5)
    assert load_clips(path).preceding.shape[1] == 2


def test_a_cache_is_remade_when_the_clips_are_others(refresh, tmp_path):
    refresh()
    card = tmp_path / "clips" / "dataset.json"
    card.write_text(card.read_text().replace('"seed": 0', '"seed": 1'))
    assert "made with another clips" in refresh()


def test_a_truncated_cache_is_made_anew_and_said(refresh, tmp_path):
    path = tmp_path / "train.array_record"
    refresh()
    before = load_clips(path)
    path.write_bytes(path.read_bytes()[:-1000])
    assert "expected" in refresh()
    np.testing.assert_array_equal(load_clips(path).depth, before.depth)
    assert "up to date" in refresh()


def test_two_processes_do_not_make_one_cache(refresh, tmp_path):
    with locked(tmp_path / "train.lock", "encoding clips train"):
        with pytest.raises(LockedError, match=r"\(encoding clips train\) is at work here"):
            refresh()
        assert not (tmp_path / "train.array_record").exists()
    refresh()
    with locked(tmp_path / "train.lock", "encoding clips train"):
        assert "up to date" in refresh()  # which is only read


class WithoutMaps(ProceduralSource):
    """Footage of which only pictures and cameras are known."""

    def clips(self, world, count, seed):
        return (bare(clip) for clip in super().clips(world, count, seed))


def test_depth_that_clips_lack_is_estimated_and_all_counts_as_static(tmp_path):
    source = WithoutMaps(size=16, frames=13, train_worlds=1, eval_worlds=1)
    record(source, tmp_path / "clips", "train", 2, workers=0, progress=False)
    stats = LatentStats(jnp.zeros(3), jnp.ones(3))
    colours = LatentEncoder(None, stats, tiny_world.MeanColours())
    path = tmp_path / "train.array_record"
    seen, said = [], []

    def refresh(network="", depth_of=None):
        settings = EncodingSettings(chunk_frames=5, sky_depth=200.0, depth_network=network)
        place = (tmp_path / "clips", "train", path)
        refresh_cache(colours, "a", *place, settings, say=said.append, depth_of=depth_of)

    def brightness(picture):
        seen.append(picture)
        return picture.mean(-1) / 255 + 1.0

    with pytest.raises(ValueError, match=r"clips: clip 'procedural.*' has no depth; expected foot"):
        refresh()
    refresh("b", brightness)
    clips = load_clips(path)
    # Of keyframes alone: 0, 4, 8, 12 of each of the clips, and of those that fill the batch.
    assert len(seen) == 4 * 4 and seen[0].shape == (16, 16, 3) and seen[0].dtype == np.uint8
    assert (clips.depth > 1).all() and (clips.depth < 2).all() and (clips.static == 1).all()
    refresh("c", brightness)
    assert "made with another depth_network" in said[-1]
