"""One walk with a memory of latents and one of colours, of the smallest models there are."""

import dataclasses

import jax
import numpy as np
import pytest

from helpers import tiny_world
from mirage_jax.explore.hub import Hub
from mirage_jax.explore.kinds import Kinds
from mirage_jax.explore.saved import SavedWorlds
from mirage_jax.explore.starts import Start, Starts
from mirage_jax.explore.walker import Walker
from mirage_jax.world.options import MemoryOptions, SamplerOptions
from mirage_jax.world.prompting import Prompt
from mirage_jax.world.session import Session, SessionOptions

PICTURE = np.random.default_rng(0).integers(0, 256, (*tiny_world.SIZE, 3), np.uint8)
OPTIONS = SessionOptions(walls=False, undo_steps=8)


@pytest.fixture(scope="module")
def models():
    fields = {"sampler": SamplerOptions(steps=1), "memory": MemoryOptions(capacity=64)}
    rgb = tiny_world.conditioner("rgb")
    return {
        "latent": tiny_world.world_model(**fields),
        "rgb": tiny_world.world_model(told=rgb, **fields),
    }


@pytest.fixture
def kinds(models):
    return Kinds(Session(models["latent"], PICTURE, options=OPTIONS), models)


def come_along(kinds, kind):
    """How many chunks it took."""
    chunks = 1
    while kinds.follow(kind):
        chunks += 1
    kinds.choose(kind)
    return chunks


@pytest.mark.long
def test_the_same_way_is_walked_with_another_memory_and_both_are_kept(kinds, models):
    latent = kinds.session
    for keys in ("w", "d", "w"):
        latent.step(keys)
    before = jax.tree.map(np.asarray, latent.world)
    assert (come_along(kinds, "rgb"), kinds.kind) == (3, "rgb")
    rgb = kinds.session
    np.testing.assert_allclose(rgb.path, latent.path, atol=1e-6)
    # What it has is what a walk of its own along the path has.
    alone = Session(models["rgb"], PICTURE, options=OPTIONS)
    for chunk in range(3):
        alone.step(poses=latent.path[1 + 4 * chunk :][:4])
    jax.tree.map(np.testing.assert_array_equal, alone.world, rgb.world)
    assert rgb.world.bank.tokens.dtype == np.uint8
    jax.tree.map(np.testing.assert_array_equal, before, jax.tree.map(np.asarray, latent.world))

    # From here on that one leads: two back, one to the side.
    rgb.undo(2)
    rgb.step("a")
    assert (come_along(kinds, "latent"), kinds.session) == (1, latent)
    np.testing.assert_allclose(rgb.path, latent.path, atol=1e-6)
    assert len(latent.path) == 9
    assert come_along(kinds, "rgb") == 1 and kinds.session is rgb  # nothing was left to walk


@pytest.mark.long
def test_another_kind_follows_the_same_prompt_at_the_same_pace(models):
    told = {
        name: model.replace(denoiser=model.denoiser.clone(text_width=6))
        for name, model in models.items()
    }
    tokens = np.random.default_rng(0).normal(size=(2, 3, 6)).astype(np.float32)
    kinds = Kinds(Session(told["latent"], PICTURE, options=OPTIONS), told)
    kinds.session.set_prompt(*tokens, 3.0, words=Prompt("a hall", "ugly", 3.0))
    kinds.session.options = dataclasses.replace(OPTIONS, fps=9.0)
    come_along(kinds, "rgb")
    assert kinds.session.prompt == Prompt("a hall", "ugly", 3.0)
    model = kinds.session.model
    np.testing.assert_array_equal((model.text, model.negative_text), tokens)
    assert (float(model.guidance), kinds.session.options.fps) == (3.0, 9.0)


def test_where_it_cannot_be_undone_as_far_it_says_so(kinds):
    latent = kinds.session
    latent.step("w")
    come_along(kinds, "rgb")
    rgb = kinds.session
    for _ in range(2):
        rgb.step("w")
    come_along(kinds, "latent")
    latent._timeline._trim()
    latent._timeline.options = type(latent._timeline.options)(steps=1)
    latent._timeline._trim()
    rgb.undo(3)
    kinds.choose("rgb")
    with pytest.raises(ValueError, match=r"with latent memory 8 frames beyond where this one"):
        kinds.follow("latent")
    with pytest.raises(ValueError, match="memory: found 'depth', expected one of latent, rgb"):
        kinds.follow("depth")


def test_what_a_memory_of_colours_shows_is_the_picture_it_has_seen(models):
    session = Session(models["rgb"], PICTURE, options=OPTIONS)
    shown = session.read_out()
    there = shown.any(axis=-1)
    assert there.mean() > 0.9
    same = (shown == PICTURE).all(axis=-1)[there]
    assert same.mean() > 0.8  # but for pixels that rounding puts into their neighbour's place


def test_a_walker_switches_and_saved_worlds_are_read_by_the_model_of_their_memory(models, tmp_path):
    def begin():
        return Session(models["latent"], PICTURE, options=OPTIONS)

    starts = Starts(models["latent"], OPTIONS, (Start("a picture", begin),), kinds=models)
    hub = Hub(SavedWorlds(tmp_path))
    hub.starts = starts
    walker = hub._walker(1, starts.begin(0))
    hub.close()
    assert walker.state()["memory_kind"] == "latent"
    walker.mark()
    alone = walker.bytes
    assert walker.follow("rgb") == 0
    walker.set_memory(False, "rgb")
    state = walker.state()
    assert (state["memory_kind"], state["memory_on"]) == ("rgb", False)
    assert walker.bytes > alone
    walker.save(tmp_path / "rgb.world")
    assert starts.load(tmp_path / "rgb.world").model.conditioner.kind == "rgb"
    walker.go(0)  # to the branch, which was made with the other memory
    assert walker.kind == "latent"
    walker.save(tmp_path / "latent.world")
    assert starts.load(tmp_path / "latent.world").model.conditioner.kind == "folded"
    with pytest.raises(ValueError, match="found kind 'rgb', expected none"):
        Walker(2, walker.session).follow("rgb")
