"""Hosts that share a recording leave what one alone leaves; nobody records a share twice."""

import contextlib
import json
import os
import signal
import subprocess
import sys

import pytest

from data_pipelines.recording import notes, plan, sharing
from data_pipelines.recording import shards as shard_files
from data_pipelines.sources.procedural import ProceduralSource
from helpers.paths import HELPERS, ROOT
from helpers.recordings import SMALL, quiet
from mirage_jax.io.lock import LockedError

SOURCE = ProceduralSource(**SMALL)
MEASURED = ("seconds", "peak_mib")


def start(folder, number, count, *slow):
    path = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    program = str(HELPERS / "share_of_recording.py")
    return subprocess.Popen(
        [sys.executable, program, folder, str(number), str(count), *slow],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": path},
    )


def files(folder):
    """Every file's bytes, and the card without what was measured of the machine."""
    found = {path.name: path.read_bytes() for path in folder.iterdir()}
    card = json.loads(found.pop("dataset.json"))
    for split in card["splits"].values():
        assert split.pop("seconds") >= 0 and split.pop("peak_mib")["worker"] > 10
    return {**found, "dataset.json": json.dumps(card)}


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    folder = tmp_path_factory.mktemp("alone")
    quiet(SOURCE, folder, count=9, shard_clips=1)
    return files(folder)


def test_two_processes_and_a_killed_one_leave_what_one_alone_leaves(alone, tmp_path):
    killed = start(tmp_path, 0, 2, "slow")
    assert killed.stdout.readline() == "begins\n"
    while not list(tmp_path.glob("train-*.array_record")):
        assert killed.poll() is None, killed.communicate()
    # Who comes meanwhile with the same share, or as one of another number of hosts, is refused.
    for share in ((0, 2), (1, 3), (0, 1)):
        with pytest.raises(LockedError, match="is at work here"):
            quiet(SOURCE, tmp_path, count=9, shard_clips=1, share=share)
    killed.send_signal(signal.SIGKILL)
    killed.communicate()
    kept = len(list(tmp_path.glob("train-*.array_record")))
    assert 1 <= kept < 5
    hosts = [start(tmp_path, number, 2) for number in range(2)]
    ends = [host.communicate(timeout=60) for host in hosts]
    assert [host.returncode for host in hosts] == [0, 0], ends
    assert files(tmp_path) == alone
    # And again, there is nothing to do.
    report = quiet(SOURCE, tmp_path, count=9, shard_clips=1, share=(1, 2))
    assert (report.clips, report.missing, report.resumed) == (9, 0, 5 - 1)
    assert files(tmp_path) == alone


def test_who_is_not_the_last_says_what_is_missing(alone, tmp_path):
    first = quiet(SOURCE, tmp_path, count=9, shard_clips=1, share=(1, 3))
    assert (first.clips, first.requested, first.missing) == (3, 3, 6)
    assert [shard.name for shard in first.shards] == [
        f"train-{number:05d}-of-00009.array_record" for number in (1, 4, 7)
    ]
    card = json.loads((tmp_path / "dataset.json").read_text())
    assert card["splits"]["train"]["shards"] == {} and "clips" not in card["splits"]["train"]
    assert not (tmp_path / "train.png").exists()
    # Another number of hosts may go on when no one is at work.
    assert quiet(SOURCE, tmp_path, count=9, shard_clips=1, share=(1, 2)).missing == 4
    last = quiet(SOURCE, tmp_path, count=9, shard_clips=1, share=(0, 2))
    assert (last.clips, last.missing, last.resumed) == (9, 0, 1)
    assert files(tmp_path) == alone


def test_a_host_without_a_shard_leaves_all_to_the_others(tmp_path):
    idle = quiet(SOURCE, tmp_path, count=2, shard_clips=1, share=(3, 4))
    assert (idle.clips, idle.shards, idle.missing) == (0, (), 2)
    assert quiet(SOURCE, tmp_path, count=2, shard_clips=1, share=(0, 4)).missing == 1
    assert quiet(SOURCE, tmp_path, count=2, shard_clips=1, share=(1, 4)).clips == 2
    assert quiet(SOURCE, tmp_path, count=2, shard_clips=1, share=(3, 4)).clips == 2


class Refused(ProceduralSource):
    """Every second world gives a clip that is no clip."""

    def clips(self, world, count, seed):
        for clip in super().clips(world, count, seed):
            if world.endswith("1"):
                clip.depth[0, 0, 0] = -1.0
            yield clip


def test_what_was_refused_is_known_after_a_kill_before_the_card(tmp_path, monkeypatch):
    source = Refused(**SMALL)
    whole = quiet(source, tmp_path / "whole", count=6, shard_clips=2)
    assert whole.reasons == {"invalid": 4} and len(whole.examples) == 4

    class Killed(BaseException):
        pass

    def events(recording, shards, workers):
        for shard in shards:
            yield from shard_files.record_shard(recording, shard)
            if shard.index == 1:
                raise Killed

    with monkeypatch.context() as patch:
        patch.setattr("data_pipelines.recording.recorder.record_events", events)
        with contextlib.suppress(Killed):
            quiet(source, tmp_path / "killed", count=6, shard_clips=2)
    left = sorted(path.name for path in (tmp_path / "killed").glob("*.json"))
    assert left == [
        "dataset.json",
        "train-00000-of-00003.json",
        "train-00001-of-00003.json",
    ]
    report = quiet(source, tmp_path / "killed", count=6, shard_clips=2)
    assert (report.reasons, report.examples) == (whole.reasons, whole.examples)
    assert files(tmp_path / "killed") == files(tmp_path / "whole")


def test_a_note_of_another_file_is_not_believed_and_a_damaged_one_is_named(tmp_path):
    quiet(SOURCE, tmp_path, count=2, shard_clips=1, share=(0, 2))
    shard = tmp_path / "train-00000-of-00002.array_record"
    note = notes.note_path(shard)
    content = json.loads(note.read_text())
    note.write_text(json.dumps({**content, "bytes": content["bytes"] + 1}))
    assert notes.read_note(shard) is None
    for change, message in (
        ({"format": "other"}, "format: found 'other', expected mirage-shard-1; remove it"),
        ({"entry": {}}, r"entry: found \{\}, expected an object with a number of clips; remove it"),
        ({"entry": [3]}, r"entry: found \[3\], expected an object with a number of clips"),
        ({"peak_mib": "much"}, "peak_mib: found 'much', expected a number; remove it"),
        ({"bytes": None}, "bytes: found None, expected a number; remove it"),
    ):
        note.write_text(json.dumps({**content, **change}))
        with pytest.raises(ValueError, match=rf"{note.name}: {message}"):
            quiet(SOURCE, tmp_path, count=2, shard_clips=1, share=(1, 2))


@pytest.mark.parametrize("share", [(2, 2), (-1, 2), (0, 0)])
def test_shares_that_are_none_are_refused(tmp_path, share):
    with pytest.raises(ValueError, match=rf"share: found {share[0]}/{share[1]}, expected I/N"):
        quiet(SOURCE, tmp_path, share=share)


def test_every_shard_is_of_one_host():
    planned = plan(SOURCE, "train", 9, seed=0, shard_clips=1)
    parts = [sharing.own_shards(planned, (number, 4)) for number in range(4)]
    assert sorted((s for part in parts for s in part), key=lambda s: s.index) == planned
