"""Recording: the same shards whoever records them, whole or not at all."""

import collections
import dataclasses
import errno
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from array_record.python import array_record_module
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from rich.console import Console

from data_pipelines import recording
from data_pipelines.clip_codecs import U16
from data_pipelines.clip_format import decode, from_bytes
from data_pipelines.recording import plan, read_records, shards
from data_pipelines.sources.procedural import ProceduralSource
from helpers.recordings import SMALL, quiet, records
from mirage_jax.io import atomic
from mirage_jax.io.lock import LockedError, locked


class SpySource(ProceduralSource):
    """Tells in each clip's name what its process looks like."""

    def clips(self, world, count, seed):
        for index, clip in enumerate(super().clips(world, count, seed)):
            note = {
                "jax": "jax" in sys.modules,
                "cwd": os.getcwd(),
                "pid": os.getpid(),
                "world": world,
                "index": index,
            }
            yield dataclasses.replace(clip, name=json.dumps(note))


class FaultySource(ProceduralSource):
    """Every third clip has NaN depth; drops one more clip per call by itself."""

    def __init__(self, **options):
        super().__init__(**options)
        object.__setattr__(self, "rejected", collections.Counter())

    def clips(self, world, count, seed):
        self.rejected["dark"] += 1
        for index, clip in enumerate(super().clips(world, count, seed)):
            if index % 3 == 0 and count > 1:
                clip.depth[1, 2, 3] = np.nan
            yield clip


class CrashingSource(ProceduralSource):
    """Raises in its second world; of three worlds, the second one kills the process."""

    def clips(self, world, count, seed):
        if world.endswith("001"):
            if self.train_worlds == 3:
                os._exit(7)
            raise KeyError("no such texture")
        yield from super().clips(world, count, seed)


