"""Checksums against the sum written out, and against damage."""

import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.training.checkpoints import checksum, checksums


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8", "bool", "int32"])
def test_checksum_is_the_weighted_sum_of_words(dtype):
    array = np.random.default_rng(1).integers(0, 2, (3, 4, 2)).astype(jnp.dtype(dtype))
    words = array.astype(np.uint32) if dtype == "bool" else array.view(f"u{array.itemsize}")
    expected = sum(
        int(word) * (1013904226 * i + 1) for i, word in enumerate(words.astype(object).ravel())
    )
    for found in (checksum(array), checksums._sum_on_devices(jnp.asarray(array))):
        assert int(found) == expected % 2**32


def test_checksum_sees_any_single_bit_and_any_swap():
    array = np.random.default_rng(0).normal(size=(4, 3)).astype(np.float32)
    original = int(checksum(jnp.asarray(array)))
    for index in range(12):
        for bit in (0, 13, 31):
            changed = array.copy().view(np.uint32)
            changed.ravel()[index] ^= np.uint32(1 << bit)
            assert int(checksum(jnp.asarray(changed.view(np.float32)))) != original
    assert int(checksum(jnp.asarray(array[::-1]))) != original
