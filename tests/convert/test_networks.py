"""Text encoders and depth networks through `import_checkpoint`, out again, and where they run."""

import json

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from helpers import paths
from mirage_jax.convert.depth_anything import from_depth_anything
from mirage_jax.convert.incoming import import_checkpoint
from mirage_jax.convert.networks import read_depth_anything, read_text_encoder
from mirage_jax.convert.outgoing import export_checkpoint
from mirage_jax.convert.umt5 import from_umt5
from mirage_jax.nn import depth_anything
from mirage_jax.nn.depth_anything import DepthAnything

UMT5 = paths.GOLDEN / "official_umt5"
DEPTH = paths.GOLDEN / "transformers_depth_anything_relative" / "weights.safetensors"
TINY = {
    "width": 24,
    "layers": 4,
    "heads": 2,
    "mlp_width": 48,
    "taps": (0, 1, 2, 3),
    "neck_widths": (8, 12, 16, 24),
    "fusion_width": 16,
    "hidden_width": 8,
    "table_side": 5,
}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


@pytest.fixture
def wan():
    return load_file(UMT5 / "weights.safetensors")


@pytest.fixture
def hf(wan):
    rows = (UMT5 / "hf_names.tsv").read_text().splitlines()
    return {theirs: wan[ours] for ours, theirs in (row.split("\t") for row in rows)}


@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_a_text_encoder_in_and_out_in_either_naming(tmp_path, wan, hf, dtype):
    for naming, tensors in (("original", wan), ("diffusers", hf)):
        own = {name: tensor.astype(dtype) for name, tensor in tensors.items()}
        source, back = (tmp_path / f"{naming}_{end}.safetensors" for end in ("in", "out"))
        ours = tmp_path / naming
        save_file(own, source)
        assert import_checkpoint([source], ours) == "text_encoder"
        params, network = read_text_encoder(ours)
        jax.tree.map(np.testing.assert_array_equal, params, from_umt5(own))
        assert (network, network.dtype) == (read_text_encoder(source)[1], dtype)
        export_checkpoint(ours, back, naming=naming)
        assert_same(load_file(back), own)


def test_a_text_encoder_as_comfy_stores_it(tmp_path, hf):
    """Scaled 8 bits, the tokenizer as bytes beside, in a file with a transformer."""
    tensors, expected = {}, {}
    for name, tensor in hf.items():
        if name.endswith(("q.weight", "wo.weight")):
            scale = np.float32(np.abs(tensor).max() / 448)
            tensors[name] = (tensor / scale).astype(ml_dtypes.float8_e4m3fn)
            tensors[name.replace(".weight", ".scale_weight")] = np.asarray(scale)
            expected[name] = tensors[name].astype(np.float32) * scale
        else:
            tensors[name] = expected[name] = tensor.astype(np.float16)
    tensors["scaled_fp8"] = np.zeros(2, ml_dtypes.float8_e4m3fn)
    tensors["spiece_model"] = np.frombuffer(b"a tokenizer", np.uint8)
    whole = {f"text_encoders.umt5xxl.transformer.{name}": t for name, t in tensors.items()}
    whole["model.diffusion_model.head.head.bias"] = np.zeros(3, np.float32)
    save_file(tensors, tmp_path / "umt5.safetensors")
    save_file(whole, tmp_path / "whole.safetensors")
    for source in ("umt5", "whole"):
        params, _ = read_text_encoder(tmp_path / f"{source}.safetensors")
        jax.tree.map(np.testing.assert_array_equal, params, from_umt5(expected))
    lines = []
    import_checkpoint([tmp_path / "umt5.safetensors"], tmp_path / "ours", report=lines.append)
    assert "scaled_fp8: marker" in lines[0] and "spiece_model: uint8 of shape (11,)" in lines[1]
    export_checkpoint(tmp_path / "ours", tmp_path / "back.safetensors", naming="diffusers")
    found = load_file(tmp_path / "back.safetensors")
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name].astype(np.float32), tensor.astype(np.float32))


@pytest.fixture
def tiny(monkeypatch):
    monkeypatch.setitem(depth_anything.PRESETS, "tiny", TINY)
    return load_file(DEPTH)


def test_a_depth_network_in_out_and_at_work(tmp_path, tiny):
    ours = tmp_path / "ours"
    assert import_checkpoint([DEPTH], ours, dtype=np.dtype(np.float16)) == "depth_anything"
    params, network = read_depth_anything(ours)
    assert network == DepthAnything(**TINY)
    expected = from_depth_anything(tiny, network)
    jax.tree.map(np.testing.assert_array_equal, params, expected)
    for naming in ("original", "diffusers"):
        export_checkpoint(ours, tmp_path / f"{naming}.safetensors", naming=naming)
    original = load_file(tmp_path / "original.safetensors")
    assert "pretrained.blocks.0.attn.qkv.weight" in original
    jax.tree.map(np.testing.assert_array_equal, from_depth_anything(original, network), expected)
    back = load_file(tmp_path / "diffusers.safetensors")
    renamed = {
        name.replace("attention.attention.query", "attention.q_proj")
        .replace("attention.attention.key", "attention.k_proj")
        .replace("attention.attention.value", "attention.v_proj")
        .replace("attention.output.dense", "attention.o_proj"): tensor
        for name, tensor in back.items()
    }
    assert_same(renamed, tiny)
    # A folder, which has no place for it, is refused; so is a network of no released size.
    with pytest.raises(ValueError, match=r"expected a \.safetensors file for a depth_anything"):
        export_checkpoint(ours, tmp_path / "folder")


def test_another_export_is_refused_by_its_kind(tmp_path, wan):
    save_file(wan, tmp_path / "umt5.safetensors")
    import_checkpoint([tmp_path / "umt5.safetensors"], tmp_path / "ours")
    with pytest.raises(ValueError, match="field kind: found 'text_encoder'"):
        read_depth_anything(tmp_path / "ours")
    with pytest.raises(ValueError, match="found a class token of None channels"):
        read_depth_anything(tmp_path / "umt5.safetensors")
    assert (
        json.loads((tmp_path / "ours" / "architecture.json").read_text())["kind"] == "text_encoder"
    )
