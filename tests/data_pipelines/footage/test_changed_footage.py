"""What was recorded of footage is told from what is there now: the two are never mixed."""

import dataclasses
import io
import json
import os
import shutil

import pytest
from rich.console import Console

from data_pipelines import clip_format, recording
from data_pipelines.sources.footage.source import FootageSource
from helpers import made_footage
from helpers.made_footage import room
from helpers.walked_footage import RECORD, forget, make_walks, source_of


@pytest.fixture(autouse=True)
def anew():
    forget()


@pytest.fixture
def walks(tmp_path):
    return make_walks(tmp_path / "walks")


def test_footage_that_was_replaced_is_not_mixed_in(walks, tmp_path):
    out = tmp_path / "out"
    first = recording.record(source_of(walks), out, "train", None, **RECORD)
    first.shards[-1].unlink()
    picture = next((walks / "b").rglob("*.png"))
    data = picture.read_bytes()
    picture.write_bytes(data + b"longer")
    forget()
    name = picture.relative_to(walks).as_posix()
    with pytest.raises(
        ValueError, match=rf"{name}: found {len(data) + 6:,} bytes, expected {len(data):,}, and 0"
    ):
        recording.record(source_of(walks), out, "train", None, **RECORD)
    # Brought back, the time alone is another: that is said.
    picture.write_bytes(data)
    os.utime(picture, ns=(1, 1))
    forget()
    console = Console(file=io.StringIO(), width=300)
    report = recording.record(source_of(walks), out, "train", None, **RECORD, console=console)
    assert report.clips == 6
    assert f"{name} was written to or copied (0 files changed in size or gone, 1 in time" in (
        console.file.getvalue()
    )
    # A finished recording is what it is: nothing is mixed.
    picture.write_bytes(data + b"longer")
    forget()
    recording.record(source_of(walks), out, "train", None, **RECORD, console=console)
    assert "(1 files changed in size or gone, 0 in time" in console.file.getvalue()


def test_each_split_is_compared_with_what_it_was_recorded_from(walks, tmp_path):
    """As `mirage record` does: held-out clips first, whose recording is finished."""
    out, source = tmp_path / "out", FootageSource(str(walks), size=16, frames=6, eval_share=0.25)

    def record(split):
        forget()
        console = Console(file=io.StringIO(), width=300)
        report = recording.record(source, out, split, None, **RECORD, console=console)
        return report, console.file.getvalue()

    record("eval")
    first, _ = record("train")
    first.shards[-1].unlink()
    scene = source.worlds("train")[-1].split("/")[0]
    picture = next((walks / scene).rglob("*.png"))
    data = picture.read_bytes()
    picture.write_bytes(data + b"longer")
    assert "1 files changed in size or gone" in record("eval")[1]
    for _ in range(2):  # the refusal changes nothing
        with pytest.raises(
            ValueError, match=rf"{picture.name}: found {len(data) + 6:,} .*since 'train' was"
        ):
            record("train")
    # Of a split without any shard nothing is mixed: it is recorded from what is there now.
    for shard in first.shards[:-1]:
        shard.unlink()
    report, said = record("train")
    assert report.clips == first.clips and "finished shards are kept" not in said
    report.shards[0].unlink()
    assert record("train")[0].resumed == len(first.shards) - 1
    noted = json.loads((out / "footage.json").read_text())["splits"]
    name = picture.relative_to(walks).as_posix()
    assert noted["eval"][name][0] == len(data) and noted["train"][name][0] == len(data) + 6


def names_in(report):
    return [
        clip_format.from_bytes(data).name
        for shard in report.shards
        for data in recording.read_records(shard)
    ]


@pytest.mark.parametrize("count", [None, 5])
def test_scenes_that_come_or_go_are_not_mixed_in(walks, tmp_path, count):
    """The plan depends on all scenes: with another one, other clips go into every shard."""
    out, source = tmp_path / "out", source_of(walks)
    first = recording.record(source, out, "train", count, **RECORD)
    names = names_in(first)
    first.shards[2].unlink()
    forget()
    made_footage.colmap(walks / "aa", room())
    message = (
        r"out: split 'train': footage has changed since it was recorded: scene aa/room is new; "
        "expected the same scenes"
    )
    for attempt in (recording.check, recording.record):
        options = RECORD if attempt is recording.record else {"shard_clips": 1}
        with pytest.raises(ValueError, match=message):
            attempt(source, out, "train", count, **options)
    shutil.rmtree(walks / "aa")
    (walks / "b").rename(walks / "bb")
    forget()
    with pytest.raises(ValueError, match=r"scene bb/room is new, scene b/room is gone; expected"):
        recording.record(source, out, "train", count, **RECORD)
    # Brought back, it goes on, to the same clips.
    (walks / "bb").rename(walks / "b")
    forget()
    again = recording.record(source, out, "train", count, **RECORD)
    assert again.resumed == len(first.shards) - 1 and names_in(again) == names
    assert len(set(names)) == len(names) == (count or 6)
    # Another number of clips is not blamed on the footage.
    with pytest.raises(
        ValueError, match=r"recorded with count=\d, found count=3; expected the same"
    ):
        recording.record(source, out, "train", 3, **RECORD)


