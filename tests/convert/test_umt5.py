"""UMT5 weights: names, shapes and values, in and out."""

import hashlib
import math
import re

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from helpers import paths
from mirage_jax.convert.umt5 import from_umt5, to_umt5, umt5_fields, umt5_shapes, wan_names
from mirage_jax.nn.text_encoder import UMT5_XXL

GOLDEN = paths.GOLDEN / "official_umt5"
# Of models_t5_umt5-xxl-enc-bf16.pth: md5 of its names and "name:d0_d1", sorted, joined by commas.
XXL_DIGEST = "9c8818c2cbea55eca56c7b447df170da"


@pytest.fixture
def wan():
    return load_file(GOLDEN / "weights.safetensors")


@pytest.fixture
def hf(wan):
    rows = (GOLDEN / "hf_names.tsv").read_text().splitlines()
    return {theirs: wan[ours] for ours, theirs in (row.split("\t") for row in rows)}


def assert_same(found, expected):
    assert found.keys() == expected.keys()
    for name, array in expected.items():
        assert found[name].dtype == array.dtype, name
        np.testing.assert_array_equal(found[name], array, err_msg=name)


def test_round_trip_through_files(wan, hf, tmp_path):
    assert len(hf) == len(wan) == 32
    for naming, tensors in (("wan", wan), ("hf", hf)):
        save_file(to_umt5(from_umt5(tensors), naming), tmp_path / "weights.safetensors")
        assert_same(load_file(tmp_path / "weights.safetensors"), tensors)


def test_both_namings_give_the_same_model(wan, hf):
    assert umt5_fields(hf) == umt5_fields(wan)
    assert_same(to_umt5(from_umt5(hf)), wan)
    assert_same(wan_names(hf), wan)


def test_half_precision_stays(wan):
    half = {name: array.astype(ml_dtypes.bfloat16) for name, array in wan.items()}
    assert_same(to_umt5(from_umt5(half)), half)


def test_xxl_has_the_names_and_shapes_of_the_released_file():
    shapes = umt5_shapes(UMT5_XXL)
    assert len(shapes) == 242
    assert sum(math.prod(shape) for shape in shapes.values()) == 5_680_910_336
    listed = [f"{name}:{'_'.join(map(str, shape))}" for name, shape in shapes.items()]
    text = ",".join(sorted([*listed, *shapes]))
    assert hashlib.md5(text.encode()).hexdigest() == XXL_DIGEST


def test_the_token_embedding_may_come_under_both_of_its_names(wan, hf):
    table = hf["shared.weight"]
    assert_same(to_umt5(from_umt5({**hf, "encoder.embed_tokens.weight": table})), wan)
    del hf["shared.weight"]
    assert_same(to_umt5(from_umt5({**hf, "encoder.embed_tokens.weight": table})), wan)
    with pytest.raises(ValueError, match=r"encoder\.embed_tokens\.weight: found other values"):
        from_umt5({**hf, "shared.weight": table, "encoder.embed_tokens.weight": table + 1})


@pytest.mark.parametrize("naming", ["wan", "hf"])
def test_refuses_other_tensors_by_name(wan, hf, naming):
    tensors = {"wan": wan, "hf": hf}[naming]
    dropped = wan["blocks.1.ffn.fc2.weight"]
    kept = {name: array for name, array in tensors.items() if array is not dropped}
    with pytest.raises(ValueError, match=r"1 tensors missing: blocks\.1\.ffn\.fc2\.weight"):
        from_umt5(kept)
    with pytest.raises(ValueError, match=r"1 tensors unknown: decoder\.weight"):
        from_umt5({**tensors, "decoder.weight": wan["norm.weight"]})


def test_refuses_other_shapes_by_name(wan):
    for name, array in wan.items():
        if name.startswith("blocks.1.") or name == "norm.weight":
            with pytest.raises(ValueError, match=rf"^tensor {re.escape(name)}: found shape"):
                from_umt5({**wan, name: array[1:]})


def test_says_which_tensor_has_which_shape(wan):
    wan["blocks.2.attn.o.weight"] = wan["blocks.2.attn.o.weight"][:, 1:]
    expected = r"blocks\.2\.attn\.o\.weight: found shape \(32, 31\), expected \(32, 32\)"
    with pytest.raises(ValueError, match=expected):
        from_umt5(wan)
    with pytest.raises(ValueError, match=r"token_embedding\.weight: found shape \(4,\)"):
        umt5_fields({"token_embedding.weight": np.zeros(4)})
    with pytest.raises(ValueError, match=r"'token_embedding\.weight' is missing"):
        umt5_fields({"model.weight": np.zeros(4)})


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@pytest.mark.parametrize("dtype", [np.float32, ml_dtypes.bfloat16])
def test_refuses_values_that_are_not_finite(wan, value, dtype):
    for name in ("token_embedding.weight", "blocks.2.attn.v.weight"):
        spoilt = wan[name].astype(dtype)
        spoilt[3, 4] = value
        with pytest.raises(ValueError, match=rf"tensor '{re.escape(name)}': found NaN or infinity"):
            from_umt5({**wan, name: spoilt})


def test_refuses_other_parameters_by_name(wan):
    params = from_umt5(wan)
    with pytest.raises(ValueError, match="naming: found 'diffusers', expected one of wan, hf"):
        to_umt5(params, "diffusers")
    params["blocks"]["bias"] = params["blocks"].pop("q")
    with pytest.raises(ValueError, match="blocks/bias, blocks/q"):
        to_umt5(params)
