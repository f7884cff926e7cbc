"""Modules whose inputs are split over a mesh as `jax.make_mesh` makes it, with explicit axes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from helpers.tiny_world import random_params
from mirage_jax.nn.denoiser import Denoiser
from mirage_jax.nn.geometry_head import GeometryHead
from mirage_jax.nn.memory_prior import MemoryPrior
from mirage_jax.nn.text_encoder import TextEncoder
from mirage_jax.nn.video_vae import VideoVAE
from mirage_jax.parallel import explicit_axes

SMALL = {"width": 12, "depth": 1, "heads": 2, "mlp_width": 8, "in_channels": 4, "out_channels": 4}
DENOISER = Denoiser(**SMALL, text_width=5, freq_width=8, memory_channels=3, branch_layers=(0,))
LATENTS, VIDEO = (2, 2, 2, 4, 4), (2, 3, 8, 8, 3)


def normal(*shape):
    return jnp.asarray(np.random.default_rng(0).normal(size=shape), jnp.float32)


MODULES = {
    "denoiser": (DENOISER, (normal(*LATENTS), normal(2, 2)), {"text": normal(2, 3, 5)}),
    "head": (GeometryHead(width=4), (normal(*LATENTS), jnp.zeros((2, 2), bool)), {}),
    "prior": (MemoryPrior(3, (1.0, 2.0)), (normal(2, 3),), {}),
    "text encoder": (
        TextEncoder(11, width=8, heads=2, head_width=4, mlp_width=8, depth=1),
        (jnp.array([[3, 1, 4], [2, 5, 0]]), jnp.array([[1, 1, 1], [1, 1, 0]])),
        {},
    ),
    "autoencoder": (
        VideoVAE(2, 2, 4, width_mults=(1, 2), blocks=1, temporal_downsample=(True,)),
        (normal(*VIDEO),),
        {},
    ),
}


def on_a_mesh(tree):
    where = NamedSharding(jax.make_mesh((2,), ("data",)), P("data"))
    return jax.tree.map(lambda x: jax.device_put(x, where), tree)


@pytest.mark.devices(2)
@pytest.mark.parametrize("name", MODULES)
def test_every_network_takes_a_batch_that_is_split(name):
    module, inputs, options = MODULES[name]
    variables = jax.eval_shape(lambda: nn.unbox(module.init(jax.random.key(0), *inputs, **options)))
    plain = jax.eval_shape(lambda v: module.apply(v, *inputs, **options), variables)
    inputs, options = on_a_mesh((inputs, options))
    for mesh in (None, jax.make_mesh((2,), ("data",))):
        with jax.set_mesh(mesh) if mesh else jax.enable_x64(False):
            split = jax.eval_shape(
                lambda v: explicit_axes.apply(module, v, *inputs, **options), variables
            )
        assert jax.tree.map(jnp.shape, split) == jax.tree.map(jnp.shape, plain)
        for leaf in jax.tree.leaves(split):
            assert leaf.sharding.spec[0] == "data"


@pytest.mark.devices(2)
def test_values_and_gradients_are_those_of_one_device():
    module, inputs = Denoiser(**SMALL, freq_width=8), MODULES["denoiser"][1]
    params = random_params(module, 0, *inputs)

    @jax.jit
    def run(params, *inputs):
        def loss(params):
            velocity = explicit_axes.apply(module, {"params": params}, *inputs)
            return jnp.sum(velocity**2), velocity

        (_, velocity), gradient = jax.value_and_grad(loss, has_aux=True)(params)
        return velocity, gradient

    expected, found = run(params, *inputs), run(params, *on_a_mesh(inputs))
    assert found[0].sharding.spec[0] == "data"
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-4, atol=1e-5)