@given(
    count=st.integers(1, 200),
    worlds=st.integers(1, 12),
    shard_clips=st.integers(1, 40),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_plan_covers_the_count_evenly(count, worlds, shard_clips, seed):
    source = ProceduralSource(train_worlds=worlds)
    shards = plan(source, "train", count, seed=seed, shard_clips=shard_clips)
    assert shards == plan(source, "train", count, seed=seed, shard_clips=shard_clips)
    assert sum(shard.count for shard in shards) == count
    assert all(1 <= shard.count <= shard_clips for shard in shards)
    per_world = collections.Counter()
    for shard in shards:
        for job in shard.jobs:
            per_world[job.world] += job.count
    shares = [per_world[world] for world in source.worlds("train")]
    assert max(shares) - min(shares) <= 1
    seeds = [(job.world, job.seed) for shard in shards for job in shard.jobs]
    assert len(set(seeds)) == len(seeds)
    assert len({shard.file for shard in shards}) == len(shards)


def test_records_are_the_clips_of_the_source_and_the_card_says_so(tmp_path):
    source = ProceduralSource(**SMALL)
    report = quiet(source, tmp_path)
    assert (report.clips, report.requested, report.rejected, report.resumed) == (7, 7, 0, 0)
    stored = [from_bytes(data) for shard in report.shards for data in read_records(shard)]
    shards = plan(source, "train", 7, seed=0, shard_clips=3)
    drawn = [
        clip
        for shard in shards
        for job in shard.jobs
        for clip in source.clips(job.world, job.count, job.seed)
    ]
    assert [clip.name for clip in stored] == [clip.name for clip in drawn]
    for one, other in zip(stored, drawn, strict=True):
        np.testing.assert_array_equal(one.video, other.video)
        np.testing.assert_array_equal(one.depth, other.depth)

    quiet(source, tmp_path, "eval", 2)
    card = json.loads((tmp_path / "dataset.json").read_text())
    assert set(card["splits"]) == {"train", "eval"}
    train = card["splits"]["train"]
    assert train["clips"] == 7 and train["rejected"] == 0
    assert (train["frames"], train["height"], train["width"]) == (10, 8, 8)
    assert train["options"]["size"] == 8
    assert train["worlds"] == dict(collections.Counter(clip.world for clip in stored))
    assert train["bytes"] == sum(shard.stat().st_size for shard in report.shards)
    with Image.open(tmp_path / "train.png") as sheet:
        assert len(np.unique(np.asarray(sheet).reshape(-1, 3), axis=0)) > 50


def test_workers_record_the_same_without_jax_in_folders_of_their_own(tmp_path):
    import jax  # noqa: F401  here it is, and the workers import this module

    quiet(ProceduralSource(**SMALL), tmp_path / "here")
    quiet(SpySource(**SMALL), tmp_path / "there", workers=2)
    here, there = records(tmp_path / "here"), records(tmp_path / "there")
    assert list(here) == list(there)
    notes = []
    for file in here:
        for one, other in zip(here[file], there[file], strict=True):
            np.testing.assert_array_equal(from_bytes(one).video, from_bytes(other).video)
            notes.append(json.loads(from_bytes(other).name))
    assert not any(note["jax"] for note in notes)
    assert os.getpid() not in {note["pid"] for note in notes}
    folders = {note["cwd"] for note in notes}
    assert os.getcwd() not in folders
    assert len(folders) == len({note["pid"] for note in notes})
    assert not any(os.path.exists(folder) for folder in folders)


def test_invalid_clips_are_counted_told_and_replaced(tmp_path):
    shown = io.StringIO()
    console = Console(file=shown, width=200)
    report = quiet(FaultySource(**SMALL), tmp_path, progress=True, console=console)
    # Three worlds of 2, 2 and 3 clips: the first of each is refused, then drawn again.
    assert report.clips == 7
    assert report.reasons == {"invalid": 3, "dark": 6}
    assert report.rejected == 9
    assert all("NaN at frame 1, row 2, column 3" in text for text in report.examples)
    assert "NaN" in shown.getvalue() and "7/7 clips" in shown.getvalue()
    card = json.loads((tmp_path / "dataset.json").read_text())
    assert card["splits"]["train"]["reasons"] == report.reasons
    for shard in report.shards:
        assert not any(np.isnan(from_bytes(data).depth).any() for data in read_records(shard))


def test_finished_shards_are_kept_and_missing_ones_recorded_again(tmp_path):
    source = ProceduralSource(**SMALL)
    first = quiet(source, tmp_path)
    before = records(tmp_path)
    stamps = {shard: shard.stat().st_mtime_ns for shard in first.shards}
    first.shards[1].unlink()
    atomic.partial_path(first.shards[1]).write_bytes(b"half a shard")
    card = json.loads((tmp_path / "dataset.json").read_text())
    del card["splits"]["train"]["shards"][first.shards[0].name]  # killed before the card
    (tmp_path / "dataset.json").write_text(json.dumps(card))

    report = quiet(source, tmp_path)
    assert report.resumed == len(first.shards) - 1
    assert report.clips == 7
    assert records(tmp_path) == before
    assert not list(tmp_path.glob(".*"))
    for shard, stamp in stamps.items():
        assert (shard.stat().st_mtime_ns == stamp) == (shard != first.shards[1])
    assert quiet(source, tmp_path).resumed == len(first.shards)


@pytest.mark.parametrize(
    "change",
    [{"seed": 1}, {"count": 8}, {"source": {"fov": 60.0}}, {"codecs": {"depth": U16()}}],
)
def test_two_recordings_are_not_mixed_in_one_folder(tmp_path, change):
    quiet(ProceduralSource(**SMALL), tmp_path, count=2)
    before = records(tmp_path)
    options = {"count": 2, **change}
    source = ProceduralSource(**SMALL, **options.pop("source", {}))
    with pytest.raises(ValueError, match="was recorded with"):
        quiet(source, tmp_path, **options)
    assert records(tmp_path) == before


def check_full_disk_left(path, kept, source):
    """After a full disk: the finished shards are readable, nothing half-written, resumable."""
    left = records(path)
    assert len(left) == kept
    assert all(decode(data, ("name",)) for shard in left.values() for data in shard)
    assert not list(path.glob(".*"))
    json.loads((path / "dataset.json").read_text())
    report = quiet(source, path)
    assert report.resumed == kept and report.clips == 7
    assert {name: data for name, data in records(path).items() if name in left} == left


def test_full_disk_before_a_clip(tmp_path, monkeypatch):
    source = ProceduralSource(**SMALL)
    real = shards.shutil.disk_usage

    def nearly_full(path):
        usage = real(path)
        return usage._replace(free=1000) if list(tmp_path.glob("train-*")) else usage

    with monkeypatch.context() as patch:
        patch.setattr(shards.shutil, "disk_usage", nearly_full)
        with pytest.raises(OSError, match="no space left") as error:
            quiet(source, tmp_path)
    assert error.value.errno == errno.ENOSPC
    assert str(tmp_path) in str(error.value) and "1 finished of 3 shards" in str(error.value)
    check_full_disk_left(tmp_path, 1, source)


def test_full_disk_in_the_writer(tmp_path, monkeypatch):
    if not os.path.exists("/dev/full"):
        pytest.skip("this system has no /dev/full")
    source = ProceduralSource(**SMALL)
    real = array_record_module.ArrayRecordWriter

    def writer(path, options):
        return real("/dev/full" if list(tmp_path.glob("train-*")) else path, options)

    with monkeypatch.context() as patch:
        patch.setattr(shards.array_record_module, "ArrayRecordWriter", writer)
        with pytest.raises(OSError, match=r"No space left on device.*the 1 finished"):
            quiet(source, tmp_path)
    check_full_disk_left(tmp_path, 1, source)


def test_full_disk_at_the_sync(tmp_path, monkeypatch):
    source = ProceduralSource(**SMALL)

    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(atomic.os, "fsync", full)
        with pytest.raises(OSError, match="no space left"):
            quiet(source, tmp_path)
    check_full_disk_left(tmp_path, 0, source)


def test_a_failing_worker_is_reported(tmp_path):
    source = CrashingSource(**(SMALL | {"train_worlds": 2}))
    with pytest.raises(recording.RecordingError, match=r"train-00001-of-00002.*no such texture"):
        quiet(source, tmp_path, count=2, shard_clips=1, workers=1)
    assert len(records(tmp_path)) == 1


def test_a_source_that_gives_up_in_this_process_is_reported(tmp_path, monkeypatch):
    def gives_up(self, world, count, seed):
        raise RuntimeError("no offscreen OpenGL")

    monkeypatch.setattr(ProceduralSource, "clips", gives_up)
    with pytest.raises(recording.RecordingError, match=r"recording train-.*: no offscreen OpenGL"):
        quiet(ProceduralSource(**SMALL), tmp_path, count=1)


def test_a_source_without_clips_is_an_error_of_the_recording(tmp_path, monkeypatch):
    monkeypatch.setattr(ProceduralSource, "clips", lambda *_: iter(()))
    with pytest.raises(recording.RecordingError, match="gave no clip for 'train'"):
        quiet(ProceduralSource(**SMALL), tmp_path, count=1)


def test_a_dead_worker_is_reported(tmp_path):
    with pytest.raises(recording.RecordingError, match=r"exit codes \[.*7"):
        quiet(CrashingSource(**SMALL), tmp_path, count=3, shard_clips=1, workers=2)
    assert not list(tmp_path.glob(".*"))


def test_workers_do_not_run_the_main_program_again(tmp_path):
    program = tmp_path / "program.py"
    program.write_text(
        "import sys\n"
        "print('program runs', flush=True)\n"
        "from data_pipelines.recording import record\n"
        "from data_pipelines.sources.procedural import ProceduralSource\n"
        f"source = ProceduralSource(**{SMALL})\n"
        "record(source, sys.argv[1], 'train', 1, workers=1, progress=False)\n"
    )
    command = [sys.executable, str(program), str(tmp_path / "clips")]
    root = Path(recording.__file__).parents[2]
    environment = {**os.environ, "PYTHONPATH": str(root)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("program runs") == 1
    assert len(records(tmp_path / "clips")) == 1


def test_bad_arguments_are_refused(tmp_path):
    source = ProceduralSource(**SMALL)
    for options in ({"count": 0}, {"shard_clips": 0}, {"workers": -1}):
        with pytest.raises(ValueError, match=next(iter(options))):
            quiet(source, tmp_path / "new", **options)
    assert not (tmp_path / "new").exists()
    (tmp_path / "dataset.json").write_text("{}")
    with pytest.raises(ValueError, match=r"dataset\.json.*format"):
        quiet(source, tmp_path)


def test_two_processes_do_not_record_into_one_folder(tmp_path):
    source = ProceduralSource(**SMALL)
    with locked(tmp_path / "lock", "recording procedural eval"):
        before = sorted(tmp_path.iterdir())
        with pytest.raises(LockedError, match=r"\(recording procedural eval\) is at work here"):
            quiet(source, tmp_path)
        assert sorted(tmp_path.iterdir()) == before
    assert quiet(source, tmp_path).clips == 7
    assert not (tmp_path / "lock").exists()


@pytest.mark.parametrize("kept", [0.5, 0])
def test_a_truncated_shard_is_not_taken_for_a_finished_one(tmp_path, kept):
    source = ProceduralSource(**SMALL)
    before = records(tmp_path) if quiet(source, tmp_path) else None
    shard = sorted(tmp_path.glob("*.array_record"))[0]
    data = shard.read_bytes()
    shard.write_bytes(data[: int(len(data) * kept)])
    with pytest.raises(ValueError, match=rf"{shard.name}: .*remove it, and `mirage record` makes"):
        quiet(source, tmp_path)
    shard.unlink()
    assert quiet(source, tmp_path).clips == 7
    assert records(tmp_path) == before


def test_a_shard_of_another_recording_is_not_taken_for_a_finished_one(tmp_path):
    source = ProceduralSource(**SMALL)
    report = quiet(source, tmp_path)
    entry = json.loads((tmp_path / "dataset.json").read_text())["splits"]["train"]["shards"]
    counts = {path: entry[path.name]["clips"] for path in report.shards}
    fewest, most = sorted(counts, key=counts.get)[:: len(counts) - 1]
    assert counts[fewest] < counts[most]
    fewest.write_bytes(most.read_bytes())
    with pytest.raises(ValueError, match=rf"{fewest.name}: found {counts[most]} clips, expected"):
        quiet(source, tmp_path)
