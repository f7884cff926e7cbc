"""Checkpoints as other tools save them: prefixes, 8 bits, several networks, other tensors beside.

And what lies where a checkpoint was expected: each refused by what it is.
"""

import json
import shutil
import sys

import jax
import ml_dtypes
import numpy as np
import pytest
from absl.testing import flagsaver
from safetensors.numpy import load_file, save_file

from helpers import paths
from mirage_jax.cli import convert
from mirage_jax.convert.incoming import import_checkpoint
from mirage_jax.convert.options import ImportOptions
from mirage_jax.convert.outgoing import export_checkpoint
from mirage_jax.convert.quantized import readable
from mirage_jax.convert.tensor_files import open_tensors
from mirage_jax.weights import load_export

MIRAGE = paths.GOLDEN / "official_mirage_dit_vace" / "weights.safetensors"
VAE = paths.GOLDEN / "official_vae22" / "weights.safetensors"
UMT5 = paths.GOLDEN / "official_umt5" / "weights.safetensors"
OPTIONS = ImportOptions(heads=2)
E4M3, E5M2 = ml_dtypes.float8_e4m3fn, ml_dtypes.float8_e5m2


@pytest.fixture(autouse=True)
def no_fsync(monkeypatch):
    monkeypatch.setattr("os.fsync", lambda _: None)  # most of the time


@pytest.fixture(scope="module")
def wan():
    """A transformer without a branch, under original names."""
    return {name: t for name, t in load_file(MIRAGE).items() if not name.startswith("vace_")}


def back(tmp_path, sources, **given):
    """What another tool reads of an export of the sources, and the lines of the report."""
    lines, options = [], given.pop("options", OPTIONS)
    import_checkpoint(sources, tmp_path / "ours", options=options, report=lines.append, **given)
    out = tmp_path / "back.safetensors"
    export_checkpoint(tmp_path / "ours", out)
    return load_file(out), lines


def assert_values(found, expected):
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(
            found[name].astype(np.float32), tensor.astype(np.float32), err_msg=name
        )


# -- names ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "diffusion_model.", "transformer."])
def test_prefixes_of_whole_checkpoints(tmp_path, wan, prefix):
    save_file({prefix + name: t for name, t in wan.items()}, tmp_path / "in.safetensors")
    found, lines = back(tmp_path, [tmp_path / "in.safetensors"])
    assert_values(found, wan)
    assert not lines


@pytest.fixture
def all_in_one(tmp_path, wan):
    vae, text = load_file(VAE), load_file(UMT5)
    tensors = {
        **{f"model.diffusion_model.{name}": t for name, t in wan.items()},
        **{f"vae.{name}": t for name, t in vae.items()},
        **{f"text_encoders.umt5xxl.transformer.{name}": t for name, t in text.items()},
        "text_encoders.umt5xxl.spiece_model": np.zeros(5, np.uint8),
        "model_ema.decay": np.zeros(1, np.float32),
    }
    save_file(tensors, tmp_path / "all.safetensors")
    return tmp_path / "all.safetensors", {"": wan, "vae": vae, "text_encoder": text}


@pytest.mark.parametrize("part", ["", "vae", "text_encoder"])
def test_one_network_of_several_in_a_file(tmp_path, all_in_one, part):
    source, networks = all_in_one
    options = ImportOptions(heads=2, part=part)
    found, lines = back(tmp_path, [source], options=options)
    assert_values(found, networks[part])
    counts = {name or "transformer": len(tensors) for name, tensors in networks.items()}
    counts |= {"text_encoder": counts["text_encoder"] + 1, "other": 1}
    del counts[part or "transformer"]
    assert lines[0].startswith(f"{source}: not read, see --part: ")
    for name, count in counts.items():
        assert f"{name} ({count} tensors)" in lines[0]


def test_a_part_that_is_not_there(tmp_path, wan, all_in_one):
    with pytest.raises(
        ValueError, match="found one network in a file, expected several, as --part=vae"
    ):
        import_checkpoint([VAE], tmp_path / "ours", options=ImportOptions(part="vae"))
    tensors = {k: v for k, v in load_file(all_in_one[0]).items() if not k.startswith("vae.")}
    save_file(tensors, tmp_path / "two.safetensors")
    with pytest.raises(
        ValueError, match="found no vae, expected --part to be one of transformer, t"
    ):
        import_checkpoint(
            [tmp_path / "two.safetensors"], tmp_path / "ours", options=ImportOptions(part="vae")
        )


