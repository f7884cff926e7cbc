import functools
import re

import jax.numpy as jnp
import numpy as np
import pytest
from einops import rearrange, reduce

from data_pipelines.recording import record
from data_pipelines.sources.procedural import ProceduralSource
from helpers import tiny_world
from mirage_jax import trajectories
from mirage_jax.nn.video_vae import LatentStats
from mirage_jax.training import latent_cache, latent_encoding
from mirage_jax.training.latent_cache import FIELDS, LatentClip, LatentSource, encode_clip
from mirage_jax.world.latent_encoder import LatentEncoder

FRAMES, SIZE = 9, (16, 24)
POSES = trajectories.make("look_away", FRAMES)


def encode(video):
    """Stands for an encoder: colours of the cells of every fourth frame."""
    return reduce(video[:, ::4], "b t (h p) (w q) c -> b t h w c", "mean", p=8, q=8)


def clip(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "video": rng.uniform(-1, 1, (FRAMES, *SIZE, 3)).astype(np.float32),
        "depth": rng.uniform(1, 5, (3, *SIZE)).astype(np.float32),
        "moving": np.zeros((3, *SIZE), np.float32),
        "intrinsics": np.array([14, 13, 12, 8], np.float32),
        "cam2world": POSES.astype(np.float32),
    }


def encoded(inputs, **options):
    inputs = {name: jnp.asarray(value) for name, value in inputs.items()}
    return encode_clip(**inputs, encode=encode, chunk_frames=5, **options)


def test_chunks_share_a_frame_and_keyframes_are_encoded_alone():
    inputs = clip()
    found = encoded(inputs)
    cells = rearrange(inputs["video"], "t (h p) (w q) c -> t h w (p q) c", p=8, q=8).mean(3)
    np.testing.assert_allclose(found.chunks, [cells[[0, 4]], cells[[4, 8]]], atol=1e-6)
    np.testing.assert_allclose(found.tokens, cells[[0, 4, 8]], atol=1e-6)
    np.testing.assert_array_equal(found.cam2world, inputs["cam2world"])
    assert found.rgb_chunks.shape == (0, 2, 2, 3, 3) and found.rgb_hits.shape == (0, 2, 2, 3, 4)


def test_frames_before_the_last_chunk_are_a_clip_of_their_own():
    inputs = clip()
    inputs["video"] = np.concatenate([inputs["video"], -inputs["video"][1:]])
    inputs["cam2world"] = np.concatenate([inputs["cam2world"], inputs["cam2world"][1:]])
    inputs["depth"] = np.concatenate([inputs["depth"], inputs["depth"][1:]])
    inputs["moving"] = np.concatenate([inputs["moving"], inputs["moving"][1:]])
    assert encoded(inputs).preceding.shape == (0, 2, 3, 3)
    cells = rearrange(inputs["video"], "t (h p) (w q) c -> t h w (p q) c", p=8, q=8).mean(3)
    found = encoded(inputs, preceding=9).preceding  # the last chunk begins at frame 12
    np.testing.assert_allclose(found, cells[[3, 7, 11]], atol=1e-6)
    with pytest.raises(ValueError, match="preceding: found 13, expected at most the 12 frames"):
        encoded(inputs, preceding=13)
    with pytest.raises(ValueError, match=r"found 8, expected 1 \+ 4 n"):
        encoded(inputs, preceding=8)


def test_depth_and_motion_are_pooled_to_cells():
    inputs = clip()
    inputs["depth"][:] = 3
    inputs["depth"][1, :8, :8] = np.linspace(2, 4, 64).reshape(8, 8)
    inputs["depth"][2, 8:, 16:] = 0
    inputs["moving"][0, :4, 8:16] = 1
    found = encoded(inputs)
    expected = np.full((3, 2, 3), 3.0)
    expected[1, 0, 0] = np.sort(inputs["depth"][1, :8, :8].ravel())[31]  # lower median
    expected[2, 1, 2] = 0
    np.testing.assert_array_equal(found.depth, np.float32(expected))
    static = np.ones((3, 2, 3))
    static[0, 0, 1] = 0.5
    np.testing.assert_array_equal(found.static, static)


def test_the_baseline_gets_keyframes_their_depth_and_what_is_static():
    inputs = clip()
    inputs["moving"][1, :3] = 1
    seen = []

    def baseline(*arguments):
        seen.extend(arguments)
        return jnp.ones((3, 2, 2, 3, 3)), jnp.zeros((3, 2, 2, 3, 4))

    found = encoded(inputs, rgb=baseline)
    keyframes, depth, static, camera = seen
    np.testing.assert_array_equal(keyframes, inputs["video"][[0, 4, 8]])
    np.testing.assert_array_equal(depth, inputs["depth"])
    np.testing.assert_array_equal(static, 1 - inputs["moving"])
    np.testing.assert_array_equal(camera.cam2world, inputs["cam2world"])
    assert camera.size == SIZE and camera.intrinsics.shape == (FRAMES, 4)
    assert np.asarray(found.rgb_chunks).all() and not np.asarray(found.rgb_hits).any()


def test_sky_of_the_keyframes_goes_far_away():
    depth = np.arange(1.0, 10.0, dtype=np.float32)[:, None, None] * np.ones((1, 2, 2), np.float32)
    depth[4, 0] = np.inf
    depth[5] = np.inf
    depth[8, 1, 1] = 0
    found = latent_cache.keyframe_depth(depth, 200.0)
    np.testing.assert_array_equal(found, [[[1, 1], [1, 1]], [[200, 200], [5, 5]], [[9, 9], [9, 0]]])
    assert found.dtype == np.float32


