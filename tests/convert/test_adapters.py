"""Adapters of every making, merged: compared with the arithmetic written out in numpy."""

import json
import math

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file
from safetensors.numpy import save_file as save_arrays

from helpers import paths
from mirage_jax.convert.adapters import read_adapter
from mirage_jax.convert.incoming import import_checkpoint
from mirage_jax.convert.options import ImportOptions
from mirage_jax.convert.outgoing import export_checkpoint
from mirage_jax.convert.tensor_files import open_tensors
from mirage_jax.convert.wan_dit import from_wan_dit
from mirage_jax.nn.lora import LoRA
from mirage_jax.weights import as_fields, load_export

MIRAGE = paths.GOLDEN / "official_mirage_dit_vace" / "weights.safetensors"  # 4 blocks, 2 of branch
OPTIONS = ImportOptions(heads=2, branch_layers=(0, 2))
RANK, ALPHA = 3, 12.0
DIFFUSERS = {
    "self_attn.q": "attn1.to_q",
    "self_attn.o": "attn1.to_out.0",
    "cross_attn.k": "attn2.to_k",
    "ffn.0": "ffn.net.0.proj",
    "ffn.2": "ffn.net.2",
}
AB, DOWN_UP = ("lora_A", "lora_B"), ("lora_down", "lora_up")


@pytest.fixture(scope="module")
def base():
    return load_file(MIRAGE)


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: None)  # most of the time


def save_file(tensors, path, metadata=None):
    save_arrays({name: np.asarray(tensor) for name, tensor in tensors.items()}, path, metadata)


def factors(base, modules, rank=RANK):
    """Random A and B for modules of the base."""
    rng, made = np.random.default_rng(0), {}
    for module in modules:
        outputs, *inputs = base[f"{module}.weight"].shape
        ones = [1] * (len(inputs) - 1)
        down = rng.normal(size=(rank, *inputs)).astype(np.float32)
        made[module] = down, rng.normal(size=(outputs, rank, *ones)).astype(np.float32)
    return made


MODULES = [f"blocks.{block}.{projection}" for block in (1, 3) for projection in DIFFUSERS]


def product(down, up):
    return (up.reshape(len(up), -1) @ down.reshape(len(down), -1)).reshape(-1, *down.shape[1:])


def named(pairs, spelling=str, prefix="", halves=AB, infix="", alpha=None):
    tensors = {}
    for module, pair in pairs.items():
        name = prefix + spelling(module)
        for half, tensor in zip(halves, pair, strict=True):
            tensors[f"{name}.{half}{infix}.weight"] = tensor
        if alpha is not None:
            tensors[f"{name}.alpha"] = alpha
    return tensors


def underscored(module):
    return module.replace(".", "_")


def of_diffusers(module):
    _, block, projection = module.split(".", 2)
    return f"blocks.{block}.{DIFFUSERS[projection]}"


def merged(tmp_path, adapters, options=OPTIONS, **given):
    """The base's tensors with adapters merged, as another tool reads them; and the report."""
    lines = []
    import_checkpoint(
        [MIRAGE, *adapters], tmp_path / "ours", options=options, report=lines.append, **given
    )
    export_checkpoint(tmp_path / "ours", tmp_path / "back.safetensors")
    return load_file(tmp_path / "back.safetensors"), "\n".join(lines)


def assert_updated(found, base, updates):
    """`found` is the base, plus `updates` by name; what is not updated has not changed a bit."""
    assert found.keys() == base.keys() and updates.keys() <= base.keys()
    for name, tensor in base.items():
        if name in updates:
            assert np.abs(updates[name]).max() > 0.1
            np.testing.assert_allclose(found[name], tensor + updates[name], atol=1e-4, err_msg=name)
        else:
            np.testing.assert_array_equal(found[name], tensor, err_msg=name)


