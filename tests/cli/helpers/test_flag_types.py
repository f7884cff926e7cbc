"""Flags that hold several paths: commas between them, and in them."""

import pytest

from mirage_jax.cli.helpers.flag_types import PathNames


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("", []),
        ("a", ["a"]),
        ("a,b", ["a", "b"]),
        ("with,comma.safetensors", ["with,comma.safetensors"]),
        ("a,with,comma.safetensors,b", ["a", "with,comma.safetensors", "b"]),
        ("with,other", ["with", "other"]),
    ],
)
def test_names_that_are_there_may_have_commas(tmp_path, monkeypatch, argument, expected):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "with,comma.safetensors").touch()
    (tmp_path / "a").touch()
    assert PathNames().parse(argument) == expected


def test_the_home_directory_may_be_short(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert PathNames().parse("~/a,~/b") == ["/home/somebody/a", "/home/somebody/b"]
