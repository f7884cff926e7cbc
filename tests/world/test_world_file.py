"""World files: bit for bit there and back, and nothing damaged or too new is taken for whole.

Files are taken apart and put together with safetensors and zlib, not with the code under test.
"""

import contextlib
import dataclasses
import json
import os
import re
import resource
import struct
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors.numpy

import mirage_jax
from helpers import paths, tiny_world
from helpers.exhaustive import LONG
from helpers.tiny_world import CHANNELS, GRID, INTRINSICS, SIZE
from mirage_jax import memory, trajectories
from mirage_jax.memory import Keyframes, movers
from mirage_jax.origin import Origin
from mirage_jax.world import World, context_frames, rollout
from mirage_jax.world.world_file import (
    WORLD_FORMAT,
    Branch,
    CameraPath,
    Extras,
    WorldFile,
    load_world,
    read_world_file,
    save_world,
    write_world_file,
)
from mirage_jax.world.world_file.packing import _FIELD_OF
from mirage_jax.world.world_file.schema import MAY_BE_ZERO, PARTS

CAPACITY = 7
START = trajectories.make("orbit_right", 2, angle=30, distance=2)[-1]
FRAMES = 5
HEADER_CHECKSUM = "checksum/header"
LENGTHS = {"N": CAPACITY, "C": CHANNELS, "h": GRID[0], "w": GRID[1], "Q": 2, "P": 1,
           "M": 5, "K": 3, "V": 2, "a": 2, "b": 2, "T": 4, "F": FRAMES}  # fmt: skip
KINDS = {"BOOL": bool, "U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "I32": np.int32,
         "F32": np.float32, "F64": np.float64, "F8_E4M3": jnp.float8_e4m3fn}  # fmt: skip
CONTEXT = _FIELD_OF["context_frames"]


def drawn(spec, rng):
    shape = [LENGTHS.get(length, length) for length in spec.shape]
    dtype = np.dtype(jnp.dtype(spec.dtypes[0]))
    if dtype.kind == "b":
        return rng.integers(0, 2, shape).astype(bool)
    if dtype.kind in "iu":
        return np.asarray(rng.integers(0, 3, shape), dtype)
    return np.asarray(rng.normal(size=shape), dtype)


def make_world(seed=0, with_context=False):
    """Random numbers, but for the pose and the counters."""
    rng = np.random.default_rng(seed)

    def part(name, under=""):
        return {
            rest[len(under) :]: drawn(spec, rng)
            for rest, spec in PARTS[name].tensors.items()
            if rest.startswith(under)
        }

    bank = memory.LatentMemory(**part("static"))
    bank.tokens[0, :3] = -0.0, 1e-42, 3e38  # signs and denormals, too
    state = dict(part("rollout"), cam2world=np.float32(START), intrinsics=INTRINSICS)
    context = None
    if with_context:
        fields = part("context_frames")
        keyframes = Keyframes(**part("context_frames", "keyframes/"))
        names = [name for name in fields if "/" not in name]
        context = context_frames.create(1, GRID, CHANNELS, 1).replace(
            keyframes=keyframes, **{name: fields[name] for name in names}
        )
    return World(bank=bank, **state | {"frames": np.int32(FRAMES)}, **{CONTEXT: context})


ORIGIN = Origin((1e6 + 1 / 3, -2.5, 7e-9), 1234567.125, 1 / 16)


def make_file():
    """A file with everything there can be."""
    rng = np.random.default_rng(5)
    poses = trajectories.make("push_in", FRAMES, distance=1)
    path = CameraPath(poses, np.tile(INTRINSICS, (FRAMES, 1)), np.arange(FRAMES) / 16, SIZE)
    entities = {rest: drawn(spec, rng) for rest, spec in PARTS["entities"].tensors.items()}
    return WorldFile(
        world=make_world(with_context=True).replace(origin=ORIGIN),
        camera_path=path,
        entities=entities,
        branches=(
            Branch("at the door", 2, created_from="a mark"),
            Branch(
                "other way",
                3,
                "at the door",
                "an edit",
                make_world(1).replace(origin=ORIGIN),
                path,
                entities,
            ),
        ),
        provenance={"place": "Zürich", "seeds": [1, 2.5, None]},
    )


def arrays(tree):
    leaves = jax.tree_util.tree_flatten_with_path(tree)[0]
    return {jax.tree_util.keystr(keys): np.asarray(leaf) for keys, leaf in leaves}


def assert_same_bits(found, expected):
    found, expected = arrays(found), arrays(expected)
    assert found.keys() == expected.keys()
    for name, leaf in expected.items():
        assert (found[name].dtype, found[name].shape) == (leaf.dtype, leaf.shape), name
        assert found[name].tobytes() == leaf.tobytes(), name


def contents(file):
    """A `WorldFile` or `Branch` as a tree."""
    fields = {field.name: getattr(file, field.name) for field in dataclasses.fields(file)}
    if file.world is not None:
        fields["origin"] = file.world.origin
    for name in ("origin", "camera_path", "extras"):
        if fields.get(name) is not None:
            fields[name] = dict(vars(fields[name]))
    fields["branches"] = [contents(branch) for branch in fields.get("branches", ())]
    texts = {n: v for n, v in fields.items() if isinstance(v, str) or n == "provenance"}
    return {n: v for n, v in fields.items() if n not in texts}, texts


