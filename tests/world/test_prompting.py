"""Prompts that change while someone walks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import tiny_world
from mirage_jax import Session, SessionOptions
from mirage_jax.world import WorldModel, chunk_step
from mirage_jax.world.options import MemoryOptions, SamplerOptions
from mirage_jax.world.prompting import Prompt, prompted, saved_prompt

WIDTH = 6
PICTURE = np.random.default_rng(0).integers(0, 256, (*tiny_world.SIZE, 3), np.uint8)
TEXTS = np.random.default_rng(1).normal(size=(3, 4, WIDTH)).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    plain = tiny_world.world_model(
        memory=MemoryOptions(capacity=30), sampler=SamplerOptions(steps=1)
    )
    denoiser = plain.denoiser.clone(text_width=WIDTH)
    latents = jnp.zeros((1, 2, *tiny_world.GRID, tiny_world.CHANNELS))
    params = tiny_world.random_params(
        denoiser, 0, latents, jnp.zeros((1, 2)), text=jnp.asarray(TEXTS[:1])
    )
    return plain.replace(denoiser=denoiser, denoiser_params=params)


def test_two_programs_do_for_all_prompts(model):
    grid = (1, 2, *tiny_world.GRID)
    given = {
        "first": jnp.zeros((1, *tiny_world.GRID, tiny_world.CHANNELS)),
        "context": jnp.zeros((*grid, model.denoiser.memory_channels)),
        "rays": jnp.zeros((*grid, model.denoiser.ray_channels)),
    }
    denoise = jax.jit(WorldModel.denoise)

    def latents(*told):
        return np.asarray(denoise(prompted(model, *told), **given, key=jax.random.key(0)))

    plain, other = latents(TEXTS[0]), latents(TEXTS[1])
    guided, stronger = (latents(TEXTS[0], TEXTS[2], scale) for scale in (3.0, 5.0))
    assert denoise._cache_size() == 2
    assert not np.allclose(plain, other, atol=1e-3)
    # One Euler step is linear in the velocity, which is v_u + scale (v_c - v_u).
    np.testing.assert_allclose(stronger - guided, guided - plain, atol=1e-4)


@pytest.mark.long
def test_what_is_told_is_shown_and_compiles_nothing(model):
    session = Session(model, PICTURE, options=SessionOptions(walls=False))

    def chunk(*told):
        session.set_prompt(*told)
        video = session.step("w").video
        session.undo()
        return video

    first, other = chunk(TEXTS[0]), chunk(TEXTS[1])
    assert not np.array_equal(first, other)
    guided = chunk(TEXTS[0], TEXTS[2], 3.0)
    programs = chunk_step._denoise._cache_size()
    assert not np.array_equal(guided, chunk(TEXTS[0], TEXTS[2], 6.0))
    np.testing.assert_array_equal(chunk(TEXTS[0], TEXTS[2], 3.0), guided)
    np.testing.assert_array_equal(chunk(TEXTS[0]), first)
    assert chunk_step._denoise._cache_size() == programs
    beside = session.branch()
    beside.set_prompt(TEXTS[1])
    np.testing.assert_array_equal(chunk(TEXTS[0]), first)  # of the other session alone


def test_a_saved_world_keeps_its_prompt(model, tmp_path):
    session = Session(model, PICTURE, options=SessionOptions(walls=False))
    assert session.prompt is None
    told = Prompt("a garden", "ugly", 3.5)
    session.set_prompt(TEXTS[0], TEXTS[1], 3.5, words=told)
    assert session.branch().prompt == session.share().prompt == told
    session.save(tmp_path / "a.world")
    again = Session.load(model, tmp_path / "a.world")
    assert again.prompt == told
    again.set_prompt(TEXTS[1])  # in no words: then none are kept that are not true
    assert again.prompt is None
    again.set_prompt(TEXTS[1], words=Prompt("a cave"))
    again.save(tmp_path / "b.world")
    assert Session.load(model, tmp_path / "b.world").prompt == Prompt("a cave")


def test_what_a_file_says_of_a_prompt_is_checked():
    assert saved_prompt({"generated": {"prompt": None}, "prompt": "of its own"}) is None
    assert saved_prompt({"generated": "elsewhere"}) is None
    assert saved_prompt({"generated": {"prompt": "a hall", "negative_prompt": None}}) == Prompt(
        "a hall"
    )
    for field, value in (("cfg_scale", -1.0), ("negative_prompt", 7), ("prompt", ["a hall"])):
        generated = {"prompt": "a hall", field: value}
        with pytest.raises(ValueError, match="provenance: generated: prompt"):
            saved_prompt({"generated": generated})


def test_prompts_that_cannot_be_followed_are_refused(model):
    with pytest.raises(ValueError, match=r"found 2\.0 without a negative text"):
        prompted(model, TEXTS[0], guidance=2.0)
    with pytest.raises(ValueError, match=r"text: found shape \(4, 5\), expected \[n, 6\]"):
        prompted(model, TEXTS[0, :, :5])
    with pytest.raises(ValueError, match="guidance: found nan"):
        prompted(model, TEXTS[0], TEXTS[1], float("nan"))
    with pytest.raises(ValueError, match="prompt: found one, expected none"):
        prompted(tiny_world.world_model(), TEXTS[0])
