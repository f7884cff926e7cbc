"""Optimizers and schedules by name, against updates and rates worked out by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.training.optimizers import OPTIMIZERS, SCHEDULES, learning_rates, recipe

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
    options = {"warmup": 0, "weight_decay": 0.5, "betas": (0.9, 0.99), "clip_norm": 0.0}
    optimizer, _ = recipe(0.1, steps=10, schedule="constant", optimizer=name, **options | changes)
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
    optimizer, _ = recipe(
        0.1, steps=40, warmup=5, weight_decay=0.0, optimizer=name, schedule=schedule
    )

    def step(carry, _):
        params, state = carry
        gradient = jax.grad(lambda p: jnp.square(p["kernel"] - 1).sum())(params)
        updates, state = optimizer.update(gradient, state, params)
        return (jax.tree.map(jnp.add, params, updates), state), None

    params = {"kernel": jnp.full((2, 2), 2.0)}
    (params, _), _ = jax.lax.scan(step, (params, optimizer.init(params)), length=40)
    assert float(jnp.abs(params["kernel"] - 1).max()) < 0.3


def test_unknown_names_are_refused():
    options = {"steps": 10, "warmup": 0, "weight_decay": 0.0}
    with pytest.raises(ValueError, match="optimizer: found 'adam', expected one of adamw, lion"):
        recipe(0.1, **options, optimizer="adam")
    with pytest.raises(ValueError, match="schedule: found 'step', expected one of cosine, lin"):
        recipe(0.1, **options, schedule="step")