def test_clips_that_are_added_to_a_scene_are_told(walks, tmp_path):
    first = recording.record(source_of(walks), tmp_path / "out", "train", 5, **RECORD)
    first.shards[0].unlink()
    shutil.rmtree(walks / "c")
    made_footage.colmap(walks / "c", room(18))
    forget()
    with pytest.raises(
        ValueError, match=r"changed .*: scene c/room: found 3 clips, expected 2; exp"
    ):
        recording.record(source_of(walks), tmp_path / "out", "train", 5, **RECORD)


def test_where_no_shard_is_left_the_footage_may_be_another(walks, tmp_path):
    out = tmp_path / "out"
    for shard in recording.record(source_of(walks), out, "train", None, **RECORD).shards:
        shard.unlink()
    made_footage.colmap(walks / "aa", room())
    forget()
    report = recording.record(source_of(walks), out, "train", None, **RECORD)
    assert (report.clips, report.resumed) == (8, 0) and len(set(names_in(report))) == 8
    plan = json.loads((out / "dataset.json").read_text())["splits"]["train"]["plan"]
    assert plan["worlds"] == {"a/room": 2, "aa/room": 2, "b/room": 2, "c/room": 2}


def test_recordings_of_before_plans_were_noted_go_on(walks, tmp_path):
    out = tmp_path / "out"
    first = recording.record(source_of(walks), out, "train", 5, **RECORD)
    card = json.loads((out / "dataset.json").read_text())
    assert len(card["splits"]["train"].pop("plan")["sha256"]) == 64
    (out / "dataset.json").write_text(json.dumps(card))
    first.shards[2].unlink()
    forget()
    assert recording.record(source_of(walks), out, "train", 5, **RECORD).resumed == 4
    card["splits"]["train"]["plan"] = {"sha256": "0", "worlds": {"a": "2"}}
    (out / "dataset.json").write_text(json.dumps(card))
    with pytest.raises(
        ValueError, match=r"dataset\.json: splits\.train\.plan: found \{'sha256'.*, exp"
    ):
        recording.record(source_of(walks), out, "train", 5, **RECORD)


@pytest.mark.parametrize("workdir", ["runs/x", "."])
def test_a_work_directory_inside_the_footage_is_no_footage(walks, workdir):
    out = walks / workdir / "worlds" / "footage"
    before = source_of(walks).files(out)
    assert all(name.split("/")[0] in "abc" for name in before)
    for resumed in (0, 5, 5):
        forget()
        first = recording.record(source_of(walks), out, "train", None, **RECORD)
        assert (first.clips, first.resumed) == (6, resumed)
        first.shards[-1].unlink()
        (out.parent / "skipped.json").write_text(f'{{"a": "{resumed}"}}')
        metrics = walks / workdir / "training" / "denoiser" / "metrics.csv"
        metrics.parent.mkdir(parents=True, exist_ok=True)
        metrics.write_text("1" * resumed)
    assert source_of(walks).files(out) == before
    # Of other recordings nothing is footage either, whatever lies beside their shards.
    other = walks / "other"
    recording.record(source_of(walks), other, "train", None, **RECORD)
    made_footage.colmap(other / "copy", room())
    forget()
    assert source_of(walks).files(out) == before
    assert source_of(walks).scenes() == ("a/room", "b/room", "c/room")
    # Data sets of other projects have a dataset.json as well.
    (walks / "b" / "dataset.json").write_text('{"count": 3, "ids": []}')
    forget()
    assert source_of(walks).scenes() == ("a/room", "b/room", "c/room")
    assert source_of(walks).files(out).keys() == before.keys() | {"b/dataset.json"}


