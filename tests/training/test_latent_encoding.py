"""When the cache of a recorded world is made anew."""

import hashlib
import json

import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.recording import record
from data_pipelines.recording.shards import WRITER_OPTIONS, read_records
from data_pipelines.sources.procedural import ProceduralSource
from helpers import tiny_world
from helpers.made_clips import bare
from mirage_jax.io.lock import LockedError, locked
from mirage_jax.io.records import record_writer
from mirage_jax.nn.video_vae import LatentStats
from mirage_jax.training import latent_cache
from mirage_jax.training.clip_encoding import EncodingSettings
from mirage_jax.training.latent_cache import LatentSource
from mirage_jax.training.latent_encoding import load_clips, refresh_cache
from mirage_jax.world.latent_encoder import LatentEncoder

SOURCE = ProceduralSource(size=16, frames=13, train_worlds=1, eval_worlds=1)
OPTIONS = {"shard_clips": 2, "workers": 0, "progress": False}


@pytest.fixture
def refresh(tmp_path):
    """Makes the cache of two clips if need be; returns what was said."""
    stats = LatentStats(jnp.zeros(3), jnp.ones(3))
    colours = LatentEncoder(None, stats, tiny_world.MeanColours())
    record(SOURCE, tmp_path / "clips", "train", 2, **OPTIONS)

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


def test_clips_that_are_recorded_anew_to_the_same_bytes_are_the_same(refresh, tmp_path):
    refresh()
    path = tmp_path / "clips" / "dataset.json"
    shard = next((tmp_path / "clips").glob("train-*"))
    data = shard.read_bytes()
    shard.unlink()
    record(SOURCE, tmp_path / "clips", "train", 2, **OPTIONS)
    assert shard.read_bytes() == data
    after = json.loads(path.read_text())
    for measured in ("seconds", "peak_mib"):  # of this machine
        assert measured in after["splits"]["train"]
        after["splits"]["train"][measured] = 123456.0
    path.write_text(json.dumps(after))
    assert "up to date" in refresh()
    [part] = after["splits"]["train"]["shards"].values()
    part["sha256"] = "0" * 64
    path.write_text(json.dumps(after))
    assert "made with another clips" in refresh()


def test_a_cache_that_goes_by_all_that_the_card_said_is_kept_while_it_says_so(refresh, tmp_path):
    refresh()
    path, key = tmp_path / "clips" / "dataset.json", tmp_path / "train.json"
    card, made = json.loads(path.read_text()), json.loads(key.read_text())
    entry = json.dumps(card["splits"]["train"], sort_keys=True)
    made["made_from"]["clips"] = hashlib.sha256(entry.encode()).hexdigest()
    key.write_text(json.dumps(made))
    assert "up to date" in refresh()
    card["splits"]["train"]["plan"] = {"sha256": "0", "worlds": {}}  # a newer card has one
    path.write_text(json.dumps(card))
    assert "up to date" in refresh()
    card["splits"]["train"]["seconds"] = 123456.0
    path.write_text(json.dumps(card))
    assert "made with another clips" in refresh()
    assert "up to date" in refresh()


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


@pytest.fixture
def many(tmp_path):
    """Eleven clips, and what makes their cache in files of four; returns what was said."""
    source = ProceduralSource(size=16, frames=13, train_worlds=2)
    record(source, tmp_path / "clips", "train", 11, workers=0, progress=False)
    stats = LatentStats(jnp.zeros(3), jnp.ones(3))
    colours = LatentEncoder(None, stats, tiny_world.MeanColours())
    settings = EncodingSettings(chunk_frames=5, sky_depth=200.0)

    def run(name="train", encoder="a", file_clips=4, **options):
        said = []
        place = (tmp_path / "clips", "train", tmp_path / f"{name}.array_record")
        options = {"say": said.append, "file_clips": file_clips, **options}
        refresh_cache(colours, encoder, *place, settings, **options)
        return said

    return run


