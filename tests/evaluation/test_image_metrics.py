"""PSNR and SSIM against their definitions written out by hand."""

import numpy as np
import pytest

from mirage_jax.evaluation.image_metrics import PSNR_CAP, psnr, ssim


def _pictures(seed, *shape):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def test_psnr_of_a_constant_difference_is_closed_form():
    a = np.full((2, 3, 8, 9, 3), 100, np.uint8)
    b = a.copy()
    b[1] = 110
    expected = np.full((2, 3), PSNR_CAP)
    expected[1] = 20 * np.log10(255 / 10)
    np.testing.assert_allclose(psnr(a, b), expected, rtol=1e-12)


def test_psnr_is_capped_at_rounding_noise():
    a = _pictures(0, 64, 64, 3)
    assert psnr(a, a) == PSNR_CAP == pytest.approx(58.92, abs=0.01)
    # The mean squared error of rounding uniform values is 1/12 of a grey level squared.
    values = np.random.default_rng(1).uniform(0, 255, 200_000)
    assert np.mean((values - values.round()) ** 2) == pytest.approx(1 / 12, rel=0.01)


def _ssim_by_loops(a, b):
    """Every window position and channel on its own, float64."""
    size = 11
    line = np.exp(-((np.arange(size) - 5) ** 2) / (2 * 1.5**2))
    window = np.outer(line, line) / np.outer(line, line).sum()
    a, b = a / 255.0, b / 255.0
    values = []
    for y in range(a.shape[0] - size + 1):
        for x in range(a.shape[1] - size + 1):
            for c in range(a.shape[2]):
                p, q = a[y : y + size, x : x + size, c], b[y : y + size, x : x + size, c]
                mp, mq = (window * p).sum(), (window * q).sum()
                vp, vq = (window * (p - mp) ** 2).sum(), (window * (q - mq) ** 2).sum()
                cov = (window * (p - mp) * (q - mq)).sum()
                values.append(
                    (2 * mp * mq + 1e-4)
                    * (2 * cov + 9e-4)
                    / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4))
                )
    return np.mean(values)


def test_ssim_equals_the_definition():
    a = _pictures(2, 2, 14, 17, 3)
    noisy = np.clip(a + np.random.default_rng(3).normal(0, 20, a.shape), 0, 255).astype(np.uint8)
    expected = [_ssim_by_loops(p, q) for p, q in zip(a, noisy, strict=True)]
    np.testing.assert_allclose(ssim(a, noisy), expected, atol=2e-5)


def test_ssim_of_flat_pictures_is_closed_form():
    a, b = np.full((20, 20, 3), 50, np.uint8), np.full((20, 20, 3), 80, np.uint8)
    p, q = 50 / 255, 80 / 255
    assert ssim(a, b) == pytest.approx((2 * p * q + 1e-4) / (p * p + q * q + 1e-4), abs=1e-4)
    assert ssim(a, a) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("size", [1, 4, 10, 11])
def test_ssim_of_pictures_no_larger_than_the_window(size):
    a = _pictures(4, size, size, 3)
    assert ssim(a, a) == pytest.approx(1, abs=1e-5)
    assert ssim(a, 255 - a) < 0.9


def test_ssim_does_not_depend_on_batching(monkeypatch):
    a, b = _pictures(5, 2, 3, 16, 16, 3), _pictures(6, 2, 3, 16, 16, 3)
    whole = ssim(a, b)
    monkeypatch.setattr("mirage_jax.evaluation.image_metrics._BATCH_VALUES", 1)
    np.testing.assert_array_equal(ssim(a, b), whole)
    assert whole.shape == (2, 3)
