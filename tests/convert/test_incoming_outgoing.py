"""Checkpoints in and out: the same values come back, and what does not fit is refused by name."""

import dataclasses
import json
import shlex
import sys
import tracemalloc
import types

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from absl.testing import flagsaver
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from helpers import paths
from mirage_jax.cli import convert
from mirage_jax.convert.incoming import import_checkpoint
from mirage_jax.convert.options import ImportOptions
from mirage_jax.convert.outgoing import export_checkpoint
from mirage_jax.convert.tensor_files import write_tensors
from mirage_jax.convert.wan_dit import from_wan_dit, wan_dit_fields, wan_dit_plan
from mirage_jax.convert.wan_vae import released_stats
from mirage_jax.nn.denoiser import Denoiser
from mirage_jax.weights import as_fields, export, load_export
from mirage_jax.world.latent_encoder import LatentEncoder

GOLDEN = paths.GOLDEN
MIRAGE = GOLDEN / "official_mirage_dit_vace" / "weights.safetensors"
DIFFUSERS = GOLDEN / "diffusers_wan_ti2v"
VAE = GOLDEN / "official_vae22" / "weights.safetensors"
OPTIONS = ImportOptions(heads=2, branch_layers=(0, 2))


def assert_same_tensors(found, expected):
    assert set(found) == set(expected)
    for name, tensor in expected.items():
        assert found[name].dtype == tensor.dtype, name
        np.testing.assert_array_equal(found[name], tensor, err_msg=name)


@pytest.fixture(scope="module")
def mirage():
    return load_file(MIRAGE)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """Export of the golden denoiser with its branch."""
    out = tmp_path_factory.mktemp("exported") / "mirage"
    assert import_checkpoint([MIRAGE], out, options=OPTIONS) == "denoiser"
    return out


# -- denoiser ------------------------------------------------------------------------------------


def test_an_export_is_what_reading_the_whole_checkpoint_gives(exported, mirage):
    params, architecture = load_export(exported, from_wan_dit(mirage), {"kind": "denoiser"})
    jax.tree.map(np.testing.assert_array_equal, params, from_wan_dit(mirage))
    model = Denoiser(**as_fields(architecture["denoiser"]))
    assert (model.heads, model.branch_layers, model.depth) == (2, (0, 2), 4)


def test_what_a_branch_is_told_is_stored(tmp_path, mirage, exported):
    assert "context" not in load_export(exported)[1]
    options = dataclasses.replace(OPTIONS, context="score")
    import_checkpoint([MIRAGE], tmp_path / "ours", options=options)
    assert load_export(tmp_path / "ours")[1]["context"] == "score"
    branch = {name: t for name, t in mirage.items() if name.startswith("vace_")}
    save_file(branch, tmp_path / "vace.safetensors")
    import_checkpoint([tmp_path / "vace.safetensors"], tmp_path / "branch", options=options)
    assert load_export(tmp_path / "branch")[1]["context"] == "score"


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_original_names_come_back_bit_by_bit(tmp_path, mirage, dtype):
    tensors = {name: tensor.astype(dtype) for name, tensor in mirage.items()}
    save_file(tensors, tmp_path / "in.safetensors")
    import_checkpoint([tmp_path / "in.safetensors"], tmp_path / "ours", options=OPTIONS)
    export_checkpoint(tmp_path / "ours", tmp_path / "out.safetensors")
    # Read by the safetensors library, not by what wrote it.
    assert_same_tensors(load_file(tmp_path / "out.safetensors"), tensors)


