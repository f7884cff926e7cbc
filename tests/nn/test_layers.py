"""Convolutions and norms of the video VAE against plain sums."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.nn import layers


def close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


@pytest.mark.parametrize("preceded", [False, True])
@pytest.mark.parametrize("impl", ["direct", "frames"])
@pytest.mark.parametrize("frames", [1, 4])
def test_causal_conv3d_is_a_sum_over_taps(frames, impl, preceded):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(2, frames, 4, 5, 3)).astype(np.float32)
    kernel = rng.normal(size=(3, 3, 3, 3, 2)).astype(np.float32)
    before = rng.normal(size=(2, 2, 4, 5, 3)).astype(np.float32) * preceded
    padded = np.pad(np.concatenate([before, x], 1), ((0, 0), (0, 0), (1, 1), (1, 1), (0, 0)))
    expected = sum(
        padded[:, a : a + frames, b : b + 4, c : c + 5] @ kernel[a, b, c]
        for a in range(3)
        for b in range(3)
        for c in range(3)
    )
    actual = layers.causal_conv3d(
        jnp.asarray(x),
        jnp.asarray(kernel),
        preceding=jnp.asarray(before) if preceded else None,
        impl=impl,
    )
    close(actual, expected, 1e-4)


def test_upsample_conv_is_repeat_then_convolve():
    rng = np.random.default_rng(0)
    x = jnp.asarray(rng.normal(size=(2, 3, 4, 5, 3)), jnp.float32)
    kernel = jnp.asarray(rng.normal(size=(3, 3, 3, 2)), jnp.float32)
    bias = jnp.asarray([1.0, -2.0])
    doubled = jnp.repeat(jnp.repeat(x, 2, axis=-3), 2, axis=-2)
    expected = layers.conv2d(doubled, kernel, bias)
    close(layers.upsample_conv2d(x, kernel, bias), expected, 1e-5)


def test_rms_norm_of_zero_has_a_gradient():
    grad = jax.grad(lambda x: layers.rms_norm(x, jnp.ones(3)).sum())(jnp.zeros((2, 3)))
    assert np.isfinite(grad).all()
    x = np.random.default_rng(0).normal(size=(4, 3))
    expected = x / np.linalg.norm(x, axis=-1, keepdims=True) * 3**0.5 * 2
    close(layers.rms_norm(jnp.asarray(x, jnp.float32), jnp.full(3, 2.0)), expected)