# -- types ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [E4M3, E5M2])
def test_plain_8_bits_are_exact_in_bfloat16(tmp_path, wan, kind):
    stored = {name: t.astype(kind) if t.ndim == 2 else t for name, t in wan.items()}
    save_file(stored, tmp_path / "in.safetensors")
    found, _ = back(tmp_path, [tmp_path / "in.safetensors"])
    assert_values(found, stored)
    kinds = {found[name].dtype for name, tensor in stored.items() if tensor.dtype == kind}
    assert kinds == {np.dtype(ml_dtypes.bfloat16)}


@pytest.mark.parametrize(
    ("end", "of_inputs"), [("scale_weight", "scale_input"), ("weight_scale", "input_scale")]
)
@pytest.mark.parametrize("spread", ["one", "one in a list", "rows", "a column", "blocks"])
def test_scaled_8_bits_are_multiplied_by_their_scales(tmp_path, wan, end, of_inputs, spread):
    stored, expected = {"scaled_fp8": np.zeros(2, E4M3)}, {}
    rng = np.random.default_rng(0)
    for name, tensor in wan.items():
        if tensor.ndim != 2 or not name.startswith("blocks."):
            stored[name] = expected[name] = tensor
            continue
        rows, columns = tensor.shape
        scale, factor = {
            "one": (one := np.float32(rng.uniform(0.005, 0.02)), one),
            "one in a list": (one.reshape(1), one),
            "rows": (own := rng.uniform(0.005, 0.02, rows).astype(np.float32), own[:, None]),
            "a column": (own[:, None], own[:, None]),
            "blocks": (
                blocks := rng.uniform(0.005, 0.02, (rows, 3, 1)).astype(np.float32),
                np.repeat(blocks[..., 0], columns // 3, axis=1),
            ),
        }[spread]
        stored[name] = (tensor / factor).astype(E4M3)
        stem = name.removesuffix("weight")
        stored[stem + end], stored[stem + of_inputs] = np.asarray(scale), np.ones((), np.float32)
        expected[name] = stored[name].astype(np.float32) * factor
    save_file(stored, tmp_path / "in.safetensors")
    found, lines = back(tmp_path, [tmp_path / "in.safetensors"])
    assert_values(found, expected)
    for name, tensor in wan.items():
        assert np.abs(found[name] - tensor).max() < 0.1 * np.abs(tensor).max()
    report, scaled = "\n".join(lines), sum(name.endswith(of_inputs) for name in stored)
    assert "not used: scaled_fp8: marker of a file of scaled 8-bit weights" in report
    assert f"({scaled} in all): scale of the inputs" in report and len(lines) == 2
    assert found["blocks.0.ffn.0.weight"].dtype == np.float32


@pytest.mark.parametrize(
    ("tensors", "words"),
    [
        (
            {"a.scale_weight": np.ones((), np.float32)},
            "'a.weight' is no such tensor; expected 8-bit",
        ),
        (
            {"a.scale_weight": np.ones((), np.float32), "a.weight": np.ones((2, 2), np.float32)},
            "'a.weight' is float32; expected 8-bit values",
        ),
        (
            {"a.scale_weight": np.ones((3,), np.float32), "a.weight": np.ones((2, 2), E4M3)},
            r"'a.scale_weight': found shape \(3,\) for a weight of \(2, 2\)",
        ),
        (
            {"a.scale_weight": np.ones((2, 3, 1), np.float32), "a.weight": np.ones((2, 4), E4M3)},
            r"found shape \(2, 3, 1\) for a weight of \(2, 4\)",
        ),
    ],
)
def test_scales_that_do_not_fit_are_refused(tmp_path, tensors, words):
    save_file(tensors, tmp_path / "in.safetensors")
    with pytest.raises(ValueError, match=rf"in\.safetensors: tensor .*{words}"):
        open_tensors(tmp_path / "in.safetensors")


def test_other_types_are_read_or_listed(tmp_path, wan):
    stored = {name: tensor.astype(np.float64) for name, tensor in wan.items()}
    extra = {
        "step": np.int64(1000),
        "ema.flag": np.bool_(True),
        "ids": np.arange(3, dtype=np.int32),
    }
    arrays = {**stored, **{name: np.asarray(value) for name, value in extra.items()}}
    save_file(arrays, tmp_path / "in.safetensors")
    found, lines = back(tmp_path, [tmp_path / "in.safetensors"])
    assert_values(found, wan)
    for listed in ("step: int64 of shape ()", "ema.flag: bool of shape ()", "ids: int32 of"):
        assert f"{tmp_path / 'in.safetensors'}: not used: {listed}" in "\n".join(lines)
    tensors, unused = readable(arrays)
    assert tensors.keys() | unused.keys() == arrays.keys() and len(unused) == 3


def test_float16_is_written_and_what_it_cannot_hold_is_refused(tmp_path, wan):
    save_file(wan, tmp_path / "in.safetensors")
    half = np.dtype(np.float16)
    found, _ = back(tmp_path, [tmp_path / "in.safetensors"], dtype=half)
    assert_values(found, {name: tensor.astype(half) for name, tensor in wan.items()})
    assert {tensor.dtype for tensor in found.values()} == {half}
    large = {**wan, "blocks.0.ffn.0.bias": np.full(96, 65504, np.float32)}
    large["blocks.0.ffn.0.bias"][5:7] = 1e5
    save_file(large, tmp_path / "in.safetensors")
    words = r"in\.safetensors: .*mlp_in/bias': 2 of 96 values are beyond 65504.*--dtype=bfloat16"
    with pytest.raises(ValueError, match=words):
        import_checkpoint(
            [tmp_path / "in.safetensors"], tmp_path / "x", options=OPTIONS, dtype=half
        )
    assert not (tmp_path / "x" / "model.safetensors").exists()
    import_checkpoint([tmp_path / "in.safetensors"], tmp_path / "x", options=OPTIONS)
    with pytest.raises(ValueError, match=r"'blocks\.0\.ffn\.0\.bias': 2 of 96 values are beyond"):
        export_checkpoint(tmp_path / "x", tmp_path / "out.safetensors", dtype=half)


# -- other networks ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("extra", "words"),
    [
        (
            {"img_emb.proj.0.weight": (4,)},
            r"image-to-video \(Wan2\.1-I2V-14B\): it has img_emb.*CLIP",
        ),
        ({"blocks.0.cross_attn.k_img.weight": (48, 48)}, r"image-to-video \(Wan2\.1-I2V-14B\)"),
        ({"audio_injector.injector.0.q.weight": (4,)}, "speech-to-video .*embeddings of speech"),
        ({"face_adapter.fuser_blocks.0.q_norm.weight": (4,)}, "character animation"),
        ({"control_adapter.conv.weight": (4,)}, "camera control by ray maps"),
        ({"ref_conv.weight": (4,)}, "control by a reference picture"),
        ({"patch_embedding.weight": (48, 108, 1, 2, 2)}, "it reads 108 channels and predicts 48"),
    ],
)
def test_transformers_that_need_more_are_named(tmp_path, wan, extra, words):
    tensors = wan | {name: np.zeros(shape, np.float32) for name, shape in extra.items()}
    save_file(tensors, tmp_path / "in.safetensors")
    words = rf"in\.safetensors: found a transformer for .*{words}.*expected a text-to-video model"
    with pytest.raises(ValueError, match=words):
        import_checkpoint([tmp_path / "in.safetensors"], tmp_path / "ours", options=OPTIONS)


