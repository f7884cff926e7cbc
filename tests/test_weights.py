"""Exports: exact round trip, refusal of another architecture by name, no half-written files."""

import json
import resource

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from safetensors.numpy import load_file, save_file

from mirage_jax.io.exports import stored_architecture
from mirage_jax.training import load_export
from mirage_jax.weights import (
    export,
    fingerprint,
    flatten,
    load_module,
    module_fields,
    unflatten,
)

ARCHITECTURE = {"width": 8, "mults": (1, 2), "memory": {"reads": 4}}


def make_params(width=8):
    rng = np.random.default_rng(0)
    kernel = jnp.asarray(rng.normal(size=(4, width)), jnp.float32)
    return {
        "up": {"kernel": nn.LogicallyPartitioned(kernel, ("embed", "mlp"))},
        "bias": jnp.asarray(rng.normal(size=3), jnp.bfloat16),
    }


class Odd(nn.Module):
    """A layer of shapes that nothing else here has."""

    width: int

    @nn.compact
    def __call__(self, x):
        return nn.Dense(self.width, name="layer")(x)


def abstract(params):
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)


def test_round_trip(tmp_path):
    params = make_params()
    export(tmp_path / "out", params, ARCHITECTURE)
    for path in (tmp_path / "out", tmp_path / "out" / "model.safetensors"):
        loaded, architecture = load_export(path, abstract(params), ARCHITECTURE)
        assert loaded["bias"].dtype == jnp.bfloat16
        np.testing.assert_array_equal(loaded["up"]["kernel"], params["up"]["kernel"].value)
        np.testing.assert_array_equal(loaded["bias"], params["bias"])
        assert architecture == {"width": 8, "mults": [1, 2], "memory": {"reads": 4}}
    assert json.loads((tmp_path / "out" / "architecture.json").read_text()) == architecture
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "architecture.json",
        "model.safetensors",
    }


def test_loading_compiles_nothing_whatever_shapes_there_are(tmp_path):
    """A program for each shape of tensor took half of the time that a world takes to begin."""

    def init(module):
        return module.init(jax.random.key(0), jnp.zeros((1, 19)))["params"]

    halved = jax.tree.map(lambda leaf: leaf.astype(jnp.bfloat16), init(Odd(17)))
    export(tmp_path / "out", halved, {"kind": "odd", "module": module_fields(Odd(17))})
    compiled = []

    def note(name, seconds, **details):
        if "backend_compile" in name:
            compiled.append(details)

    jax.monitoring.register_event_duration_secs_listener(note)
    try:
        loaded, _ = load_export(tmp_path / "out")
        params, module, _ = load_module(tmp_path / "out", {"kind": "odd"}, "module", Odd, init)
    finally:
        jax.monitoring.unregister_event_duration_listener(note)
    assert compiled == [] and module == Odd(17)
    for tree, dtype in ((loaded, jnp.bfloat16), (params, jnp.float32)):
        assert all(isinstance(leaf, jax.Array) for leaf in jax.tree.leaves(tree))
        assert tree["layer"]["kernel"].dtype == dtype
        np.testing.assert_array_equal(tree["layer"]["kernel"], halved["layer"]["kernel"])


def test_other_tools_see_names_with_slashes(tmp_path):
    params = {"a": {"b": jnp.ones((2, 3))}}
    export(tmp_path, params, {})
    assert {n: a.shape for n, a in load_file(tmp_path / "model.safetensors").items()} == {
        "a/b": (2, 3)
    }


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"width": 9}, "field width: found 8, expected 9"),
        ({"memory": {"reads": 2}}, "field memory.reads: found 4, expected 2"),
        ({"depth": 3}, "field depth: found 'nothing', expected 3"),
    ],
)
def test_another_architecture_field_is_named(tmp_path, change, message):
    export(tmp_path, make_params(), ARCHITECTURE)
    with pytest.raises(ValueError, match=message):
        load_export(tmp_path, expected_architecture={**ARCHITECTURE, **change})


def test_another_tensor_is_named(tmp_path):
    export(tmp_path, make_params(), ARCHITECTURE)
    message = r"tensor 'up/kernel': found float32 \(4, 8\), expected float32 \(4, 9\)$"
    with pytest.raises(ValueError, match=message):
        load_export(tmp_path, abstract(make_params(9)))
    with pytest.raises(ValueError, match=r"'bias': found bfloat16 \(3,\), expected no such tensor"):
        load_export(tmp_path, {"up": abstract(make_params()["up"])})


