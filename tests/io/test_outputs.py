"""What may be written over, by what files hold and where paths lead."""

import json
import os
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from mirage_jax.io import outputs

OURS = outputs.json_kind("list", ["made_by_us"])


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "ours.json").write_text('{"made_by_us": 1, "more": 2}')
    (tmp_path / "theirs.json").write_text('{"name": "my-package"}')
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "empty.json").touch()
    (tmp_path / "folder.json").mkdir()
    (tmp_path / "link.json").symlink_to(tmp_path / "ours.json")
    (tmp_path / "to_theirs.json").symlink_to(tmp_path / "theirs.json")
    (tmp_path / "dangling.json").symlink_to(tmp_path / "nowhere.json")
    os.link(tmp_path / "ours.json", tmp_path / "hard.json")
    return tmp_path


@pytest.mark.parametrize("name", ["new.json", "ours.json", "empty.json", "new/more/a.json"])
def test_new_names_and_our_own_files_may_be_written(folder, name):
    outputs.check_file("--out", folder / name, OURS, suffixes=(".json",))
    assert not (folder / "new").exists()


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("theirs.json", "theirs.json is there already and is no list that mirage_jax wrote; move"),
        ("to_theirs.json", "to_theirs.json is there already and is no list"),
        ("broken.json", "broken.json is there already and is no list"),
        ("dangling.json", "dangling.json is there already and is no list"),
        ("folder.json", "that is a folder, expected a list's name"),
        ("ours.json/more/a.json", "ours.json is no folder, expected another name"),
        ("a.txt", "found '.txt', expected .json"),
    ],
)
def test_what_is_not_ours_or_no_place_is_refused(folder, name, words):
    with pytest.raises(ValueError, match=f"^--out: .*{words}"):
        outputs.check_file("--out", folder / name, OURS, suffixes=(".json",))


@pytest.mark.parametrize(
    "name", ["ours.json", "link.json", "hard.json", "folder.json/../ours.json"]
)
def test_a_file_that_is_read_is_found_under_every_name(folder, name):
    reads = {"--other": folder / "new.json", "--in": folder / name}
    with pytest.raises(ValueError, match=r"ours.json, which --in reads, among what is written"):
        outputs.check_file("--out", folder / "ours.json", OURS, reads=reads)
    with pytest.raises(ValueError, match="which --in reads"):
        outputs.check_file("--out", folder / name, OURS, reads={"--in": folder / "ours.json"})


def test_folders_must_be_folders(folder):
    outputs.check_folder("--to", folder)
    outputs.check_folder("--to", folder / "new" / "more")
    for name in ("ours.json", "dangling.json"):
        with pytest.raises(ValueError, match=f"--to: .*{name} is no folder"):
            outputs.check_folder("--to", folder / name)


@pytest.mark.skipif(not Path("/proc/self").is_dir(), reason="only Linux has such a folder")
def test_a_folder_that_takes_no_files_is_found_whatever_its_permissions_say():
    # Root may write to it, by its mode; nobody can make a file in it.
    with pytest.raises(ValueError, match=r"--to: /proc may not be written to \(.+\)"):
        outputs.check_folder("--to", Path("/proc/new"))
    with pytest.raises(ValueError, match="--out: /proc may not be written to"):
        outputs.check_file("--out", Path("/proc/new.json"), OURS)


def test_a_name_that_leaves_no_room_for_a_temporary_one_is_found(folder):
    before = sorted(folder.iterdir())
    for name in ("x" * 250 + ".json", "ü" * 120 + ".json", "x" * 300 + ".json"):
        with pytest.raises(ValueError, match=rf"--out: found a name of {len(name.encode())} bytes"):
            outputs.check_file("--out", folder / name, OURS)
        with pytest.raises(ValueError, match="--to: found a name of"):
            outputs.check_folder("--to", folder / name)
    outputs.check_file("--out", folder / ("x" * 150 + ".json"), OURS)
    outputs.check_folder("--to", Path("."))
    assert sorted(folder.iterdir()) == before


@pytest.mark.parametrize(
    ("text", "ours"),
    [
        ('{"a": 1.5, "b": 2}', True),
        ("{}\n", True),
        ('{"a": "x"}', False),
        ("{", False),
        ("[]", False),
    ],
)
def test_maps_are_told_by_their_values(tmp_path, text, ours):
    (tmp_path / "map.json").write_text(text)
    kind = outputs.json_map_kind("map", int | float)
    assert kind.is_ours(tmp_path / "map.json") == ours


def test_headers_of_other_files_are_empty(folder):
    save_file({"a": np.zeros(2)}, folder / "a.safetensors", {"format": "pt"})
    assert outputs.safetensors_metadata(folder / "a.safetensors") == {"format": "pt"}
    (folder / "list.json").write_text(json.dumps([1]))
    for name in ("ours.json", "empty.json", "folder.json", "absent"):
        assert outputs.safetensors_metadata(folder / name) == {}
    for name in ("list.json", "a.safetensors", "folder.json", "absent"):
        assert outputs.json_fields(folder / name) == {}
