"""Loading: the stream depends on the seed alone, and goes on exactly where it stopped."""

import itertools
import shutil

import numpy as np
import pytest
from array_record.python.array_record_module import ArrayRecordWriter

from data_pipelines import loading
from data_pipelines.clip import ARRAY_FIELDS, META_FIELDS
from data_pipelines.clip_format import from_bytes, to_bytes
from data_pipelines.loading import ClipSource, LoaderState, Window, batches
from data_pipelines.recording import read_records, record
from data_pipelines.sources.procedural import ProceduralSource
from helpers import made_clips, paths

FRAMES, COUNT = 10, 9
FIELDS = ("video", "depth", "cam2world", "seed")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("clips")
    source = ProceduralSource(size=8, frames=FRAMES, train_worlds=3, ball=False)
    record(source, path, "train", COUNT, shard_clips=3, workers=0, progress=False)
    return path


@pytest.fixture(scope="module")
def stream(folder):
    """Seven global batches, in this process."""
    return take(7, folder)


def take(count, folder, **options):
    options = {"batch_size": 4, "seed": 5, **options}
    with batches(ClipSource(folder, "train", FIELDS), Window(5), **options) as loader:
        return list(itertools.islice(loader, count))


def assert_same(ours, theirs):
    assert len(ours) == len(theirs)
    for one, other in zip(ours, theirs, strict=True):
        assert set(one) == set(other) == set(FIELDS)
        for field in one:
            np.testing.assert_array_equal(one[field], other[field])


def test_source_gives_the_recorded_clips_in_order(folder):
    source = ClipSource(folder, "train")
    stored = [from_bytes(data) for path in source.paths for data in read_records(path)]
    assert len(source) == len(stored) == COUNT
    for index, clip in enumerate(stored):
        element = source[index]
        assert set(element) == set(ARRAY_FIELDS)
        for field in ARRAY_FIELDS:
            np.testing.assert_array_equal(element[field], getattr(clip, field))
        assert source.clip(index).name == clip.name
    metas = source.meta()
    assert [meta["name"] for meta in metas] == [clip.name for clip in stored]
    assert set(metas[0]) == set(META_FIELDS) and metas[0]["caption"] is None
    assert list(ClipSource(folder, "train", ("world",))[0]) == ["world"]
    with pytest.raises(IndexError):
        source[COUNT]


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    """A shard with a clip of the first format, one of every part, and one without any."""
    path = tmp_path_factory.mktemp("mixed")
    writer = ArrayRecordWriter(str(path / "train-00000-of-00001.array_record"), "group_size:1")
    first = paths.GOLDEN.joinpath("clip_1", "clip.safetensors").read_bytes()
    full = made_clips.make_full_clip(FRAMES)
    for data in (first, to_bytes(full), to_bytes(made_clips.bare(full))):
        writer.write(data)
    writer.close()
    return path


def test_clips_of_the_first_format_are_loaded(mixed):
    element = ClipSource(mixed, "train")[0]
    for field in ARRAY_FIELDS:
        expected = getattr(made_clips.make_clip(5, 8, 8, seed=7), field)
        np.testing.assert_array_equal(element[field], expected)


def test_a_clip_without_a_field_asked_for_is_named(mixed):
    source = ClipSource(mixed, "train", ("video", "times", "caption"))
    assert source[1]["caption"] == "a corridor"
    name = made_clips.make_full_clip().name
    with pytest.raises(ValueError, match=f"clip {name!r}, times: found none"):
        source[2]
    assert source.clip(2).times is None


def test_windows_cut_times_and_bodies_too(mixed):
    element = ClipSource(mixed, "train", ("video", "times", "bodies", "caption"))[1]
    cut = Window(4, stride=3)(element, np.random.default_rng(3))
    start = int(np.flatnonzero(element["times"] == cut["times"][0])[0])
    assert start in (3, 6)
    clip = made_clips.make_full_clip(FRAMES)
    np.testing.assert_array_equal(cut["times"], clip.times[start : start + 4])
    np.testing.assert_array_equal(cut["bodies"].ids, [7, 9])
    expected = clip.bodies.body2world[start : start + 4]
    np.testing.assert_array_equal(cut["bodies"].body2world, expected)
    assert cut["caption"] == "a corridor"


def test_unreadable_folders_are_refused(folder, tmp_path):
    with pytest.raises(ValueError, match="colour"):
        ClipSource(folder, "train", ("colour",))
    with pytest.raises(ValueError, match=r"found no shards, expected eval"):
        ClipSource(tmp_path, "eval")
    with pytest.raises(ValueError, match=r"splits \['train'\]"):
        ClipSource(folder, "eval")
    copy = tmp_path / "copy"
    shutil.copytree(folder, copy)
    last = copy / "train-00002-of-00003.array_record"
    last.write_bytes(last.read_bytes()[:100])
    with pytest.raises(
        ValueError, match=r"train-00002-of-00003\.array_record: damaged train shard"
    ):
        ClipSource(copy, "train")
    last.unlink()
    with pytest.raises(ValueError, match=r"missing train-00002-of-00003\.array_record"):
        ClipSource(copy, "train")


def test_shards_that_cannot_be_opened_for_a_moment_are_not_called_damaged(folder, monkeypatch):
    opened = loading.ArrayRecordDataSource

    def failing(paths):
        if len(paths) > 1:
            raise RuntimeError("stale file handle")
        return opened(paths)

    monkeypatch.setattr(loading, "ArrayRecordDataSource", failing)
    message = (
        rf"^{folder}: train shards cannot be opened \(stale file handle\), expected ArrayRecord "
        "files; try again$"
    )
    with pytest.raises(ValueError, match=message):
        ClipSource(folder, "train")