def test_a_branch_joins_its_base_and_leaves_it(tmp_path, mirage, exported):
    base = {name: t for name, t in mirage.items() if not name.startswith("vace_")}
    branch = {name: t for name, t in mirage.items() if name.startswith("vace_")}
    save_file(base, tmp_path / "base.safetensors")
    prefixed = {f"pipe.vace.{name}": tensor for name, tensor in branch.items()}
    save_file(prefixed, tmp_path / "vace.safetensors")
    sources = [tmp_path / "base.safetensors", tmp_path / "vace.safetensors"]
    import_checkpoint(sources, tmp_path / "both", options=OPTIONS)
    joined, _ = load_export(tmp_path / "both")
    expected, _ = load_export(exported)
    jax.tree.map(np.testing.assert_array_equal, joined, expected)
    for part, tensors in (("base", base), ("branch", branch)):
        export_checkpoint(exported, tmp_path / f"{part}_back.safetensors", part=part)
        assert_same_tensors(load_file(tmp_path / f"{part}_back.safetensors"), tensors)


def test_a_branch_alone(tmp_path, mirage, exported):
    branch = {name: t for name, t in mirage.items() if name.startswith("vace_")}
    save_file(branch, tmp_path / "vace.safetensors")
    ours = tmp_path / "ours"
    assert (
        import_checkpoint([tmp_path / "vace.safetensors"], ours, options=OPTIONS) == "memory_branch"
    )
    params, architecture = load_export(ours)
    expected, _ = load_export(exported)
    jax.tree.map(np.testing.assert_array_equal, params["branch"], expected["branch"])
    assert architecture["branch_layers"] == [0, 2]
    export_checkpoint(ours, tmp_path / "back.safetensors")
    assert_same_tensors(load_file(tmp_path / "back.safetensors"), branch)


@pytest.fixture
def sharded(tmp_path):
    """The golden diffusers checkpoint as a folder of three shards, written by hand."""
    tensors, folder = load_file(DIFFUSERS / "weights.safetensors"), tmp_path / "transformer"
    folder.mkdir()
    weight_map = {}
    for number in range(3):
        own = dict(list(tensors.items())[number::3])
        save_file(own, folder / f"part-{number}.safetensors")
        weight_map.update(dict.fromkeys(own, f"part-{number}.safetensors"))
    index = json.dumps({"metadata": {}, "weight_map": weight_map})
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(index)
    (folder / "config.json").write_text((DIFFUSERS / "config.json").read_text())
    return folder, tensors


def test_a_diffusers_folder_in_and_out(tmp_path, sharded):
    folder, tensors = sharded
    import_checkpoint([folder], tmp_path / "ours")  # the number of heads is in config.json
    params, architecture = load_export(tmp_path / "ours")
    assert architecture["denoiser"]["heads"] == 2
    jax.tree.map(np.testing.assert_array_equal, params, from_wan_dit(tensors))
    out = tmp_path / "out"
    export_checkpoint(tmp_path / "ours", out, naming="diffusers", shard_bytes=200_000)
    index = json.loads((out / "diffusion_pytorch_model.safetensors.index.json").read_text())
    shards = sorted(path.name for path in out.glob("*.safetensors"))
    assert shards == [f"diffusion_pytorch_model-0000{i}-of-00003.safetensors" for i in (1, 2, 3)]
    found = {}
    for shard in shards:
        own = load_file(out / shard)
        assert all(index["weight_map"][name] == shard for name in own)
        found.update(own)
    assert_same_tensors(found, tensors)
    assert index["metadata"]["total_size"] == sum(t.nbytes for t in tensors.values())
    written, original = (json.loads((d / "config.json").read_text()) for d in (out, folder))
    assert written.pop("_class_name") == "WanTransformer3DModel"
    assert written == {name: original[name] for name in written}
    with pytest.raises(FileExistsError, match="expected a new folder"):
        export_checkpoint(tmp_path / "ours", out)


def test_a_smaller_dtype_is_rounded_to_nearest(tmp_path, mirage):
    import_checkpoint(
        [MIRAGE], tmp_path / "ours", options=OPTIONS, dtype=np.dtype(ml_dtypes.bfloat16)
    )
    params, _ = load_export(tmp_path / "ours")
    expected = jax.tree.map(lambda a: jnp.asarray(a).astype(jnp.bfloat16), from_wan_dit(mirage))
    jax.tree.map(np.testing.assert_array_equal, params, expected)


