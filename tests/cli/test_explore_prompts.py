"""What the page of `mirage explore` can tell a model, from the flags."""

import numpy as np
import pytest

from helpers import tiny_world
from mirage_jax.cli.helpers.common import UserError
from mirage_jax.cli.helpers.prompts import Prompting, with_prompt
from mirage_jax.io.text import TextEmbeddings, save_embeddings
from mirage_jax.world.prompting import Prompt, with_prompt_saved
from mirage_jax.world.world_file import save_world

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


def test_a_saved_world_goes_on_with_its_prompt_unless_another_is_given(model, file, tmp_path):
    path, tokens = file
    world = str(tmp_path / "a.world")
    picture = np.zeros((*tiny_world.SIZE, 3), np.uint8)
    kept = with_prompt_saved({}, Prompt("a garden", "ugly", 3.0), model.conditioner.kind)
    save_world(world, tiny_world.world_model().start(picture, capacity=8), provenance=kept)
    told, prompts = Prompting(text=path).told(model, world)
    np.testing.assert_array_equal(told.text, tokens[1])
    assert float(told.guidance) == 3.0 and prompts.first == Prompt("a garden", "ugly", 3.0)
    assert Prompting(text=path, prompt="a hall").told(model, world)[1].first == Prompt("a hall")
    said = {"tokenizer": "", "text_encoder": "", "save_text": "", "negative_prompt": ""}
    made = with_prompt(model, prompt=None, cfg_scale=1.0, text=path, world=world, **said)
    np.testing.assert_array_equal(made.negative_text, tokens[2])
    assert made.sampler.cfg_scale == 3.0


def test_flags_about_texts_fit_the_model(model, file):
    plain = tiny_world.world_model()
    told, prompts = Prompting().told(plain)
    assert told is plain and prompts is None
    with pytest.raises(UserError, match="--text: found one, but this denoiser was trained without"):
        Prompting(text=file[0]).told(plain)
    with pytest.raises(UserError, match="--prompt: found none"):
        Prompting().told(model)
