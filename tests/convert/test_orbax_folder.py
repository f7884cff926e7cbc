"""Orbax checkpoints: plain Orbax reads the very arrays, and they come back bit by bit."""

import json
import os
import shutil
import subprocess
import sys
import zlib

import jax
import ml_dtypes
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp
from safetensors.numpy import load_file

from helpers import paths
from mirage_jax.convert import orbax_folder
from mirage_jax.convert.incoming import import_checkpoint, save_export
from mirage_jax.convert.options import ImportOptions
from mirage_jax.convert.orbax_folder import open_orbax, save_orbax
from mirage_jax.convert.outgoing import copy_export, export_checkpoint
from mirage_jax.convert.wan_dit import from_wan_dit
from mirage_jax.io.atomic import partial_path
from mirage_jax.io.orbax import DamagedCheckpoint
from mirage_jax.weights import export, load_export

GOLDEN = paths.GOLDEN
MIRAGE = GOLDEN / "official_mirage_dit_vace" / "weights.safetensors"
VAE = GOLDEN / "official_vae22" / "weights.safetensors"
OPTIONS = ImportOptions(heads=2, branch_layers=(0, 2))
ARCHITECTURE = {"kind": "test", "width": 3, "scale": 0.1, "layers": [0, 2], "nothing": None}


def random_bits(seed, shape, dtype):
    """Any bits: NaNs of every kind, infinities, negative zeros, subnormal numbers."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.frombuffer(np.random.default_rng(seed).bytes(size), dtype).reshape(shape)


PARAMS = {
    "blocks": {
        "kernel": random_bits(0, (3, 64, 512), ml_dtypes.bfloat16),
        "bias": random_bits(1, (3, 5), np.float32),
    },
    "all": {"values": np.arange(2**16, dtype=np.uint16).view(ml_dtypes.bfloat16)},
    "half": random_bits(2, (7, 2, 3), np.float16),
    "zeros": np.zeros((4, 3), np.float32),
    "scale": np.asarray(-0.0, np.float32),
}


def assert_same_bits(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, array), other in zip(
        jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True
    ):
        assert (array.dtype, array.shape) == (other.dtype, other.shape), path
        assert np.asarray(array).tobytes() == np.asarray(other).tobytes(), path


@pytest.fixture(scope="module")
def ours(tmp_path_factory):
    """An export of PARAMS, written by the library."""
    return export(tmp_path_factory.mktemp("ours") / "ours", PARAMS, ARCHITECTURE)


@pytest.fixture(params=["whole", "by layer"])
def checkpoint(request, tmp_path, ours, monkeypatch):
    """The same as an Orbax checkpoint, its larger parameters in one chunk or in one per layer."""
    if request.param == "by layer":
        monkeypatch.setattr(orbax_folder, "_LARGE", 2**16)
    assert copy_export(ours, tmp_path / "orbax", save=save_orbax) == 6
    return tmp_path / "orbax"


def test_plain_orbax_reads_the_very_arrays(checkpoint):
    assert_same_bits(ocp.load(checkpoint), PARAMS)
    metadata = ocp.metadata(checkpoint)
    assert metadata.custom_metadata["architecture"] == ARCHITECTURE
    kernel = metadata.metadata["blocks"]["kernel"]
    layers = 1 if orbax_folder._LARGE == 2**16 else 3
    assert kernel.storage_metadata.chunk_shape == (layers, 64, 512)


SHARDED = """
import json, sys, zlib
import jax, numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec
from orbax.checkpoint import v1 as ocp