# -- video VAE -----------------------------------------------------------------------------------


def test_a_video_vae_becomes_a_latent_encoder_and_comes_back(tmp_path):
    tensors = load_file(VAE)
    assert import_checkpoint([VAE], tmp_path / "ours") == "latent_encoder"
    encoder = LatentEncoder.load(tmp_path / "ours")
    np.testing.assert_array_equal(encoder.stats.mean, released_stats(48).mean)
    export_checkpoint(tmp_path / "ours", tmp_path / "out.safetensors")
    assert_same_tensors(load_file(tmp_path / "out.safetensors"), tensors)
    # In half precision, and under the wrapper's prefix, it becomes float32.
    half = {f"model.{name}": tensor.astype(np.float16) for name, tensor in tensors.items()}
    save_file(half, tmp_path / "half.safetensors")
    import_checkpoint([tmp_path / "half.safetensors"], tmp_path / "half")
    found = LatentEncoder.load(tmp_path / "half").params["quant"]["bias"]
    np.testing.assert_array_equal(found, tensors["conv1.bias"].astype(np.float16))


@pytest.mark.parametrize(
    ("folder", "nested"), [("official_vae21", False), ("official_vae22", True)]
)
def test_a_video_vae_in_diffusers_naming(tmp_path, folder, nested):
    source = GOLDEN / folder / "weights.safetensors"
    import_checkpoint([source], tmp_path / "ours")
    export_checkpoint(tmp_path / "ours", tmp_path / "vae", naming="diffusers")
    config = json.loads((tmp_path / "vae" / "config.json").read_text())
    reference = json.loads((GOLDEN / folder / "config.json").read_text())
    for name in ("latents_mean", "latents_std", "z_dim", "dim_mult", "temperal_downsample"):
        assert config[name] == reference[name], name
    assert config["is_residual"] == nested and config["base_dim"] == reference["dim"]
    import_checkpoint([tmp_path / "vae"], tmp_path / "again")
    export_checkpoint(tmp_path / "again", tmp_path / "out.safetensors")
    assert_same_tensors(load_file(tmp_path / "out.safetensors"), load_file(source))


def test_statistics_that_a_naming_has_no_place_for_are_not_lost(tmp_path):
    import_checkpoint([VAE], tmp_path / "ours")
    encoder = LatentEncoder.load(tmp_path / "ours")
    stats = encoder.stats.replace(mean=encoder.stats.mean + 1)
    encoder.replace(stats=stats).save(tmp_path / "other")
    with pytest.raises(ValueError, match="other latent statistics than Wan's"):
        export_checkpoint(tmp_path / "other", tmp_path / "out.safetensors")
    export_checkpoint(tmp_path / "other", tmp_path / "out", naming="diffusers")
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    np.testing.assert_allclose(config["latents_mean"], stats.mean, atol=1e-6)
    import_checkpoint([tmp_path / "out"], tmp_path / "again")
    found = LatentEncoder.load(tmp_path / "again").stats
    np.testing.assert_allclose(found.mean, stats.mean, atol=1e-6)


# -- refusals ------------------------------------------------------------------------------------


def without(tensors):
    return {k: v for k, v in tensors.items() if k != "blocks.1.ffn.0.bias"}


def reshaped(tensors):
    return {**tensors, "blocks.2.modulation": np.zeros((1, 6, 24), np.float32)}


