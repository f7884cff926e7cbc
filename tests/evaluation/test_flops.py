import jax
import jax.numpy as jnp
import pytest

from mirage_jax.evaluation.flops import count_flops
from mirage_jax.nn.attention import attention


def array(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


def test_products_and_convolutions_in_closed_form():
    assert count_flops(jnp.matmul, array(2, 3), array(3, 5)) == 2 * 2 * 3 * 5
    batched = lambda a, b: jnp.einsum("bnd,bmd->bnm", a, b)  # noqa: E731
    assert count_flops(batched, array(4, 2, 3), array(4, 5, 3)) == 2 * 4 * 2 * 5 * 3
    assert count_flops(lambda a: jnp.exp(a).sum(), array(4, 4)) == 0

    def conv(x, kernel, groups=1):
        layout = ("NHWC", "HWIO", "NHWC")
        return jax.lax.conv_general_dilated(
            x, kernel, (2, 2), "SAME", dimension_numbers=layout, feature_group_count=groups
        )

    x = array(2, 6, 8, 4)
    assert count_flops(conv, x, array(3, 3, 4, 5)) == 2 * (2 * 3 * 4) * 5 * (3 * 3 * 4)
    grouped = lambda a, b: conv(a, b, 2)  # noqa: E731
    assert count_flops(grouped, x, array(3, 3, 2, 6)) == 2 * (2 * 3 * 4) * 6 * (3 * 3 * 2)


def test_loops_branches_and_what_is_compiled_apart():
    square = array(3, 3)
    once = 2 * 3**3

    def looped(a):
        return jax.lax.scan(lambda c, _: (jax.jit(jnp.matmul)(c, a), None), a, None, length=5)[0]

    assert count_flops(looped, square) == 5 * once
    assert count_flops(jax.checkpoint(looped), square) == 5 * once

    def either(a):
        return jax.lax.cond(a[0, 0] > 0, lambda: a @ a, lambda: a)

    assert count_flops(either, square) == once


def test_a_gradient_costs_twice_what_it_is_of():
    def loss(weights, x):
        return jnp.sum(jnp.tanh(x @ weights[0]) @ weights[1])

    weights, x = (array(3, 4), array(4, 5)), array(7, 3)
    forward = 2 * 7 * (3 * 4 + 4 * 5)
    assert count_flops(loss, weights, x) == forward
    # Of every product two, but none with respect to x.
    assert count_flops(jax.grad(loss), weights, x) == forward + 2 * forward - 2 * 7 * 3 * 4


@pytest.mark.parametrize("backend", ["xla", "chunked"])
def test_attention_counts_the_same_however_it_is_computed(backend):
    q, k = array(2, 8, 3, 4), array(2, 6, 3, 4)
    run = lambda q, k, v: attention(q, k, v, backend=backend, chunk=2)  # noqa: E731
    assert count_flops(run, q, k, k) == 2 * 2 * (2 * 3 * 8 * 6 * 4)