mesh = Mesh(np.array(jax.devices()), ("fsdp",))
def abstract(leaf):
    spec = PartitionSpec(None, "fsdp") if leaf.shape == (3, 64, 512) else PartitionSpec()
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=NamedSharding(mesh, spec))
found = ocp.load(sys.argv[1], jax.tree.map(abstract, ocp.metadata(sys.argv[1]).metadata))
shards = [shard.data.shape for shard in found["blocks"]["kernel"].addressable_shards]
sums = [zlib.crc32(np.asarray(leaf).tobytes()) for leaf in jax.tree.leaves(found)]
print(json.dumps([shards, sums]))
"""


def test_any_program_restores_it_onto_a_mesh(tmp_path, ours, monkeypatch):
    monkeypatch.setattr(orbax_folder, "_LARGE", 2**16)
    copy_export(ours, tmp_path / "orbax", save=save_orbax)
    run = subprocess.run(
        [sys.executable, "-c", SHARDED, tmp_path / "orbax"],
        env={**os.environ, "JAX_NUM_CPU_DEVICES": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    shards, sums = json.loads(run.stdout)
    assert shards == [[3, 32, 512]] * 2
    assert sums == [zlib.crc32(np.asarray(leaf).tobytes()) for leaf in jax.tree.leaves(PARAMS)]


def test_an_export_comes_back_bit_by_bit(checkpoint, ours, tmp_path):
    out = tmp_path / "back"
    export(out, {"old": np.zeros(3, np.float32)}, {"kind": "old"})  # is replaced
    names = []
    assert copy_export(checkpoint, out, save=save_export, notify=names.append) == 6
    params, architecture = load_export(out)
    assert_same_bits(params, PARAMS)
    assert architecture == ARCHITECTURE and "blocks/kernel" in names
    # And from one checkpoint to another, with another dtype.
    copy_export(checkpoint, tmp_path / "wide", save=save_orbax, dtype=np.dtype(np.float32))
    found = ocp.load(tmp_path / "wide")["all"]["values"]
    np.testing.assert_array_equal(found, PARAMS["all"]["values"].astype(np.float32))


def test_no_more_than_a_layer_is_in_memory(tmp_path, ours, monkeypatch):
    monkeypatch.setattr(orbax_folder, "_LARGE", 2**16)
    sizes, crc = [], orbax_folder._crc
    monkeypatch.setattr(orbax_folder, "_crc", lambda a: sizes.append(a.nbytes) or crc(a))
    copy_export(ours, tmp_path / "orbax", save=save_orbax)
    copy_export(tmp_path / "orbax", tmp_path / "back", save=save_export)
    large = PARAMS["blocks"]["kernel"].nbytes
    assert sizes.count(large // 3) == 6 and max(sizes) == PARAMS["all"]["values"].nbytes < large


# -- models --------------------------------------------------------------------------------------


def test_released_weights_become_a_checkpoint_and_come_back(tmp_path):
    tensors, folder = load_file(MIRAGE), tmp_path / "orbax"
    assert import_checkpoint([MIRAGE], folder, options=OPTIONS, save=save_orbax) == "denoiser"
    assert_same_bits(ocp.load(folder), from_wan_dit(tensors))
    assert ocp.metadata(folder).custom_metadata["architecture"]["denoiser"]["heads"] == 2
    export_checkpoint(folder, tmp_path / "out.safetensors")
    assert_same_bits(load_file(tmp_path / "out.safetensors"), tensors)
    export_checkpoint(folder, tmp_path / "vace.safetensors", part="branch")
    branch = {name: t for name, t in tensors.items() if name.startswith("vace_")}
    assert_same_bits(load_file(tmp_path / "vace.safetensors"), branch)


def test_a_video_vae_goes_to_diffusers_as_from_an_export(tmp_path):
    import_checkpoint([VAE], tmp_path / "ours")
    bfloat16 = np.dtype(ml_dtypes.bfloat16)  # of which a video VAE takes no notice
    copy_export(tmp_path / "ours", tmp_path / "orbax", save=save_orbax, dtype=bfloat16)
    for source in ("ours", "orbax"):
        export_checkpoint(tmp_path / source, tmp_path / f"{source}-vae", naming="diffusers")
    for name in ("config.json", "diffusion_pytorch_model.safetensors"):
        expected, found = (tmp_path / f"{source}-vae" / name for source in ("ours", "orbax"))
        assert found.read_bytes() == expected.read_bytes(), name


# -- refusals ------------------------------------------------------------------------------------


def read_all(folder):
    return {name: np.asarray(tensor) for name, tensor in open_orbax(folder).tensors.items()}


def test_a_damaged_file_is_noticed(checkpoint, tmp_path):
    expected = {name: a.tobytes() for name, a in read_all(checkpoint).items()}
    noticed = {}
    for number, file in enumerate(sorted(p for p in checkpoint.rglob("*") if p.is_file())):
        orbax_folder._read.cache_clear()
        copy = shutil.copytree(checkpoint, tmp_path / str(number))
        data, spoilt = bytearray(file.read_bytes()), copy / file.relative_to(checkpoint)
        if not data:
            continue
        data[len(data) // 2] ^= 1
        spoilt.write_bytes(data)
        try:
            found = {name: a.tobytes() for name, a in read_all(copy).items()}
        except ValueError as error:
            assert str(copy) in str(error)
            noticed[file] = str(error)
        else:
            assert found == expected, file  # what was superseded, or a time
    [kernel] = [file for file in noticed if file.stat().st_size > 150_000] or [None]
    if kernel is not None:
        assert "tensor 'blocks/kernel': the checksum does not match" in noticed[kernel]
    assert checkpoint / "checksums.json" in noticed
    assert any("'blocks/kernel'" in words for words in noticed.values())


@pytest.mark.parametrize("name", ["state/manifest.ocdbt", "state/_METADATA", "checksums.json"])
def test_a_missing_file_is_noticed(checkpoint, name):
    (checkpoint / name).unlink()
    with pytest.raises(DamagedCheckpoint, match=r"unreadable|tensor .* is missing"):
        read_all(checkpoint)


def test_missing_values_are_noticed(checkpoint):
    for file in (checkpoint / "state" / "d").iterdir():
        if file.stat().st_size > 10_000:
            file.unlink()
    with pytest.raises(DamagedCheckpoint, match=r"orbax: (tensor 'blocks/kernel': )?unreadable"):
        np.asarray(open_orbax(checkpoint).tensors["blocks/kernel"])


@pytest.mark.parametrize("fault", [OSError(5, "Input/output error"), MemoryError("9 GiB")])
@pytest.mark.parametrize("of", ["metadata", "sums", "tensor"])
def test_a_passing_fault_is_not_taken_for_damage(checkpoint, monkeypatch, of, fault):
    def fails(*_, **__):
        raise fault

    if of == "metadata":
        monkeypatch.setattr(orbax_folder.ocp, "checkpointables_metadata", fails)
    elif of == "sums":
        monkeypatch.setattr(orbax_folder.Path, "read_text", fails)
    opened = open_orbax(checkpoint) if of == "tensor" else None
    orbax_folder._read.cache_clear()
    monkeypatch.setattr(orbax_folder, "_open", fails)
    with pytest.raises((OSError, MemoryError), match=r"could not be read|Input/output error|9 GiB"):
        np.asarray((opened or open_orbax(checkpoint)).tensors["half"])


def test_checksums_that_are_not_of_these_tensors(checkpoint):
    file = checkpoint / "checksums.json"
    sums = json.loads(file.read_text())
    for change, words in (
        (lambda t: t.pop("half"), r"'half' is missing from the checksums\.json"),
        (lambda t: t.update(other=[1]), "'other' is missing from the checkpoint"),
        (lambda t: t.update(half=[1, 2]), "'half': found 2 checksums, expected 1 or one for"),
    ):
        spoilt = json.loads(json.dumps(sums))
        change(spoilt["tensors"])
        file.write_text(json.dumps(spoilt))
        with pytest.raises(DamagedCheckpoint, match=words):
            open_orbax(checkpoint)
    file.write_text(json.dumps({**sums, "architecture": 1}))
    with pytest.raises(DamagedCheckpoint, match="architecture: the checksum does not match"):
        open_orbax(checkpoint)


@pytest.mark.parametrize(
    ("metadata", "words"),
    [
        (None, "of format None, expected 'mirage-orbax-1'"),
        ({"format": "mirage-orbax-1"}, "architecture: found None in the custom metadata"),
    ],
)
def test_other_orbax_checkpoints_are_refused(tmp_path, metadata, words):
    ocp.save(tmp_path / "other", {"a": np.zeros(3, np.float32)}, custom_metadata=metadata)
    with pytest.raises(ValueError, match=f"other: .*{words}"):
        copy_export(tmp_path / "other", tmp_path / "out", save=save_export)
    with pytest.raises(ValueError, match=r"golden: not an export of ours, expected .* an Orbax"):
        copy_export(GOLDEN, tmp_path / "out", save=save_export)
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_what_cannot_be_written_leaves_no_trace(tmp_path, monkeypatch):
    float32, out = np.dtype(np.float32), tmp_path / "out"
    specs = {"a": (float32, (3, 2)), "b": (float32, (4,))}

    def save(specs=specs, values=4):
        def pieces(name):
            return [np.zeros(6 if name == "a" else values)]

        save_orbax(out, specs, pieces, ARCHITECTURE)

    with pytest.raises(ValueError, match=r"'b': found 3 values for shape \(4,\)"):
        save(values=3)
    with pytest.raises(ValueError, match=r"'c': found shape \(0, 2\), Orbax stores no empty"):
        save({**specs, "c": (float32, (0, 2))})

    def fail(*_, **__):
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device")

    for owner, name in ((orbax_folder.tensorstore, "open"), (orbax_folder, "_open")):
        with monkeypatch.context() as patch:
            patch.setattr(owner, name, fail)
            with pytest.raises(OSError, match="out: could not be written: no space left on the"):
                save()
    assert list(tmp_path.iterdir()) == []
    partial_path(out).mkdir()  # a process that was killed has left this
    save()
    with pytest.raises(FileExistsError, match="out: is there already; expected a new folder"):
        save()
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    np.testing.assert_array_equal(ocp.load(out)["a"], np.zeros((3, 2), np.float32))