def spoilt(tensors):
    broken = tensors["vace_blocks.1.ffn.2.weight"].copy()
    broken[3, 4] = np.nan
    return {**tensors, "vace_blocks.1.ffn.2.weight": broken}


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without, r"in\.safetensors: tensors missing: blocks\.1\.ffn\.0\.bias"),
        (lambda t: {**t, "rope.freqs": t["head.head.bias"]}, "tensors unknown: rope.freqs"),
        (
            lambda t: {**t, "blocks.99999999.ffn.0.bias": t["head.head.bias"]},
            r"unknown: blocks\.99999999\.ffn\.0\.bias",
        ),
        (reshaped, r"blocks\.2\.modulation: found shape \(1, 6, 24\), expected \(1, 6, 48\)"),
        (
            spoilt,
            r"in\.safetensors: tensor 'vace_blocks\.1\.ffn\.2\.weight': found NaN or infinity",
        ),
        (
            lambda t: {**t, "head.head.bias": t["head.head.bias"].astype(np.int32)},
            r"'head\.head\.bias': found int32 of shape \(192,\), expected floating-point",
        ),
    ],
)
def test_what_does_not_fit_is_refused_and_leaves_the_old_export(tmp_path, mirage, change, words):
    out, source = tmp_path / "ours", tmp_path / "in.safetensors"
    out.mkdir()
    save_file({"a": np.ones(3)}, out / "model.safetensors", {"format": "mirage-export-1"})
    before = (out / "model.safetensors").read_bytes()
    save_file(change(mirage), source)
    with pytest.raises(ValueError, match=words):
        import_checkpoint([source], out, options=OPTIONS)
    assert [path.name for path in out.iterdir()] == ["model.safetensors"]
    assert (out / "model.safetensors").read_bytes() == before


@pytest.mark.parametrize("size", [4, 700, 10_000, -1])
def test_a_truncated_file_says_how_long_it_should_be(tmp_path, size):
    data, source = MIRAGE.read_bytes(), tmp_path / "in.safetensors"
    source.write_bytes(data[:size])
    words = rf"in\.safetensors: truncated.* found {len(data[:size])} bytes, expected"
    with pytest.raises(ValueError, match=words):
        import_checkpoint([source], tmp_path / "ours", options=OPTIONS)
    assert not (tmp_path / "ours").exists()


def test_damaged_headers_are_refused(tmp_path):
    source = tmp_path / "in.safetensors"
    entry = {"dtype": "F32", "shape": [3], "data_offsets": [0, 8]}
    for header in (
        b"[1]",
        b"{broken",
        b'{"a": {"shape": [1, "x"]}}',
        json.dumps({"a": entry}).encode(),
        b'{"a": {"shape": 3}}',
    ):
        source.write_bytes(len(header).to_bytes(8, "little") + header + bytes(16))
        with pytest.raises(ValueError, match=r"in\.safetensors: (damaged|tensor 'a': found 8)"):
            import_checkpoint([source], tmp_path / "ours")


def with_branch(tensors, layers):
    """The same with as many layers in its branch, copies of those that it has."""
    stack = {k: v for k, v in tensors.items() if k.startswith("vace_blocks.1.")}
    longer = {k.replace(".1.", f".{i}.", 1): v for i in range(2, layers) for k, v in stack.items()}
    return {**tensors, **longer}


@pytest.mark.parametrize("alone", [True, False])
@pytest.mark.parametrize("layers", [2, 8])  # 8 is what Spatia and the paper have
def test_a_branch_of_another_length_is_refused(tmp_path, mirage, layers, alone):
    source = tmp_path / "in.safetensors"
    tensors = with_branch(mirage, layers)
    save_file({k: v for k, v in tensors.items() if k.startswith("vace_") or not alone}, source)
    words = (
        rf"found {layers} vace_blocks.*vace_blocks\.{layers - 1}; expected 15 for branch_layers "
        r"\(0, 2, 4"
    )
    with pytest.raises(ValueError, match=words):
        import_checkpoint([source], tmp_path / "ours", options=ImportOptions("mirage_5b"))
    assert not (tmp_path / "ours").exists()


