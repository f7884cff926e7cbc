"""The step and the optimizer against updates computed by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from mirage_jax.training import adamw, optimizers, state, warmup_cosine
from mirage_jax.training.task import Task


class Quadratic(Task):
    def init(self, key):
        return {"kernel": jax.random.normal(key, (3, 2)), "bias": jnp.ones(2)}

    def loss(self, params, batch, key, *, train, frozen=None):
        return 0.5 * jnp.square(params["kernel"] - batch).sum(), {"key": jax.random.uniform(key)}


def test_step_is_gradient_descent_with_an_average():
    optimizer = optax.sgd(0.25)
    begin = state.unboxed(Quadratic(), optimizer, seed=3, with_ema=True)
    step = state.make_step(Quadratic(), optimizer, ema_decay=0.9, schedule=lambda s: 0.25 + s)
    target = jnp.full((3, 2), 2.0)
    after, metrics = step(begin, target, None)
    kernel = np.asarray(begin.params["kernel"])
    np.testing.assert_allclose(after.params["kernel"], kernel - 0.25 * (kernel - 2), rtol=1e-6)
    # Decay 0.1 at step 0: (1 + 0) / (10 + 0).
    expected = 0.1 * kernel + 0.9 * np.asarray(after.params["kernel"])
    np.testing.assert_allclose(after.ema["kernel"], expected, rtol=1e-6)
    np.testing.assert_allclose(metrics["loss"], 0.5 * ((kernel - 2) ** 2).sum(), rtol=1e-6)
    np.testing.assert_allclose(metrics["grad_norm"], np.linalg.norm(kernel - 2), rtol=1e-6)
    assert metrics["learning_rate"] == 0.25
    assert int(after.step) == 1
    _, second = step(after, target, None)
    assert second["key"] != metrics["key"]


class TowardsAverage(Quadratic):
    """Trains towards the average of its own parameters."""

    needs_ema = True

    def loss(self, params, batch, key, *, train, frozen=None, ema=None):
        return 0.5 * jnp.square(params["kernel"] - ema["kernel"]).sum(), {}


def test_a_task_that_needs_it_gets_the_average_from_before_the_step():
    optimizer = optax.sgd(0.25)
    with pytest.raises(ValueError, match="ema_decay: found 0, expected more"):
        state.unboxed(TowardsAverage(), optimizer, seed=3, with_ema=False)
    begin = state.unboxed(TowardsAverage(), optimizer, seed=3, with_ema=True)
    begin = begin.replace(ema=jax.tree.map(lambda leaf: leaf + 1.0, begin.params))
    after, metrics = state.make_step(TowardsAverage(), optimizer, ema_decay=0.9)(begin, 0.0, None)
    np.testing.assert_allclose(metrics["loss"], 3.0, rtol=1e-5)
    kernel = np.asarray(begin.params["kernel"])
    np.testing.assert_allclose(after.params["kernel"], kernel + 0.25, rtol=1e-5)
    found = TowardsAverage().evaluate(begin.params, 0.0, jax.random.key(0))
    assert float(found["loss"]) == 0.0


class CountsSteps(Quadratic):
    """Has the number of the step for a loss, beside what moves the parameters."""

    needs_step = True

    def loss(self, params, batch, key, *, train, frozen=None, step=None):
        return step + params["bias"].sum(), {}


def test_a_task_that_needs_it_gets_the_number_of_the_step():
    optimizer = optax.sgd(0.25)
    now = state.unboxed(CountsSteps(), optimizer, seed=3, with_ema=False)
    for number in range(3):
        before = float(now.params["bias"].sum())
        now, metrics = state.make_step(CountsSteps(), optimizer)(now, 0.0, None)
        assert float(metrics["loss"]) == pytest.approx(number + before)
    found = CountsSteps().evaluate(now.params, 0.0, jax.random.key(0))
    assert float(found["loss"]) == pytest.approx(float(now.params["bias"].sum()))


def test_ema_decay_rises_to_its_limit():
    decays = [float(state.ema_decay_at(jnp.int32(s), 0.9)) for s in (0, 8, 10_000)]
    np.testing.assert_allclose(decays, [0.1, 0.5, 0.9], rtol=1e-6)


def test_seed_decides_the_parameters():
    draw = lambda seed: state.unboxed(  # noqa: E731
        Quadratic(), optax.sgd(1.0), seed=seed, with_ema=False
    ).params["kernel"]
    assert (draw(1) == draw(1)).all() and (draw(1) != draw(2)).any()


def test_schedule_values():
    schedule = warmup_cosine(0.4, steps=12, warmup=4, final=0.1)
    values = [float(schedule(s)) for s in (0, 1, 3, 4, 8, 12)]
    np.testing.assert_allclose(values, [0.1, 0.2, 0.4, 0.4, 0.4 * 0.55, 0.04], rtol=1e-5)
    assert float(warmup_cosine(0.4, steps=12)(0)) == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"steps": 0}, "steps: found 0"),
        ({"steps": 5, "warmup": 5}, "warmup: found 5"),
        ({"steps": 5, "learning_rate": -1.0}, "learning_rate: found -1.0"),
    ],
)
def test_schedule_refuses(arguments, message):
    with pytest.raises(ValueError, match=message):
        warmup_cosine(**{"learning_rate": 1e-3, **arguments})


def test_adamw_decays_matrices_only_and_clips():
    params = {"d": {"kernel": jnp.ones((2, 2)), "bias": jnp.ones(2), "scale": jnp.ones((3, 2))}}
    assert optimizers.decayed(params) == {"d": {"kernel": True, "bias": False, "scale": False}}
    optimizer = adamw(0.1, weight_decay=0.5)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    np.testing.assert_allclose(updates["d"]["kernel"], -0.1 * 0.5, rtol=1e-6)
    np.testing.assert_array_equal(updates["d"]["bias"], 0)
    # Adam's own update hides the size of a gradient; its first moment does not.
    large = jax.tree.map(lambda x: 100.0 * x, params)
    _, after = optimizer.update(large, optimizer.init(params), params)
    moment = next(
        s.mu for s in jax.tree.leaves(after, is_leaf=lambda s: hasattr(s, "mu")) if hasattr(s, "mu")
    )
    np.testing.assert_allclose(optax.global_norm(moment), 0.1, rtol=1e-5)
