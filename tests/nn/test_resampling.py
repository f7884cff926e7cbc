"""Resizing against sums written out pixel by pixel, and against maps whose resize is known."""

import numpy as np
import pytest

from mirage_jax.nn.resampling import resize_bicubic, resize_bilinear

RNG = np.random.default_rng(0)


def cubic(d, a=-0.75):
    """Keys' kernel, as its definition has it."""
    d = abs(d)
    if d <= 1:
        return (a + 2) * d**3 - (a + 3) * d**2 + 1
    return a * d**3 - 5 * a * d**2 + 8 * a * d - 4 * a if d < 2 else 0.0


def brute_bicubic(row, outputs, offset):
    scale = len(row) / (outputs + offset)
    found = []
    for i in range(outputs):
        at = (i + 0.5) * scale - 0.5
        # Every pixel within reach, those outside of the map being copies of its border.
        reach = range(int(np.floor(at)) - 3, int(np.floor(at)) + 5)
        found.append(sum(cubic(at - j) * row[min(max(j, 0), len(row) - 1)] for j in reach))
    return np.array(found)


@pytest.mark.parametrize("offset", [0.0, 0.1])
@pytest.mark.parametrize(("inputs", "outputs"), [(5, 7), (5, 3), (6, 6), (37, 40), (1, 4)])
def test_bicubic_is_the_sum_it_is_defined_as(inputs, outputs, offset):
    row = RNG.normal(size=inputs)
    expected = brute_bicubic(row, outputs, offset)
    maps = np.broadcast_to(row[:, None, None], (inputs, 2, 3)).astype(np.float32)
    found = resize_bicubic(maps, (outputs, 2), offset)
    # Columns are resized by 2 / (2 + offset), along which nothing changes.
    np.testing.assert_allclose(found, np.tile(expected[:, None, None], (2, 3)), atol=2e-6)


def test_bicubic_agrees_along_both_axes():
    maps = RNG.normal(size=(2, 5, 4, 3)).astype(np.float32)
    found = resize_bicubic(maps, (7, 6))
    turned = resize_bicubic(maps.swapaxes(1, 2), (6, 7)).swapaxes(1, 2)
    np.testing.assert_allclose(found, turned, atol=1e-6)
    columns = np.apply_along_axis(brute_bicubic, 2, maps.astype(float), 6, 0.0)
    both = np.apply_along_axis(brute_bicubic, 1, columns, 7, 0.0)
    np.testing.assert_allclose(found, both, atol=2e-6)


@pytest.mark.parametrize("size", [(9, 11), (3, 2), (5, 4), (1, 1)])
def test_bilinear_keeps_corners_and_planes(size):
    rows, columns = np.mgrid[:5, :4].astype(np.float32)
    plane = np.stack([rows, columns, 2 * rows - 3 * columns + 1], axis=-1)
    found = resize_bilinear(plane, size)
    y, x = np.linspace(0, 4, size[0])[:, None], np.linspace(0, 3, size[1])[None]
    y, x = np.broadcast_arrays(y, x)
    expected = np.stack([y, x, 2 * y - 3 * x + 1], axis=-1)
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_bilinear_is_a_mean_of_four_between_pixels():
    maps = RNG.normal(size=(2, 2, 1)).astype(np.float32)
    found = resize_bilinear(maps, (3, 3))
    np.testing.assert_allclose(found[1, 1], maps.mean(axis=(0, 1)), atol=1e-6)
    np.testing.assert_allclose(found[::2, ::2], maps, atol=0)