def test_a_model_of_another_size_is_refused_by_tensor(tmp_path, mirage):
    source = tmp_path / "in.safetensors"
    save_file({k: v for k, v in mirage.items() if not k.startswith("vace_")}, source)
    with pytest.raises(ValueError, match=r"missing: blocks\.4\.modulation, .*\(702 in all\)"):
        import_checkpoint([source], tmp_path / "ours", options=ImportOptions("wan22_ti2v_5b"))


def test_what_tensors_cannot_tell_is_asked_for(tmp_path, mirage):
    with pytest.raises(ValueError, match="heads: found no number in the tensors"):
        import_checkpoint([MIRAGE], tmp_path / "ours")
    with pytest.raises(ValueError, match=r"found 2 vace_blocks.*expected 0.*--branch_layers"):
        import_checkpoint([MIRAGE], tmp_path / "ours", options=ImportOptions(heads=2))
    with pytest.raises(ValueError, match=r"branch_layers: found \(0, 9\)"):
        import_checkpoint(
            [MIRAGE], tmp_path / "ours", options=ImportOptions(heads=2, branch_layers=(0, 9))
        )
    with pytest.raises(ValueError, match=r"model: found 'wan'.*mirage_5b"):
        import_checkpoint([MIRAGE], tmp_path / "ours", options=ImportOptions("wan"))
    for options in (
        ImportOptions("mirage_5b", heads=12),
        ImportOptions("mirage_5b", branch_layers=(0, 2)),
    ):
        with pytest.raises(ValueError, match=r"found .*, expected .*, which mirage_5b has"):
            import_checkpoint([MIRAGE], tmp_path / "ours", options=options)
    with pytest.raises(ValueError, match=r"tensor '[\w.]+' came with a source before"):
        import_checkpoint([MIRAGE, MIRAGE], tmp_path / "ours", options=OPTIONS)


def test_shards_that_do_not_fit_their_index(tmp_path, sharded):
    folder, _ = sharded
    index = folder / "diffusion_pytorch_model.safetensors.index.json"
    listed = json.loads(index.read_text())
    listed["weight_map"]["extra.weight"] = "part-1.safetensors"
    index.write_text(json.dumps(listed))
    with pytest.raises(ValueError, match=r"'extra\.weight' is missing from part-1\.safetensors"):
        import_checkpoint([folder], tmp_path / "ours")
    index.write_text("{}")
    with pytest.raises(ValueError, match=r"index\.json: found no weight_map"):
        import_checkpoint([folder], tmp_path / "ours")
    index.write_text(json.dumps(listed))
    (folder / "part-1.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"part-1\.safetensors: no such file"):
        import_checkpoint([folder], tmp_path / "ours")


def test_a_network_that_predicts_no_velocity_is_not_passed_off_as_wan(tmp_path, mirage):
    fields = {**wan_dit_fields(mirage, heads=2, branch_layers=(0, 2)), "data_std": [1.0] * 48}
    export(tmp_path, from_wan_dit(mirage), {"kind": "denoiser", "denoiser": fields})
    with pytest.raises(ValueError, match=r"data_std: found .* expected \(\)"):
        export_checkpoint(tmp_path, tmp_path / "out.safetensors")
    with pytest.raises(ValueError, match=r"not an export of ours"):
        export_checkpoint(MIRAGE, tmp_path / "out.safetensors")


def test_pickles_are_never_opened(tmp_path):
    pickled = tmp_path / "Wan2.2_VAE.pth"
    pickled.write_bytes(b"\x80\x02cos\nsystem\n")
    for source in (pickled, tmp_path):
        with pytest.raises(ValueError, match=r"Wan2\.2_VAE\.pth: a pickled.*torch\.load"):
            import_checkpoint([source], tmp_path / "ours")


@pytest.mark.parametrize(
    "nest", ["", "model_state", "vace", "generator", "state_dict", "model"], ids=str
)
def test_the_line_that_rewrites_a_pickle_finds_the_weights_inside(tmp_path, monkeypatch, nest):
    pickled = tmp_path / "step_1000.pth"
    pickled.write_bytes(b"PK\x03\x04" + bytes(60))
    with pytest.raises(ValueError, match="a pickled checkpoint") as refused:
        import_checkpoint([pickled], tmp_path / "ours")
    message = str(refused.value)
    assert "\n" not in message
    program, *options = shlex.split(message[message.index("python -c") :])[1:]
    assert (program, len(options)) == ("-c", 1)

    class Tensor(list):
        """Like PyTorch's, as far as the line goes: contiguous, and of its own memory, if asked."""

        def contiguous(self):
            return types.SimpleNamespace(clone=lambda: (*self,))

    weights = {"blocks.0.bias": Tensor([1, 2]), "model.weight": Tensor([3])}
    stored = {nest: weights, "step": 1000, "optimizer": {"m": Tensor([4])}} if nest else weights
    saved = {}
    torch, safetensors_torch = types.ModuleType("torch"), types.ModuleType("safetensors.torch")

    def load(name, *, map_location, weights_only):
        assert (name, map_location, weights_only) == ("step_1000.pth", "cpu", True)
        return stored

    torch.load, torch.is_tensor = load, lambda value: isinstance(value, Tensor)
    safetensors_torch.save_file = lambda tensors, name: saved.update({name: tensors})
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "safetensors.torch", safetensors_torch)
    exec(compile(options[0], "line", "exec"), {})
    expected = {"blocks.0.bias": (1, 2), "model.weight": (3,)}
    assert saved == {"step_1000.safetensors": expected}