@pytest.mark.parametrize(
    ("spelling", "prefix", "halves", "infix", "number"),
    [
        (str, "diffusion_model.", AB, "", np.float32),
        (str, "model.diffusion_model.", DOWN_UP, "", np.float16),
        (underscored, "lora_unet_", DOWN_UP, "", np.int64),
        (of_diffusers, "transformer.", AB, "", ml_dtypes.bfloat16),
        (
            lambda module: underscored(of_diffusers(module)),
            *("lora_unet_", DOWN_UP, "", np.float64),
        ),
        (str, "base_model.model.", AB, ".default", np.float32),
        (str, "", AB, ".style", np.int32),
        (of_diffusers, "transformer.", ("lora.down", "lora.up"), "", np.float32),
    ],
)
def test_every_spelling_changes_the_same_weights(
    tmp_path, base, spelling, prefix, halves, infix, number
):
    pairs = factors(base, MODULES)
    source = tmp_path / "lora.safetensors"
    save_file(named(pairs, spelling, prefix, halves, infix, number(ALPHA)), source)
    found, lines = merged(tmp_path, [source])
    scale = ALPHA / RANK
    assert_updated(
        found, base, {f"{m}.weight": scale * product(*pair) for m, pair in pairs.items()}
    )
    assert lines == f"{source}: 10 updates of rank 3, alpha 12 (stored)"


CONFIG = {"peft_type": "LORA", "r": RANK, "lora_alpha": 12}


@pytest.mark.parametrize(
    ("metadata", "config", "given", "scale"),
    [
        ({"alpha": "12"}, None, None, 4.0),
        ({"ss_network_alpha": "12.0", "ss_network_dim": "3"}, None, None, 4.0),
        ({"ss_network_alpha": "None"}, None, 6.0, 2.0),
        ({"lora_adapter_metadata": {"transformer.lora_alpha": 12}}, None, None, 4.0),
        (
            {
                "lora_adapter_metadata": {
                    "transformer.lora_alpha": 12,
                    "transformer.use_rslora": True,
                }
            },
            None,
            None,
            12 / math.sqrt(3),
        ),
        ({}, CONFIG, None, 4.0),
        ({}, {**CONFIG, "use_rslora": True}, None, 12 / math.sqrt(3)),
        ({}, {**CONFIG, "alpha_pattern": {"attn1.to_q": 3}}, None, None),
        ({}, None, 6.0, 2.0),
        ({"alpha": "12"}, None, 12.0, 4.0),
    ],
)
def test_alpha_is_read_from_wherever_it_stands(tmp_path, base, metadata, config, given, scale):
    pairs, folder = factors(base, MODULES), tmp_path / "peft"
    folder.mkdir()
    texts = {k: v if isinstance(v, str) else json.dumps(v) for k, v in metadata.items()}
    save_file(named(pairs, of_diffusers), folder / "adapter_model.safetensors", texts)
    if config:
        (folder / "adapter_config.json").write_text(json.dumps(config))
    options = ImportOptions(heads=2, branch_layers=(0, 2), alpha=given)
    scales = {m: scale or (1.0 if m.endswith("self_attn.q") else 4.0) for m in MODULES}
    updates = {f"{m}.weight": scales[m] * product(*pair) for m, pair in pairs.items()}
    for source in [folder, folder / "adapter_model.safetensors"] if config else [folder]:
        assert_updated(merged(tmp_path, [source], options)[0], base, updates)


def test_an_alpha_beside_a_pair_counts_before_the_metadata(tmp_path, base):
    pairs = factors(base, MODULES)
    tensors, source = named(pairs), tmp_path / "lora.safetensors"
    tensors["blocks.1.ffn.0.alpha"] = np.float32(1.5)
    save_file(tensors, source, {"alpha": "3"})
    scales = {m: 0.5 if m == "blocks.1.ffn.0" else 1.0 for m in MODULES}
    updates = {f"{m}.weight": scales[m] * product(*pair) for m, pair in pairs.items()}
    found, lines = merged(tmp_path, [source])
    assert_updated(found, base, updates)
    assert lines.endswith("10 updates of rank 3, alpha 1.5 or 3 (stored)")


