"""Operations, memory and time at best of compiled programs, against sums done by hand."""

import types

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import pallas as pl
from jax.sharding import PartitionSpec as P

from mirage_jax import parallel
from mirage_jax.parallel import footprint, hlo, topology
from mirage_jax.parallel.flops import matmul_flops
from mirage_jax.parallel.topology import CHIPS, GIB, Slice


def flops(function, *shapes):
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return matmul_flops(jax.jit(function).trace(*arguments).jaxpr)


def test_products_count_two_operations_a_term():
    assert flops(lambda a, b: a @ b, (3, 5), (5, 7)) == 2 * 3 * 5 * 7
    assert flops(lambda a, b: jnp.einsum("bnd,bmd->bnm", a, b), (2, 3, 5), (2, 7, 5)) == 420
    same = {
        "window_strides": (1, 1),
        "padding": "SAME",
        "dimension_numbers": ("NHWC", "HWIO", "NHWC"),
    }
    convolve = lambda x, k: jax.lax.conv_general_dilated(x, k, **same)  # noqa: E731
    assert flops(convolve, (1, 4, 6, 5), (3, 3, 5, 7)) == 2 * (4 * 6 * 7) * (3 * 3 * 5)
    assert flops(lambda a: a + a, (9, 9)) == 0


def test_loops_branches_and_what_is_computed_again_count_too():
    weights = (4, 6, 6)  # layers
    one = 2 * 8 * 6 * 6

    def stack(x, w, body):
        return jax.lax.scan(lambda x, w: (body(x, w), None), x, w)[0]

    product = lambda x, w: x @ w  # noqa: E731
    assert flops(lambda x, w: stack(x, w, product), (8, 6), weights) == 4 * one

    def twice(x, w):  # both products are needed backwards, so both run again
        return jnp.sin(jnp.sin(x @ w) @ w)

    loss = lambda x, w: stack(x, w, jax.checkpoint(twice)).sum()  # noqa: E731
    gradient = flops(jax.grad(loss, argnums=(0, 1)), (8, 6), weights)
    # Forwards 2, again 2, backwards 2 for each of them.
    assert gradient == 4 * 8 * one
    either = lambda x, w: jax.lax.cond(x.sum() > 0, lambda: x @ w @ w, lambda: x @ w)  # noqa: E731
    assert flops(either, (8, 6), (6, 6)) == 2 * one


def test_kernels_and_device_by_device_code_count_for_all_devices():
    def kernel(a, b, out):
        out[...] = a[...] @ b[...]

    def blocks(a, b):
        rows, whole = (
            pl.BlockSpec((8, 16), lambda i: (i, 0)),
            pl.BlockSpec((16, 4), lambda i: (0, 0)),
        )
        return pl.pallas_call(
            kernel,
            out_shape=jax.ShapeDtypeStruct((24, 4), jnp.float32),
            grid=(3,),
            in_specs=[rows, whole],
            out_specs=pl.BlockSpec((8, 4), lambda i: (i, 0)),
        )(a, b)

    assert flops(blocks, (24, 16), (16, 4)) == 2 * 24 * 16 * 4
    mesh = parallel.make_mesh()
    mapped = jax.shard_map(
        lambda a, b: a @ b, mesh=mesh, in_specs=(P("data"), P()), out_specs=P("data")
    )
    rows = 2 * mesh.size
    assert flops(mapped, (rows, 5), (5, 7)) == 2 * rows * 5 * 7


def stats(arguments, outputs, aliased, temporaries, code=0):
    return types.SimpleNamespace(
        argument_size_in_bytes=arguments,
        output_size_in_bytes=outputs,
        alias_size_in_bytes=aliased,
        temp_size_in_bytes=temporaries,
        generated_code_size_in_bytes=code,
    )


@pytest.mark.parametrize(("temporaries", "fits"), [(9 * GIB, True), (9 * GIB + 1, False)])
def test_memory_is_full_when_the_parts_reach_the_capacity(temporaries, fits):
    # 5 of the 6 GiB of outputs reuse arguments.
    memory = footprint.memory_of(stats(5 * GIB, 6 * GIB, 5 * GIB, temporaries, GIB), 16 * GIB)
    assert memory.outputs - memory.reused == GIB
    assert memory.needed == 7 * GIB + temporaries
    assert memory.fits is fits
    assert footprint.memory_of(stats(1, 1, 0, 1), None).fits is None


def test_what_the_compiler_says_when_it_refuses():
    memory = footprint.exhausted(
        "RESOURCE_EXHAUSTED: XLA:TPU compile permanent error. Ran out of memory in memory space "
        "hbm. Used 20.25G of 15.75G hbm. Exceeded hbm capacity by 4.50G."
    )
    assert memory.needed == 20.25 * GIB and memory.capacity == 15.75 * GIB
    assert memory.fits is False
    memory = footprint.exhausted(
        "RESOURCE_EXHAUSTED: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (16.32G) exceeds available HBM (15.75G)."
    )
    assert memory.needed == int(16.32 * GIB) and memory.fits is False
    assert footprint.exhausted("INTERNAL: something else") is None


def test_time_at_best_by_hand():
    target = Slice("v5e:4x4", (), CHIPS["v5e"])
    memory = footprint.memory_of(stats(*[4095 * 10**8] * 3, 819 * 10**9), 16 * GIB)
    program = hlo.Program({"all-gather": hlo.Traffic(1, 1, 9e9, 100e9)}, {}, 0)
    line = footprint.roofline_of(target, 197e12 / 4, memory, program)
    assert (line.compute, line.hbm, line.ici) == pytest.approx((0.25, 3.0, 0.5))
    assert line.bound == "hbm" and line.overlapped == pytest.approx(3.0)
    assert line.serial == pytest.approx(3.75)
    # Half a chip takes twice as long.
    half = Slice("v5e:4x4", (), CHIPS["v5e"], devices_per_chip=2)
    assert footprint.roofline_of(half, 197e12 / 4, memory, program).serial == pytest.approx(7.5)


def test_a_program_is_measured_as_it_was_compiled():
    target = topology.open_slice("cpu:1")
    shape = jax.ShapeDtypeStruct((16, 16), jnp.float32)
    found = footprint.measure(jax.jit(lambda a, b: a @ b).trace(shape, shape), target)
    assert found.flops == 2 * 16**3
    assert found.memory.arguments == 2 * 16 * 16 * 4 and found.memory.outputs == 16 * 16 * 4
    assert found.program.collectives == {} and found.roofline is None
    assert found.to_json()["memory"]["fits"] is None