@pytest.mark.parametrize("name", ["walks", "renamed"])
def test_footage_that_was_moved_is_gone_on_with(walks, tmp_path, name):
    out, moved = tmp_path / "out", tmp_path / "elsewhere" / name
    first = recording.record(source_of(walks), out, "train", None, **RECORD)
    names = names_in(first)
    first.shards[-1].unlink()
    moved.parent.mkdir()
    walks.rename(moved)
    forget()
    again = recording.record(source_of(moved), out, "train", None, **RECORD)
    assert (again.resumed, names_in(again)) == (5, names)
    # Other options are others, and other files of the same names are refused by what they are.
    with pytest.raises(ValueError, match=r"recorded with options=\{'size': 16\}, found .*: 24\}"):
        recording.record(dataclasses.replace(source_of(moved), size=24), out, "train", None)
    other = make_walks(tmp_path / "other")
    picture = next((other / "b").rglob("*.png"))
    picture.write_bytes(picture.read_bytes() + b"longer")
    again.shards[0].unlink()
    forget()
    with pytest.raises(ValueError, match=rf"{picture.name}: found .* bytes, expected"):
        recording.record(source_of(other), out, "train", None, **RECORD)


def test_a_single_scene_is_called_by_its_folder_and_not_mixed_with_one_of_another_name(tmp_path):
    out, before, after = tmp_path / "out", tmp_path / "before" / "walk", tmp_path / "after" / "walk"
    made_footage.colmap(before, room(18))
    first = recording.record(source_of(before / "room"), out, "train", None, **RECORD)
    first.shards[-1].unlink()
    before.parent.rename(after.parent)
    forget()
    again = recording.record(source_of(after / "room"), out, "train", None, **RECORD)
    assert (again.clips, again.resumed, again.rejected) == (3, 2, 0)
    again.shards[-1].unlink()
    (after / "room").rename(after / "hall")
    forget()
    with pytest.raises(ValueError, match="scene hall is new, scene room is gone"):
        recording.record(source_of(after / "hall"), out, "train", None, **RECORD)


def test_without_a_note_of_the_files_another_folder_is_other_footage(walks, tmp_path):
    out = tmp_path / "out"
    recording.record(source_of(walks), out, "train", None, **RECORD)
    (out / "footage.json").unlink()
    walks.rename(tmp_path / "moved")
    with pytest.raises(ValueError, match=r"recorded with options=\{'root': '.*walks'\}, found"):
        recording.record(source_of(tmp_path / "moved"), out, "train", None, **RECORD)


def test_recordings_of_before_splits_were_noted_apart_go_on(walks, tmp_path):
    out = tmp_path / "out"
    first = recording.record(source_of(walks), out, "train", None, **RECORD)
    path = out / "footage.json"
    noted = json.loads(path.read_text())
    older = {"files": noted["splits"]["train"], "survey": noted["survey"]}
    path.write_text(json.dumps({"format": "mirage-footage-1", **older}))
    first.shards[-1].unlink()
    forget()
    assert recording.record(source_of(walks), out, "train", None, **RECORD).resumed == 5
    next((walks / "b").rglob("*.png")).write_bytes(b"1")
    first.shards[-1].unlink()
    forget()
    with pytest.raises(ValueError, match="found 1 bytes"):
        recording.record(source_of(walks), out, "train", None, **RECORD)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "mirage-footage-9"}, "format: found 'mirage-footage-9', expected mirage-foo"),
        ({"splits": [1]}, r"splits: found \[1\], expected files of named splits"),
        ({"splits": {"train": 1}}, r"splits\.train: found 1, expected \[bytes, time\] of named"),
        ({"splits": {"train": {"a": [1]}}}, r"splits\.train: found 'a': \[1\], expected \[bytes,"),
        ({"survey": 3}, "survey: found 3, expected an object"),
        ({"survey_of": None}, "survey_of: found None, expected a digest"),
        (
            {"format": "mirage-footage-1", "files": {"a": [1]}},
            r"files: found 'a': \[1\], expected \[bytes, time\]",
        ),
    ],
)
def test_a_damaged_note_of_the_files_names_the_field(walks, tmp_path, change, message):
    source, path = source_of(walks), tmp_path / "footage.json"
    good = {"format": "mirage-footage-2", "splits": {}, "survey": {}, "survey_of": ""}
    path.write_text(json.dumps(good))
    recording.originals.recall_survey(source, tmp_path)
    path.write_text(json.dumps(good | change))
    with pytest.raises(ValueError, match=rf"footage\.json: {message}"):
        recording.originals.recall_survey(source, tmp_path)
    path.write_text("[]")
    with pytest.raises(ValueError, match=r"footage\.json"):
        recording.originals.recall_survey(source, tmp_path)
