"""The causal VAE split along height, its convolution along time: annotations are all it takes."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import PartitionSpec as P

from helpers import tiny_world
from mirage_jax import parallel
from mirage_jax.nn.layers import causal_conv3d
from mirage_jax.nn.video_vae import VideoVAE

RNG = np.random.default_rng(0)
VAE = VideoVAE(
    base_width=4,
    decoder_width=4,
    latent_channels=4,
    width_mults=(1, 1),
    blocks=1,
    temporal_downsample=(True,),
    attention=False,
)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


def collectives(text):
    """Kind of each collective in a compiled program -> elements of its results."""
    kinds = (
        "all-gather|all-to-all|all-reduce|reduce-scatter|collective-permute|collective-broadcast"
    )
    found = {}
    for results, kind in re.findall(rf"= (.*?) ({kinds})(?:-start)?\(", text):
        shapes = re.findall(r"\[([\d,]*)\]", results)
        sizes = [int(np.prod([int(n) for n in shape.split(",") if n])) for shape in shapes]
        found.setdefault(kind, []).extend(sizes)
    return found


def on_mesh(run, mesh, inputs, outputs):
    """Compiles `run` for arguments and results that are split as told."""
    place = lambda spec: jax.sharding.NamedSharding(mesh, spec)  # noqa: E731
    specs = jax.tree.map(place, (inputs, outputs), is_leaf=lambda x: isinstance(x, P))
    return jax.jit(run, in_shardings=specs[0], out_shardings=specs[1])


def assert_close(found, expected):
    for ours, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        scale = max(1.0, float(jnp.abs(wanted).max()))
        np.testing.assert_allclose(ours, wanted, atol=1e-5 * scale)


@pytest.mark.devices(8)
def test_a_vae_split_along_height_exchanges_borders_only():
    video, weights = normal(1, 5, 32, 4, 3), normal(1, 5, 32, 4, 3)
    params = tiny_world.random_params(VAE, 0, video)

    def loss(params, video):
        out = VAE.apply({"params": params}, video)
        return (out * weights).sum(), out

    run = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    expected = jax.jit(run)(params, video)
    mesh = parallel.make_mesh(data=1, context=4, devices=jax.devices()[:4])
    rows = P(None, None, "context")
    split = on_mesh(run, mesh, (P(), rows), ((P(), rows), (P(), rows)))
    found = split(params, video)
    assert found[0][1].addressable_shards[0].data.shape == (1, 5, 8, 4, 3)
    assert_close(found, expected)

    seen = collectives(split.lower(params, video).compile().as_text())
    assert set(seen) == {"collective-permute", "all-reduce"}
    # What is summed over devices are the loss and gradients of parameters, no pictures.
    assert max(seen["all-reduce"]) <= max(leaf.size for leaf in jax.tree.leaves(params))
    # What is passed on are rows at a border, less than a device has.
    assert max(seen["collective-permute"]) < video.size // 4


@pytest.mark.devices(8)
@pytest.mark.parametrize("impl", ["direct", "frames"])
def test_a_causal_convolution_split_along_time_exchanges_borders_only(impl):
    x, kernel, weights = normal(1, 8, 4, 4, 3), normal(3, 3, 3, 3, 5), normal(1, 8, 4, 4, 5)

    def loss(kernel, x):
        out = causal_conv3d(x, kernel, impl=impl)
        return (out * weights).sum(), out

    run = jax.value_and_grad(loss, argnums=(0, 1), has_aux=True)
    mesh = parallel.make_mesh(data=1, context=4, devices=jax.devices()[:4])
    frames = P(None, "context")
    split = on_mesh(run, mesh, (P(), frames), ((P(), frames), (P(), frames)))
    found = split(kernel, x)
    assert found[0][1].addressable_shards[0].data.shape == (1, 2, 4, 4, 5)
    assert_close(found, jax.jit(run)(kernel, x))
    seen = collectives(split.lower(kernel, x).compile().as_text())
    assert set(seen) == {"collective-permute", "all-reduce"}


@pytest.mark.devices(8)
def test_rules_split_the_rows_of_what_a_vae_is_given():
    video = jnp.zeros((2, 5, 16, 4, 3))
    params = tiny_world.random_params(VAE, 0, video)

    def specs():
        jaxpr = jax.make_jaxpr(lambda v: VAE.apply({"params": params}, v))(video)
        return [
            eqn.params["sharding"].spec
            for eqn in jaxpr.jaxpr.eqns
            if eqn.primitive.name == "sharding_constraint"
        ]

    mesh = parallel.make_mesh(data=1, fsdp=2, context=4)
    with jax.set_mesh(mesh), nn.logical_axis_rules(parallel.preset("fsdp_context")):
        # Pictures on the way in, latents on the way out.
        assert specs() == [P(("data", "fsdp"), None, "context", None, None)] * 2
    assert specs() == []