@pytest.mark.parametrize("scenarios", [0, 3])
def test_cached_clips_come_back(tmp_path, scenarios):
    first = tiny_world.latent_clips(3, POSES, seed=1)
    second = tiny_world.latent_clips(2, POSES, seed=2)
    batches = [
        LatentClip(
            **{n: getattr(b, n)[:, :scenarios] if "rgb" in n else getattr(b, n) for n in FIELDS}
        )
        for b in (first, second)
    ]
    paths = [tmp_path / "world" / f"{n}.array_record" for n in range(2)]
    assert latent_cache.write_cache(paths[0], iter(batches)) == 5
    assert latent_cache.write_cache(paths[1], batches[1:]) == 2
    source = LatentSource(paths)
    assert len(source) == 7 and "7 clips" in repr(source)
    order = [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1), (1, 0), (1, 1)]
    for index, (batch, row) in enumerate(order):
        record = source[index]
        assert list(record) == list(FIELDS)
        for name in FIELDS:
            true = getattr(batches[batch], name)[row]
            half = name in ("chunks", "tokens", "rgb_chunks", "rgb_hits", "preceding")
            stored = true.astype(np.float16).astype(np.float32) if half else true
            np.testing.assert_array_equal(record[name], stored)
            assert record[name].dtype == np.float32
    loaded = latent_encoding.load_clips(paths[0])
    np.testing.assert_array_equal(loaded.depth, np.concatenate([first.depth, second.depth]))


def test_a_cache_of_before_a_field_was_is_named(tmp_path, monkeypatch):
    path = tmp_path / "a.array_record"
    monkeypatch.setattr(latent_cache, "FIELDS", FIELDS[:-1])
    latent_cache.write_cache(path, [tiny_world.latent_clips(1, POSES)])
    monkeypatch.setattr(latent_cache, "FIELDS", FIELDS)
    with pytest.raises(ValueError, match=re.escape(str(path)) + f".*'{FIELDS[-1]}': found none"):
        LatentSource([path])[0]


def test_a_cache_that_is_not_there_is_named(tmp_path):
    batch = tiny_world.latent_clips(1, POSES)
    there, absent = tmp_path / "a.array_record", tmp_path / "b.array_record"
    latent_cache.write_cache(there, [batch])
    with pytest.raises(ValueError, match=re.escape(str(absent)) + ".*no such latent cache"):
        LatentSource([there, absent])


def test_an_interrupted_cache_never_takes_its_name(tmp_path):
    path = tmp_path / "train.array_record"
    old = tiny_world.latent_clips(2, POSES)
    latent_cache.write_cache(path, [old])

    def breaks():
        yield tiny_world.latent_clips(1, POSES, seed=5)
        raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        latent_cache.write_cache(path, breaks())
    source = LatentSource([path])
    assert len(source) == 2
    np.testing.assert_array_equal(source[1]["depth"], old.depth[1])


# -- what a cache was made from ------------------------------------------------------------------


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
        made = latent_encoding.CacheSettings(**{"chunk_frames": 5, "sky_depth": 200.0} | changes)
        place = (tmp_path / "clips", "train", tmp_path / "train.array_record")
        latent_encoding.refresh_cache(colours, encoder, *place, made, say=said.append)
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
    before = latent_encoding.load_clips(path)
    assert "made with another sky_depth" in refresh(sky_depth=50.0) and not untouched()
    sky = before.depth == 200
    after = latent_encoding.load_clips(path)
    np.testing.assert_array_equal(after.depth, np.where(sky, 50, before.depth))
    assert "another chunk_frames, sky_depth" in refresh(chunk_frames=9)
    assert latent_encoding.load_clips(path).chunks.shape[1:3] == (1, 3)
    assert "another chunk_frames, encoder" in refresh(encoder="b")
    assert "another rgb" in refresh(encoder="b", rgb=True)
    assert latent_encoding.load_clips(path).rgb_chunks.shape[1] == 3
    assert "another preceding" in refresh(encoder="b", rgb=True, preceding=5)
    assert latent_encoding.load_clips(path).preceding.shape[1] == 2


def test_a_cache_is_remade_when_the_clips_are_others(refresh, tmp_path):
    refresh()
    card = tmp_path / "clips" / "dataset.json"
    card.write_text(card.read_text().replace('"seed": 0', '"seed": 1'))
    assert "made with another clips" in refresh()


def test_a_cache_that_does_not_say_what_it_is_of_is_not_trusted(tmp_path):
    path, key = tmp_path / "train.array_record", {"encoder": "a", "mults": (1, 2)}
    latent_cache.write_cache(path, [tiny_world.latent_clips(1, POSES)])
    stale = functools.partial(latent_cache.stale, path, key)
    assert "does not say" in stale()
    latent_cache.write_key(path, key)
    assert stale() == ""
    # Between the new file and its key nothing must vouch for it.
    latent_cache.write_cache(path, [tiny_world.latent_clips(1, POSES, seed=1)])
    assert "does not say" in stale()
    latent_cache.write_key(path, key)
    (tmp_path / "train.json").write_text("{")
    assert "does not say" in stale()
