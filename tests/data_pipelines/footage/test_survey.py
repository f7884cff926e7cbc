"""Footage is looked through once; what was recorded of it is told from what is there now."""

import io
import json
import os
import shutil

import pytest
from rich.console import Console

from data_pipelines import clip_format, recording
from data_pipelines.sources.footage import source as footage
from data_pipelines.sources.footage import survey
from data_pipelines.sources.footage.files import released_tests
from data_pipelines.sources.footage.source import FootageSource
from data_pipelines.sources.footage.survey import Kept
from helpers import made_footage
from helpers.made_footage import room

RECORD = {"workers": 0, "progress": False, "shard_clips": 1}


@pytest.fixture(autouse=True)
def anew():
    forget()


def forget():
    """As another process begins."""
    survey._recalled.clear()
    for function in vars(footage).values():
        if hasattr(function, "cache_clear"):
            function.cache_clear()


@pytest.fixture
def walks(tmp_path):
    root = tmp_path / "walks"
    for name in ("a", "b", "c"):
        made_footage.colmap(root / name, room())
    return root


def source_of(root):
    return FootageSource(root=str(root), size=16, frames=6, eval_share=0.0)


def opened(monkeypatch):
    """Names of the scenes that are opened from here on."""
    names = []
    real = footage._reader

    def reader(source):
        module = real(source)

        class Told:
            scenes = staticmethod(module.scenes)

            @staticmethod
            def open_scene(root, name, options):
                names.append(name)
                return module.open_scene(root, name, options)

        return Told

    monkeypatch.setattr(footage, "_reader", reader)
    return names


def test_a_recording_that_goes_on_opens_what_it_records_alone(walks, tmp_path, monkeypatch):
    source, out = source_of(walks), tmp_path / "out"
    first = recording.record(source, out, "train", None, **RECORD)
    assert first.clips == 6
    first.shards[-1].unlink()
    forget()
    names = opened(monkeypatch)
    again = recording.record(source_of(walks), out, "train", None, **RECORD)
    assert (again.clips, again.resumed) == (6, 5)
    assert len(set(names)) == 1, names
    # Other options, or another file, and all is looked through anew.
    forget()
    recording.originals.recall_survey(FootageSource(root=str(walks), size=24), out)
    assert not survey._recalled
    (walks / "a" / "room" / "notes.txt").write_text("new")
    recording.originals.recall_survey(source_of(walks), out)
    assert not survey._recalled


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


def test_frames_that_are_left_out_are_in_the_card(walks, tmp_path):
    next((walks / "b").rglob("*.png")).unlink()
    source = FootageSource(root=str(walks), size=16, frames=3, eval_share=0.0, missing="skip")
    recording.record(source, tmp_path / "out", "train", None, **RECORD)
    card = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert source.left_out() and card["splits"]["train"]["frames_left_out"] == source.left_out()


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


def test_a_survey_is_not_recalled_for_other_files_than_it_is_of(walks, tmp_path):
    out, source = tmp_path / "out", source_of(walks)
    recording.record(source, out, "train", None, **RECORD)
    path = out / "footage.json"
    noted, now = json.loads(path.read_text()), source.files(out)
    assert noted["splits"] == {"train": now}
    recording.originals.recall_survey(source, out)
    assert survey.recalled(source).scenes == ("a/room", "b/room", "c/room")
    # What a split was recorded from may be there again, while the survey is of what came between.
    forget()
    path.write_text(json.dumps(noted | {"survey_of": "0" * 64}))
    recording.originals.recall_survey(source, out)
    assert survey.recalled(source) is None


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


def test_a_survey_of_another_form_is_not_recalled(walks):
    source = source_of(walks)
    good = source.survey()
    spoilt = [
        {"scenes": None},
        {"scenes": [*good["scenes"], "other"]},
        {"worlds": {**good["worlds"], "a/room": [1, None]}},
        {"worlds": {**good["worlds"], "a/room": ["1", {}]}},
        {"options": {}},
    ]
    for change in spoilt:
        source.recall(good | change)
        assert survey.recalled(source) is None
    source.recall(good)
    assert survey.recalled(source).scenes == source.scenes()


def test_a_folder_of_many_files_is_one_entry(tmp_path):
    many = tmp_path / "frames"
    many.mkdir()
    for number in range(1001):
        (many / f"{number}.png").write_bytes(b"12")
    (tmp_path / "cameras.txt").write_text("three")
    found = survey.files_below(tmp_path, tmp_path / "out")
    assert [(name, size) for name, (size, _) in found.items()] == [
        ("cameras.txt", 5),
        ("frames/ (1001 files)", 2002),
    ]


def test_what_is_kept_is_bounded_by_what_it_weighs():
    asked = []

    def make(source, name):
        asked.append(name)
        return "x" * int(name)

    kept = Kept(make, len, 10)
    assert [len(kept(0, name)) for name in ("4", "5", "4", "3", "4", "5")] == [4, 5, 4, 3, 4, 5]
    assert asked == ["4", "5", "3", "5"]
    assert len(kept(0, "50")) == 50 and len(kept) == 1


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (("train/a", "train/b", "test/c"), ("test/c",)),
        (("re10k/train/a", "re10k/test/b", "acid/test/c"), ("re10k/test/b",)),
        (("test/a", "test/b"), ()),
        (("train", "test"), ()),
        (("a/train/x", "b/test/y"), ()),
    ],
)
def test_what_a_data_set_tests_with_is_told_by_its_folders(names, expected):
    assert released_tests(names) == expected


def test_scenes_of_a_test_folder_are_held_out(tmp_path):
    for name in ("train/a", "train/b", "train/c", "test/d", "test/e"):
        made_footage.colmap(tmp_path / name, room())
    source = FootageSource(root=str(tmp_path), size=16, frames=6, eval_share=0.4)
    held_out = source.worlds("eval")
    assert {name.split("/")[0] for name in held_out} == {"test"} and len(held_out) == 2
    assert {name.split("/")[0] for name in source.worlds("train")} == {"train"}
