"""Memory of arrays on the mesh that `jax.make_mesh` makes by default, whose axes are explicit."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from mirage_jax import memory
from mirage_jax.geometry import Camera
from mirage_jax.memory import frustum_voxels, retrieval, rgb_cloud

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
        memory.read(bank, camera, GRID, prefer="best_view", footprint=3),
        retrieval.retrieve(store, camera, 2),
        frustum_voxels.choose(bank, camera, camera, counts, 1),
    )


def same(found, expected):
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-6, atol=1e-6)


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
