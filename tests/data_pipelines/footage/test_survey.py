"""Footage is looked through once, and what was found of it is taken for true as long as it is."""

import json

import pytest

from data_pipelines import recording
from data_pipelines.sources.footage import source as footage
from data_pipelines.sources.footage import survey
from data_pipelines.sources.footage.files import released_tests
from data_pipelines.sources.footage.source import FootageSource
from data_pipelines.sources.footage.survey import WeightedCache
from helpers import made_footage
from helpers.made_footage import room
from helpers.walked_footage import RECORD, forget, make_walks, source_of


@pytest.fixture(autouse=True)
def anew():
    forget()


@pytest.fixture
def walks(tmp_path):
    return make_walks(tmp_path / "walks")


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


def test_frames_that_are_left_out_are_in_the_card(walks, tmp_path):
    next((walks / "b").rglob("*.png")).unlink()
    source = FootageSource(root=str(walks), size=16, frames=3, eval_share=0.0, missing="skip")
    recording.record(source, tmp_path / "out", "train", None, **RECORD)
    card = json.loads((tmp_path / "out" / "dataset.json").read_text())
    assert source.left_out() and card["splits"]["train"]["frames_left_out"] == source.left_out()


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

    kept = WeightedCache(make, len, 10)
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
