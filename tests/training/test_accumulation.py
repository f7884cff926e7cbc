"""Gradients of micro-batches against those of the batch they are parts of."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.tiny_task import MLP, Batches, Regression, settings
from mirage_jax import parallel, training
from mirage_jax.training.accumulation import accumulated


def gradient(params, batch, key):
    def loss(params):
        error = MLP().apply({"params": params}, batch["x"]) - batch["x"][:, :1]
        return jnp.square(error).mean(), {"absolute": jnp.abs(error).mean()}

    return jax.value_and_grad(loss, has_aux=True)(params)


@pytest.mark.parametrize("parts", [1, 2, 6])
def test_parts_have_the_gradient_of_the_whole(parts):
    batch = {**next(Batches(0, size=12)), "unused": np.zeros((12, 0, 3), np.float32)}
    params = jax.device_get(Regression().init(jax.random.key(0)))
    params = parallel.unboxed(params)
    expected = gradient(params, batch, None)
    found = jax.jit(accumulated(gradient, parts))(params, batch, jax.random.key(1))
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for ours, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, wanted, rtol=1e-5, atol=1e-7)


def test_every_part_has_randomness_of_its_own():
    draws = []

    def draw(params, batch, key):
        jax.debug.callback(lambda x: draws.append(float(x)), jax.random.uniform(key))
        return (jnp.zeros(()), {}), params

    run = jax.jit(accumulated(draw, 3))
    jax.block_until_ready(run({"a": jnp.ones(2)}, {"x": jnp.ones((6, 1))}, jax.random.key(0)))
    jax.effects_barrier()
    assert len(set(draws)) == 3


class Plain(Regression):
    """Without the noise, which every part draws for itself."""

    def loss(self, params, batch, key, *, train, frozen=None):
        return super().loss(params, batch, key, train=False)


def test_a_run_in_parts_is_the_run_in_one(tmp_path):
    def fit(workdir, accumulate, task):
        training.fit(
            task,
            lambda start: Batches(start, size=8),
            workdir=workdir,
            on_step=lambda _, values: curves[accumulate].append(values["loss"]),
            **settings(5, accumulate=accumulate),
        )

    curves = {1: [], 4: []}
    task = Plain()
    fit(tmp_path / "one", 1, Plain())
    fit(tmp_path / "four", 4, task)
    assert task.traces == 1
    np.testing.assert_allclose(curves[4], curves[1], rtol=1e-4)
    with pytest.raises(ValueError, match=r"\(8, 4\), .* multiple of 3 .*, 3 micro-batches"):
        fit(tmp_path / "three", 3, Plain())
    with pytest.raises(ValueError, match="accumulate: found 0"):
        fit(tmp_path / "none", 0, Plain())