def test_whole_differences_and_pairs_of_any_layer(tmp_path, base):
    rng = np.random.default_rng(1)
    pairs = factors(base, ["patch_embedding", "head.head", "blocks.0.ffn.0", "vace_blocks.1.ffn.2"])
    changed = {
        "blocks.0.self_attn.q.diff_b": "blocks.0.self_attn.q.bias",
        "blocks.0.self_attn.norm_q.diff": "blocks.0.self_attn.norm_q.weight",
        "blocks.2.norm3.diff": "blocks.2.norm3.weight",
        "blocks.2.norm3.diff_b": "blocks.2.norm3.bias",
        "blocks.2.ffn.0.diff": "blocks.2.ffn.0.weight",
        "blocks.1.diff_m": "blocks.1.modulation",
        "blocks.2.modulation.diff": "blocks.2.modulation",
        "head.diff_m": "head.modulation",
        "patch_embedding.diff_b": "patch_embedding.bias",
    }
    differences = {d: rng.normal(size=base[n].shape).astype(np.float32) for d, n in changed.items()}
    tensors = {**named(pairs, halves=DOWN_UP, alpha=np.float32(ALPHA)), **differences}
    source = tmp_path / "speed.safetensors"
    save_file({f"diffusion_model.{name}": t for name, t in tensors.items()}, source)
    found, lines = merged(tmp_path, [source])
    updates = {f"{m}.weight": 4 * product(*pair) for m, pair in pairs.items()}
    updates |= {name: differences[difference] for difference, name in changed.items()}
    assert_updated(found, base, updates)
    assert "4 updates of rank 3, alpha 12 (stored), 9 whole differences" in lines


def test_several_adapters_add_up_each_by_its_strength(tmp_path, base):
    first, second = factors(base, MODULES), factors(base, MODULES[:4], rank=5)
    sources = [tmp_path / name for name in ("style.safetensors", "speed.safetensors")]
    bias = np.linspace(-1, 1, 48, dtype=np.float32)
    save_file(named(first, underscored, "lora_unet_", DOWN_UP, alpha=np.float32(6)), sources[0])
    save_file({**named(second), "blocks.1.self_attn.q.diff_b": bias}, sources[1])
    options = ImportOptions(heads=2, branch_layers=(0, 2), alpha=10.0, strengths=(0.5, -2.0))
    updates = {f"{m}.weight": 0.5 * 6 / 3 * product(*pair) for m, pair in first.items()}
    for module, pair in second.items():
        updates[f"{module}.weight"] += -2.0 * 10 / 5 * product(*pair)
    updates["blocks.1.self_attn.q.bias"] = -2 * bias
    assert_updated(merged(tmp_path, sources, options)[0], base, updates)
    options = ImportOptions(heads=2, branch_layers=(0, 2), alpha=10.0, strengths=(1.0, 2.0, 3.0))
    with pytest.raises(ValueError, match="strengths: found 3 numbers for 2 adapters"):
        merged(tmp_path, sources, options)


def test_an_update_is_rounded_once(tmp_path, base):
    """A weight in bfloat16 with an update is the sum in float32, rounded, or kept if asked for."""
    half = {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in base.items()}
    pairs, source = factors(base, MODULES), tmp_path / "lora.safetensors"
    save_file(named(pairs, alpha=np.float32(0.01)), source)
    save_file(half, tmp_path / "base.safetensors")
    name = f"{MODULES[0]}.weight"
    exact = half[name].astype(np.float32) + np.float32(0.01 / RANK) * product(*pairs[MODULES[0]])
    for dtype, stored, half_unit in (
        (None, ml_dtypes.bfloat16, 2.0**-8),
        (np.float32, np.float32, 1e-6),
    ):
        import_checkpoint(
            [tmp_path / "base.safetensors", source],
            tmp_path / "ours",
            options=OPTIONS,
            dtype=dtype and np.dtype(dtype),
        )
        export_checkpoint(tmp_path / "ours", tmp_path / "back.safetensors")
        found = load_file(tmp_path / "back.safetensors")[name]
        assert found.dtype == stored
        np.testing.assert_allclose(found.astype(np.float32), exact, half_unit, 1e-7)


def test_a_sum_beyond_float16_is_refused(tmp_path, base):
    pairs, source = factors(base, MODULES), tmp_path / "lora.safetensors"
    save_file(named(pairs, alpha=np.float32(3e5)), source)
    with pytest.raises(
        ValueError, match=r"blocks\.1\.self_attn\.q.* are beyond 65504, the largest"
    ):
        merged(tmp_path, [source], dtype=np.dtype(np.float16))


