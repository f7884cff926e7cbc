"""Rotary position embedding against closed forms."""

import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.nn import rope

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def test_axis_dims():
    assert rope.axis_dims(128) == (44, 42, 42)
    assert rope.axis_dims(24) == (8, 8, 8)
    for bad in (16, 64, 4):
        with pytest.raises(ValueError, match=f"found {bad}"):
            rope.axis_dims(bad)
    # What the message recommends must itself work.
    with pytest.raises(ValueError, match=r"\[.*\]") as caught:
        rope.axis_dims(64)
    sizes = str(caught.value).split("[")[1].split("]")[0].split(",")
    assert len(sizes) >= 4
    for size in sizes:
        assert sum(rope.axis_dims(int(size))) == int(size)


def test_rotation_is_complex_multiplication():
    table = rope.rotations((0, 3), (5,), (-2, 1), 24)
    x = normal(4, 2, 24)
    z = np.asarray(x).astype(np.float64).reshape(4, 2, 12, 2)
    frequency = 10000.0 ** (-np.arange(4) / 4)
    for token, (t, r, c) in enumerate([(0, 5, -2), (0, 5, 1), (3, 5, -2), (3, 5, 1)]):
        angles = np.concatenate([t * frequency, r * frequency, c * frequency])
        turned = (z[token, ..., 0] + 1j * z[token, ..., 1]) * np.exp(1j * angles)
        expected = np.stack([turned.real, turned.imag], axis=-1).reshape(2, 24)
        np.testing.assert_allclose(rope.rotate(x, table)[token], expected, atol=2e-6)


def test_scores_depend_on_relative_position_only():
    q, k = normal(1, 1, 24), normal(1, 1, 24)

    def score(a, b):
        turn = lambda x, p: rope.rotate(x, rope.rotations(*[(i,) for i in p], 24))  # noqa: E731
        return float((turn(q, a) * turn(k, b)).sum())

    np.testing.assert_allclose(
        score((1, 2, 3), (4, 0, 5)), score((11, 7, 1), (14, 5, 3)), atol=1e-5
    )
    assert abs(score((1, 2, 3), (4, 0, 5)) - score((1, 2, 3), (5, 0, 5))) > 1e-3


def test_token_order_of_a_video():
    table = np.asarray(rope.video_rotations(2, 1, 2, (2, 3), 24))
    assert table.shape == (5 * 6, 12, 2)
    times = np.arctan2(table[:, 0, 1], table[:, 0, 0]).reshape(5, 6)
    np.testing.assert_allclose(times, np.repeat([[-2], [-1], [0], [1], [2]], 6, axis=1), atol=1e-6)
    rows = np.arctan2(table[:, 4, 1], table[:, 4, 0]).reshape(5, 2, 3)
    np.testing.assert_allclose(rows[0, :, 0], [2, 3], atol=1e-6)
    np.testing.assert_allclose(rows[2, :, 0], [0, 1], atol=1e-6)
