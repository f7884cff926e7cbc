"""Attention of tokens that are split over fake devices against attention on one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from helpers import tiny_world
from helpers.attention_by_hand import by_hand
from mirage_jax import parallel
from mirage_jax.nn.attention import KERNELS, attention

RNG = np.random.default_rng(0)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def gradients_by_hand(q, k, v):
    """Of the sum of sin(attention), in float64."""
    q, k, v = (np.swapaxes(x.astype(np.float64), 1, 2) for x in (q, k, v))
    scores = q @ np.swapaxes(k, -1, -2) / np.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    d_out = np.cos(weights @ v)
    d_weights = d_out @ np.swapaxes(v, -1, -2)
    d_scores = weights * (d_weights - (weights * d_weights).sum(-1, keepdims=True))
    d_scores /= np.sqrt(q.shape[-1])
    transposed = np.swapaxes(d_scores, -1, -2)
    gradients = d_scores @ k, transposed @ q, np.swapaxes(weights, -1, -2) @ d_out
    return [np.swapaxes(x, 1, 2) for x in gradients]


def value_and_gradients(backend, frame_mask=None):
    def loss(q, k, v):
        out = attention(q, k, v, frame_mask=frame_mask, backend=backend, chunk=4)
        return jnp.sin(out).sum(), out

    return jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))


@pytest.mark.devices(8)
@pytest.mark.parametrize(
    ("sizes", "backend", "heads"),
    [
        ({"fsdp": 2, "context": 4}, "ulysses", 4),
        ({"fsdp": 2, "context": 4}, "ulysses:chunked", 4),
        ({"fsdp": 2, "context": 4}, "ring", 3),
        ({"context": 4, "tensor": 2}, "ring", 4),
        # Two samples do not divide among four: they are repeated.
        ({"data": 4, "context": 2}, "ulysses", 2),
        ({"data": 4, "context": 2}, "ring", 2),
    ],
)
def test_split_tokens_attend_as_if_whole(sizes, backend, heads):
    """Three frames of seven cells, which no number of devices divides."""
    q, k, v = (normal(2, 3, 7, heads, 6) * 2 for _ in range(3))
    flat = [np.asarray(x).reshape(2, 21, heads, 6) for x in (q, k, v)]
    with jax.set_mesh(parallel.make_mesh(**{"data": 1, **sizes})):
        run = value_and_gradients(backend)
        (_, out), gradients = run(q, k, v)
        text = run.lower(q, k, v).as_text()
    np.testing.assert_allclose(out.reshape(flat[0].shape), by_hand(*flat), atol=5e-6)
    for found, wanted in zip(gradients, gradients_by_hand(*flat), strict=True):
        found = found.reshape(wanted.shape)
        np.testing.assert_allclose(found, wanted, atol=3e-6 * np.abs(wanted).max())
    assert ("all_to_all" in text) == ("ulysses" in backend)
    assert ("collective_permute" in text) == (backend == "ring")


@pytest.mark.devices(8)
@pytest.mark.parametrize(
    ("backend", "kernel"), [("ulysses", "xla"), ("ring", "chunked"), ("chunked", "chunked")]
)
def test_absent_frames_are_left_out_on_every_device(backend, kernel):
    q, k, v = (normal(2, 3, 7, 4, 6) * 2 for _ in range(3))
    frame_mask = jnp.array([[True, False, True], [False, True, True]])
    (_, out), gradients = value_and_gradients(kernel, frame_mask)(q, k, v)
    with jax.set_mesh(parallel.make_mesh(data=1, fsdp=2, context=4)):
        (_, found), found_gradients = value_and_gradients(backend, frame_mask)(q, k, v)
    np.testing.assert_allclose(found, out, rtol=1e-5, atol=2e-6)
    for ours, wanted in zip(found_gradients, gradients, strict=True):
        np.testing.assert_allclose(ours, wanted, atol=3e-6 * np.abs(wanted).max())


@pytest.mark.devices(8)
def test_auto_takes_ulysses_where_heads_divide_and_ring_elsewhere():
    def primitives(heads, keys, **options):
        q, k = jnp.zeros((2, 8, heads, 8)), jnp.zeros((2, keys, heads, 8))
        jaxpr = str(jax.make_jaxpr(lambda q, k: attention(q, k, k, **options))(q, k))
        return {name for name in ("all_to_all", "ppermute", "shard_map") if name in jaxpr}

    assert primitives(4, 8) == set()
    with jax.set_mesh(parallel.make_mesh(data=2, context=4)):
        assert primitives(4, 8) == {"shard_map", "all_to_all"}
        assert primitives(3, 8) == {"shard_map", "ppermute"}
        assert primitives(4, 8, backend="ring") == {"shard_map", "ppermute"}
        assert primitives(4, 8, backend="chunked") == {"shard_map"}
        # Text: every device has all of it.
        assert primitives(4, 5, keys_split=False) == {"shard_map"}
        with pytest.raises(ValueError, match=r"3 heads per device, expected a multiple of 4"):
            primitives(3, 8, backend="ulysses")
    with jax.set_mesh(parallel.make_mesh(data=8)):
        assert primitives(4, 8) == primitives(4, 8, backend="ulysses") == set()
        assert primitives(4, 8, backend="ring") == set()


@pytest.mark.devices(8)
def test_an_opaque_kernel_runs_device_by_device(monkeypatch):
    """Splash, cuDNN and tokamax are closed to the compiler, which would gather everything."""
    shapes = []

    def kernel(q, k, v, key_mask):
        assert key_mask is None
        shapes.append((q.shape, k.shape))
        return KERNELS["xla"](q, k, v)

    monkeypatch.setitem(KERNELS, "splash", kernel)
    q, k = normal(4, 7, 4, 8), normal(4, 5, 4, 8)
    expected = attention(q, k, k, backend="xla")
    with jax.set_mesh(parallel.make_mesh(data=2, context=2, tensor=2)):
        for keys_split in (True, False):
            run = jax.jit(
                lambda q, k, s=keys_split: attention(q, k, k, backend="splash", keys_split=s)
            )
            np.testing.assert_allclose(run(q, k), expected, atol=2e-6)
        out = jax.jit(lambda q: attention(q, q, q, backend="ulysses:splash"))(q)
    np.testing.assert_allclose(out, attention(q, q, q, backend="xla"), atol=2e-6)
    assert shapes == [((2, 4, 2, 8), (2, 5, 2, 8))] * 2 + [((2, 7, 1, 8), (2, 7, 1, 8))]


@pytest.mark.devices(8)
@pytest.mark.parametrize("heads", [4, 3])
def test_denoiser_with_split_tokens_equals_the_one_on_one_device(heads):
    network = tiny_world.denoiser(6, width=6 * heads, heads=heads, depth=1)
    latents, memory = normal(1, 3, 2, 3, 4), normal(1, 3, 2, 3, 6)
    timestep, weights = jnp.array([[0.0, 300.0, 300.0]]), normal(1, 3, 2, 3, 4)
    params = tiny_world.random_params(network, 0, latents, timestep)

    def loss(params, latents):
        out = network.apply({"params": params}, latents, timestep, memory=memory)
        return (out * weights).sum(), out

    run = jax.value_and_grad(loss, has_aux=True)
    (_, alone), expected = jax.jit(run)(params, latents)
    mesh = parallel.make_mesh(data=1, context=4, devices=jax.devices()[:4])
    with jax.set_mesh(mesh), nn.logical_axis_rules(parallel.preset()):
        traced = jax.jit(run).trace(params, latents)
        (_, split), gradients = traced.lower().compile()(params, latents)
    jaxpr = str(traced.jaxpr)
    assert ("all_to_all" in jaxpr) == (heads == 4) and ("ppermute" in jaxpr) == (heads == 3)
    np.testing.assert_allclose(split, alone, atol=1e-5)
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(expected))
    for found, wanted in zip(jax.tree.leaves(gradients), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(found, wanted, atol=3e-6 * scale)
