import dataclasses
import json
import struct

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers import paths
from mirage_jax.explore import protocol
from mirage_jax.settings import meanings


def message(**fields):
    return json.dumps(fields)


@pytest.mark.parametrize("name", protocol.MESSAGES)
def test_every_message_can_be_sent_with_its_defaults_and_says_what_it_means(name):
    kind = protocol.MESSAGES[name]
    assert protocol.parse(message(type=name)) == kind()
    assert kind.__doc__
    fields = [field.name for field in dataclasses.fields(kind)]
    assert sorted(meanings(kind)) == sorted(fields)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Expecting value"),
        ("[]", "expected a JSON object"),
        ("[" * 2000, ""),
        (message(type="shell"), "type: found 'shell'"),
        (message(type=["undo"]), "type"),
        (message(), "type"),
        (message(type="undo", steps=0), "undo.steps: found 0, expected >= 1"),
        (message(type="undo", steps=1e3), "undo."),
        (message(type="undo", steps=True), "undo."),
        (message(type="undo", path="/etc/passwd"), "undo.path"),
        (message(type="controls", forward=1.01), "controls.forward"),
        ('{"type": "controls", "forward": NaN}', "NaN"),
        ('{"type": "controls", "forward": 1e999}', "controls.forward"),
        (message(type="controls", forward="1"), "controls."),
        (message(type="edit", operation="pin"), "edit.operation"),
        (message(type="edit", x=1e9), "edit.x"),
        (message(type="export", kind="../../x"), "export.kind"),
        (message(type="load", world="a" * 5000), "expected at most 4096"),
        ('{"type": "undo", "type": "redo"}', "twice"),
    ],
)
def test_what_is_wrong_is_refused_by_its_field(text, said):
    with pytest.raises(ValueError) as error:
        protocol.parse(text)
    assert said in str(error.value)


FIELDS = [(n, f.name) for n, kind in protocol.MESSAGES.items() for f in dataclasses.fields(kind)]
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
)


@settings(max_examples=30, deadline=None)
@given(st.floats(-2, 2) | st.integers(-2, 9) | VALUES, st.sampled_from(FIELDS))
def test_any_value_is_taken_or_refused(value, known):
    name, field = known
    text = json.dumps({"type": name, field: value})
    try:
        found = protocol.parse(text)
    except ValueError:
        return
    assert type(found) is protocol.MESSAGES[name]
    assert getattr(found, field) == value


def test_the_documentation_lists_every_message_with_its_fields():
    page = (paths.ROOT / "docs" / "explore.md").read_text()
    said = {}
    for line in page[page.index("From the page, JSON") :].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if len(cells) == 3:
            for name in cells[0].split(", "):
                fields = cells[1].split(", ")
                only = [f for f in fields if f"({name})" in f or "(" not in f]
                said[name] = [field.split(" ")[0] for field in only if field]
    for name, kind in protocol.MESSAGES.items():
        assert sorted(said[name]) == sorted(field.name for field in dataclasses.fields(kind)), name


def test_binary_messages_hold_their_pictures():
    pictures = [b"one", b"", bytes(range(256))]
    data = protocol.binary_message("frames", {"seq": 3}, pictures)
    (length,) = struct.unpack_from("<I", data)
    header = json.loads(data[4 : 4 + length])
    assert header == {"type": "frames", "seq": 3, "sizes": [3, 0, 256]}
    assert data[4 + length :] == b"".join(pictures)


def test_numbers_that_are_none_are_not_sent():
    with pytest.raises(ValueError, match="Out of range"):
        protocol.text_message("note", {"value": float(np.nan)})


def test_controls_that_hold_nothing_do_not_move():
    assert not protocol.Controls(seq=5).moves
    for name in protocol.MOVES:
        assert protocol.Controls(**{name: -0.001}).moves
