"""Optimizers and schedules by name, against updates and rates worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.training.optimizers import (
    OPTIMIZERS,
    SCHEDULES,
    OptimizerSettings,
    learning_rates,
    make_optimizer,
)

PARAMS = {"layer": {"kernel": jnp.full((2, 2), 3.0), "bias": jnp.full(2, 3.0)}}


def rates(name, steps, at, **options):
    schedule = learning_rates(name, 1.0, steps=steps, **options)
    return [float(schedule(step)) for step in at]


def test_schedules_after_the_warmup():
    at = (0, 1, 2, 4, 7, 12)
    options = {"warmup": 2, "final": 0.5}
    early = 0.75 + 0.25 * np.cos(np.pi / 5)  # a fifth of the way down
    np.testing.assert_allclose(rates("cosine", 12, at, **options), [0.5, 1, 1, early, 0.75, 0.5])
    np.testing.assert_allclose(rates("linear", 12, at, **options), [0.5, 1, 1, 0.9, 0.75, 0.5])
    np.testing.assert_allclose(rates("constant", 12, at, **options), [0.5, 1, 1, 1, 1, 1])
    # Level up to the last fifth.
    np.testing.assert_allclose(rates("wsd", 10, (0, 8, 9, 10), final=0.5), [1, 1, 0.75, 0.5])


def update(name, gradient, **changes):
    """The first update of parameters of 3, without clipping."""
    fields = {"weight_decay": 0.5, "betas": (0.9, 0.99), "clip_norm": 0.0, "schedule": "constant"}
    settings = OptimizerSettings(learning_rate=0.1, optimizer=name, **fields | changes)
    optimizer, _ = make_optimizer(settings, 10)
    gradients = jax.tree.map(lambda leaf: jnp.full(leaf.shape, gradient), PARAMS)
    updates, _ = optimizer.update(gradients, optimizer.init(PARAMS), PARAMS)
    layer = updates["layer"]
    return float(layer["kernel"][0, 0]), float(layer["bias"][0])


def test_first_updates():
    # The decay, -0.1 x 0.5 x 3, is of the kernel alone.
    decay = -0.15
    for name, step in (("adamw", -0.1), ("lion", -0.1), ("sgd", -0.1 * 4.0 * (1 + 0.9))):
        np.testing.assert_allclose(update(name, 4.0), (step + decay, step), rtol=1e-5)
    # Clipped from norm 4 sqrt(6) to 1.
    expected = -0.1 * 1.9 / np.sqrt(6)
    found = update("sgd", 4.0, clip_norm=1.0)
    np.testing.assert_allclose(found, (expected + decay, expected), rtol=1e-5)


@pytest.mark.parametrize("name", OPTIMIZERS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_every_pair_minimises(name, schedule):
    settings = OptimizerSettings(
        learning_rate=0.1, warmup=5, weight_decay=0.0, optimizer=name, schedule=schedule
    )
    optimizer, _ = make_optimizer(settings, 40)

    def step(carry, _):
        params, state = carry
        gradient = jax.grad(lambda p: jnp.square(p["kernel"] - 1).sum())(params)
        updates, state = optimizer.update(gradient, state, params)
        return (jax.tree.map(jnp.add, params, updates), state), None

    params = {"kernel": jnp.full((2, 2), 2.0)}
    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=40)
    assert float(jnp.abs(params["kernel"] - 1).max()) < 0.3


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"optimizer": "adam"}, "optimizer: found 'adam', expected 'adamw' or 'lion' or 'sgd'"),
        ({"schedule": "step"}, "schedule: found 'step', expected 'cosine' or"),
        ({"learning_rate": 0.0}, "learning_rate: found 0.0, expected > 0"),
        ({"warmup": -1}, "warmup: found -1, expected >= 0"),
        ({"weight_decay": -0.1}, "weight_decay: found -0.1, expected >= 0"),
        ({"betas": (0.9, 1.0)}, r"betas: found \(0.9, 1.0\), expected >= 0 and < 1"),
        ({"clip_norm": -1.0}, "clip_norm: found -1.0, expected >= 0"),
    ],
)
def test_what_makes_no_sense_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        OptimizerSettings(**{"learning_rate": 0.1, **fields})
