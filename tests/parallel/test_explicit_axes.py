"""Memory and modules on the mesh that `jax.make_mesh` makes by default, whose axes are explicit."""

import contextlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from helpers.tiny_world import random_params
from mirage_jax import memory
from mirage_jax.geometry import Camera
from mirage_jax.memory import frustum_voxels, retrieval, rgb_cloud
from mirage_jax.nn.denoiser import Denoiser
from mirage_jax.nn.geometry_head import GeometryHead
from mirage_jax.nn.memory_prior import MemoryPrior
from mirage_jax.nn.text_encoder import TextEncoder
from mirage_jax.nn.video_vae import VideoVAE
from mirage_jax.parallel import explicit_axes

GRID, SIZE, FRAMES = (4, 6), (16, 24), 2
RNG = np.random.default_rng(0)
TOKENS = RNG.normal(size=(2, FRAMES, *GRID, 3)).astype(np.float32)
DEPTH = RNG.uniform(1, 5, (2, FRAMES, *SIZE)).astype(np.float32)
LENS = np.tile(np.float32([20, 20, 12, 8]), (2, FRAMES, 1))
POSES = np.tile(np.eye(4, dtype=np.float32), (2, FRAMES, 1, 1))
POSES[..., 0, 3] = RNG.uniform(0, 0.3, (2, FRAMES))


def mesh():
    made = jax.make_mesh((2,), ("data",))
    assert made.axis_types == (AxisType.Explicit,)
    return made


def split(*arrays):
    where = NamedSharding(mesh(), P("data"))
    return tuple(jax.device_put(jnp.asarray(x), where) for x in arrays)


def round_trip(tokens, depth, lens, poses):
    camera = Camera(lens, poses, SIZE)
    bank, report = memory.write(memory.create(60, 3), tokens, depth, camera)
    return bank, report.written, memory.read(bank, camera, GRID)


def other_ways(tokens, depth, lens, poses):
    camera = Camera(lens, poses, SIZE)
    bank, _ = memory.write(memory.create(60, 3), tokens, depth, camera)
    store = retrieval.add(retrieval.create(3, GRID), depth, camera, jnp.arange(FRAMES))
    counts = jnp.full(FRAMES, 40, jnp.int32)
    return (
        memory.fusion.write(bank, tokens, depth, camera),
        memory.read(bank, camera, GRID, prefer="best_view", footprint=3),
        retrieval.retrieve(store, camera, 2),
        frustum_voxels.choose(bank, camera, camera, counts, 1),
    )


def same(found, expected, tolerance=1e-6):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=tolerance, atol=tolerance)


@pytest.mark.devices(2)
def test_a_batch_of_memories():
    arrays = TOKENS, DEPTH, LENS, POSES
    run = jax.jit(jax.vmap(round_trip))
    expected, found = run(*arrays), run(*split(*arrays))
    same(found, expected)
    for leaf in jax.tree.leaves(found):
        assert jax.typeof(leaf).sharding.spec[0] == "data"
    # What is refused is refused while tracing.
    trace = jax.jit(jax.vmap(other_ways)).trace
    with jax.set_mesh(mesh()):
        inside = trace(*split(*arrays)).out_info
    assert jax.tree.map(jnp.shape, trace(*split(*arrays)).out_info) == jax.tree.map(
        jnp.shape, inside
    )


@pytest.mark.devices(2)
def test_views_of_one_memory_are_read_where_they_are():
    bank, _ = memory.write(
        memory.create(60, 3), TOKENS[0], DEPTH[0], Camera(LENS[0], POSES[0], SIZE)
    )

    @jax.jit
    def read(lens, poses):
        return memory.read(bank, Camera(lens, poses, SIZE), GRID, time=2.0)

    @jax.jit
    def render(lens, poses):
        cloud = rgb_cloud.create(800)
        return rgb_cloud.read(cloud, Camera(lens, poses, SIZE), SIZE)

    found = read(*split(LENS[0], POSES[0]))
    same(found, read(LENS[0], POSES[0]))
    rendered = render.trace(*split(LENS[0], POSES[0])).out_info
    for leaf in (*jax.tree.leaves(found), *jax.tree.leaves(rendered)):
        assert leaf.sharding.spec[0] == "data"


@pytest.mark.devices(2)
def test_frames_and_elements_that_devices_share():
    """Frames are written into a memory whose elements are split; they stay so."""
    camera = Camera(*split(LENS[0], POSES[0]), SIZE)
    plain = Camera(LENS[0], POSES[0], SIZE)
    where = memory.sharded.shardings(mesh(), ("data",))
    bank = jax.device_put(memory.create(60, 3), where)
    write = jax.jit(memory.write)
    found, report = write(bank, *split(TOKENS[0], DEPTH[0]), camera)
    expected, counts = write(memory.create(60, 3), TOKENS[0], DEPTH[0], plain)
    same((found, report), (expected, counts))
    assert jax.typeof(found.xyz).sharding.spec[0] == "data"


# -- modules ----------------------------------------------------------------------------------

SMALL = {"width": 12, "depth": 1, "heads": 2, "mlp_width": 8, "in_channels": 4, "out_channels": 4}
DENOISER = Denoiser(**SMALL, text_width=5, freq_width=8, memory_channels=3, branch_layers=(0,))
LATENTS, VIDEO = (2, 2, 2, 4, 4), (2, 3, 8, 8, 3)


def normal(*shape):
    return jnp.asarray(RNG.normal(size=shape), jnp.float32)


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


@pytest.mark.devices(2)
@pytest.mark.parametrize("name", MODULES)
def test_every_network_takes_a_batch_that_is_split(name):
    module, inputs, options = MODULES[name]
    variables = jax.eval_shape(lambda: nn.unbox(module.init(jax.random.key(0), *inputs, **options)))
    plain = jax.eval_shape(lambda v: module.apply(v, *inputs, **options), variables)
    inputs, options = jax.tree.map(lambda x: split(x)[0], (inputs, options))
    for around in (None, mesh()):
        with jax.set_mesh(around) if around else contextlib.nullcontext():
            found = jax.eval_shape(
                lambda v: explicit_axes.apply(module, v, *inputs, **options), variables
            )
        assert jax.tree.map(jnp.shape, found) == jax.tree.map(jnp.shape, plain)
        for leaf in jax.tree.leaves(found):
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

    expected, found = run(params, *inputs), run(params, *split(*inputs))
    assert found[0].sharding.spec[0] == "data"
    same(found, expected, 1e-4)