def test_what_is_of_other_networks_is_listed(tmp_path, base):
    pairs, source = factors(base, MODULES), tmp_path / "lora.safetensors"
    zeros = np.zeros((3, 3), np.float32)
    others = {
        "lora_te1_text_model_encoder_layers_0.lora_down.weight": zeros,
        "lora_unet_blocks_0_cross_attn_k_img.lora_up.weight": zeros,
        "lora_unet_blocks_0_cross_attn_norm_k_img.diff": zeros,
        "lora_unet_img_emb_proj_1.alpha": np.float32(1),
        "step": np.int64(1000),
    }
    own = named(pairs, underscored, "lora_unet_", DOWN_UP, alpha=np.float32(3))
    save_file({**own, **others}, source)
    found, lines = merged(tmp_path, [source])
    assert_updated(found, base, {f"{m}.weight": product(*pair) for m, pair in pairs.items()})
    for name in others:
        assert name in lines
    files = open_tensors(source)
    unused = read_adapter(files, base, None).unused
    assert unused.keys() == others.keys()
    assert unused["step"] == "int64 of shape ()"
    assert "text encoder" in unused["lora_te1_text_model_encoder_layers_0.lora_down.weight"]
    used = sum(name in own for name in files.tensors)
    assert used + len(unused) == len(files.tensors) + len(files.unused)


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        ({"blocks.1.ffn.0.dora_scale": (96, 1)}, "found DoRA, expected pairs"),
        ({"blocks.1.ffn.0.lora_magnitude_vector": (96,)}, "found DoRA"),
        ({"blocks.1.ffn.0.lora_magnitude_vector.default.weight": (96,)}, "found DoRA"),
        ({"lora_unet_blocks_0_ffn_0.hada_w1_a": (3, 3)}, "found LoHa"),
        ({"lora_unet_blocks_0_ffn_0.lokr_w1": (3, 3)}, "found LoKr"),
        ({"blocks.0.ffn.0.oft_blocks": (3, 3)}, "found OFT"),
        ({"blocks.1.ffn.0.lora_B.bias": (96,)}, "found LoRA with a bias"),
        ({"blocks.0.ffn.0.set_weight": (3, 3)}, "found a replaced weight"),
        (
            {"blocks.0.ffn.0.surprise": (3,)},
            r"tensor 'blocks\.0\.ffn\.0\.surprise': expected lora_A",
        ),
        ({"blocks.9.ffn.0.diff": (3,)}, r"tensor 'blocks\.9\.ffn\.0\.diff': expected lora_A"),
        ({"blocks.99999999.ffn.0.diff": (3,)}, r"'blocks\.99999999\.ffn\.0\.diff': expected"),
        ({"blocks.0.ffn.0.diff_m": (3,)}, r"the model has no blocks\.0\.ffn\.0\.modulation"),
        ({"blocks.0.ffn.0.diff": (4, 48)}, r"diff: found shape \(4, 48\), expected \(96, 48\) for"),
        ({"blocks.1.ffn.0.diff": (96, 48)}, r"blocks\.1\.ffn\.0\.weight: found two updates"),
        ({"dit.blocks.1.ffn.0.lora_A.weight": (3, 48)}, "found '.*' for it as well"),
        ({"blocks.0.ffn.0.alpha": (1,)}, r"blocks\.0\.ffn\.0: found an alpha, expected a pair"),
        ({"blocks.0.ffn.0.lora_A.two.weight": (3, 48)}, "found the adapters None, two in one file"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(tmp_path, base, extra, words):
    tensors, source = named(factors(base, MODULES)), tmp_path / "lora.safetensors"
    tensors |= {name: np.ones(shape, np.float32) for name, shape in extra.items()}
    if "lora_A.two" in next(iter(extra)):
        tensors["blocks.0.ffn.0.lora_B.two.weight"] = np.ones((96, 3), np.float32)
    save_file(tensors, source, {"alpha": "3"})
    with pytest.raises(ValueError, match=rf"lora\.safetensors: .*{words}"):
        merged(tmp_path, [source])
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize(
    ("metadata", "config", "given", "words"),
    [
        ({}, None, None, r"alpha: the file stores none.*--lora_alpha.* 3 for tools"),
        ({"alpha": "12"}, None, 3.0, "alpha: found 3, but .* stores 12; expected none"),
        ({}, {**CONFIG, "lora_alpha": 10**400}, None, "lora_alpha: found 1000+, expected a number"),
        ({"alpha": "high"}, None, None, "metadata alpha: found 'high', expected a number above 0"),
        ({"lora_adapter_metadata": "[1"}, None, None, "lora_adapter_metadata: not a JSON object"),
        ({}, {"peft_type": "LOHA"}, None, "peft_type: found 'LOHA', expected 'LORA'"),
        ({}, {**CONFIG, "use_dora": True}, None, "use_dora: found DoRA"),
        ({}, {**CONFIG, "alpha_pattern": {"q|k": 2}}, None, r"alpha_pattern: found 'q\|k'"),
        ({}, {**CONFIG, "alpha_pattern": ["q"]}, None, r"alpha_pattern: found \['q'\]"),
        ({}, {**CONFIG, "lora_alpha": -1}, None, "lora_alpha: found -1, expected a number above 0"),
    ],
)
def test_settings_that_do_not_fit(tmp_path, base, metadata, config, given, words):
    source = tmp_path / "adapter_model.safetensors"
    save_file(named(factors(base, MODULES)), source, metadata)
    if config:
        (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    options = ImportOptions(heads=2, branch_layers=(0, 2), alpha=given)
    with pytest.raises(ValueError, match=words):
        merged(tmp_path, [source], options)


def test_an_underscored_name_that_stands_for_two_modules_is_refused(tmp_path):
    source = tmp_path / "lora.safetensors"
    pair = {"down": np.ones((2, 4), np.float32), "up": np.ones((4, 2), np.float32)}
    save_file({f"lora_unet_a_b_c.lora_{half}.weight": t for half, t in pair.items()}, source)
    files = open_tensors(source)
    assert list(read_adapter(files, ["a.b_c.weight"], 1.0).updates) == ["a.b_c.weight"]
    with pytest.raises(ValueError, match=r"stands for a\.b_c and for a_b\.c, expected one"):
        read_adapter(files, ["a.b_c.weight", "a_b.c.weight"], 1.0)


def test_an_uneven_adapter_kept_apart_is_padded(tmp_path, base):
    """Where ranks, alphas and blocks differ, the same model as the arithmetic gives."""
    pairs = factors(base, MODULES[:6]) | factors(base, ["blocks.3.ffn.0"], rank=2)
    tensors = named(pairs, underscored, "lora_unet_", DOWN_UP, alpha=np.float32(6))
    tensors["lora_unet_blocks_1_ffn_2.alpha"] = np.float32(1)
    source, lines = tmp_path / "lora.safetensors", []
    save_file(tensors, source)
    assert import_checkpoint([source], tmp_path / "lora", report=lines.append) == "lora"
    adapter, architecture = load_export(tmp_path / "lora")
    lora = LoRA(**as_fields(architecture["lora"]))
    assert (lora.rank, architecture["depth"]) == (3, 4)
    plain = from_wan_dit(base)
    found = lora.merge(plain, adapter)["blocks"]["block"]
    updates = {f"{m}.weight": 6 / len(p[0]) * product(*p) for m, p in pairs.items()}
    updates["blocks.1.ffn.2.weight"] /= 6
    expected = from_wan_dit({name: tensor + updates.get(name, 0) for name, tensor in base.items()})[
        "blocks"
    ]["block"]
    for path in (("self_attn", "q"), ("self_attn", "o"), ("cross_attn", "k"), ("mlp_in",)):
        own, other = found, expected
        for part in path:
            own, other = own[part], other[part]
        np.testing.assert_allclose(own["kernel"], other["kernel"], atol=1e-4, err_msg=str(path))
    assert any("zeros where it has no update: blocks.0.self_attn.q" in line for line in lines)


def test_an_adapter_that_has_to_be_merged_says_so(tmp_path, base):
    source = tmp_path / "lora.safetensors"
    save_file(
        {**named(factors(base, MODULES)), "head.diff_m": np.ones((1, 2, 48), np.float32)},
        source,
        {"alpha": "3"},
    )
    words = r"'head\.diff_m': expected a pair for a projection.*with the base as another source"
    with pytest.raises(ValueError, match=words):
        import_checkpoint([source], tmp_path / "ours")
    save_file({"blocks.99999999.ffn.0.diff": np.ones(3)}, source)  # no model of so many blocks
    with pytest.raises(ValueError, match=r"'blocks\.99999999\.ffn\.0\.diff': expected lora_A"):
        import_checkpoint([source], tmp_path / "ours")
    save_file(named(factors(base, MODULES)), source, {"alpha": "3"})
    with pytest.raises(ValueError, match="found a strength for an adapter that is kept apart"):
        import_checkpoint([source], tmp_path / "ours", options=ImportOptions(strengths=(0.5,)))
    with pytest.raises(ValueError, match="but no adapter among"):
        import_checkpoint(
            [MIRAGE], tmp_path / "ours", options=ImportOptions(heads=2, strengths=(0.5,))
        )
