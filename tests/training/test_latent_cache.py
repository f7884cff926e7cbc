"""The cache of encoded clips on disk."""

import functools
import re
import sys
from concurrent import futures

import numpy as np
import pytest

from helpers import tiny_world
from mirage_jax import trajectories
from mirage_jax.training import latent_cache
from mirage_jax.training.latent_cache import LatentSource
from mirage_jax.training.latent_encoding import load_clips
from mirage_jax.world.latent_clip import FIELDS, LatentClip

POSES = trajectories.make("look_away", 9)


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
    loaded = load_clips(paths[0])
    np.testing.assert_array_equal(loaded.depth, np.concatenate([first.depth, second.depth]))


def test_a_cache_of_before_a_field_was_is_named(tmp_path, monkeypatch):
    path = tmp_path / "a.array_record"

    def older(clips):
        return {name: getattr(clips, name) for name in FIELDS[:-1]}

    monkeypatch.setattr(latent_cache, "fields_of", older)
    latent_cache.write_cache(path, [tiny_world.latent_clips(1, POSES)])
    with pytest.raises(ValueError, match=re.escape(str(path)) + f".*'{FIELDS[-1]}': found none"):
        LatentSource([path])[0]


def test_what_moves_is_kept_of_all_clips_or_of_none(tmp_path):
    plain = tiny_world.latent_clips(1, POSES)
    moving = np.full((1, plain.depth.shape[1], 4, 6), 0.25, np.float32)
    with_movers = plain.replace(moving=moving)
    paths = [tmp_path / "a.array_record", tmp_path / "b.array_record"]
    latent_cache.write_cache(paths[0], [with_movers])
    latent_cache.write_cache(paths[1], [plain])
    source = LatentSource(paths)
    assert list(source[0]) == [*FIELDS, "moving"]
    np.testing.assert_array_equal(source[0]["moving"], moving[0])
    assert load_clips(paths[0]).moving.shape == moving.shape and load_clips(paths[1]).moving is None
    with pytest.raises(ValueError, match="'moving': found none in clip 1, expected one"):
        source[1]
    with pytest.raises(ValueError, match="'moving': found one in clip 1, expected none"):
        LatentSource(paths[::-1])[1]


def test_what_a_clip_has_does_not_depend_on_who_reads_first(tmp_path):
    """Threads of a loader begin at once; none may see what another has half noted."""
    plain = tiny_world.latent_clips(4, POSES)
    clips = plain.replace(moving=np.full((4, plain.depth.shape[1], 4, 6), 0.25, np.float32))
    path = tmp_path / "a.array_record"
    latent_cache.write_cache(path, [clips])
    whole = LatentSource([path])
    records, interval = list(whole._records), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    try:
        with futures.ThreadPoolExecutor(4) as pool:
            for _ in range(50):
                source = LatentSource([path])
                source._records = records  # reading takes no time in which threads go in turns
                assert all("moving" in clip for clip in pool.map(source.__getitem__, range(4)))
    finally:
        sys.setswitchinterval(interval)


def test_a_first_clip_that_is_damaged_does_not_say_what_others_have(tmp_path, monkeypatch):
    path = tmp_path / "a.array_record"
    latent_cache.write_cache(path, [tiny_world.latent_clips(3, POSES)])
    read = latent_cache.load
    damaged = read(next(iter(LatentSource([path])._records)))

    def load(data):
        found = read(data)
        return {"depth": found["depth"]} if (found["depth"] == damaged["depth"]).all() else found

    monkeypatch.setattr(latent_cache, "load", load)
    source = LatentSource([path])
    assert list(source[2]) == list(FIELDS)
    with pytest.raises(ValueError, match="found none in clip 0, expected one"):
        source[0]


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


def cut(data):
    return data[: len(data) // 2]


def longer(data):
    return data + bytes(1000)


def middle_changed(data):
    middle = len(data) // 2
    return data[:middle] + bytes(len(data) // 8) + data[middle + len(data) // 8 :]


def of_other_clips(data):
    """A cache of as many clips of the same shapes: nothing but the values differs."""
    return None


@pytest.mark.parametrize("change", [cut, lambda _: b"", longer, middle_changed, of_other_clips])
def test_a_file_that_is_not_what_was_written_is_stale_and_refused(tmp_path, change):
    path, key = tmp_path / "train.array_record", {"encoder": "a"}
    latent_cache.write_cache(path, [tiny_world.latent_clips(2, POSES)])
    latent_cache.write_key(path, key)
    assert latent_cache.stale(path, key) == "" and len(LatentSource([path])) == 2
    other = tmp_path / "other.array_record"
    latent_cache.write_cache(other, [tiny_world.latent_clips(2, POSES, seed=9)])
    assert other.stat().st_size == path.stat().st_size
    path.write_bytes(change(path.read_bytes()) if change != of_other_clips else other.read_bytes())
    assert re.search(
        "expected [0-9,]+|another file than was written", latent_cache.stale(path, key)
    )
    with pytest.raises(ValueError, match=re.escape(str(path)) + ".*mirage train --stage=cache"):
        LatentSource([path])


@pytest.mark.parametrize("change", [cut, lambda _: b"", middle_changed])
def test_a_damaged_file_without_a_key_is_named(tmp_path, change):
    path = tmp_path / "train.array_record"
    latent_cache.write_cache(path, [tiny_world.latent_clips(2, POSES)])
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(ValueError, match=re.escape(str(path)) + ".*mirage train --stage=cache"):
        source = LatentSource([path])
        for index in range(len(source)):
            source[index]


def test_a_cache_without_clips_is_named(tmp_path):
    path = tmp_path / "train.array_record"
    assert latent_cache.write_cache(path, []) == 0
    with pytest.raises(ValueError, match=r"train\.array_record: found no clips; run `mirage train"):
        LatentSource([path])


def test_a_key_of_before_the_file_was_described_is_stale(tmp_path):
    path, key = tmp_path / "train.array_record", {"encoder": "a"}
    latent_cache.write_cache(path, [tiny_world.latent_clips(1, POSES)])
    (tmp_path / "train.json").write_text('{"encoder": "a"}')
    assert "does not say" in latent_cache.stale(path, key)
    for text in ("[]", '{"made_from": {"encoder": "a"}}', '{"made_from": {}, "file": {}}'):
        (tmp_path / "train.json").write_text(text)
        assert "does not say" in latent_cache.stale(path, key)
    assert len(LatentSource([path])) == 1
