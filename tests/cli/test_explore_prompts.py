"""What the page of `mirage explore` can tell a model, from the flags."""

import numpy as np
import pytest

from helpers import tiny_world
from mirage_jax.cli.helpers.common import UserError
from mirage_jax.cli.helpers.prompts import Prompting
from mirage_jax.io.text import TextEmbeddings, save_embeddings

TEXTS = ("a hall", "a garden", "ugly")


@pytest.fixture(scope="module")
def model():
    plain = tiny_world.world_model()
    return plain.replace(denoiser=plain.denoiser.clone(text_width=4))


@pytest.fixture
def file(tmp_path):
    tokens = np.random.default_rng(0).normal(size=(3, 5, 4)).astype(np.float32)
    tokens[:, 2:] = 0
    path = tmp_path / "prompts.safetensors"
    save_embeddings(path, TextEmbeddings(TEXTS, tokens, np.full(3, 2, np.int32)))
    return str(path), tokens


def test_a_file_of_texts_can_be_chosen_from(model, file):
    path, tokens = file
    told, prompts = Prompting(text=path, negative_prompt="ugly").told(model)
    np.testing.assert_array_equal(told.text, tokens[0])
    assert (told.guidance, told.negative_text, prompts.known) == (None, None, TEXTS)
    np.testing.assert_array_equal(prompts.embed("a garden"), tokens[1])
    with pytest.raises(ValueError, match="found none like it among 3"):
        prompts.embed("a cave")
    guided = Prompting(text=path, prompt="a garden", negative_prompt="ugly", cfg_scale=3.0)
    told, prompts = guided.told(model)
    np.testing.assert_array_equal(told.text, tokens[1])
    np.testing.assert_array_equal(told.negative_text, tokens[2])
    assert (float(told.guidance), told.sampler.cfg_scale, prompts.text) == (3.0, 1.0, "a garden")


def test_flags_about_texts_fit_the_model(model, file):
    plain = tiny_world.world_model()
    told, prompts = Prompting().told(plain)
    assert told is plain and prompts is None
    with pytest.raises(UserError, match="--text: found one, but this denoiser was trained without"):
        Prompting(text=file[0]).told(plain)
    with pytest.raises(UserError, match="--prompt: found none"):
        Prompting().told(model)
