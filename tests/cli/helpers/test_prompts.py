"""Prompts of a command, embedded before or now."""

from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from helpers import paths
from mirage_jax.cli.helpers import prompts
from mirage_jax.convert.incoming import import_checkpoint
from mirage_jax.io import text

GOLDEN = paths.GOLDEN / "official_umt5"
TEXTS = ["a red door", "a wall"]


@pytest.fixture
def golden(monkeypatch):
    """Stands for UMT5's tokenizer: two rows of ids that the released encoder was run on."""
    with np.load(GOLDEN / "io.npz") as arrays:
        ids, mask, out = (arrays[name][:2] for name in ("input_ids", "attention_mask", "out"))

    def tokenizer(path):
        return lambda texts: (ids.astype(np.int32), mask.astype(bool))

    monkeypatch.setattr(prompts, "Tokenizer", tokenizer)
    return mask.astype(bool), out


def test_prompts_are_embedded_by_the_text_encoder(golden, tmp_path):
    mask, expected = golden
    made = prompts.embed_prompts(TEXTS, Path("tokenizer.json"), GOLDEN / "weights.safetensors")
    assert made.prompts == tuple(TEXTS)
    np.testing.assert_array_equal(made.lengths, mask.sum(axis=1))
    np.testing.assert_allclose(made.tokens[mask], expected[mask], atol=3e-5)
    import_checkpoint([GOLDEN / "weights.safetensors"], tmp_path / "ours")
    of_export = prompts.embed_prompts(TEXTS, Path("tokenizer.json"), tmp_path / "ours")
    np.testing.assert_array_equal(of_export.tokens, made.tokens)
    # What was embedded can be kept and asked for again.
    path, width = tmp_path / "prompts.safetensors", made.tokens.shape[-1]
    text.save_embeddings(path, made)
    again = prompts.read_prompts(TEXTS[::-1], path, width)
    np.testing.assert_array_equal(again, made.tokens[::-1])
    with pytest.raises(ValueError, match=r"prompts\.safetensors: prompt 'a cat'"):
        prompts.read_prompts(["a cat"], path, width)
    with pytest.raises(ValueError, match=rf"prompts\.safetensors: found {width} channels, expect"):
        prompts.read_prompts(TEXTS, path, width + 1)


def test_the_precision_of_the_weights_is_that_of_the_work(golden, tmp_path):
    half = load_file(GOLDEN / "weights.safetensors")
    half = {name: tensor.astype(ml_dtypes.bfloat16) for name, tensor in half.items()}
    save_file(half, tmp_path / "half.safetensors")
    mask, expected = golden
    made = prompts.embed_prompts(TEXTS, Path("tokenizer.json"), tmp_path / "half.safetensors")
    error = np.sqrt(
        np.mean((made.tokens[mask] - expected[mask]) ** 2) / np.mean(expected[mask] ** 2)
    )
    assert 1e-4 < error < 0.05


def test_other_weights_are_refused_by_name(golden, tmp_path):
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match=r"other\.safetensors: not a UMT5 encoder"):
        prompts.embed_prompts(TEXTS, Path("tokenizer.json"), tmp_path / "other.safetensors")