def test_one_of_two_experts_is_converted_and_said_to_be_one(tmp_path, wan):
    (tmp_path / "transformer_2").mkdir()
    (tmp_path / "transformer").mkdir()
    for name in ("wan2.2_t2v_low_noise_14B.safetensors", "transformer", "transformer_2"):
        file = tmp_path / name
        save_file(wan, file / "model.safetensors" if file.is_dir() else file)
        _, lines = back(tmp_path, [file])
        assert len(lines) == 1 and lines[0].startswith(f"{file}: one of two transformers"), lines
    _, lines = back(tmp_path, [tmp_path / "transformer_2" / "model.safetensors"])
    assert not lines


def test_unknown_tensors_are_told(tmp_path):
    tensors = {"visual.conv1.weight": np.zeros(4, np.float32), "visual.proj": np.zeros(4)}
    save_file(tensors, tmp_path / "clip.safetensors")
    words = r"found the tensors visual\.conv1\.weight, visual\.proj, expected those of a Wan"
    with pytest.raises(ValueError, match=words):
        import_checkpoint([tmp_path / "clip.safetensors"], tmp_path / "ours")


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"num_attention_heads": 4}, r"heads: found 2, expected 4, which .*config\.json says"),
        ({"num_heads": "two"}, r"config\.json: num_heads: found 'two', expected a number"),
        ({"num_heads": True}, "num_heads: found True"),
        ({"num_heads": 2, "vace_layers": [0, "a"]}, r"vace_layers: found \[0, 'a'\]"),
        ({"num_heads": 2, "vace_layers": [0]}, r"found 0 vace_blocks.*expected 1"),
    ],
)
def test_a_config_beside_the_tensors_is_not_overruled(tmp_path, wan, config, words):
    save_file(wan, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_bytes(b"\xef\xbb\xbf" + json.dumps(config).encode())
    with pytest.raises(ValueError, match=words):
        import_checkpoint([tmp_path], tmp_path / "ours", options=OPTIONS)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"latents_mean": [0.0] * 47}, "latents_mean: found .*expected 48 numbers"),
        ({"latents_mean": [0.0] * 47 + ["a"]}, "latents_mean: found .*expected 48 numbers"),
        ({"latents_std": [1.0] * 47 + [0.0]}, "latents_std: found .*expected all above 0"),
        ({"latents_std": [1.0] * 47 + [10**400]}, "expected 48 float32 numbers"),
    ],
)
def test_statistics_of_a_config_are_numbers(tmp_path, change, words):
    shutil.copy(VAE, tmp_path / "model.safetensors")
    config = {"latents_mean": [0.0] * 48, "latents_std": [1.0] * 48, **change}
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=words):
        import_checkpoint([tmp_path], tmp_path / "ours")


