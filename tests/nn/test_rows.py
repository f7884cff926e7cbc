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
        (None, (24, 8)),
        ({"data": 4}, (24, 8)),
        ({"data": 2, "fsdp": 2}, (4, 2, 3, 8)),
        ({"data": 1, "context": 4}, (4, 2, 3, 8)),
        ({"data": 1, "tensor": 4}, (4, 2, 3, 8)),
    ],
)
def test_axes_are_merged_where_the_batch_alone_is_split(sizes, shape):
    x = jnp.arange(4 * 2 * 3 * 8.0).reshape(4, 2, 3, 8)
    if sizes is None:
        assert rows(x).shape == shape
        return
    with jax.set_mesh(parallel.make_mesh(**sizes)):
        compiled = jax.jit(rows, in_shardings=jax.P("data")).lower(x).compile()
        found = compiled(x)
    assert found.shape == shape
    assert (found.reshape(x.shape) == x).all()
    for moved in ("all-gather", "all-to-all", "all-reduce", "collective-permute"):
        assert moved not in compiled.as_text()
