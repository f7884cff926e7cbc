"""Low-rank adapters as files: the released naming, in and out, and merged on the way in."""

import re

import jax
import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from helpers import paths
from mirage_jax.convert.incoming import import_checkpoint
from mirage_jax.convert.options import ImportOptions
from mirage_jax.convert.outgoing import export_checkpoint
from mirage_jax.convert.wan_dit import from_wan_dit, original_names
from mirage_jax.nn.lora import EVERY_PROJECTION, SELF_ATTENTION, LoRA
from mirage_jax.weights import as_fields, load_export

BASE = paths.GOLDEN / "diffusers_wan_ti2v"
RANK = 4
WIDTH, MLP_WIDTH, DEPTH = 48, 96, 3


def pairs(projections, dtype=np.float32):
    """A released file of every layer of the golden model, without prefix."""
    rng = np.random.default_rng(0)
    ends = {"ffn.0": (WIDTH, MLP_WIDTH), "ffn.2": (MLP_WIDTH, WIDTH)}
    made = {}
    for layer in range(DEPTH):
        for name in projections:
            inputs, outputs = ends.get(name, (WIDTH, WIDTH))
            stem = f"blocks.{layer}.{name}"
            made[f"{stem}.lora_A.weight"] = rng.normal(size=(RANK, inputs)).astype(dtype)
            made[f"{stem}.lora_B.weight"] = rng.normal(size=(outputs, RANK)).astype(dtype)
    return made


ATTENTION = [f"self_attn.{name}" for name in "qkvo"]
EVERY = [*ATTENTION, *(f"cross_attn.{name}" for name in "qkvo"), "ffn.0", "ffn.2"]


def saved(tensors, path, prefix="pipe.dit."):
    save_file({prefix + name: tensor for name, tensor in tensors.items()}, path)
    return path


@pytest.mark.parametrize(
    ("projections", "targets", "dtype"),
    [(ATTENTION, SELF_ATTENTION, np.float32), (EVERY, EVERY_PROJECTION, ml_dtypes.bfloat16)],
)
def test_comes_back_bit_by_bit(tmp_path, projections, targets, dtype):
    tensors = pairs(projections, dtype)
    source = saved(tensors, tmp_path / "in.safetensors")
    ours, out = tmp_path / "ours", tmp_path / "out.safetensors"
    assert import_checkpoint([source], ours, options=ImportOptions(alpha=8.0)) == "lora"
    _, architecture = load_export(ours)
    assert LoRA(**as_fields(architecture["lora"])) == LoRA(RANK, 8.0, targets)
    export_checkpoint(ours, out)
    found = load_file(out)
    assert set(found) == {f"pipe.dit.{name}" for name in tensors}
    for name, tensor in tensors.items():
        assert found[f"pipe.dit.{name}"].dtype == dtype
        np.testing.assert_array_equal(found[f"pipe.dit.{name}"], tensor, err_msg=name)
    with safe_open(out, framework="numpy") as opened:
        assert opened.metadata()["alpha"] == "8.0"
    # What we wrote stores alpha, so that it need not be given again.
    import_checkpoint([out], tmp_path / "again")
    assert load_export(tmp_path / "again")[1] == architecture


@pytest.mark.parametrize("prefix", ["", "dit.", "module.", "base_model.model."])
@pytest.mark.parametrize("infix", ["", ".default"])
def test_prefixes_and_adapter_names_are_tolerated(tmp_path, prefix, infix):
    tensors = pairs(ATTENTION)
    plain, odd = tmp_path / "plain", tmp_path / "odd"
    import_checkpoint(
        [saved(tensors, tmp_path / "a.safetensors")], plain, options=ImportOptions(alpha=1.0)
    )
    named = {re.sub(r"(lora_[AB])", rf"\1{infix}", name): t for name, t in tensors.items()}
    source = saved(named, tmp_path / "b.safetensors", prefix)
    import_checkpoint([source], odd, options=ImportOptions(alpha=1.0))
    jax.tree.map(np.testing.assert_array_equal, load_export(odd)[0], load_export(plain)[0])