def assert_same_file(found, expected):
    (found, texts), (expected, others) = contents(found), contents(expected)
    assert texts == others
    for (branch, words), (other, more) in zip(
        found.pop("branches"), expected.pop("branches"), strict=True
    ):
        assert words == more
        assert_same_bits(branch, other)
    assert_same_bits(found, expected)


def taken_apart(path):
    """Tensors and header of a file, by safetensors alone."""
    with safetensors.safe_open(path, "numpy") as opened:
        header = json.loads(opened.metadata()["world"])
    tensors = {
        name: np.frombuffer(entry["data"], KINDS[entry["dtype"]]).reshape(entry["shape"])
        for name, entry in safetensors.deserialize(Path(path).read_bytes())
    }
    del tensors[HEADER_CHECKSUM]
    return tensors, header


def sealed(data):
    """The same file with the checksum that its header should have."""
    start = 8 + int.from_bytes(data[:8], "little")
    place = start + json.loads(data[8:start])[HEADER_CHECKSUM]["data_offsets"][0]
    return data[:place] + struct.pack("<I", zlib.crc32(data[:start])) + data[place + 4 :]


def put_together(path, tensors, header, **fields):
    """Writes a file whose checksums are right."""
    checksums = {name: f"{zlib.crc32(leaf.tobytes()):08x}" for name, leaf in tensors.items()}
    text = json.dumps({**header, "checksums": checksums, **fields})
    tensors = {**tensors, HEADER_CHECKSUM: np.zeros((), np.uint32)}
    path.write_bytes(sealed(safetensors.numpy.save(tensors, {"world": text})))
    return path