def cached(path):
    source = LatentSource([path])
    return [source[i] for i in range(len(source))]


def test_several_files_hold_what_one_would(many, tmp_path):
    many("one", file_clips=12)
    said = many("several")
    assert [text.split(": ")[1] for text in said] == ["there is none yet"] * 3
    parts = sorted(tmp_path.glob("several*.array_record"))
    assert [path.name for path in parts] == [
        f"several-0000{n}-of-00003.array_record" for n in range(3)
    ]
    one, several = cached(tmp_path / "one.array_record"), cached(tmp_path / "several.array_record")
    assert len(one) == len(several) == 11
    for first, second in zip(one, several, strict=True):
        for name in first:
            np.testing.assert_array_equal(first[name], second[name])
    assert many("several") == [f"{tmp_path / 'several.array_record'}: up to date"]


def test_hosts_share_the_files_and_what_was_killed_goes_on(many, tmp_path):
    assert len(many(share=(1, 2))) == 1
    path = tmp_path / "train.array_record"
    with pytest.raises(ValueError, match=r"found 1 of 3 parts .*00000-of-00003.*mirage encode"):
        LatentSource([path])
    middle = tmp_path / "train-00001-of-00003.array_record"
    made = middle.stat().st_mtime_ns
    assert len(many(share=(0, 2))) == 2
    assert middle.stat().st_mtime_ns == made and len(cached(path)) == 11
    last = tmp_path / "train-00002-of-00003.array_record"
    last.unlink()
    assert many() == [f"{last}: there is none yet"]
    assert middle.stat().st_mtime_ns == made


def test_latents_of_two_encoders_are_never_mixed(many, tmp_path):
    many()
    path, first = tmp_path / "train.array_record", tmp_path / "train-00000-of-00003.array_record"
    many(encoder="b", share=(1, 2))  # the other host has not begun
    with pytest.raises(ValueError, match=r"latents of another encoder than in .*00000-of-00003"):
        LatentSource([path])
    said = many(encoder="b")
    assert len(said) == 2 and all("made with another encoder" in text for text in said)
    # In files of another length none of the old ones stays.
    many(encoder="b", file_clips=8)
    assert len(list(tmp_path.glob("train-*.array_record"))) == 3 and first.exists()
    many(encoder="c", file_clips=8)
    assert len(list(tmp_path.glob("train-*.array_record"))) == 2 and not first.exists()
    many(encoder="d", file_clips=12)
    assert not list(tmp_path.glob("train-*.array_record")) and len(cached(path)) == 11
    with pytest.raises(ValueError, match="file_clips: found 6, expected a multiple of 4"):
        many(encoder="e", file_clips=6)


def _cut(files):
    with files[1].open("r+b") as file:
        file.truncate(files[1].stat().st_size - 100)


