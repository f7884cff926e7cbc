"""The table of logical rules, on four fake devices in a process of their own."""

import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec as P

from mirage_jax import parallel
from mirage_jax.nn.denoiser import Denoiser
from mirage_jax.nn.text_encoder import TextEncoder
from mirage_jax.nn.video_vae import VideoVAE


def on_devices(count: int, code: str) -> str:
    env = {**os.environ, "JAX_NUM_CPU_DEVICES": str(count), "JAX_PLATFORMS": "cpu"}
    result = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], env=env, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_unknown_preset_and_unknown_axis_name_are_refused():
    with pytest.raises(ValueError, match=r"found 'fdsp', expected one of data, fsdp"):
        parallel.preset("fdsp")
    leaf = nn.LogicallyPartitioned(jax.ShapeDtypeStruct((2, 2), jnp.float32), ("embed", "mpl"))
    with pytest.raises(ValueError, match=r"dense/kernel: no rule for the logical axis 'mpl'"):
        parallel.shardings({"dense": {"kernel": leaf}}, parallel.make_mesh(), parallel.preset())


def test_the_table_has_the_names_that_modules_use_and_no_others():
    ids = jnp.ones((1, 2), jnp.int32)
    modules = (
        (Denoiser(12, 1, 1, 8, 3, 3, text_width=4), jnp.zeros((1, 1, 2, 2, 3)), jnp.zeros((1, 1))),
        (TextEncoder(8, 4, 2, 2, 6, depth=1), ids, ids),
        (VideoVAE(base_width=4, decoder_width=4), jnp.zeros((1, 1, 8, 8, 3))),
    )
    names = {"batch", "tokens", "height"}  # of activations
    for module, *inputs in modules:
        params = jax.eval_shape(module.init, jax.random.key(0), *inputs)["params"]
        for spec in jax.tree.leaves(nn.get_partition_spec(params)):
            names |= {name for name in spec if name is not None}
    assert names == {logical for logical, _ in parallel.preset()}


def test_parameters_are_split_as_the_table_says_and_indivisible_ones_repeated():
    out = on_devices(
        4,
        """
        import jax, jax.numpy as jnp
        from flax import linen as nn
        from mirage_jax import parallel
        mesh = parallel.make_mesh(data=1, fsdp=2, tensor=-1)
        def box(shape, names):
            return nn.LogicallyPartitioned(jax.ShapeDtypeStruct(shape, jnp.float32), names)
        tree = {
            "up": box((3, 8, 6), ("layers", "embed", "mlp")),
            "odd": box((7, 6), ("embed", "mlp")),
            "plain": jax.ShapeDtypeStruct((5,), jnp.float32),
        }
        for name in ("full", "fsdp", "data"):
            sh = parallel.shardings(tree, mesh, parallel.preset(name))
            print(name, *(str(tuple(sh[k].spec)) for k in ("up", "odd", "plain")), sep=";")
            share = parallel.unsharded_share(jax.tree.map(lambda x: x, nn.unbox(tree)), sh)
            print(round(share * (144 + 42 + 5)))
        print(parallel.batch_shards(mesh), parallel.batch_sharding(mesh).spec)
        """,
    ).splitlines()
    assert out[0] == "full;(None, 'fsdp', 'tensor');(None, 'tensor');()"
    assert out[1] == "5"
    assert out[2] == "fsdp;(None, 'fsdp', None);(None, None);()"
    assert out[3] == "47"
    assert out[4] == "data;(None, None, None);(None, None);()"
    assert out[5] == "191"
    assert out[6] == f"2 {P(('data', 'fsdp'))}"