@pytest.fixture(scope="module")
def model():
    """Without weights: nothing is run."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiny_world, "random_params", lambda *_: {"maps": {}})
        return tiny_world.world_model()


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A file of a world alone, that the tiny model could have left."""
    path = tmp_path_factory.mktemp("saved") / "plain.world"
    save_world(path, make_world())
    return path


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A file with everything."""
    path = tmp_path_factory.mktemp("whole") / "whole.world"
    write_world_file(path, make_file())
    return path


# -- there and back ------------------------------------------------------------------------------


@pytest.mark.parametrize("with_context", [False, True])
def test_a_world_comes_back_bit_for_bit(with_context, tmp_path):
    world = make_world(with_context=with_context)
    save_world(tmp_path / "a.world", jax.tree.map(jnp.asarray, world))
    loaded = load_world(tmp_path / "a.world")
    assert_same_bits(loaded, world)
    assert (getattr(loaded, CONTEXT) is not None) == with_context
    assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(loaded))
    assert [file.name for file in tmp_path.iterdir()] == ["a.world"]


def test_everything_comes_back_bit_for_bit(whole, tmp_path):
    found = read_world_file(whole)
    assert_same_file(found, make_file())
    assert found.extras == Extras()
    write_world_file(tmp_path / "again.world", found)
    assert (tmp_path / "again.world").read_bytes() == whole.read_bytes()


def test_tokens_may_be_of_half_precision(tmp_path):
    world = make_world()
    half = world.replace(bank=world.bank.replace(tokens=jnp.asarray(world.bank.tokens, "bfloat16")))
    save_world(tmp_path / "half.world", half)
    assert_same_bits(load_world(tmp_path / "half.world"), half)


def test_a_simple_save_has_what_it_is_given(tmp_path):
    file = make_file()
    given = {name: getattr(file, name) for name in ("origin", "camera_path", "provenance")}
    save_world(str(tmp_path / "a.world"), file.world.replace(origin=Origin()), **given)
    origin = given.pop("origin")
    placed = file.world.replace(origin=origin)
    assert_same_file(read_world_file(tmp_path / "a.world"), WorldFile(placed, **given))
    save_world(tmp_path / "a.world", file.world)
    assert_same_file(read_world_file(tmp_path / "a.world"), WorldFile(file.world))


def test_the_home_directory_is_known_in_python_too(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    world = make_world()
    save_world("~/a.world", world)
    assert (tmp_path / "a.world").is_file()
    jax.tree.map(np.testing.assert_array_equal, load_world("~/a.world"), world)
    with pytest.raises(FileNotFoundError, match=re.escape(f"{tmp_path}/runs: found no trained")):
        mirage_jax.load("~/runs")


def test_the_layout_is_what_the_format_says(whole):
    """Read with safetensors, json and zlib alone."""
    tensors, header = taken_apart(whole)
    data = whole.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    assert list(json.loads(data[8:start])["__metadata__"]) == ["world"]
    assert header["format"] == "mirage-world-2" and header["minor"] == 0
    assert header["writer"].startswith("mirage_jax")
    assert header["checksums"] == {n: f"{zlib.crc32(t.tobytes()):08x}" for n, t in tensors.items()}
    assert int(safetensors.numpy.load(data)[HEADER_CHECKSUM]) == zlib.crc32(data[:start])
    file = make_file()
    np.testing.assert_array_equal(tensors["static/xyz"], file.world.bank.xyz)
    np.testing.assert_array_equal(tensors["rollout/latent"], file.world.latent)
    np.testing.assert_array_equal(tensors["origin/space"], file.origin.space)
    np.testing.assert_array_equal(tensors["camera_path/times"], np.arange(FRAMES) / 16)
    np.testing.assert_array_equal(tensors["camera_path/size"], SIZE)
    other = file.branches[1].world
    np.testing.assert_array_equal(tensors["branches/other way/static/xyz"], other.bank.xyz)
    required = {name for name, part in header["parts"].items() if part["required"]}
    assert required == {"origin", "rollout", "static", "context_frames"}
    assert {n: p["version"] for n, p in header["parts"].items()} == {
        name: 3 if name == "static" else 1 for name in header["parts"]
    }
    assert header["parts"]["branches"]["entries"] == [
        {"name": "at the door", "frame": 2, "parent": None, "created_from": "a mark",
         "prefix": None},
        {"name": "other way", "frame": 3, "parent": "at the door", "created_from": "an edit",
         "prefix": "branches/other way/"},
    ]  # fmt: skip


def test_the_page_on_the_format_has_every_tensor_as_it_is_checked():
    page = (paths.ROOT / "docs" / "formats" / "world-2.md").read_text()
    rows = re.findall(r"^\| `(\w+)/([\w/]+)` \| ([\w, ]+) \|([\w, ]*)\|(.*)$", page, re.MULTILINE)
    listed, optional = {}, set()
    for part, rest, dtypes, shape, text in rows:
        lengths = [int(n) if n.isdigit() else n for n in shape.strip().split(", ") if n]
        listed[part, rest] = dtypes.strip().split(", "), lengths
        optional |= {(part, rest)} if "optional" in text else set()
    specs = {(part, rest): s for part in PARTS for rest, s in PARTS[part].tensors.items()}
    assert listed == {name: (list(s.dtypes), list(s.shape)) for name, s in specs.items()}
    assert optional == {name for name, spec in specs.items() if not spec.required}
    for name, part in PARTS.items():
        (words,) = re.findall(
            rf"^\*\*`{name}`\*\*, version (\d+),? ?([^:.\n]*)", page, re.MULTILINE
        )
        assert int(words[0]) == part.version
        assert ("in every file" in words[1]) == part.everywhere
        assert ("required" in words[1]) == part.required == ("optional" not in words[1])
    assert f"{', '.join(MAY_BE_ZERO[:-1])} and {MAY_BE_ZERO[-1]} may be 0" in page


def test_the_example_on_the_page_runs(saved, tmp_path, monkeypatch):
    page = (paths.ROOT / "docs" / "formats" / "world-2.md").read_text()
    (code,) = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    (tmp_path / "walk.world").write_bytes(saved.read_bytes())
    monkeypatch.chdir(tmp_path)
    exec(compile(code, "world-2.md", "exec"), {})
    (mark,) = read_world_file("marked.world").branches
    assert (mark.name, mark.frame, mark.world) == ("at the door", FRAMES - 1, None)


# -- older and newer files -----------------------------------------------------------------------


def assert_lacked_fields_are_blank(names, tensors):
    """Elements of a memory that lacked the fields are of unknown size and were seen once."""
    for prefix in {f"{name.rpartition('static/')[0]}static/" for name in names}:
        fields = ("size", "tangents", "seen", "missed", "pinned", "evicted")
        assert {name for name in names if name.startswith(prefix)} == {prefix + f for f in fields}
        np.testing.assert_array_equal(tensors[f"{prefix}seen"], tensors[f"{prefix}valid"])
        for field in ("size", "tangents", "missed", "pinned", "evicted"):
            assert not tensors[prefix + field].any(), field


@pytest.mark.parametrize("name", ["plain", "context_frames"])
def test_files_of_format_1_are_read_and_written_as_format_2(name, tmp_path):
    """Written by the code of that time; read here by safetensors alone, to compare."""
    old = paths.GOLDEN / "world_1" / f"{name}.world"
    expected = safetensors.numpy.load_file(old)
    read = read_world_file(old)
    assert_same_file(read, WorldFile(read.world))
    moved = {"bank/": "static/", "past/": "context_frames/"}
    renamed = {}
    for was, leaf in expected.items():
        part = next((p for p in moved if was.startswith(p)), "")
        renamed[(moved[part] if part else "rollout/") + was[len(part) :]] = leaf
    write_world_file(tmp_path / "new.world", read)
    tensors, header = taken_apart(tmp_path / "new.world")
    assert header["format"] == "mirage-world-2"
    origin = {name: tensors.pop(f"origin/{name}") for name in ("space", "time")}
    assert not origin["space"].any() and not origin["time"]
    assert_same_bits({name: tensors[name] for name in renamed}, renamed)
    assert_lacked_fields_are_blank(tensors.keys() - renamed.keys(), tensors)
    assert len(renamed) == (14 if name == "plain" else 24)
    assert_same_bits(load_world(tmp_path / "new.world"), read.world)


def test_a_file_of_format_1_names_what_is_wrong_in_its_own_words(tmp_path):
    tensors = safetensors.numpy.load_file(paths.GOLDEN / "world_1" / "context_frames.world")
    path = tmp_path / "old.world"

    def refused(message, **changes):
        mended = {n: changes.get(n, leaf) for n, leaf in (tensors | changes).items()}
        mended = {name: leaf for name, leaf in mended.items() if leaf is not None}
        safetensors.numpy.save_file(mended, path, {"format": "mirage-world-1"})
        with pytest.raises(ValueError, match=rf"old\.world: .*{message}"):
            load_world(path)

    for name in tensors:
        refused(f"tensor '{name}': found none, expected", **{name: None})
    refused("tensor 'bank/xyz': found float64", **{"bank/xyz": np.float64(tensors["bank/xyz"])})
    refused("tensor 'past/recent': found NaN", **{"past/recent": tensors["past/recent"] * np.nan})
    refused("tensor 'more': found one", more=np.zeros(3))


def test_the_format_is_what_it_was(tmp_path):
    """A file written when the format was settled is read, and written as it was."""
    golden = paths.GOLDEN / "world_2" / "whole.world"
    expected, before = taken_apart(golden)
    file = read_world_file(golden)
    assert file.extras == Extras()
    for rest in ("xyz", "tokens", "valid", "count"):
        assert_same_bits(getattr(file.world.bank, rest), expected[f"static/{rest}"])
    assert_same_bits(file.branches[1].world.latent, expected["branches/other way/rollout/latent"])
    write_world_file(tmp_path / "again.world", file)
    found, header = taken_apart(tmp_path / "again.world")
    assert_same_bits({name: found[name] for name in expected}, expected)
    assert_lacked_fields_are_blank(found.keys() - expected.keys(), found)
    before["parts"]["static"]["version"] = 3
    for now in (header, before):
        del now["checksums"]
    assert {**header, "writer": ""} == {**before, "writer": ""}


def test_a_memory_of_version_2_lacks_tangents_alone(whole, tmp_path):
    tensors, header = taken_apart(whole)
    header["parts"]["static"]["version"] = 2
    older = {n: leaf for n, leaf in tensors.items() if not n.endswith("/tangents")}
    file = read_world_file(put_together(tmp_path / "older.world", older, header))
    write_world_file(tmp_path / "again.world", file)
    found, again = taken_apart(tmp_path / "again.world")
    assert again["parts"]["static"]["version"] == 3
    assert_same_bits({name: found[name] for name in older}, older)
    for name in found.keys() - older.keys():
        assert name.endswith("static/tangents") and not found[name].any()
    for name in ("static/size", "branches/other way/static/pinned"):
        rest = {n: leaf for n, leaf in older.items() if n != name}
        with pytest.raises(ValueError, match=f"tensor '{name}': found none"):
            read_world_file(put_together(tmp_path / "lacking.world", rest, header))


def test_a_memory_of_version_3_lacks_nothing(whole, tmp_path):
    tensors, header = taken_apart(whole)
    for name in (
        "static/size",
        "static/tangents",
        "static/evicted",
        "branches/other way/static/pinned",
    ):
        rest = {n: leaf for n, leaf in tensors.items() if n != name}
        with pytest.raises(ValueError, match=f"tensor '{name}': found none"):
            read_world_file(put_together(tmp_path / "lacking.world", rest, header))


def test_what_a_newer_minor_version_added_is_passed_on_byte_for_byte(whole, tmp_path):
    tensors, header = taken_apart(whole)
    added = {
        "static/normal": np.arange(6, dtype=np.float32),
        "sound/waves": np.array([np.nan, 1.5]),
        "sound/coded": np.arange(5).astype(jnp.float8_e4m3fn),
        "branches/other way/rollout/more": np.arange(3, dtype=np.uint16),
        "weather/": np.asarray(True),
    }
    header["parts"]["sound"] = {"version": 3, "required": False, "rate": 44100}
    header["parts"]["weather"] = {"version": 1, "required": False}
    more = {"minor": 4, "lights": {"on": [1, None]}}
    path = put_together(tmp_path / "newer.world", tensors | added, header, **more)
    file = read_world_file(path)
    assert_same_file(dataclasses.replace(file, extras=Extras()), make_file())
    later = dataclasses.replace(file, world=file.world.replace(frames=jnp.int32(9)), branches=())
    for again in (file, later):
        write_world_file(tmp_path / "again.world", again)
        found, written = taken_apart(tmp_path / "again.world")
        assert written["minor"] == 4 and written["lights"] == more["lights"]
        assert written["parts"]["sound"] == header["parts"]["sound"]
        for name, leaf in added.items():
            if name.startswith("branches/") and again is later:
                assert name not in found  # it goes with its branch
            else:
                assert_same_bits(found[name], leaf)
    assert found["rollout/frames"] == 9


def test_newer_parts_are_passed_on_or_refused_as_they_ask(whole, tmp_path):
    tensors, header = taken_apart(whole)
    path = tmp_path / "newer.world"

    def with_part(name, version, required):
        parts = {**header["parts"], name: {"version": version, "required": required}}
        return put_together(path, tensors, {**header, "parts": parts})

    file = read_world_file(with_part("entities", 2, False))
    assert file.entities is None and "entities/id" in file.extras.tensors
    write_world_file(path, file)
    assert_same_bits(taken_apart(path)[0], tensors)
    for name, version, newest in (
        ("entities", 2, "at most 1"),
        ("context_frames", 2, "at most 1"),
        ("physics", 1, "no such part"),
    ):
        with pytest.raises(ValueError, match=rf"newer\.world: part {name}: .*version {version}.*"
                           rf"expected {newest}.*upgrade mirage_jax"):  # fmt: skip
            read_world_file(with_part(name, version, True))
    with pytest.raises(ValueError, match=r"part static: .*version 4, which is required"):
        read_world_file(with_part("static", 4, False))


def test_bodies_of_an_older_file_were_never_overlooked(tmp_path):
    table = movers.create(CHANNELS, np.float32([0, -1, 0]))
    table = table.replace(hits=table.hits + 5, overlooked=table.overlooked + 3)
    world = make_world().replace(movers=table, origin=Origin(frame_seconds=0.5))
    path = tmp_path / "bodies.world"
    save_world(path, world)
    assert (read_world_file(path).world.movers.overlooked == 3).all()
    tensors, header = taken_apart(path)
    older = {name: leaf for name, leaf in tensors.items() if name != "movers/overlooked"}
    parts = {**header["parts"], "movers": {**header["parts"]["movers"], "version": 1}}
    found = read_world_file(put_together(path, older, {**header, "parts": parts})).world.movers
    assert (found.hits == 5).all() and not found.overlooked.any()


def test_bodies_are_read_with_their_entities_or_not_at_all(tmp_path):
    table = movers.create(CHANNELS, np.float32([0, -1, 0]))
    world = make_world().replace(movers=table, origin=Origin(frame_seconds=0.5))
    path = tmp_path / "bodies.world"
    save_world(path, world)
    tensors, header = taken_apart(path)
    entities = {"version": 2, "required": False}
    newer = {**header, "parts": {**header["parts"], "entities": entities}}
    file = read_world_file(put_together(path, tensors, newer))
    assert file.world.movers is None and file.entities is None
    write_world_file(path, file)
    assert_same_bits(taken_apart(path)[0], tensors)
    assert taken_apart(path)[1]["parts"] == newer["parts"]
    alone = {name: leaf for name, leaf in tensors.items() if not name.startswith("entities/")}
    parts = {name: entry for name, entry in header["parts"].items() if name != "entities"}
    with pytest.raises(ValueError, match="part movers: found no part entities beside it"):
        read_world_file(put_together(path, alone, {**header, "parts": parts}))


def test_a_newer_format_is_refused_whatever_else_it_holds(whole, tmp_path):
    path = tmp_path / "next.world"
    text = json.dumps({"format": "mirage-world-3", "writer": "mirage_jax 9.0"})
    safetensors.numpy.save_file({"anything": np.zeros(1)}, path, {"world": text})
    message = rf"next\.world: format 'mirage-world-3' \(.*9\.0'\), expected '{WORLD_FORMAT}'.*upg"
    with pytest.raises(ValueError, match=message):
        read_world_file(path)


# -- damage --------------------------------------------------------------------------------------


def spoilt_copies(data):
    """Names of changes, and the file with each: bytes anywhere, and any length."""
    rng = np.random.default_rng(0)
    start = 8 + int.from_bytes(data[:8], "little")
    tensors = json.loads(data[8:start])
    tensors.pop("__metadata__")
    ranges = {n: tuple(start + o for o in t["data_offsets"]) for n, t in tensors.items()}
    places = list(range(8)) + [int(rng.integers(*where)) for where in ranges.values()]
    places += rng.integers(8, start, 60).tolist()  # where damage is hardest to see
    lengths = [*range(10), *rng.integers(10, len(data), 30).tolist()]
    if LONG:
        places += rng.integers(0, len(data), 5000).tolist()
        lengths = range(0, len(data), 7)
    for place in places:
        for value in {data[place] ^ (1 << int(rng.integers(8))), int(rng.integers(256)), 0x20}:
            if value != data[place]:
                spoilt = data[:place] + bytes([value]) + data[place + 1 :]
                yield f"byte {place} = {value}", spoilt
    for length in lengths:
        yield f"first {length} bytes", data[:length]
    yield "one byte more", data + b"\0"


def test_damage_anywhere_is_found(whole, tmp_path):
    path, data = tmp_path / "damaged.world", whole.read_bytes()
    path.write_bytes(data)
    read_world_file(path)
    tried = 0
    for change, spoilt in spoilt_copies(data):
        path.write_bytes(spoilt)
        with pytest.raises(ValueError) as caught:
            read_world_file(path)
            pytest.fail(f"not found: {change}")
        assert str(caught.value).startswith(f"{path}: "), change
        tried += 1
    assert tried > (10_000 if LONG else 200)


def test_damage_in_a_tensor_names_it(whole, tmp_path):
    data, path = bytearray(whole.read_bytes()), tmp_path / "a.world"
    start = 8 + int.from_bytes(data[:8], "little")
    data[start + json.loads(data[8:start])["static/xyz"]["data_offsets"][0]] ^= 1
    path.write_bytes(data)
    with pytest.raises(
        ValueError,
        match=r"part static, tensor 'static/xyz': is damaged: found checksum \w{8}, expected \w{8}",
    ):
        load_world(path)


def with_header(data, change):
    """A file with its header's text changed and its length mended."""
    start = 8 + int.from_bytes(data[:8], "little")
    text = change(data[8:start])
    return struct.pack("<Q", len(text)) + text + data[start:]


