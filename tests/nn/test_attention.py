"""Attention on one device against closed forms."""

import functools
import sys
from importlib.util import find_spec

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.attention_by_hand import by_hand
from mirage_jax.nn.attention import KERNELS, attention, cudnn, dispatch, splash

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


@pytest.mark.parametrize(("backend", "chunk"), [("xla", 512), ("chunked", 4), ("chunked", 64)])
def test_backends_equal_the_definition(backend, chunk):
    q, k, v = normal(2, 7, 3, 8) * 4, normal(2, 10, 3, 8) * 4, normal(2, 10, 3, 8)
    found = attention(q, k, v, backend=backend, chunk=chunk)
    np.testing.assert_allclose(found, by_hand(q, k, v), atol=2e-6)


PRESENT = np.array([[True, False, True], [False, False, True]])
"""Which of three frames are present in two samples."""


def each_sample(q, k, v):
    """Every sample with the frames it has, and no others."""
    return [(q[i : i + 1], k[i : i + 1, PRESENT[i]], v[i : i + 1, PRESENT[i]]) for i in range(2)]


def frames_by_hand(q, k, v):
    flat = [np.asarray(x).reshape(len(x), -1, *x.shape[-2:]) for x in (q, k, v)]
    return by_hand(*flat).reshape(q.shape)


@pytest.mark.parametrize(("backend", "chunk"), [("xla", 512), ("chunked", 2), ("chunked", 64)])
def test_absent_frames_are_as_good_as_left_out(backend, chunk):
    q, k, v = (normal(2, 3, 4, 2, 8) * 2 for _ in range(3))

    def loss(q, k, v):
        out = attention(q, k, v, frame_mask=jnp.asarray(PRESENT), backend=backend, chunk=chunk)
        return jnp.sin(out).sum(), out

    def without(*qkv):
        return sum(jnp.sin(attention(*sample)).sum() for sample in each_sample(*qkv))

    gradients, out = jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)
    expected = [frames_by_hand(*sample) for sample in each_sample(q, k, v)]
    np.testing.assert_allclose(out, np.concatenate(expected), atol=2e-6)
    for found, wanted in zip(
        gradients, jax.jit(jax.grad(without, argnums=(0, 1, 2)))(q, k, v), strict=True
    ):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=5e-6)


def test_keys_of_cudnn_are_sorted_not_masked():
    """By the same function of JAX in its plain form: the kernel itself needs a GPU."""
    q, k, v = (normal(2, 12, 2, 8) * 2 for _ in range(3))
    key_mask = np.repeat(PRESENT, 4, axis=1)
    keys, values, lengths = cudnn.present_first(k, v, jnp.asarray(key_mask))
    found = jax.nn.dot_product_attention(q, keys, values, key_value_seq_lengths=lengths)
    np.testing.assert_allclose(found, KERNELS["xla"](q, k, v, jnp.asarray(key_mask)), atol=2e-6)
    np.testing.assert_array_equal(lengths, [8, 4])


def test_chunked_gradients_equal_xla():
    q, k, v = normal(1, 9, 2, 8), normal(1, 13, 2, 8), normal(1, 13, 2, 8)

    def gradient(backend):
        loss = lambda *qkv: jnp.sin(attention(*qkv, backend=backend, chunk=4)).sum()  # noqa: E731
        return jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(q, k, v)

    for ours, expected in zip(gradient("chunked"), gradient("xla"), strict=True):
        np.testing.assert_allclose(ours, expected, atol=2e-6)


def test_chunked_memory_is_linear_in_the_tokens():
    x = jax.ShapeDtypeStruct((1, 4096, 8, 64), jnp.float32)

    def temporaries(backend):
        loss = lambda *qkv: attention(*qkv, backend=backend).sum()  # noqa: E731
        compiled = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).lower(x, x, x).compile()
        return compiled.memory_analysis().temp_size_in_bytes / 2**20

    assert temporaries("xla") > 1000
    assert temporaries("chunked") < 250


