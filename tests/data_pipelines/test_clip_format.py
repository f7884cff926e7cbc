"""Stored clips: what survives, what is refused, and what older and newer versions wrote."""

import dataclasses
import json
import re
import zlib
from pathlib import Path

import numpy as np
import pytest
from safetensors import deserialize
from safetensors.numpy import load as load_safetensors

from data_pipelines import clip_format
from data_pipelines.clip import FIELDS, PARTS, Clip, Extra, StoredTensor, validate
from data_pipelines.clip_codecs import U16
from data_pipelines.clip_format import decode, from_bytes, to_bytes
from helpers import paths
from helpers.made_clips import bare, make_clip, make_full_clip

FIRST_FORMAT = paths.GOLDEN.joinpath("clip_1", "clip.safetensors")  # written by the first version
BASE = make_clip()
FULL = make_full_clip()


def assert_same(one: Clip, other: Clip):
    for name in PARTS:
        a, b = one.part(name), other.part(name)
        assert (a is None) == (b is None), name
        if a is not None:
            assert a.dtype == b.dtype, name
            np.testing.assert_array_equal(a, b)
    for field in (*clip_format.META_FIELDS, "extra"):
        a, b = getattr(one, field), getattr(other, field)
        assert a == b and type(a) is type(b), field
    if one.bodies is not None:
        assert (one.bodies.kinds, one.bodies.looks) == (other.bodies.kinds, other.bodies.looks)


def unpacked(data):
    """Header entries, our part of the header, and the tensors' bytes, as the format has them."""
    length = int.from_bytes(data[:8], "little")
    entries = json.loads(data[8 : 8 + length])
    return entries, json.loads(entries["__metadata__"]["clip"]), data[8 + length :]


def packed(entries, header, payload):
    text = json.dumps(entries | {"__metadata__": {"clip": json.dumps(header)}}).encode()
    return len(text).to_bytes(8, "little") + text + payload


def with_header(data, **changes):
    entries, header, payload = unpacked(data)
    return packed(entries, header | changes, payload)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 5), (5, 8, 8)])
@pytest.mark.parametrize("change", [lambda clip: clip, bare], ids=["rendered", "bare"])
def test_round_trip_is_exact_and_writable(shape, change):
    clip = change(make_clip(*shape, seed=shape[0]))
    back = from_bytes(to_bytes(clip))
    assert_same(back, clip)
    assert all(back.part(n).flags.writeable for n in PARTS if back.part(n) is not None)


def test_round_trip_of_every_part():
    assert {field.name for field in dataclasses.fields(Clip)} == {*FIELDS, "extra"}
    assert all(getattr(FULL, field) is not None for field in FIELDS)
    back = from_bytes(to_bytes(FULL))
    assert_same(back, FULL)
    validate(back)


def test_no_bodies_at_all_differ_from_bodies_unknown():
    none = {name.removeprefix("bodies."): FULL.part(name) for name in PARTS if "bodies." in name}
    for name, array in none.items():
        axis = PARTS[f"bodies.{name}"].axes.split().index("N")
        none[name] = np.take(array, [], axis)
    bodies = dataclasses.replace(FULL.bodies, kinds=(), looks=(), **none)
    clip = validate(dataclasses.replace(BASE, bodies=bodies))
    assert len(from_bytes(to_bytes(clip)).bodies.ids) == 0
    assert from_bytes(to_bytes(BASE)).bodies is None


def test_equal_clips_have_equal_bytes():
    assert len({to_bytes(make_full_clip()) for _ in range(20)}) == 1
    turned = dict(reversed(FULL.provenance.items()))
    assert to_bytes(dataclasses.replace(FULL, provenance=turned)) == to_bytes(FULL)


def test_stored_clips_are_plain_safetensors():
    tensors = load_safetensors(to_bytes(FULL))
    for name in PARTS:
        np.testing.assert_array_equal(tensors[name], FULL.part(name))
    entries, _, _ = unpacked(to_bytes(FULL))
    assert list(entries["__metadata__"]) == ["clip"]  # several have no fixed order
    for name in PARTS:  # numbers lie at multiples of their size
        assert entries[name]["data_offsets"][0] % FULL.part(name).itemsize == 0