def twice(header):
    entry = json.dumps(json.loads(header)["static/count"]).encode()
    return header.rstrip()[:-1] + b',"static/count":' + entry + b"}"


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda d: b"not tensors", "not a saved world"),
        (lambda d: b"", "found 0 bytes, expected at least 8"),
        (lambda d: struct.pack("<Q", 2**63) + d[8:], "found a header of 9223372036854775808 bytes"),
        (lambda d: struct.pack("<Q", len(d)) + d[8:], "expected at most"),
        (lambda d: with_header(d, lambda h: b"[" * 100_000), "brackets too deep"),
        (lambda d: with_header(d, lambda h: b"[1]"), "expected a JSON object"),
        (lambda d: with_header(d, lambda h: h.replace(b"[7]", b"[NaN]")), "found NaN"),
        (lambda d: sealed(with_header(d, twice)),
         "name 'static/count': found twice"),
        (
            lambda d: with_header(d, lambda h: h.replace(b'\\"minor\\"', b'\\"format\\"')),
            "header is damaged: name 'format': found twice",
        ),
    ],
)  # fmt: skip
def test_headers_that_make_no_sense_are_refused(saved, change, message, tmp_path):
    path = tmp_path / "odd.world"
    path.write_bytes(with_header(saved.read_bytes(), bytes))
    load_world(path)
    path.write_bytes(change(saved.read_bytes()))
    with pytest.raises(ValueError, match=rf"odd\.world: .*{message}"):
        load_world(path)