@pytest.mark.parametrize(("queries", "keys", "masked"), [(130, 200, 0), (4, 128, 0), (4, 128, 70)])
def test_splash_emulated_equals_xla(queries, keys, masked):
    """Sequences that fill no whole block, and keys that are not there, with gradients."""
    q, k, v = normal(1, queries, 2, 16) * 2, normal(1, keys, 2, 16) * 2, normal(1, keys, 2, 16)
    key_mask = jnp.arange(keys)[None] >= masked if masked else None

    def run(kernel):
        def loss(*qkv):
            out = kernel(*qkv, key_mask)
            return jnp.sin(out).sum(), out

        return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(q, k, v)

    found = run(functools.partial(splash.attend, interpret=True))
    expected = run(KERNELS["xla"])
    for ours, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, wanted, atol=1e-5)


def test_backend_errors():
    q = normal(1, 4, 1, 8)
    for unknown in ("flash", "ring:xla", "ulysses:flash", ""):
        with pytest.raises(ValueError, match=rf"found '{unknown}', expected one of auto, xla, chu"):
            attention(q, q, q, backend=unknown)
    with pytest.raises(ValueError, match="cudnn: found float32 with heads of 8"):
        attention(q, q, q, backend="cudnn")


@pytest.mark.skipif(find_spec("tokamax") is not None, reason="tokamax is installed")
def test_a_backend_that_is_not_installed_says_so():
    q = normal(1, 4, 1, 8)
    with pytest.raises(ImportError, match="tokamax: the package is not installed"):
        attention(q, q, q, backend="tokamax")


def output_and_gradient(backend, *qkv, frame_mask=None):
    def loss(*qkv):
        out = attention(*qkv, backend=backend, frame_mask=frame_mask)
        return jnp.sin(out.astype(jnp.float32)).sum(), out

    return jax.jit(jax.grad(loss, argnums=(0, 1, 2), has_aux=True))(*qkv)


@pytest.mark.skipif(find_spec("tokamax") is None, reason="tokamax is not installed")
@pytest.mark.parametrize("frame_mask", [None, jnp.asarray(PRESENT)])
def test_tokamax_equals_xla(monkeypatch, frame_mask):
    monkeypatch.setattr(sys, "argv", ["pytest"])  # it looks for flags of its own
    qkv = normal(2, 3, 50, 2, 64) * 2, normal(2, 3, 70, 2, 64) * 2, normal(2, 3, 70, 2, 64)
    with jax.default_matmul_precision("highest"):
        found, expected = (
            output_and_gradient(n, *qkv, frame_mask=frame_mask) for n in ("tokamax", "xla")
        )
    for ours, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(ours, wanted, atol=1e-5)


@pytest.mark.skipif(jax.default_backend() != "gpu", reason="no GPU, on which alone cudnn runs")
@pytest.mark.parametrize("frame_mask", [None, jnp.asarray(PRESENT)])
def test_cudnn_equals_xla(frame_mask):
    shapes = (2, 2, 128, 2, 64), (2, 3, 128, 2, 64), (2, 3, 128, 2, 64)
    qkv = [normal(*shape).astype(jnp.bfloat16) for shape in shapes]
    found, expected = (
        output_and_gradient(n, *qkv, frame_mask=frame_mask) for n in ("cudnn", "xla")
    )
    for ours, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        ours, wanted = (np.asarray(x, np.float32) for x in (ours, wanted))
        np.testing.assert_allclose(ours, wanted, rtol=0, atol=0.02 * np.abs(wanted).max())


@pytest.mark.parametrize(
    ("tokens", "heads", "expected"), [(4096, 8, "chunked"), (4096, 4, "xla"), (2048, 8, "xla")]
)
def test_auto_walks_over_the_keys_of_long_sequences(monkeypatch, tokens, heads, expected):
    """On a CPU: 4096 x 4096 scores of 8 heads are 512 MiB, twice of what XLA may make of them."""
    taken = []

    def spy(name):
        return lambda q, k, v, key_mask, **options: taken.append(name) or q

    monkeypatch.setattr(dispatch, "KERNELS", {name: spy(name) for name in dispatch.KERNELS})
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    x = jax.ShapeDtypeStruct((1, tokens, heads, 64), jnp.bfloat16)
    jax.eval_shape(lambda x: attention(x, x, x), x)
    assert taken == [expected]
