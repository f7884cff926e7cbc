"""The table of parameters, and what is refused, on meshes of eight devices that are one."""

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from mirage_jax import parallel
from mirage_jax.parallel import specs


def mesh_of(*sizes):
    """Sizes of data, fsdp, context, tensor; nothing is put on the one device it is made of."""
    return parallel.make_mesh(*sizes, devices=jax.devices() * 8)


def placed(mesh, preset, **shapes):
    """Abstract parameters and their shardings."""
    boxed = {
        name: nn.LogicallyPartitioned(jax.ShapeDtypeStruct(shape, jnp.float32), names)
        for name, (shape, names) in shapes.items()
    }
    shardings = parallel.shardings(boxed, mesh, parallel.preset(preset))
    return parallel.unboxed(boxed), shardings


def test_the_table_says_where_each_parameter_lies():
    mesh = mesh_of(1, 4, 1, 2)
    where = placed(mesh, "full", up=((3, 8, 6), ("layers", "embed", "mlp")), bias=((6,), (None,)))
    lines = [line.split() for line in specs.table(*where)]
    assert lines[0][:2] == ["parameter", "shape"]
    assert lines[1] == ["bias", "6", "float32", "repeated", "24"]
    assert lines[2] == ["up", "3x8x6", "float32", "-,fsdp,tensor", str(3 * 2 * 3 * 4)]


def test_parameters_that_should_be_split_and_are_not_are_refused():
    mesh = mesh_of(2, 4, 1, 1)
    large = 2**22  # 16 MiB
    shapes = {"split": ((large, 4), ("embed", "mlp")), "odd": ((large + 1, 2), ("embed", "mlp"))}
    rules = parallel.preset("fsdp")
    with pytest.raises(ValueError, match=r"33.3% of parameter bytes .* largest is 'odd' with 33,5"):
        specs.check_sharded(*placed(mesh, "fsdp", **shapes), mesh, rules)
    # Nothing was promised without such rules, or on a mesh without such an axis.
    share = specs.check_sharded(*placed(mesh, "data", **shapes), mesh, parallel.preset("data"))
    assert share == 1.0
    flat = mesh_of(8, 1, 1, 1)
    assert specs.check_sharded(*placed(flat, "fsdp", **shapes), flat, rules) == 1.0
    # Few bytes, whatever their share.
    small = {"odd": ((7, 2), ("embed", "mlp"))}
    assert specs.check_sharded(*placed(mesh, "fsdp", **small), mesh, rules) == 1.0
    even = {"split": ((large, 4), ("embed", "mlp")), "bias": ((large // 64,), (None,))}
    share = specs.check_sharded(*placed(mesh, "fsdp", **even), mesh, rules)
    assert share == pytest.approx(1 / 257)