def test_files_that_are_no_world_are_named(saved, tmp_path):
    other = tmp_path / "other.world"
    safetensors.numpy.save_file({"a": np.zeros(2)}, other, {"format": "mirage-export-1"})
    with pytest.raises(ValueError, match=r"other\.world: format 'mirage-export-1', expected 'mir"):
        load_world(other)
    for path in (tmp_path / "nowhere.world", tmp_path):
        with pytest.raises(ValueError, match=rf"{path}: not a saved world"):
            load_world(path)


def test_a_missing_tensor_is_named(whole, tmp_path):
    tensors, header = taken_apart(whole)
    optional = {"origin/frame_seconds"}
    path = tmp_path / "less.world"
    for name in tensors:
        rest = {key: leaf for key, leaf in tensors.items() if key != name}
        place = rf"less\.world: part {name.partition('/')[0]}.*, tensor '{name}': found none"
        with pytest.raises(ValueError, match=place):  # though it has a checksum
            load_world(put_together(path, rest, header, checksums=header["checksums"]))
        with pytest.raises(ValueError, match=place):
            load_world(put_together(path, rest, header))
    (part,) = {name.partition("/")[0] for name in optional}
    plain = {n: t for n, t in tensors.items() if "entities/" not in n and n not in optional}
    parts = {name: entry for name, entry in header["parts"].items() if name != "entities"}
    file = read_world_file(put_together(path, plain, {**header, "parts": parts}))
    assert file.origin.frame_seconds is None and part == "origin"