def test_decode_returns_only_what_was_asked_for():
    record = decode(to_bytes(BASE), ("world", "depth"))
    assert list(record) == ["world", "depth"]
    np.testing.assert_array_equal(record["depth"], BASE.depth)
    with pytest.raises(ValueError, match="colour"):
        decode(to_bytes(BASE), ("colour",))


@pytest.mark.parametrize("field", ["depth", "mover_ids", "times", "bodies", "seed", "caption"])
def test_decode_names_what_is_missing(field):
    data = to_bytes(bare(BASE))
    with pytest.raises(ValueError, match=f"clip {BASE.name!r}, {field}: found none"):
        decode(data, ("video", field))
    assert decode(data, ("name", field), missing_ok=True) == {"name": BASE.name, field: None}


def test_damaged_bytes_are_refused():
    data = to_bytes(BASE)
    for length in (0, 5, 40, len(data) // 2, len(data) - 1):
        with pytest.raises(ValueError, match="clip"):
            from_bytes(data[:length])
    with pytest.raises(ValueError, match="not a stored clip"):
        from_bytes(b"\x10" + bytes(7) + b"not json at all!" + bytes(99))
    with pytest.raises(ValueError, match="format"):
        from_bytes(data.replace(b"mirage-clip-2", b"mirage-clip-9"))


@pytest.mark.parametrize("name", PARTS)
def test_a_changed_byte_is_noticed_in_the_part_it_is_in(name):
    data = bytearray(to_bytes(FULL))
    entries, header, payload = unpacked(data)
    begin, end = entries[name]["data_offsets"]
    assert header["crc32"][name] == zlib.crc32(payload[begin:end])
    data[len(data) - len(payload) + end - 1] ^= 1
    field = name.split(".")[0]
    with pytest.raises(ValueError, match=f"clip {FULL.name!r}, {name}: damaged"):
        from_bytes(bytes(data))
    with pytest.raises(ValueError, match="damaged"):
        decode(bytes(data), (field,))
    decode(bytes(data), (field,), verify=False)
    decode(bytes(data), tuple(set(FIELDS) - {field}))


def test_clips_of_the_first_version_are_read():
    data = FIRST_FORMAT.read_bytes()
    assert b"mirage-clip-1" in data and b"crc32" not in data
    clip = validate(from_bytes(data))
    assert_same(clip, make_clip(5, 8, 8, seed=7))
    assert clip_format.read_header(data)["shape"] == [5, 8, 8]
    again = to_bytes(clip)
    assert b"mirage-clip-2" in again
    assert_same(from_bytes(again), clip)


def test_what_a_newer_version_added_survives_rewriting():
    entries, header, payload = unpacked(to_bytes(FULL))
    extra = bytes(range(12))
    where = [len(payload), len(payload) + 12]
    # A dtype that numpy lacks, and a codec that nobody here knows.
    entries["flow"] = {"dtype": "F8_E5M2", "shape": [3, 4], "data_offsets": where}
    header["codecs"]["flow"] = {"name": "wavelet", "levels": 3}
    header["crc32"]["flow"] = zlib.crc32(extra)
    header["weather"] = {"sky": "grey", "wind": [1, 2.5]}
    clip = from_bytes(packed(entries, header, payload + extra))
    assert clip.extra == Extra(
        {"flow": StoredTensor("F8_E5M2", (3, 4), extra, {"name": "wavelet", "levels": 3})},
        {"weather": {"sky": "grey", "wind": [1, 2.5]}},
    )
    edited = dataclasses.replace(clip, caption="another corridor")
    rewritten = to_bytes(validate(edited))
    entries, header, payload = unpacked(rewritten)
    begin, end = entries["flow"]["data_offsets"]
    assert (entries["flow"]["dtype"], entries["flow"]["shape"]) == ("F8_E5M2", [3, 4])
    assert payload[begin:end] == extra
    assert header["codecs"]["flow"] == {"name": "wavelet", "levels": 3}
    assert header["crc32"]["flow"] == zlib.crc32(extra)
    assert header["weather"] == {"sky": "grey", "wind": [1, 2.5]}
    assert {name for name, _ in deserialize(rewritten)} == {*PARTS, "flow"}
    assert_same(from_bytes(rewritten), edited)
    with pytest.raises(ValueError, match=r"extra: found \['world'\]"):
        to_bytes(dataclasses.replace(clip, extra=Extra(header={"world": "?"})))


def test_codecs_are_said_in_the_header_and_undone():
    data = to_bytes(FULL, {"depth": U16(scale=0.001)})
    described = clip_format.read_header(data)["codecs"]
    assert set(described) == {"depth"} and described["depth"]["name"] == "u16"
    assert load_safetensors(data)["depth"].dtype == np.uint16
    back = from_bytes(data)
    validate(back)
    finite = np.isfinite(FULL.depth)
    worst = np.abs(back.depth[finite].astype(float) - FULL.depth[finite]).max()
    assert 0 < worst == described["depth"]["error"] <= 0.000501
    assert_same(dataclasses.replace(back, depth=FULL.depth), FULL)


def test_parts_that_do_not_have_the_shape_of_the_clip_are_refused():
    data = with_header(to_bytes(BASE), shape=[4, 4, 6])
    with pytest.raises(ValueError, match=r"depth: found \[3, 4, 6\], expected .* of \[4, 4, 6\]"):
        decode(data, ("depth",))
    entries, header, payload = unpacked(to_bytes(BASE))
    entries["depth"]["shape"] = [3, 24]
    with pytest.raises(ValueError, match=r"depth: found \[3, 24\], expected \[T, H, W\]"):
        from_bytes(packed(entries, header, payload))
    entries["depth"]["shape"] = [3, 25]
    with pytest.raises(ValueError, match="depth: cannot be decoded"):
        from_bytes(packed(entries, header, payload))


def test_the_example_of_the_documentation_runs(capsys):
    page = (Path(__file__).parents[2] / "docs" / "formats" / "clip-2.md").read_text()
    exec(re.search(r"```python\n(.*?)```", page, re.DOTALL)[1], {})
    assert "'name': 'u16', 'scale': 0.001" in capsys.readouterr().out
    rows = set(re.findall(r"^\| ([\w.]+) \| (\w+) \| ([TNHW0-9 ]+) \|", page, re.MULTILINE))
    assert rows == {(n, str(np.dtype(part.dtype)), part.axes) for n, part in PARTS.items()}


def test_codecs_that_do_not_fit_are_refused():
    data = with_header(to_bytes(BASE), codecs={"depth": {"name": "zfp"}})
    with pytest.raises(ValueError, match=r"depth: found codec 'zfp', expected one of raw, u16"):
        from_bytes(data)
    decode(data, ("video",))
    data = with_header(to_bytes(BASE), codecs={"depth": {"name": "u16"}})
    with pytest.raises(ValueError, match=r"depth: cannot be decoded .*scale"):
        from_bytes(data)
    with pytest.raises(ValueError, match=r"video: found codec 'u16', which stores depth only"):
        to_bytes(BASE, {"video": U16()})
    with pytest.raises(ValueError, match=r"clip .*, depth: codec 'u16': found .* m, expected"):
        to_bytes(BASE, {"depth": U16(scale=1e-6)})
    with pytest.raises(ValueError, match=r"codecs: found \['deep'\]"):
        to_bytes(BASE, {"deep": U16()})


def test_a_header_without_what_every_clip_has_is_refused():
    entries, header, payload = unpacked(to_bytes(BASE))
    del header["world"]
    with pytest.raises(ValueError, match="lacks world"):
        from_bytes(packed(entries, header, payload))
    entries, header, payload = unpacked(to_bytes(FULL))
    del header["bodies.looks"]
    with pytest.raises(ValueError, match=r"bodies: found no bodies\.looks"):
        from_bytes(packed(entries, header, payload))