def test_a_failed_write_leaves_the_old_file(tmp_path, exported, monkeypatch):
    out = tmp_path / "out.safetensors"
    save_file({"a": np.ones(3)}, out, {"writer": "mirage_jax"})
    before = out.read_bytes()

    def fail(*_):
        raise OSError("disk full")

    monkeypatch.setattr("os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        export_checkpoint(exported, out)
    with pytest.raises(OSError, match="disk full"):
        export_checkpoint(exported, tmp_path / "folder")
    assert [path.name for path in tmp_path.iterdir()] == ["out.safetensors"]
    assert out.read_bytes() == before


def test_values_are_never_all_in_memory(tmp_path, exported, monkeypatch):
    """Neither way makes an array larger than the largest tensor of the checkpoint."""
    with safe_open(MIRAGE, framework="numpy") as opened:
        largest = max(opened.get_tensor(name).nbytes for name in opened.keys())  # noqa: SIM118
    sizes, fromfile = [], np.fromfile

    def watched(*arguments, **options):
        array = fromfile(*arguments, **options)
        sizes.append(array.nbytes)
        return array

    monkeypatch.setattr(np, "fromfile", watched)
    monkeypatch.setattr(np, "stack", None)
    import_checkpoint([MIRAGE], tmp_path / "ours", options=OPTIONS)
    export_checkpoint(exported, tmp_path / "out.safetensors")
    assert max(sizes) == largest


def peak(work, *arguments, **options):
    """Bytes of Python and NumPy at the most while `work` runs, beyond what was there before."""
    tracemalloc.start()
    try:
        work(*arguments, **options)
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def test_memory_does_not_grow_with_the_checkpoint(tmp_path, monkeypatch):
    """Five times the blocks take the same memory: a few copies of the largest tensor."""
    monkeypatch.setattr("os.fsync", lambda _: None)  # nearly all of the time
    fields = {"width": 512, "mlp_width": 2048, "text_width": 64, "freq_width": 64}
    fields |= {"in_channels": 4, "out_channels": 4, "patch": (1, 2, 2), "branch_layers": ()}
    zeros = np.zeros(6 * 512 * 512, ml_dtypes.bfloat16)
    peaks, sizes = [], []
    for depth in (2, 10):
        specs = {
            name: (zeros.dtype, placement.tensor_shape)
            for placement in wan_dit_plan({**fields, "depth": depth})
            for name in placement.names
        }
        counts = {name: int(np.prod(shape)) for name, (_, shape) in specs.items()}
        source, ours, back = tmp_path / "in.safetensors", tmp_path / "ours", tmp_path / "back"
        write_tensors(source, specs, lambda name, counts=counts: [zeros[: counts[name]]], {})
        sizes.append(source.stat().st_size)
        inwards = peak(import_checkpoint, [source], ours, options=ImportOptions(heads=4))
        peaks.append((inwards, peak(export_checkpoint, ours, back.with_suffix(".safetensors"))))
    assert sizes[1] > 4 * sizes[0] > 20 * zeros.nbytes
    for small, big in zip(*peaks, strict=True):
        assert big < 4 * zeros.nbytes and big - small < zeros.nbytes / 2, peaks


# -- the command ---------------------------------------------------------------------------------


@pytest.fixture
def call(monkeypatch, capsys):
    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["mirage convert", *arguments])
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as leave:
            convert.cli()
        out, err = capsys.readouterr()
        return leave.value.code or 0, " ".join(out.split()), err

    return run


