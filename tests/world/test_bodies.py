"""Weights that were trained without bodies, run with them."""

import jax
import numpy as np
import pytest

import mirage_jax as mirage
from helpers import tiny_world
from mirage_jax.memory.movers import MoverOptions
from mirage_jax.world.bodies import with_bodies, with_body_fields, without_bodies
from mirage_jax.world.conditioners import Surfels

SURFELS = Surfels(tiny_world.CHANNELS, tiny_world.STRIDE)


def test_weights_that_draw_keep_bodies_when_asked_and_roll_out_with_them():
    model = with_bodies(tiny_world.world_model(told=SURFELS))
    assert model.conditioner.movers and model.movers == MoverOptions()
    assert with_bodies(model) is model
    picture = np.random.default_rng(0).integers(0, 256, (*tiny_world.SIZE, 3), np.uint8)
    world = model.start(picture)
    assert world.movers is not None
    path = mirage.trajectories.make("pan_right", tiny_world.CHUNK)
    (chunk,) = mirage.rollout(model, world, path, jax.random.key(0))
    assert chunk.world.movers.slots == MoverOptions().slots
    assert chunk.video.shape == (tiny_world.CHUNK, *tiny_world.SIZE, 3)


def test_weights_that_ship_can_be_loaded_with_bodies():
    model = mirage.load("demo", bodies=True)
    assert model.conditioner.movers and model.head.movers_up == 4
    assert mirage.load("demo").movers is None


def test_weights_that_cannot_show_bodies_are_refused():
    with pytest.raises(ValueError, match=r"bodies: found weights .* 'folded', expected"):
        with_bodies(tiny_world.world_model())
    blind = tiny_world.world_model(told=SURFELS).replace(head=None)
    with pytest.raises(ValueError, match="bodies: found no geometry head"):
        with_bodies(blind)


def test_numbers_of_bodies_can_be_changed():
    plain = tiny_world.world_model(told=SURFELS)
    options = MoverOptions(slots=3, persistence=2.0)
    model = with_bodies(plain, options)
    assert model.movers == options and with_bodies(with_bodies(plain), options).movers == options
    changed = with_body_fields(model, {"contact": "stop"})
    assert changed.movers == MoverOptions(slots=3, persistence=2.0, contact="stop")
    assert with_body_fields(plain, {}) is plain
    with pytest.raises(ValueError, match=r"movers.slots: found it .* no bodies, expected one that"):
        with_body_fields(plain, {"slots": 2})
    with pytest.raises(ValueError, match=r"movers.slots: found 0, expected >= 1"):
        with_body_fields(model, {"slots": 0})


def test_bodies_are_left_out_again():
    plain = tiny_world.world_model(told=SURFELS)
    model = with_bodies(plain)
    assert without_bodies(model).conditioner == plain.conditioner
    assert without_bodies(model).movers is None and without_bodies(plain) is plain
    told = tiny_world.world_model().replace(movers=MoverOptions())
    with pytest.raises(ValueError, match="bodies: found the conditioner 'folded', expected"):
        without_bodies(told)
