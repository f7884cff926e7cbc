"""Recordings of older clips, of clips that lack parts, and of parts stored by codecs."""

import json

import numpy as np
import pytest
from array_record.python import array_record_module
from PIL import Image

from data_pipelines import recording
from data_pipelines.clip_codecs import U16
from data_pipelines.clip_format import from_bytes, read_header
from data_pipelines.filters import Filters
from data_pipelines.recording import read_records, shards
from data_pipelines.sources.procedural import ProceduralSource
from helpers import paths
from helpers.made_clips import bare
from helpers.recordings import SMALL, quiet, records


def as_first_format(path, count):
    """Makes a recorded split one of the first format: its records, and what its card says."""
    clip = paths.GOLDEN.joinpath("clip_1", "clip.safetensors").read_bytes()
    for file in path.glob("*.array_record"):
        writer = array_record_module.ArrayRecordWriter(str(file), shards.WRITER_OPTIONS)
        for _ in range(count):
            writer.write(clip)
        writer.close()
    card = json.loads((path / "dataset.json").read_text())
    for entry in card["splits"].values():
        entry["clip_format"] = "mirage-clip-1"
        entry["options"]["rejected"] = "Counter()"
        for option in ("bodies", "skip", "skip_spread", "due"):
            del entry["options"][option]  # there was no such option
        del entry["codecs"]
    (path / "dataset.json").write_text(json.dumps(card))
    return card


def test_recordings_of_the_first_format_are_kept_and_never_mixed(tmp_path):
    source = ProceduralSource(**SMALL)
    first = quiet(source, tmp_path, count=2, shard_clips=1)
    card = as_first_format(tmp_path, count=1)
    before = records(tmp_path)
    # Finished, it is what it was, and another split beside it is of the new format.
    assert quiet(source, tmp_path, count=2, shard_clips=1).resumed == 2
    kept = json.loads((tmp_path / "dataset.json").read_text())["splits"]["train"]
    asked = ("clip_format", "options", "shards")
    assert {key: kept[key] for key in asked} == {key: card["splits"]["train"][key] for key in asked}
    assert "codecs" not in kept and records(tmp_path) == before
    held_out = quiet(source, tmp_path, "eval", 1)
    assert read_header(next(read_records(held_out.shards[0])))["format"] == "mirage-clip-2"
    # Unfinished, it is not gone on with.
    first.shards[0].unlink()
    with pytest.raises(ValueError, match="unfinished split 'train' of mirage-clip-1 clips, expect"):
        quiet(source, tmp_path, count=2, shard_clips=1)
    before.pop(first.shards[0].name)
    assert before.items() <= records(tmp_path).items()
    # Nor if the card is lost.
    (tmp_path / "dataset.json").unlink()
    with pytest.raises(ValueError, match="found mirage-clip-1 clips, expected mirage-clip-2"):
        quiet(source, tmp_path, count=2, shard_clips=1)
    # With none of its shards left, it is recorded anew.
    first.shards[1].unlink()
    (tmp_path / "dataset.json").write_text(json.dumps(card))
    assert quiet(source, tmp_path, count=2, shard_clips=1).clips == 2
    card = json.loads((tmp_path / "dataset.json").read_text())
    assert card["splits"]["train"]["clip_format"] == "mirage-clip-2"


class FootageSource(ProceduralSource):
    """Clips of which nothing is known that may be absent."""

    def clips(self, world, count, seed):
        return (bare(clip) for clip in super().clips(world, count, seed))


def test_what_was_recorded_before_there_were_filters_is_not_mixed_with_what_passed_them(tmp_path):
    source = ProceduralSource(**SMALL)
    first = quiet(source, tmp_path, count=2, shard_clips=1)
    card = json.loads((tmp_path / "dataset.json").read_text())
    del card["splits"]["train"]["filters"]
    (tmp_path / "dataset.json").write_text(json.dumps(card))
    # Finished, it is what it was.
    again = {"count": 2, "shard_clips": 1}
    assert quiet(source, tmp_path, **again, filters=Filters()).resumed == 2
    first.shards[1].unlink()
    with pytest.raises(ValueError, match=r"1 shards were recorded without filters.*apply=false"):
        quiet(source, tmp_path, **again, filters=Filters())
    assert quiet(source, tmp_path, **again, filters=Filters(apply=False)).clips == 2
    entry = json.loads((tmp_path / "dataset.json").read_text())["splits"]["train"]
    assert entry["filters"]["apply"] is False and entry["measures"]["blur"]["clips"] == 1


def test_clips_that_lack_parts_are_recorded(tmp_path):
    report = quiet(FootageSource(**SMALL), tmp_path, count=2)
    assert report.clips == 2
    stored = [from_bytes(data) for shard in report.shards for data in read_records(shard)]
    assert all(clip.depth is None and clip.mover_ids is None for clip in stored)
    with Image.open(tmp_path / "train.png") as sheet:  # the second row of each clip: no depth
        below = np.asarray(sheet)[14 + 96 : 14 + 2 * 96]
        assert (below == [40, 60, 160]).all()


def test_parts_are_stored_by_the_codecs_asked_for(tmp_path):
    source = ProceduralSource(**SMALL)
    quiet(source, tmp_path / "raw", count=2)
    quiet(source, tmp_path / "u16", count=2, codecs={"depth": U16(scale=0.001)})
    raw, u16 = records(tmp_path / "raw"), records(tmp_path / "u16")
    for file in raw:
        for one, other in zip(raw[file], u16[file], strict=True):
            assert read_header(other)["codecs"]["depth"]["scale"] == 0.001
            one, other = from_bytes(one), from_bytes(other)
            np.testing.assert_array_equal(one.video, other.video)
            assert 0 < np.abs(one.depth - other.depth).max() < 0.000501
    card = json.loads((tmp_path / "u16" / "dataset.json").read_text())
    assert card["splits"]["train"]["codecs"] == {"depth": {"name": "u16", "scale": 0.001}}
    # Depth beyond the codec's range is a clip refused, not a recording ended.
    with pytest.raises(recording.RecordingError, match="codec 'u16': found"):
        quiet(source, tmp_path / "near", count=1, codecs={"depth": U16(scale=1e-6)})