def test_the_number_of_heads_of_a_release_is_proposed(tmp_path, wan):
    save_file(
        {**wan, "patch_embedding.bias": np.zeros(3072, np.float32)}, tmp_path / "in.safetensors"
    )
    with pytest.raises(ValueError, match=r"heads: found no number.*--heads=24 if it is a Wan"):
        import_checkpoint([tmp_path / "in.safetensors"], tmp_path / "ours")


# -- other files ---------------------------------------------------------------------------------

LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:" + b"0" * 64 + b"\nsize 9\n"


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("a.safetensors", LFS, "a Git LFS pointer.*git lfs pull"),
        ("a.pth", LFS, "a Git LFS pointer"),
        ("a.safetensors", b"<!DOCTYPE html><html>404</html>", "an HTML page, as a server sends"),
        ("a.safetensors", b"\n <HTML>gated</HTML>", "an HTML page"),
        ("a.safetensors", b"<?xml version='1.0'?><Error/>", "an XML page"),
        ("a.gguf", b"GGUF\x03\x00\x00\x00" + bytes(90), "a GGUF file, whose quantised values"),
        ("a.safetensors", b"", "an empty file; expected a safetensors file"),
        (
            "a.safetensors",
            b"PK\x03\x04" + b"\x14\x00\x08\x08" * 9,
            "a pickled .*'a_safe.safetensors",
        ),
        ("a.pth", b"\x80\x02}q\x00" + bytes(90), "a pickled checkpoint.*'a.safetensors'"),
        ("a.safetensors", b'{"error": "Invalid username or password."}', "a JSON text"),
        ("a.safetensors", b"\x93NUMPY\x01\x00v\x00{'descr'", "a NumPy array"),
        ("a.safetensors.part", b"\x01" * 90, "an unfinished download"),
        ("a.safetensors", b"\x01" * 90, "truncated or not a safetensors file.* to the end?"),
    ],
)
def test_what_is_no_safetensors_file_is_named(tmp_path, name, data, words):
    (tmp_path / name).write_bytes(data)
    with pytest.raises(ValueError, match=rf"{name}: {words}"):
        import_checkpoint([tmp_path / name], tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("length", [0x0280, 0x0480, 0x8B1F, 0x4D3C, 0x7B])
def test_a_header_of_any_length_is_no_magic_number(tmp_path, length):
    """The first bytes of safetensors are a length, which may look like the start of a pickle."""
    entry = {"a": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    text = json.dumps(entry).encode().ljust(length)
    values = np.arange(2, dtype=np.float32)
    data = length.to_bytes(8, "little") + text + values.tobytes()
    (tmp_path / "a.safetensors").write_bytes(data)
    np.testing.assert_array_equal(open_tensors(tmp_path / "a.safetensors").tensors["a"], values)


def test_a_broken_link_says_where_it_leads(tmp_path):
    (tmp_path / "a.safetensors").symlink_to("../blobs/0123")
    with pytest.raises(ValueError, match=r"a link to \.\./blobs/0123, which does not exist"):
        open_tensors(tmp_path / "a.safetensors")


def test_folders_say_where_to_point(tmp_path, wan):
    pipeline = tmp_path / "Wan2.2-TI2V-5B-Diffusers"
    for part in ("transformer", "vae"):
        (pipeline / part).mkdir(parents=True)
        save_file(wan, pipeline / part / "diffusion_pytorch_model.safetensors")
    with pytest.raises(
        FileNotFoundError, match=r"found no \*\.safetensors.*one of transformer/, vae/"
    ):
        open_tensors(pipeline)
    (pipeline / "model_index.json").write_text("{}")
    words = "Diffusers: found a diffusers pipeline; point to one of transformer/, vae/"
    with pytest.raises(FileNotFoundError, match=words):
        open_tensors(pipeline)
    with pytest.raises(FileNotFoundError, match=r"found no \*\.safetensors file there"):
        open_tensors(UMT5.parent.parent / "keys")
    gguf = tmp_path / "quantised"
    gguf.mkdir()
    (gguf / "wan.gguf").write_bytes(b"GGUF\x03\x00\x00\x00" + bytes(90))
    with pytest.raises(ValueError, match=r"wan\.gguf: a GGUF file"):
        open_tensors(gguf)


def test_two_indices_and_either_of_them(tmp_path, wan):
    for variant in ("", ".bf16"):
        shard = f"model{variant}-00001-of-00001.safetensors"
        kind = ml_dtypes.bfloat16 if variant else np.float32
        save_file({name: t.astype(kind) for name, t in wan.items()}, tmp_path / shard)
        index = {"weight_map": dict.fromkeys(wan, shard)}
        (tmp_path / f"model{variant}.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"found 2 indices.*point to model\.bf16\.saf.* itself"):
        open_tensors(tmp_path)
    for variant, kind in (("", np.float32), (".bf16", ml_dtypes.bfloat16)):
        files = open_tensors(tmp_path / f"model{variant}.safetensors.index.json")
        assert {tensor.dtype for tensor in files.tensors.values()} == {np.dtype(kind)}
        assert files.tensors.keys() == wan.keys()
    shutil.copy(tmp_path / "model-00001-of-00001.safetensors", tmp_path / "copy.safetensors")
    for index in tmp_path.glob("*.json"):
        index.unlink()
    with pytest.raises(ValueError, match=r"is also in .*or one of them as the source"):
        open_tensors(tmp_path)


# -- the command ---------------------------------------------------------------------------------


def test_the_command_takes_strengths_parts_and_types(
    tmp_path, wan, all_in_one, monkeypatch, capsys
):
    def call(*arguments):
        monkeypatch.setattr(sys, "argv", ["mirage convert", *arguments])
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as leave:
            convert.cli()
        out, err = capsys.readouterr()
        return leave.value.code or 0, " ".join(out.split()), err

    up = np.ones((48, 1), np.float32)
    name = "lora_unet_blocks_0_self_attn_q"
    pair = {f"{name}.lora_down.weight": up.T.copy(), f"{name}.lora_up.weight": up}
    save_file(pair, tmp_path / "[style].safetensors", {"alpha": "1"})
    sources = f"{all_in_one[0]},{tmp_path / '[style].safetensors'}"
    code, out, err = call(
        *(f"--source={sources}", f"--to={tmp_path / 'ours'}", "--heads=2", "--dtype=float16"),
        *("--lora_strength=0.25", "--part=transformer"),
    )
    assert (code, err) == (0, "")
    assert "[style].safetensors: 1 updates of rank 1, alpha 1 (stored), strength 0.25" in out
    assert "vae (" in out and "denoiser -> " in out
    found = load_export(tmp_path / "ours")[0]["blocks"]["block"]["self_attn"]["q"]["kernel"][0]
    expected = (wan["blocks.0.self_attn.q.weight"].T + np.float32(0.25)).astype(np.float16)
    np.testing.assert_array_equal(jax.device_get(found), expected)
    for flags, words in (
        (["--lora_strength=a"], "--lora_strength: found ['a'], expected numbers"),
        (["--lora_strength=0"], "expected numbers such as 0.7,1, none 0"),
        (["--part=base"], "--part: found 'base', expected transformer, vae"),
        (["--part=clip"], "vae"),
    ):
        code, _, err = call(f"--source={sources}", f"--to={tmp_path / 'x'}", "--heads=2", *flags)
        assert code == 2 and words in err, err
    code, _, err = call(f"--source={tmp_path / 'ours'}", "--to=x.safetensors", "--part=vae")
    assert code == 2 and "--part: found 'vae', expected all, base or branch of an export" in err