@pytest.mark.parametrize("part", ["origin", "rollout", "static", "context_frames"])
def test_a_part_must_be_listed(whole, part, tmp_path):
    tensors, header = taken_apart(whole)
    parts = {name: entry for name, entry in header["parts"].items() if name != part}
    with pytest.raises(ValueError, match=rf"a\.world: part {part}"):
        load_world(put_together(tmp_path / "a.world", tensors, {**header, "parts": parts}))
    if part == "context_frames":
        rest = {name: leaf for name, leaf in tensors.items() if not name.startswith(part)}
        put_together(tmp_path / "a.world", rest, {**header, "parts": parts})
        assert getattr(load_world(tmp_path / "a.world"), CONTEXT) is None


def nan_at_first(array):
    return np.where(np.arange(array.size).reshape(array.shape) == 0, np.nan, array)


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("rollout/latent", lambda a: a[..., :0], r"float32 \(2, 3, 0\), expected float32 \(h = 2"),
        ("rollout/latent", lambda a: a[0], r"found float32 \(3, 4\), expected float32 \(h, w, C\)"),
        ("rollout/latent", nan_at_first, "found NaN or infinity"),
        ("rollout/latent", lambda a: a.astype(np.float16), "found float16"),
        ("rollout/cam2world", lambda a: 2 * a, "found .*expected"),
        ("rollout/frames", lambda a: a.astype(np.float32), r"found float32 \(\), expected int32"),
        ("rollout/frames", lambda a: 0 * a, "found 0, expected at least 1"),
        ("static/xyz", nan_at_first, "found NaN or infinity"),
        ("static/xyz", lambda a: a[:0], "found"),
        ("static/time", lambda a: a[1:], r"found float32 \(6,\), expected float32 \(N = 7\)"),
        ("static/tokens", lambda a: a[:, :3], r"expected float32 or .*\(N = 7, C = 4\)"),
        ("static/valid", lambda a: np.full(7, 2, np.uint8).view(bool), "found bytes above 1"),
        ("static/count", lambda a: a * 0 + 8, "found 8, expected at least 0 and at most 7"),
        ("static/count", lambda a: a * 0 - 1, "found -1"),
        ("context_frames/keyframes/count", lambda a: a * 0 + 3, "found 3, .*at most 2"),
        ("context_frames/latents", lambda a: a[:, :1], r"\(Q = 2, h = 2, w = 3, C = 4\)"),
        ("origin/space", lambda a: a.astype(np.float32), "found float32"),
        ("origin/time", lambda a: a * np.inf, "found NaN or infinity"),
        ("camera_path/cam2world", lambda a: -a, "found"),
        ("camera_path/intrinsics", lambda a: -a, "focal lengths"),
        ("camera_path/times", lambda a: a[::-1].copy(), "expected increasing"),
        ("camera_path/size", lambda a: 0 * a, "expected pixels"),
        ("entities/covariance", lambda a: a[..., 0].copy(), r"\(3, 6\), expected .*\(K = 3, 6, 6"),
        ("entities/view_alpha", lambda a: a[:, :1], r"\(K = 3, V = 2, a = 2, b = 2\)"),
        ("branches/other way/static/xyz", lambda a: a[:, :2], r"branch 'other way': part static"),
    ],
)
def test_tensors_that_are_not_what_they_should_be_are_named(whole, name, spoil, message, tmp_path):
    tensors, header = taken_apart(whole)
    spoilt = np.asarray(spoil(tensors[name]), order="C")
    if spoilt.dtype == np.float64 and tensors[name].dtype == np.float32:
        spoilt = spoilt.astype(np.float32)
    put_together(tmp_path / "spoilt.world", tensors | {name: spoilt}, header)
    with pytest.raises(ValueError, match=rf"spoilt\.world: part .*tensor '{name}.*: .*{message}"
                       if "branch" not in message else rf"spoilt\.world: .*{message}"):  # fmt: skip
        read_world_file(tmp_path / "spoilt.world")