def test_what_is_not_an_export_is_said(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no model.safetensors there"):
        load_export(tmp_path)
    save_file({"a": np.zeros(2)}, tmp_path / "model.safetensors")
    with pytest.raises(ValueError, match="found format None, expected 'mirage-export-2'"):
        load_export(tmp_path)
    for header in ({}, {"architecture": "{"}, {"architecture": "[1]"}):
        metadata = {"format": "mirage-export-1", **header}
        save_file({"a": np.zeros(2)}, tmp_path / "model.safetensors", metadata=metadata)
        with pytest.raises(ValueError, match=r"model\.safetensors: .*architecture"):
            load_export(tmp_path)
    export(tmp_path, make_params(), ARCHITECTURE)
    file = tmp_path / "model.safetensors"
    file.write_bytes(file.read_bytes()[:-4])
    with pytest.raises(ValueError, match="damaged"):
        load_export(tmp_path)


def test_a_failed_export_leaves_the_old_one(tmp_path, monkeypatch):
    export(tmp_path, make_params(), ARCHITECTURE)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    with pytest.raises(ValueError, match=r"architecture: .*not JSON serializable"):
        export(tmp_path, make_params(), {"width": np.zeros(3)})
    monkeypatch.setattr(
        "pathlib.Path.write_text", lambda *_, **__: (_ for _ in ()).throw(OSError("disk full"))
    )
    with pytest.raises(OSError, match="disk full"):
        export(tmp_path, make_params(9), ARCHITECTURE)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_a_full_disk_leaves_the_old_one_and_is_an_os_error(tmp_path, monkeypatch):
    export(tmp_path, make_params(), ARCHITECTURE)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir()}
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, hard))
    try:
        with pytest.raises(OSError, match=r"model\.safetensors: could not be written"):
            export(tmp_path, make_params(9), ARCHITECTURE)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir()} == before


def test_exports_may_be_read_by_whom_any_new_file_may(tmp_path):
    (tmp_path / "any").touch()
    export(tmp_path / "out", make_params(), ARCHITECTURE)
    modes = {p.stat().st_mode for p in (tmp_path / "out").iterdir()}
    assert modes == {(tmp_path / "any").stat().st_mode}


def test_an_export_that_holds_the_same_is_not_written_again(tmp_path):
    def files():
        return {p.name: (p.stat().st_mtime_ns, p.stat().st_ino) for p in tmp_path.iterdir()}

    export(tmp_path, make_params(), ARCHITECTURE)
    before, same = files(), fingerprint(tmp_path)
    export(tmp_path, make_params(), ARCHITECTURE)
    assert files() == before
    for params, architecture in (
        (make_params() | {"bias": jnp.zeros(3, jnp.bfloat16)}, ARCHITECTURE),
        (make_params(), ARCHITECTURE | {"width": 9}),
    ):
        export(tmp_path, params, architecture)
        assert files() != before and fingerprint(tmp_path) != same
        before = files()
    export(tmp_path, make_params(), ARCHITECTURE)
    assert fingerprint(tmp_path) == same
    (tmp_path / "architecture.json").unlink()
    export(tmp_path, make_params(), ARCHITECTURE)
    assert (tmp_path / "architecture.json").exists()


@pytest.mark.parametrize("name", ["model.safetensors", "architecture.json"])
def test_weights_of_another_program_are_not_replaced(tmp_path, name):
    save_file({"theirs": np.ones(3)}, tmp_path / name, {"format": "pt"})
    before = (tmp_path / name).read_bytes()
    with pytest.raises(ValueError, match=f"{name} is there already and is no"):
        export(tmp_path, make_params(), ARCHITECTURE)
    assert [path.name for path in tmp_path.iterdir()] == [name]
    assert (tmp_path / name).read_bytes() == before
    assert stored_architecture(tmp_path) == {}


def test_the_architecture_is_read_from_the_header_alone(tmp_path):
    export(tmp_path, make_params(), ARCHITECTURE)
    expected = json.loads(json.dumps(ARCHITECTURE))
    for path in (tmp_path, tmp_path / "model.safetensors"):
        assert stored_architecture(path) == expected
    assert stored_architecture(tmp_path / "nowhere") == {}


def test_flatten_is_inverted_and_refuses_slashes():
    tree = {"b": {"c": np.ones(2)}, "a": np.zeros(1)}
    assert list(flatten(tree)) == ["a", "b/c"]
    assert jax.tree.structure(unflatten(flatten(tree))) == jax.tree.structure(tree)
    with pytest.raises(ValueError, match="contains '/'"):
        flatten({"a/b": np.zeros(1)})


def test_the_same_weights_make_the_same_bytes(tmp_path):
    """Safetensors writes metadata in an order of its own, another in every call."""
    written = set()
    for number in range(8):
        export(tmp_path / str(number), make_params(), ARCHITECTURE | {"text": "Zürich\n\u2028"})
        written.add((tmp_path / str(number) / "model.safetensors").read_bytes())
    assert len(written) == 1
    loaded, architecture = load_export(tmp_path / "0", abstract(make_params()))
    assert architecture["text"] == "Zürich\n\u2028" and loaded.keys() == make_params().keys()


@pytest.mark.parametrize("names", [("a", "a/b"), ("a/b", "a"), ("",), ("a//b",), ("a/",)])
def test_names_that_make_no_tree_are_refused(names, tmp_path):
    tensors = {name: np.zeros(2, np.float32) for name in names}
    with pytest.raises(ValueError, match="tensor '"):
        unflatten(tensors)
    header = {"format": "mirage-export-1", "architecture": "{}"}
    save_file(tensors, tmp_path / "model.safetensors", metadata=header)
    with pytest.raises(ValueError, match=r"model\.safetensors: tensor '"):
        load_export(tmp_path)
