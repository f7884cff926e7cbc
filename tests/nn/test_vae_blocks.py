"""The shortcuts of the video VAE against their definition, one value at a time."""

import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.nn import vae_blocks


def close(actual, expected, tolerance=1e-5):
    np.testing.assert_allclose(actual, expected, rtol=0, atol=tolerance)


def regroup(x, out, time, space):
    """average_down, one output value at a time, from its definition."""
    b, t, h, w, _ = x.shape
    result = np.zeros((b, t // time, h // space, w // space, out))
    for index in np.ndindex(*result.shape[:4]):
        n, i, j, k = index
        block = x[n, i * time :, j * space :, k * space :][:time, :space, :space]
        values = np.moveaxis(block, -1, 0).ravel()
        if values.size >= out:
            result[index] = values.reshape(out, -1).mean(-1)
        else:
            result[index] = np.repeat(values, out // values.size)
    return result


@pytest.mark.parametrize("out,time,space", [(4, 2, 2), (8, 1, 2), (16, 2, 2), (8, 1, 1), (2, 1, 1)])
def test_average_down(out, time, space):
    x = np.random.default_rng(0).normal(size=(1, 4, 4, 2, 4)).astype(np.float32)
    close(vae_blocks.average_down(jnp.asarray(x), out, time, space), regroup(x, out, time, space))


def test_average_down_refuses_what_does_not_divide():
    with pytest.raises(ValueError, match="regrouped"):
        vae_blocks.average_down(jnp.zeros((1, 2, 2, 2, 4)), 6, 1, 1)
    with pytest.raises(ValueError, match="spread"):
        vae_blocks.duplicate_up(jnp.zeros((1, 2, 2, 2, 3)), 4, 1, 2, True)


@pytest.mark.parametrize("out,time,space", [(4, 2, 2), (1, 1, 2), (2, 1, 2)])
def test_duplicate_up(out, time, space):
    x = np.random.default_rng(0).normal(size=(1, 2, 2, 3, 4)).astype(np.float32)
    actual = vae_blocks.duplicate_up(jnp.asarray(x), out, time, space, False)
    expected = np.zeros((1, 2 * time, 2 * space, 3 * space, out), np.float32)
    for index in np.ndindex(*expected.shape):
        _, t, i, j, c = index
        value = ((c * time + t % time) * space + i % space) * space + j % space
        repeats = out * time * space**2 // 4
        expected[index] = x[0, t // time, i // space, j // space, value // repeats]
    close(actual, expected, 0)
    first = vae_blocks.duplicate_up(jnp.asarray(x), out, time, space, True)
    close(first, expected[:, time - 1 :], 0)
