"""Every flag of every command: numbers have a range, names of files know the home directory."""

import functools
import importlib

import pytest
from absl import flags

from helpers.paths import ROOT
from mirage_jax.cli.helpers.flag_types import Integer, Number, Numbers, PathName, PathNames, Real

TEXTS = {
    *("topology", "model", "host", "clip_scene", "prompt", "negative_prompt", "coordinator"),
    *("profile_steps", "camera", "region", "other_region"),
    *("keep_as", "add", "parent", "switch", "remove", "mesh"),
}
"""Flags of free text; every other one that takes any text names a file."""

LISTS = {
    *("branch_layers", "lora_strength", "videos", "host_names", "with", "video_size", "vae_tile"),
    *("memory_scale", "sizes", "passes", "split", "size", "intrinsics", "picture_size", "shift"),
}
"""Lists that their commands take apart; every other one is of numbers or of files."""


@functools.cache
def all_flags():
    """name -> flag, of all modules of commands."""
    found = {}
    for path in sorted((ROOT / "mirage_jax" / "cli").rglob("*.py")):
        module = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        importlib.import_module(module)
        defined = flags.FLAGS.flags_by_module_dict().get(module, [])
        found |= {flag.name: flag for flag in defined}
    assert len(found) > 100
    return found


def of_type(*words):
    return [flag for flag in all_flags().values() if flag.parser.flag_type() in words]


def test_no_command_takes_a_flag_from_another_that_was_imported_before():
    assert [flag.name for flag in all_flags().values() if flag.allow_override] == []


@pytest.mark.parametrize("word", ["nan", "inf", "-inf", "1e999", "many", ""])
def test_no_numeric_flag_takes_what_is_no_finite_number(word):
    for flag in of_type("int", "float"):
        assert isinstance(flag.parser, Number), flag.name
        with pytest.raises(ValueError, match=r"found .*, expected"):
            flag.parser.parse(word)


def test_numeric_flags_have_a_range_that_holds_their_default():
    for flag in of_type("int", "float"):
        if flag.name not in ("angle", "distance", "turn"):
            assert flag.parser.range, flag.name
            with pytest.raises(ValueError, match="expected"):
                flag.parser.parse("-2")
        if flag.default is not None:
            assert flag.parser.parse(str(flag.default)) == flag.default


def test_lists_of_numbers_check_each_of_them():
    lists = of_type("comma separated list of numbers")
    assert {"steps", "tiles", "loader_workers", "hidden_frames", "depth_errors"} <= {
        flag.name for flag in lists
    }
    for flag in lists:
        assert isinstance(flag.parser, Numbers) and flag.parser.range, flag.name
        for word in ("", "1,", "1,two", "1,nan", "1,-2", "1 2"):
            with pytest.raises(ValueError, match=r"found .*, expected"):
                flag.parser.parse(word)
        assert flag.parser.parse("1, 3") == [1, 3]
    assert Numbers(Integer(least=0)).range == "each >= 0" and not Numbers(Real()).range


def test_other_lists_and_texts_are_known():
    lists = of_type("comma separated list of strings")
    assert {flag.name for flag in lists if not isinstance(flag.parser, PathNames)} == LISTS
    texts = {flag.name for flag in of_type("string") if not isinstance(flag.parser, PathName)}
    assert texts == TEXTS


def test_every_flag_that_names_a_file_knows_the_home_directory(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    for flag in all_flags().values():
        if isinstance(flag.parser, PathName):
            assert flag.parser.parse("~/a") == "/home/someone/a", flag.name
        if isinstance(flag.parser, PathNames):
            assert flag.parser.parse("~/a,b") == ["/home/someone/a", "b"], flag.name