@pytest.mark.parametrize(
    ("where", "value", "message"),
    [
        (("minor",), "0", "header field 'minor': found '0', expected int"),
        (("parts",), [], "header field 'parts'"),
        (("provenance",), None, "header field 'provenance'"),
        (("checksums",), {}, r"tensor '.*': found no checksum"),
        (("parts", "static"), 1, "part static: found 1, expected a version"),
        (("parts", "static", "version"), True, "part static: .*expected a version"),
        (("parts", "static", "required"), None, "part static: .*expected a version"),
        (("parts", "static", "more"), 1, "part static: .*expected fields required, version"),
        (("parts", "branches", "entries"), {}, "part branches: .*expected fields"),
        (("parts", "branches", "entries", 0), "a", "part branches: found 'a'"),
        (("parts", "branches", "entries", 0, "more"), 1, "part branches: found .*expected fields"),
        (("parts", "branches", "entries", 0, "name"), "other way", "found name 'other way' after"),
        (("parts", "branches", "entries", 0, "name"), "a/b", "found name 'a/b'"),
        (("parts", "branches", "entries", 0, "name"), "", "found name ''"),
        (("parts", "branches", "entries", 0, "frame"), -1, "frame: found -1"),
        (("parts", "branches", "entries", 0, "frame"), True, "frame: found True"),
        (("parts", "branches", "entries", 1, "parent"), "x", "parent: found 'x', expected null"),
        (("parts", "branches", "entries", 1, "created_from"), 3, "created_from: found 3"),
        (("parts", "branches", "entries", 1, "prefix"), "static/", "prefix: found 'static/'"),
    ],
)
def test_header_fields_that_are_not_what_they_should_be_are_named(
    whole, where, value, message, tmp_path
):
    tensors, header = taken_apart(whole)
    header["checksums"] = {n: f"{zlib.crc32(leaf.tobytes()):08x}" for n, leaf in tensors.items()}
    field = header
    for name in where[:-1]:
        field = field[name]
    field[where[-1]] = value
    put_together(tmp_path / "a.world", tensors, header, checksums=header["checksums"])
    with pytest.raises(ValueError, match=rf"a\.world: .*{message}"):
        read_world_file(tmp_path / "a.world")


# -- what the model can continue -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"latent": np.zeros((1, 3, CHANNELS), np.float32)}, r"a last latent .*of \(1, 3, 4\)"),
        ({"intrinsics": -INTRINSICS}, "intrinsics: found .*focal lengths fx, fy above 0"),
    ],
)
def test_a_world_that_the_model_cannot_continue_is_refused(model, saved, change, message, tmp_path):
    path, world = tmp_path / "other.world", make_world()
    assert_same_bits(load_world(saved, model), load_world(saved))
    save_world(path, world.replace(**change))
    load_world(path)  # a world, if not this model's
    with pytest.raises(ValueError, match=rf"other\.world: .*{message}"):
        load_world(path, model)
    branch = Branch("b", 1, world=world.replace(**change))
    write_world_file(path, WorldFile(world, branches=(branch,)))
    with pytest.raises(ValueError, match=rf"other\.world: branch 'b': .*{message}"):
        read_world_file(path, model)


def test_a_world_of_another_conditioner_is_refused(model, saved, tmp_path):
    file = read_world_file(saved)
    for kind in (model.conditioner.kind, "none"):
        generated = {"generated": {"conditioner": kind}}
        write_world_file(tmp_path / "a.world", dataclasses.replace(file, provenance=generated))
        if kind != "none":
            load_world(tmp_path / "a.world", model)
    with pytest.raises(ValueError, match=r"a\.world: .* conditioner 'none', expected 'folded'"):
        load_world(tmp_path / "a.world", model)


