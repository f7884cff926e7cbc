import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirage_jax.memory import holes

fill = jax.jit(holes.fill)


def case(height, width, share, seed=0):
    rng = np.random.default_rng(seed)
    known = (rng.random((2, height, width)) < share).astype(np.float32)
    return rng.uniform(-1, 1, (2, height, width, 3)).astype(np.float32), known


def by_definition(picture, known):
    """Pull-push of one channel, by recursion over loops."""
    height, width = picture.shape
    if height == width == 1:
        return picture * known, known
    step = (2 if height > 1 else 1, 2 if width > 1 else 1)
    coarse = np.zeros((2, -(-height // step[0]), -(-width // step[1])))
    for i, j in np.ndindex(height, width):
        at = i // step[0], j // step[1]
        coarse[0][at] += known[i, j] * picture[i, j]
        coarse[1][at] += known[i, j]
    mean = coarse[0] / np.maximum(coarse[1], 1e-9)
    above, weight = by_definition(mean, np.minimum(coarse[1], 1))

    def between(field, i, j):
        total = 0.0
        for y, wy in taps(i, height, field.shape[0]):
            for x, wx in taps(j, width, field.shape[1]):
                total += wy * wx * field[y, x]
        return total

    out = np.zeros((2, height, width))
    for i, j in np.ndindex(height, width):
        rest = 1 - known[i, j]
        out[0][i, j] = known[i, j] * picture[i, j] + rest * between(above, i, j)
        out[1][i, j] = known[i, j] + rest * between(weight, i, j)
    return out


def taps(place, length, count):
    if count == length:
        return [(place, 1.0)]
    beside = min(max(place // 2 + (1 if place % 2 else -1), 0), count - 1)
    return [(place // 2, 0.75), (beside, 0.25)]


@pytest.mark.parametrize("size", [(8, 8), (5, 12), (1, 7), (11, 1), (1, 1)])
def test_every_level_is_what_the_definition_says(size):
    pictures, known = case(*size, 0.3)
    known[0, 0, 0] = 0.5
    found = fill(pictures, known)
    for n, channel in np.ndindex(2, 3):
        picture, weight = by_definition(np.float64(pictures[n, ..., channel]), np.float64(known[n]))
        expected = picture / np.where(weight > 0, weight, 1)
        np.testing.assert_allclose(found[n, ..., channel], expected, atol=1e-5)


@settings(max_examples=20, deadline=None)
@given(st.floats(0.02, 0.9), st.integers(0, 99))
def test_what_is_known_stays_and_what_is_filled_lies_between(share, seed):
    pictures, known = case(9, 14, share, seed)
    known[0, 4, 4] = known[1, 8, 13] = 1
    found = np.asarray(fill(pictures, known))
    np.testing.assert_allclose(found[known > 0], pictures[known > 0], atol=1e-6)
    for n in range(2):
        low, high = (f(pictures[n][known[n] > 0], axis=0) for f in (np.min, np.max))
        assert (found[n] >= low - 1e-5).all() and (found[n] <= high + 1e-5).all()


def test_holes_of_a_single_colour_take_it_and_empty_pictures_stay_zero():
    pictures, known = case(16, 16, 0.1)
    pictures[0], known[1] = (0.25, -0.5, 1.0), 0
    found = np.asarray(fill(pictures, known))
    np.testing.assert_allclose(found[0], pictures[0], atol=1e-6)
    assert not found[1].any()


def test_a_hole_between_two_surfaces_goes_from_one_to_the_other():
    pictures = np.zeros((1, 8, 32, 1), np.float32)
    pictures[..., 16:, :] = 1
    known = np.ones((1, 8, 32), np.float32)
    known[..., 8:24] = 0
    row = np.asarray(fill(pictures, known))[0, 4, :, 0]
    assert (np.diff(row) >= -1e-6).all() and 0.3 < row[15] < 0.7
