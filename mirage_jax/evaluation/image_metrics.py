"""How alike two pictures are: PSNR and SSIM.

Host-side numpy on uint8 pictures: evaluation compares what a viewer would be shown, after rounding.
Every function reduces the picture dimensions and keeps the leading ones.
"""

from __future__ import annotations

import functools

import numpy as np
from jaxtyping import Float, UInt8

ROUNDING_MSE = 1.0 / 12.0
"""Mean squared error of rounding to 8 bits, in squared grey levels."""

PSNR_CAP = float(10.0 * np.log10(255.0**2 / ROUNDING_MSE))
"""PSNR of pictures that differ by rounding alone, 58.9 dB: the largest value `psnr` returns."""

SSIM_WINDOW = 11
SSIM_SIGMA = 1.5
_K1, _K2 = 0.01, 0.03

# Pictures compared at once: bounds the float32 copies to a few tens of megabytes.
_BATCH_VALUES = 1 << 21


def psnr(
    a: UInt8[np.ndarray, "*b H W C"], b: UInt8[np.ndarray, "*b H W C"]
) -> Float[np.ndarray, "*b"]:
    """Peak signal-to-noise ratio of 8-bit pictures, dB, over all pixels and channels.

    The error is floored at that of rounding (`PSNR_CAP`), so that two identical pictures, as an
    exact return compared with a copy gives, do not make a mean infinite.

    Raises:
      ValueError: if the shapes differ.
    """
    _check_same_shape(a, b)
    difference = a.astype(np.float32) - b.astype(np.float32)
    mse = np.mean(np.square(difference), axis=(-3, -2, -1), dtype=np.float64)
    return np.asarray(10.0 * np.log10(255.0**2 / np.maximum(mse, ROUNDING_MSE)))


def ssim(
    a: UInt8[np.ndarray, "*b H W C"], b: UInt8[np.ndarray, "*b H W C"]
) -> Float[np.ndarray, "*b"]:
    """Structural similarity of 8-bit pictures, mean over channels and window positions, in [-1, 1].

    Wang et al. 2004: Gaussian window 11x11 of sigma 1.5, K = (.01, .03), pictures in 0..1, windows
    that lie inside the picture only. In a picture smaller than the window, the window is the
    largest odd one that fits, renormalised.

    Raises:
      ValueError: if the shapes differ.
    """
    _check_same_shape(a, b)
    lead = a.shape[:-3]
    a, b = a.reshape(-1, *a.shape[-3:]), b.reshape(-1, *b.shape[-3:])
    step = max(1, _BATCH_VALUES // max(1, int(np.prod(a.shape[1:]))))
    parts = [_ssim(a[i : i + step], b[i : i + step]) for i in range(0, len(a), step)]
    return np.concatenate([*parts, np.zeros(0)]).reshape(lead)


def _ssim(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    a, b = (np.moveaxis(x, -1, 1).astype(np.float32) / np.float32(255) for x in (a, b))
    mean_a, mean_b = _gaussian(a), _gaussian(b)
    product = mean_a * mean_b
    squares = np.square(mean_a) + np.square(mean_b)
    covariance = _gaussian(a * b) - product
    # Only the sum of the two variances enters, so one filter pass serves both.
    variances = _gaussian(np.square(a) + np.square(b)) - squares
    c1, c2 = _K1**2, _K2**2
    index = ((2 * product + c1) * (2 * covariance + c2)) / ((squares + c1) * (variances + c2))
    return index.mean(axis=(1, 2, 3), dtype=np.float64)


def _gaussian(pictures: Float[np.ndarray, "n c H W"]) -> Float[np.ndarray, "n c h w"]:
    """Separable Gaussian over height and width, positions where the whole window fits."""
    rows, columns = (_filter(extent) for extent in pictures.shape[-2:])
    return rows @ pictures @ columns.T


@functools.cache
def _filter(extent: int) -> Float[np.ndarray, "positions extent"]:
    """The Gaussian at every position, as a matrix: on small pictures faster than a filter."""
    window = min(SSIM_WINDOW, extent - 1 + extent % 2)
    weights = np.exp(-0.5 * np.square((np.arange(window) - window // 2) / SSIM_SIGMA))
    positions = extent - window + 1
    matrix = np.zeros((positions, extent), np.float32)
    for position in range(positions):
        matrix[position, position : position + window] = weights / weights.sum()
    return matrix


METRICS = {"psnr": psnr, "ssim": ssim}
"""Similarities by name; larger is more alike."""


def _check_same_shape(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {a.shape} and {b.shape}")
