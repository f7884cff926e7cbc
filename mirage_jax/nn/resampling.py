"""Resizing of maps as PyTorch and OpenCV do it, which released weights were trained with.

`jax.image.resize` cannot stand in for them: it antialiases, its cubic kernel has another slope, and
it has no mode that keeps the corners in place. Here every output row is a fixed weighted sum of a
few input rows, gathered rather than multiplied by a matrix, so that it stays float32 everywhere.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from jaxtyping import Array, Float, Int

Maps = Array | np.ndarray
Taps = tuple[Int[np.ndarray, "n taps"], Float[np.ndarray, "n taps"]]

_CUBIC = -0.75
"""Slope of the cubic kernel at distance 1, as in PyTorch and OpenCV."""


def resize_bilinear(x: Float[Maps, "*b h w c"], size: tuple[int, int]) -> Float[Any, "*b h2 w2 c"]:
    """Bilinear resize with the centres of the corner pixels kept in place ("align corners")."""
    rows, columns = (_linear_taps(n, m) for n, m in zip(x.shape[-3:-1], size, strict=True))
    return _apply(_apply(x, rows, x.ndim - 3), columns, x.ndim - 2)


def resize_bicubic(
    x: Float[Maps, "*b h w c"], size: tuple[int, int], offset: float = 0.0
) -> Float[Any, "*b h2 w2 c"]:
    """Bicubic resize with the outer edges of the map kept in place, without antialiasing.

    Args:
      x: channels-last maps.
      size: `(h2, w2)`.
      offset: added to each of `size` where the scale is computed, not to the size that comes out.
    """
    rows, columns = (
        _cubic_taps(n, m, n / (m + offset)) for n, m in zip(x.shape[-3:-1], size, strict=True)
    )
    return _apply(_apply(x, rows, x.ndim - 3), columns, x.ndim - 2)


def _linear_taps(inputs: int, outputs: int) -> Taps:
    at = np.linspace(0.0, inputs - 1.0, outputs)
    low = np.floor(at).astype(int)
    index = np.stack([low, np.minimum(low + 1, inputs - 1)], axis=1)
    return index, np.stack([1.0 - (at - low), at - low], axis=1).astype(np.float32)


def _cubic_taps(inputs: int, outputs: int, scale: float) -> Taps:
    at = (np.arange(outputs) + 0.5) * scale - 0.5
    index = np.floor(at).astype(int)[:, None] + np.arange(-1, 3)
    d = np.abs(at[:, None] - index)
    a = _CUBIC
    near = ((a + 2.0) * d - (a + 3.0)) * d * d + 1.0
    far = ((a * d - 5.0 * a) * d + 8.0 * a) * d - 4.0 * a
    weight = np.where(d <= 1.0, near, far).astype(np.float32)
    return np.clip(index, 0, inputs - 1), weight


def _apply(x: Any, taps: Taps, axis: int) -> Any:
    index, weight = taps
    shape = [-1 if i == axis else 1 for i in range(x.ndim)]
    return sum(
        x.take(index[:, k], axis=axis) * weight[:, k].reshape(shape) for k in range(index.shape[1])
    )
