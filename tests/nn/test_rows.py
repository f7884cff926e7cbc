"""Vectors of all positions as one matrix, where that moves nothing between devices."""

import jax
import jax.numpy as jnp
import pytest

from mirage_jax import parallel
from mirage_jax.nn.rows import rows


@pytest.mark.devices(4)
@pytest.mark.parametrize(
    ("sizes", "shape"),
    [
        ({"data": 4}, (32, 8)),
        ({"data": 2, "fsdp": 2}, (4, 2, 4, 8)),
        ({"data": 1, "context": 4}, (4, 2, 4, 8)),
        ({"data": 1, "tensor": 4}, (4, 2, 4, 8)),
    ],
)
def test_axes_are_merged_where_the_batch_alone_is_split(sizes, shape):
    x = jnp.arange(4 * 2 * 4 * 8.0).reshape(4, 2, 4, 8)
    with jax.set_mesh(parallel.make_mesh(**sizes)):
        split = jax.P(parallel.BATCH_AXES, None, "context", "tensor")
        compiled = jax.jit(rows, in_shardings=split).lower(x).compile()
        found = compiled(x)
    assert found.shape == shape
    assert (found.reshape(x.shape) == x).all()
    for moved in ("all-gather", "all-to-all", "all-reduce", "collective-permute"):
        assert moved not in compiled.as_text()


def test_axes_are_merged_without_a_mesh():
    x = jnp.arange(48.0).reshape(1, 2, 3, 8)
    assert (rows(x) == x.reshape(6, 8)).all()