def test_a_world_of_other_latents_is_refused(model, tmp_path):
    world, path = make_world(), tmp_path / "other.world"
    twice = np.concatenate([world.latent] * 2, axis=-1), np.concatenate([world.bank.tokens] * 2, 1)
    save_world(path, world.replace(latent=twice[0], bank=world.bank.replace(tokens=twice[1])))
    message = r"\(2, 3, 8\) and a memory of 8 channels, but the model's latents are \(2, 3, 4\)"
    with pytest.raises(ValueError, match=rf"other\.world: found .*{message}"):
        load_world(path, model)
    with pytest.raises(ValueError, match=rf"^world: found .*{message}"):
        poses = trajectories.make("push_in", 5, start=START)
        rollout(model, load_world(path), poses)


# -- writing -------------------------------------------------------------------------------------


def placed(file, origin):
    """A world and its branches relative to another origin, as changes to a file."""
    branches = [
        branch if branch.world is None
        else dataclasses.replace(branch, world=branch.world.replace(origin=origin))
        for branch in file.branches
    ]  # fmt: skip
    return {"world": file.world.replace(origin=origin), "branches": tuple(branches)}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: {"world": f.world.replace(latent=f.world.latent * np.nan)}, "NaN or infinity"),
        (lambda f: placed(f, Origin((0.0, np.inf, 0.0))), "'origin/space': found NaN or infinity"),
        (lambda f: placed(f, Origin()), "'origin/frame_seconds': found none"),
        (
            lambda f: {"world": f.world.replace(origin=Origin((1.0, 0.0, 0.0)))},
            r"branch 'other way': found Origin\(space=.* expected Origin\(space=\(1\.0, ",
        ),
        (lambda f: {"entities": {**f.entities, "velocty": np.zeros(3)}}, "'entities/velocty'"),
        (lambda f: {"entities": {"id": np.zeros(3, np.int32)}}, "'entities/up': found none"),
        (lambda f: {"provenance": {"a": np.zeros(3)}}, "provenance: .*expected JSON"),
        (lambda f: {"provenance": {"a": float("nan")}}, "provenance: .*expected JSON"),
        (lambda f: {"branches": f.branches[1:]}, "parent: found 'at the door'"),
        (lambda f: {"branches": (Branch("m", 1, camera_path=f.camera_path),)}, "without a world"),
        (lambda f: {"extras": Extras({"static/xyz": np.zeros(3)})}, "found 'static/xyz' twice"),
    ],
)
def test_what_could_not_be_read_again_is_not_written(change, message, tmp_path):
    path, file = tmp_path / "kept.world", make_file()
    path.write_bytes(b"older")
    with pytest.raises(ValueError, match=rf"kept\.world: .*{message}"):
        write_world_file(path, dataclasses.replace(file, **change(file)))
    assert path.read_bytes() == b"older"
    assert [found.name for found in tmp_path.iterdir()] == ["kept.world"]


@contextlib.contextmanager
def full_disk(room):
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextlib.contextmanager
def read_only(folder):
    """Root may write anywhere, so the test is somebody else meanwhile."""
    user = os.geteuid()
    folder.chmod(0o555)
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        folder.chmod(0o755)


@pytest.mark.parametrize("room", [0, 100, 2500])
def test_a_full_disk_leaves_the_world_that_was_there(room, saved, tmp_path):
    path, before = tmp_path / "kept.world", saved.read_bytes()
    path.write_bytes(before)
    assert len(before) > 2500
    with full_disk(room), pytest.raises(OSError, match=r"kept\.world: could not be written"):
        save_world(path, make_world(3))
    assert path.read_bytes() == before
    assert [found.name for found in tmp_path.iterdir()] == ["kept.world"]


def test_a_folder_that_is_read_only_leaves_the_world_that_was_there(saved, tmp_path):
    path, before = tmp_path / "kept.world", saved.read_bytes()
    path.write_bytes(before)
    with read_only(tmp_path), pytest.raises(OSError, match=r"kept\.world"):
        save_world(path, make_world(3))
    assert path.read_bytes() == before
    with pytest.raises(OSError, match=r"nowhere/a\.world: could not be written: No such file"):
        save_world(tmp_path / "nowhere" / "a.world", make_world())


def test_a_world_may_be_read_by_whom_any_new_file_may(saved, tmp_path):
    (tmp_path / "any").touch()
    assert saved.stat().st_mode == (tmp_path / "any").stat().st_mode


def test_a_memory_of_colours_is_saved_too(tmp_path):
    """That of the RGB baseline: bytes where others have tokens."""
    world, path = make_world(), tmp_path / "colours.world"
    bytes_of = np.random.default_rng(0).integers(0, 256, (CAPACITY, 3)).astype(np.uint8)
    flat = world.bank.tangents[:, :0]
    world = world.replace(bank=world.bank.replace(tokens=bytes_of, tangents=flat))
    save_world(path, world)
    found = load_world(path).bank
    assert found.tokens.dtype == np.uint8 and found.tangents.shape == (CAPACITY, 0, 3)
    np.testing.assert_array_equal(found.tokens, bytes_of)
    with pytest.raises(ValueError, match=r"static/tokens.*found uint8 .*or uint8 \(N = 7, 3\)"):
        four = np.concatenate([bytes_of, bytes_of[:, :1]], axis=1)
        save_world(path, world.replace(bank=world.bank.replace(tokens=four)))