def test_merged_into_a_base_on_the_way_in(tmp_path):
    base, tensors = load_file(BASE / "weights.safetensors"), pairs(EVERY)
    lora = saved(tensors, tmp_path / "lora.safetensors")
    options = ImportOptions(heads=2, alpha=6.0)
    import_checkpoint([BASE / "weights.safetensors", lora], tmp_path / "ours", options=options)
    expected = original_names(base)
    for layer in range(DEPTH):
        for name in EVERY:
            stem = f"blocks.{layer}.{name}"
            down, up = (tensors[f"{stem}.lora_{half}.weight"] for half in "AB")
            expected[f"{stem}.weight"] = expected[f"{stem}.weight"] + 6.0 / RANK * (up @ down)
    found, _ = load_export(tmp_path / "ours")
    close = lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5)  # noqa: E731
    jax.tree.map(close, found, from_wan_dit(expected))
    # The same as keeping both apart and merging in memory.
    import_checkpoint([lora], tmp_path / "lora", options=options)
    adapter, architecture = load_export(tmp_path / "lora")
    kept = LoRA(**as_fields(architecture["lora"])).merge(from_wan_dit(base), adapter)
    jax.tree.map(close, found, kept)


def without(tensors):
    return {k: v for k, v in tensors.items() if k != "blocks.1.self_attn.k.lora_B.weight"}


@pytest.mark.parametrize(
    ("change", "alpha", "words"),
    [
        (dict, None, r"in\.safetensors: alpha: the file stores none.*expected a number"),
        (without, 1.0, r"tensors missing: pipe\.dit\.blocks\.1\.self_attn\.k\.lora_B\.weight"),
        (
            lambda t: {**t, "blocks.2.self_attn.o.lora_A.weight": np.zeros((3, 48), np.float32)},
            1.0,
            r"blocks\.2\.self_attn\.o\.lora_A\.weight: found shape \(3, 48\), expected \(4, 48\)",
        ),
        (
            lambda t: {**t, "blocks.0.norm4.lora_A.weight": np.zeros((4, 48), np.float32)},
            1.0,
            r"'pipe\.dit\.blocks\.0\.norm4\.lora_A\.weight': expected.*self_attn\.q",
        ),
        (
            lambda t: {**t, "blocks.0.self_attn.q.alpha": np.zeros(1, np.float32)},
            1.0,
            r"'pipe\.dit\.blocks\.0\.self_attn\.q\.alpha': found \[0\.\], expected one number",
        ),
        (
            lambda t: {
                **t,
                "blocks.0.self_attn.q.lora_A.weight": np.full((4, 48), np.float32(np.inf)),
            },
            1.0,
            r"'blocks\.0\.self_attn\.q\.lora_A\.weight': found NaN or infinity",
        ),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, change, alpha, words):
    source = saved(change(pairs(ATTENTION)), tmp_path / "in.safetensors")
    with pytest.raises(ValueError, match=words):
        import_checkpoint([source], tmp_path / "ours", options=ImportOptions(alpha=alpha))
    assert not (tmp_path / "ours" / "model.safetensors").exists()


def test_an_adapter_of_another_model_is_not_merged(tmp_path):
    longer = {k.replace("blocks.2.", "blocks.3."): v for k, v in pairs(ATTENTION).items()}
    lora = saved(longer, tmp_path / "lora.safetensors")
    sources, options = [BASE / "weights.safetensors", lora], ImportOptions(heads=2, alpha=1.0)
    with pytest.raises(ValueError, match=r"'pipe\.dit\.blocks\.3\.self_attn\..*expected lora_A"):
        import_checkpoint(sources, tmp_path / "ours", options=options)
    wider = {k: np.concatenate([v, v], int("A." in k)) for k, v in pairs(ATTENTION).items()}
    lora = saved(wider, tmp_path / "lora.safetensors")
    words = r"lora\.safetensors: tensor .*lora_A.*: found shape \(4, 96\), expected \(4, 48\)"
    with pytest.raises(ValueError, match=words):
        import_checkpoint(sources, tmp_path / "ours", options=options)
    lora = saved(pairs(ATTENTION), tmp_path / "lora.safetensors")
    with pytest.raises(ValueError, match=r"found a second low-rank adapter"):
        import_checkpoint([lora, lora], tmp_path / "ours", options=options)
    vae = BASE.parent / "official_vae22" / "weights.safetensors"
    with pytest.raises(ValueError, match=r"adapter beside a latent_encoder, expected a denoiser"):
        import_checkpoint([vae, lora], tmp_path / "ours", options=options)
    import_checkpoint([lora], tmp_path / "ours", options=options)
    with pytest.raises(ValueError, match="found 'diffusers', expected 'original' for a LoRA"):
        export_checkpoint(tmp_path / "ours", tmp_path / "out", naming="diffusers")
