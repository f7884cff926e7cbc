"""Flow matching against its definitions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.diffusion import flow

RNG = np.random.default_rng(0)
X0, NOISE = (jnp.asarray(RNG.normal(size=(2, 3, 2, 2, 4)), jnp.float32) for _ in range(2))


def test_velocity_is_the_derivative_of_the_interpolant():
    sigma = jnp.asarray([[0.2, 0.5, 0.9], [0.0, 1.0, 0.4]])
    ones = jnp.ones_like(sigma)
    _, slope = jax.jvp(lambda s: flow.add_noise(X0, NOISE, s), (sigma,), (ones,))
    np.testing.assert_allclose(flow.velocity(X0, NOISE), slope, atol=1e-6)
    x = flow.add_noise(X0, NOISE, sigma)
    np.testing.assert_array_equal(x[1, 0], X0[1, 0])
    np.testing.assert_array_equal(x[1, 1], NOISE[1, 1])


def test_shift_has_its_closed_form_and_inverse():
    sigma = jnp.linspace(0, 1, 11)
    np.testing.assert_allclose(flow.shift_sigma(sigma, 5.0), 5 * sigma / (1 + 4 * sigma), atol=1e-7)
    np.testing.assert_allclose(
        flow.shift_sigma(flow.shift_sigma(sigma, 5.0), 0.2), sigma, atol=1e-6
    )


@pytest.mark.parametrize("per_frame", [False, True])
def test_levels_are_shared_by_frames_unless_asked(per_frame):
    sigma = np.asarray(flow.sample_sigma(jax.random.key(0), 64, 5, per_frame=per_frame))
    assert sigma.shape == (64, 5)
    shared = (sigma == sigma[:, :1]).all(axis=1)
    assert shared.all() if not per_frame else not shared.any()


def test_level_distributions():
    key = jax.random.key(1)
    uniform = np.asarray(flow.sample_sigma(key, 20000, 1, shift=5.0))[:, 0]
    # P(shifted < s) is the inverse shift of s.
    for level in (0.3, 0.6, 0.9):
        expected = level / (5.0 - 4.0 * level)
        assert abs((uniform < level).mean() - expected) < 0.015
    normal = np.asarray(flow.sample_sigma(key, 20000, 1, distribution="logit_normal"))[:, 0]
    assert abs(np.log(normal / (1 - normal)).std() - 1.0) < 0.02
    with pytest.raises(ValueError, match="cosine"):
        flow.sample_sigma(key, 1, 1, distribution="cosine")


def test_loss_counts_only_what_the_mask_keeps():
    prediction = jnp.asarray(RNG.normal(size=X0.shape), jnp.float32)
    square = np.square(np.asarray(prediction) - np.asarray(NOISE - X0))
    np.testing.assert_allclose(flow.flow_loss(prediction, X0, NOISE), square.mean(), rtol=1e-6)
    mask = np.asarray([[0, 1, 1], [0, 0, 1]], np.float32)
    expected = square[mask > 0].mean()
    np.testing.assert_allclose(
        flow.flow_loss(prediction, X0, NOISE, jnp.asarray(mask)), expected, rtol=1e-6
    )
    cells = RNG.integers(0, 2, size=(2, 3, 2, 2)).astype(np.float32)
    np.testing.assert_allclose(
        flow.flow_loss(prediction, X0, NOISE, jnp.asarray(cells)),
        square[cells > 0].mean(),
        rtol=1e-6,
    )
    assert float(flow.flow_loss(prediction, X0, NOISE, jnp.zeros((2, 3)))) == 0.0