def test_the_command_converts_both_ways(call, tmp_path, mirage):
    ours, back = tmp_path / "ours", tmp_path / "back.safetensors"
    code, out, err = call(f"--source={MIRAGE}", f"--to={ours}", "--heads=2", "--branch_layers=0,2")
    assert (code, err) == (0, "") and "denoiser -> " in out
    code, out, _ = call(f"--source={ours}", f"--to={back}")
    assert code == 0 and f"{len(mirage)} tensors -> " in out
    assert_same_tensors(load_file(back), mirage)


def test_the_command_goes_through_orbax(call, tmp_path, mirage):
    orbax, ours, back = tmp_path / "orbax", tmp_path / "ours", tmp_path / "back.safetensors"
    flags = ["--format=orbax", "--heads=2", "--branch_layers=0,2"]
    code, out, err = call(f"--source={MIRAGE}", f"--to={orbax}", *flags)
    assert (code, err) == (0, "") and "denoiser -> " in out
    code, out, _ = call(f"--source={orbax}", f"--to={ours}", "--format=export")
    assert code == 0 and "parameters -> " in out
    code, out, _ = call(f"--source={orbax}", f"--to={back}")
    assert code == 0 and f"{len(mirage)} tensors -> " in out
    assert_same_tensors(load_file(back), mirage)
    code, _, err = call(f"--source={ours}", f"--to={orbax}", "--format=orbax")
    assert code == 2 and "orbax: is there already; expected a new folder" in err
    for flag in ("--naming=diffusers", "--part=branch"):
        code, _, err = call(f"--source={orbax}", f"--to={tmp_path / 'x'}", "--format=export", flag)
        assert code == 2 and f"{flag.split('=')[0]}: found " in err and "--format=export" in err


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "give --source=FILE_OR_FOLDER and --to=FOLDER_OR_FILE"),
        (["--source=absent.safetensors", "--to=x"], "absent.safetensors: no such file"),
        (["--source=vae.pth", "--to=x"], "vae.pth: a pickled checkpoint"),
        (["--source=vae.pth", "--to=x", "--format=safetensors"], "expected export or orbax for"),
        (["--source=a", "--to=x", "--dtype=int8"], "bfloat16"),
        (["--source=a", "--to=x", "--branch_layers=0,a"], "--branch_layers: found ['0', 'a']"),
    ],
)
def test_the_command_refuses_in_one_line(call, arguments, words):
    code, _, err = call(*arguments)
    assert code == 2 and err.startswith("mirage: error: ") and words in err
    assert "Traceback" not in err


def test_the_command_explains_its_flags_and_no_experiment(call):
    code, out, _ = call("--help")
    assert code == 0
    for flag in (*convert.flags.FLAGS.flags_by_module_dict()[convert.__name__], None):
        assert flag is None or f"--{flag.name}:" in out
    assert "--config" not in out and "--workdir" not in out
