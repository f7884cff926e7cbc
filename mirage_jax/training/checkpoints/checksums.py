"""Checksums of tensors, computed where they lie and the same on every mesh."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Shaped, UInt32


def tensor_table(tree: Any) -> dict[str, list]:
    """{name: [shape, dtype, checksum]} for every leaf; names join the path with '/'."""
    named = {
        tensor_name(path): leaf for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]
    }
    host = jax.device_get({name: checksum(leaf) for name, leaf in named.items()})
    return {
        name: [list(leaf.shape), str(leaf.dtype), int(host[name])] for name, leaf in named.items()
    }


def checksum(array: Shaped[Array | np.ndarray, "..."]) -> UInt32[Array, ""] | np.uint32:
    """Sum of the array's 32-bit words, each times an odd number of its position, modulo 2^32.

    A change of any one word changes the sum.  Addition of integers is exact in any order, so the
    number does not depend on how the array is split over devices.  What host memory holds is summed
    by numpy, which has nothing to compile.
    """
    if jax.dtypes.issubdtype(array.dtype, jax.dtypes.prng_key):
        array = jax.random.key_data(array)
    on_host = not isinstance(array, jax.Array) or (
        array.is_fully_addressable and all(d.platform == "cpu" for d in array.devices())
    )
    return _weighted_sum(np.asarray(array), np) if on_host else _sum_on_devices(array)


def _weighted_sum(array: Any, xp: Any) -> Any:
    """`checksum` in numpy or jax.numpy (`xp`)."""
    words = _words(array)
    position = xp.zeros(words.shape, xp.uint32)
    stride = 1
    # Position from one range per axis: flattening a sharded array would gather it.
    for axis in reversed(range(words.ndim)):
        along = [-1 if other == axis else 1 for other in range(words.ndim)]
        steps = xp.arange(words.shape[axis], dtype=xp.uint32).reshape(along)
        position = position + steps * xp.uint32(stride % 2**32)
        stride *= words.shape[axis]
    # Twice the golden ratio of 2^32: even, so that weights are odd, with no further factor of two.
    weight = position * xp.uint32(1013904226) + xp.uint32(1)
    return xp.sum(words * weight, dtype=xp.uint32)


_sum_on_devices = jax.jit(functools.partial(_weighted_sum, xp=jnp))


def tensor_name(path: Any) -> str:
    """The keys of a path in a tree, joined with '/'."""
    return jax.tree_util.keystr(path, simple=True, separator="/")


def _words(array: Any) -> Any:
    """The array's bits as uint32, one word per element (two for 64-bit ones)."""
    if array.dtype == bool:
        return array.astype(np.uint32)
    width = np.dtype(array.dtype).itemsize
    words: Any
    unsigned = {1: np.uint8, 2: np.uint16}.get(width, np.uint32)
    if isinstance(array, np.ndarray):
        bits = array[..., None].view(unsigned)
        words = bits if width > 4 else bits[..., 0]
    else:
        words = jax.lax.bitcast_convert_type(array, unsigned)
    return words.astype(np.uint32)
