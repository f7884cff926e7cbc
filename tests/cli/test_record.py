"""`mirage record`: what cannot be rendered is left out and said."""

import io
import json
import re
import sys

import numpy as np
import pytest
from rich.console import Console

from data_pipelines import recording, sources
from data_pipelines.clip_format import from_bytes, read_header
from data_pipelines.sources.procedural import ProceduralSource
from helpers.command_line import assert_refused
from mirage_jax.cli import record
from mirage_jax.cli.helpers import common
from mirage_jax.io.workdir import Workdir

QUIET = Console(quiet=True)


def recording_config(tiny_config, **worlds):
    config = tiny_config.copy_and_resolve_references()
    config.update({"worlds": tuple(worlds)})
    config.record.update({"size": 16, "frames": 13, "eval_clips": 1})
    config.record.train_clips.absent = 1
    config.update({"chunk_frames": 5})
    config.vae_training.pixels = 16
    return config


class Absent(ProceduralSource):
    @staticmethod
    def available():
        return False, "no GPU driver"


def test_a_world_that_cannot_be_rendered_is_left_out_and_said(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setitem(sources.SOURCES, "absent", f"{__name__}:Absent")
    config = recording_config(tiny_config, absent=1, procedural=1)
    workdir = Workdir(tmp_path)
    console = Console(record=True, quiet=False, width=200, file=io.StringIO())
    assert record.run(config, workdir, console) == ("procedural",)
    assert "absent is left out: no GPU driver" in console.export_text()
    skipped = json.loads((tmp_path / "worlds" / "skipped.json").read_text())
    assert skipped == {"absent": "no GPU driver"}
    assert workdir.recorded(("absent", "procedural")) == ("procedural",)
    meta = json.loads((workdir.worlds("procedural") / "dataset.json").read_text())
    assert "train" in json.dumps(meta) and "eval" in json.dumps(meta)
    with pytest.raises(ValueError, match="no recorded clips of absent; run `mirage record` first"):
        workdir.recorded(("absent",))
    monkeypatch.setattr(recording, "record", pytest.fail)
    with pytest.raises(common.UserError, match=r"no world can be rendered .*absent: no GPU driver"):
        record.run(recording_config(tiny_config, absent=1), workdir, QUIET)


def test_freedoom_without_its_engine_is_left_out_and_said(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vizdoom", None)  # what `import` makes of a missing package
    console = Console(record=True, width=200, file=io.StringIO())
    config = recording_config(tiny_config, freedoom=1, procedural=1)
    assert record.run(config, Workdir(tmp_path), console) == ("procedural",)
    assert "freedoom is left out: vizdoom cannot be imported" in console.export_text()


def test_walking_bodies_are_recorded_where_they_are_asked_for(tiny_config):
    config = recording_config(tiny_config, procedural=1, procedural_bodies=1)
    assert record._options(config, "procedural") == {"size": 16, "frames": 13}
    found, _ = record._sources(config, QUIET)
    assert found["procedural"] == ProceduralSource(size=16, frames=13)
    walking = ProceduralSource(size=16, frames=13, bodies=2, skip=4, skip_spread=96, due=0.8)
    config.record.bodies = 2
    assert record._sources(config, QUIET)[0]["procedural_bodies"] == walking
    assert record._options(config, "freedoom_bodies")["bodies"] == 2
    config.record.openarena = "pk3"
    with pytest.raises(common.UserError, match="found 'openarena_bodies', expected 'openarena'"):
        record._options(config, "openarena_bodies")


def test_worlds_are_stored_as_the_config_says_and_in_its_shape(tiny_config, tmp_path):
    config = recording_config(tiny_config, procedural=1)
    config.record.width = 32
    config.record.train_clips.procedural = 1
    folders = []
    for encoding in (None, "visually_lossless"):
        if encoding:
            config.data.encoding = encoding
        workdir = Workdir(tmp_path / str(encoding))
        console = Console(record=True, width=300, file=io.StringIO())
        record.run(config, workdir, console)
        assert re.search(r"at most \d+ MiB of memory and \d+ of a worker", console.export_text())
        folders.append(workdir.worlds("procedural"))
    plain, encoded = (next(folder.glob("train-*.array_record")) for folder in folders)
    plain, encoded = (next(recording.read_records(path)) for path in (plain, encoded))
    assert read_header(plain)["codecs"] == {} and len(encoded) < len(plain)
    assert read_header(encoded)["codecs"].keys() == {"video", "depth"}
    one, other = from_bytes(plain), from_bytes(encoded)
    assert one.video.shape == other.video.shape == (13, 16, 32, 3)
    assert np.abs(one.video.astype(int) - other.video).mean() < 4
    np.testing.assert_allclose(one.depth, other.depth, rtol=1e-3, atol=1e-3)


def test_hosts_record_their_share_of_every_split(tiny_config, tmp_path):
    config = recording_config(tiny_config, procedural=1)
    config.record.train_clips.procedural = 2
    config.record.shard_clips = 1
    workdir, console = Workdir(tmp_path), Console(record=True, width=300, file=io.StringIO())
    record.run(config, workdir, console, (1, 2))
    text = console.export_text()
    assert "procedural train: 1 shards of other hosts are missing" in text
    assert not (tmp_path / "worlds" / "skipped.json").exists()
    record.run(config, workdir, console, (0, 2))
    card = json.loads((workdir.worlds("procedural") / "dataset.json").read_text())
    assert {name: split["clips"] for name, split in card["splits"].items()} == {
        "train": 2,
        "eval": 1,
    }


def test_shares_that_are_none_are_refused(call):
    assert_refused(call("record", "--share=2/2"), "found '2/2', expected I/N with 0 <= I < N")


def test_a_recording_that_fails_is_one_line(call, monkeypatch):
    def fails(*_, **__):
        raise recording.RecordingError("the engine is gone")

    monkeypatch.setattr(recording, "record", fails)
    assert_refused(call("record", "--config.tiny=true"), "the engine is gone")


def test_an_unknown_world_is_told_the_nearest(call):
    assert_refused(call("record", "--config.worlds=('procedual',)"), "'procedual'", "'procedural'")
