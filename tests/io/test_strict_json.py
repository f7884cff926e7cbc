"""What the json module lets pass is refused; all else is read as it reads it."""

import json
import re

import pytest

from mirage_jax.io.strict_json import parse_json, parse_object, read_object


@pytest.mark.parametrize("text", ['{"a": [1, 2.5, null, true, "ü"]}', "[]", "3", '"x"'])
def test_reads_what_json_reads(text):
    assert parse_json(text) == json.loads(text) == parse_json(text.encode())


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("NaN", "found NaN"),
        ('{"a": -Infinity}', "found -Infinity"),
        ('{"a": 1, "b": {"c": 1, "c": 2}}', "name 'c': found twice"),
        ("[" * 100_000, "too deep"),
        (b"\xff\xfe{", "."),
        ("{", "."),
        ("", "."),
        ("1" * 5000, "."),
    ],
)
def test_refuses_all_else_with_a_value_error(text, message):
    with pytest.raises(ValueError, match=message):
        parse_json(text)


def test_an_object_is_asked_for(tmp_path):
    with pytest.raises(ValueError, match="found list, expected a JSON object"):
        parse_object("[1]")
    path = tmp_path / "a.json"
    path.write_text("[1]")
    with pytest.raises(ValueError, match=re.escape(str(path))):
        read_object(path)
    with pytest.raises(FileNotFoundError):
        read_object(tmp_path / "b.json")