def test_shards_are_opened_once_to_name_those_of_clips_that_cannot_be_read(folder, monkeypatch):
    source, calls = ClipSource(folder, "train"), []
    opened = loading.ArrayRecordDataSource

    class Failing:
        def __len__(self):
            return COUNT

        def __getitem__(self, index):
            raise RuntimeError("no such block")

    def counted(paths):
        calls.append(paths)
        return opened(paths)

    def gone(paths):
        raise RuntimeError("no such file")

    source._records = Failing()
    monkeypatch.setattr(loading, "ArrayRecordDataSource", gone)
    with pytest.raises(ValueError, match=rf"clip 4 cannot be read \({folder.name}: no such block"):
        source[4]
    monkeypatch.setattr(loading, "ArrayRecordDataSource", counted)
    for index in range(COUNT):
        shard = f"train-0000{index // 3}-of-00003.array_record"
        with pytest.raises(
            ValueError, match=rf"clip {index} cannot be read \({shard}: no such blo"
        ):
            source[index]
    assert len(calls) == 3


def test_batches_are_windows_of_the_recorded_clips(folder, stream):
    whole = {}
    for data in (d for path in ClipSource(folder, "train").paths for d in read_records(path)):
        clip = from_bytes(data)
        whole.setdefault(clip.seed, []).append(clip)
    starts = set()
    for batch in stream:
        assert batch["video"].shape == (4, 5, 8, 8, 3)
        for video, depth, poses, seed in zip(*(batch[f] for f in FIELDS), strict=True):
            matches = [
                start
                for clip in whole[int(seed)]
                for start in range(FRAMES - 4)
                if np.array_equal(video, clip.video[start : start + 5])
                and np.array_equal(depth, clip.depth[start : start + 5])
                and np.array_equal(poses, clip.cam2world[start : start + 5])
            ]
            assert len(matches) == 1
            starts.update(matches)
    assert len(starts) > 3


def test_every_epoch_has_every_clip_once_in_another_order(folder):
    source = ClipSource(folder, "train", ("name",))
    names = sorted(meta["name"] for meta in source.meta())
    with batches(source, batch_size=3, seed=0) as loader:
        drawn = [str(name) for batch in itertools.islice(loader, 9) for name in batch["name"]]
    epochs = [drawn[start : start + COUNT] for start in range(0, 27, COUNT)]
    assert [sorted(epoch) for epoch in epochs] == [names] * 3
    assert epochs[0] != epochs[1] != epochs[2]


def test_the_seed_decides(folder, stream):
    assert_same(take(3, folder), stream[:3])
    assert not np.array_equal(take(1, folder, seed=6)[0]["video"], stream[0]["video"])


@pytest.mark.parametrize("start", [0, 1, 5])
def test_resume_is_exact(folder, stream, start):
    assert_same(take(7 - start, folder, start_batch=start), stream[start:])


@pytest.mark.parametrize("workers", [1, 2])
def test_worker_processes_change_nothing(folder, stream, workers):
    assert_same(take(4, folder, workers=workers, start_batch=3), stream[3:])


@pytest.mark.parametrize("hosts", [2, 4])
def test_hosts_share_out_the_same_global_batches(folder, stream, hosts):
    parts = [take(4, folder, start_batch=2, shard=(host, hosts)) for host in range(hosts)]
    for index, whole in enumerate(stream[2:6]):
        for field in FIELDS:
            joined = np.concatenate([part[index][field] for part in parts])
            np.testing.assert_array_equal(joined, whole[field])


def test_state_counts_batches(folder):
    with batches(ClipSource(folder, "train", FIELDS), batch_size=2, seed=0) as loader:
        assert loader.state == LoaderState(0)
        next(loader), next(loader)
        assert loader.state == LoaderState(2)
    options = {"batch_size": 2, "seed": 0, "start_batch": 2}
    with batches(ClipSource(folder, "train", FIELDS), **options) as loader:
        next(loader)
        assert loader.state == LoaderState(3)


def test_window_respects_stride_and_length():
    element = {"video": np.arange(10), "name": "x"}
    starts = {
        int(Window(4, stride=3)(element, np.random.default_rng(seed))["video"][0])
        for seed in range(50)
    }
    assert starts == {0, 3, 6}
    assert Window(10)(element, np.random.default_rng(0))["name"] == "x"
    with pytest.raises(ValueError, match="10 frames, expected at least 11"):
        Window(11)(element, np.random.default_rng(0))


@pytest.mark.parametrize(
    "options",
    [
        {"batch_size": 0},
        {"shard": (0, 2), "batch_size": 3},
        {"shard": (2, 2)},
        {"start_batch": -1},
        {"workers": -1},
    ],
)
def test_bad_arguments_are_refused(folder, options):
    with pytest.raises(ValueError, match=next(reversed(options))):
        take(1, folder, **options)


class Numbers:
    """Ten elements that say which they are."""

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return {"x": np.int64(index)}


def numbered(element, rng):
    return {**element, "draw": rng.integers(1000)}


def test_order_and_randomness_are_those_of_earlier_versions():
    """What 0.2 drew: a run that was begun with it goes on, and numbers in reports stay true."""
    with batches(Numbers(), numbered, batch_size=4, seed=5) as loader:
        drawn = list(itertools.islice(loader, 6))
    order = [[3, 9, 4, 8], [1, 0, 6, 5], [7, 2, 7, 6], [1, 5, 9, 0], [4, 3, 2, 8], [6, 1, 4, 9]]
    assert [batch["x"].tolist() for batch in drawn] == order
    assert drawn[0]["draw"].tolist() == [443, 128, 554, 809]
    assert drawn[5]["draw"].tolist() == [595, 254, 417, 695]