def _flip(files):
    data = bytearray(files[1].read_bytes())
    data[len(data) // 2] ^= 1
    files[1].write_bytes(data)


def _forget_key(files):
    latent_cache.forget_key(files[1])


def _another_key(files):
    key = latent_cache.made_from(files[1])
    latent_cache.write_key(files[1], {**key, "sky_depth": 1.0})


def _swap(files):
    for suffix in (".array_record", ".json"):
        first, second, kept = (path.with_suffix(suffix) for path in (*files[:2], files[0]))
        kept = kept.with_name(f"kept{suffix}")
        first.rename(kept)
        second.rename(first)
        kept.rename(second)


def _one_too_many(files):
    extra = files[0].with_stem("train-00003-of-00004")
    extra.write_bytes(files[1].read_bytes())


FAULTS = {  # what is said of it, and which files are made again
    _cut: ("00001-of-00003.*found .* bytes, expected", [1]),
    _flip: ("00001-of-00003.*another file than was written", [1]),
    _forget_key: ("00001-of-00003.*no word on what it is, expected part 2 of 3", [1]),
    _another_key: ("00001-of-00003.*another sky_depth, expected part 2 of 3", [1]),
    _swap: ("00000-of-00003.*another part, expected part 1 of 3", [0, 1]),
    _one_too_many: (r"found 4 of 3 parts .*train-00003-of-00004\S* is not of them", []),
}


def test_a_file_of_several_that_is_not_its_part_is_refused_and_made_anew(many, tmp_path):
    many()
    path, files = tmp_path / "train.array_record", sorted(tmp_path.glob("train-*.array_record"))
    expected = cached(path)
    for change, (found, made_again) in FAULTS.items():
        change(files)
        written = [file.stat().st_mtime_ns for file in files]
        with pytest.raises(ValueError, match=found):
            LatentSource([path])
        said = many()
        assert [text.split(": ")[0] for text in said] == [str(files[n]) for n in made_again]
        again = [file.stat().st_mtime_ns for file in files]
        assert [n for n in range(3) if again[n] != written[n]] == made_again
        assert sorted(tmp_path.glob("train-*.array_record")) == files
        for first, second in zip(expected, cached(path), strict=True):
            np.testing.assert_array_equal(first["chunks"], second["chunks"])


def test_a_cache_beside_another_of_a_longer_name_leaves_it_alone(many, tmp_path):
    many("train-5")
    others = {path: path.stat().st_mtime_ns for path in tmp_path.glob("train-5*.array_record")}
    many("train")
    assert len(others) == 3 and len(cached(tmp_path / "train.array_record")) == 11
    assert len(many("train", encoder="b")) == 3
    assert {path: path.stat().st_mtime_ns for path in others} == others
    assert "up to date" in many("train-5")[0]


@pytest.fixture
def damaged(many, tmp_path):
    """Makes some of the eleven clips unreadable."""

    def damage(*numbers):
        [shard] = (tmp_path / "clips").glob("train-*.array_record")
        records = list(read_records(shard))
        with record_writer(shard, WRITER_OPTIONS) as writer:
            for number, record in enumerate(records):
                writer.write(record[:-100] if number in numbers else record)

    return damage


def test_clips_that_cannot_be_read_are_left_out_and_named(many, damaged, tmp_path):
    many("whole")
    damaged(2, 9)
    said = many("less", skip_share=0.2)
    named = [text for text in said if "skipped" in text]
    assert len(named) == 2 and "clip 2" in named[0] and "clip 9" in named[1]
    less = tmp_path / "less.array_record"
    assert sorted(latent_cache.skipped_clips(less)) == [2, 9]
    kept = [
        clip for n, clip in enumerate(cached(tmp_path / "whole.array_record")) if n not in (2, 9)
    ]
    for clip, other in zip(kept, cached(less), strict=True):
        for name in clip:
            np.testing.assert_array_equal(clip[name], other[name])
    assert many("less", skip_share=0.2) == [f"{less}: up to date"]
    # Those of files made before count, whoever made them.
    with pytest.raises(
        ValueError, match=r"found 2 of 11 clips .* at most 10.00%: .*clip 2.*clip 9"
    ):
        many("few", skip_share=0.1)
    with pytest.raises(ValueError, match="found 1 of 11 clips"):
        many("none")


def test_a_file_of_a_cache_may_lack_all_its_clips(many, damaged, tmp_path):
    damaged(4, 5, 6, 7)
    many(skip_share=0.5)
    assert len(cached(tmp_path / "train.array_record")) == 7


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
    # Of keyframes alone: 0, 4, 8, 12 of each of the clips, and not of those that fill the batch.
    assert "depth of 2 clips was estimated; 2 of them have it in metres" in said[-1]
    assert len(seen) == 2 * 4 and seen[0].shape == (16, 16, 3) and seen[0].dtype == np.uint8
    assert (clips.depth > 1).all() and (clips.depth < 2).all() and (clips.static == 1).all()
    refresh("c", brightness)
    assert "made with another depth_network" in said[-2]
