"""A memory split over eight devices reads as the same memory on one, bit for bit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from helpers.points import GRID, SIZE, bank, coordinate, point
from mirage_jax import memory, parallel
from mirage_jax.geometry import Camera

AXES = ("fsdp", "context")
SLOTS = 24
K = np.array([16.0, 16.0, 16.0, 12.0])


def mesh():
    return parallel.make_mesh(data=1, fsdp=2, context=4)


def bits(tree):
    return [np.asarray(leaf).view(np.uint32) for leaf in jax.tree.leaves(tree)]


@functools.partial(jax.jit, static_argnames=("prefer", "footprint"))
def read(mem, camera, prefer="nearest", footprint=1):
    return memory.read(mem, camera, GRID, prefer=prefer, footprint=footprint)


@functools.partial(jax.jit, static_argnames=("prefer", "footprint"))
def read_sharded(mem, camera, prefer="nearest", footprint=1):
    options = {"prefer": prefer, "footprint": footprint}
    return memory.sharded.read(mem, camera, GRID, axes=AXES, **options)


def read_both(mem, camera, **options):
    """The read-out on one device and, from arrays that lie on eight, on all."""
    alone = read(mem, camera, **options)
    with jax.set_mesh(mesh()):
        placed = jax.device_put(mem, memory.sharded.shardings(mesh(), AXES))
        return alone, read_sharded(placed, camera, **options)


def views(*centres):
    poses = np.tile(np.eye(4, dtype=np.float32), (len(centres), 1, 1))
    poses[:, :3, 3] = centres
    return Camera(np.tile(K.astype(np.float32), (len(centres), 1)), poses, SIZE)


def scene(points, mask, seed):
    """A memory with the points in random slots, free ones in between."""
    rng = np.random.default_rng(seed)
    count = len(points)
    slots = rng.permutation(SLOTS)[:count]
    xyz, valid = np.zeros((SLOTS, 3), np.float32), np.zeros(SLOTS, bool)
    xyz[slots], valid[slots] = np.asarray(points).reshape(-1, 3), mask[:count]
    return bank(xyz, valid=valid, origin=rng.normal(size=(SLOTS, 3)), time=rng.permutation(SLOTS))


@pytest.mark.devices(8)
@settings(max_examples=40, deadline=None, derandomize=True)
@given(
    points=st.lists(point, max_size=SLOTS),
    mask=st.lists(st.booleans(), min_size=SLOTS, max_size=SLOTS),
    centre=st.tuples(coordinate, coordinate, coordinate),
    seed=st.integers(0, 2**31 - 1),
    options=st.sampled_from([{}, {"prefer": "best_view"}, {"footprint": 3}]),
)
def test_ties_borders_and_holes_read_the_same(points, mask, centre, seed, options):
    """Coordinates on a grid: many elements share a cell and a depth, across devices."""
    alone, shared = read_both(scene(points, mask, seed), views((0, 0, 0), centre), **options)
    for a, b in zip(bits(alone), bits(shared), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.devices(8)
@settings(max_examples=15, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31 - 1))
def test_general_scenes_read_the_same(seed):
    rng = np.random.default_rng(seed)
    camera = views((0, 0, 0), (0, 0, 0))
    camera.cam2world[:, :3, :3] = Rotation.random(2, random_state=seed).as_matrix()
    points = rng.normal(size=(SLOTS, 3)) * 3
    alone, shared = read_both(scene(points, rng.random(SLOTS) < 0.9, seed), camera)
    for a, b in zip(bits(alone), bits(shared), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.devices(8)
def test_empty_and_full_memories_read_the_same():
    full = scene(
        np.random.default_rng(0).uniform([-1, -1, 1], [1, 1, 3], (SLOTS, 3)), [True] * SLOTS, 0
    )
    for mem, seen in ((memory.create(SLOTS, 2), False), (full, True)):
        alone, shared = read_both(mem, views((0, 0, 0), (0.1, 0, 0)))
        assert np.asarray(shared.visible).any() == seen
        for a, b in zip(bits(alone), bits(shared), strict=True):
            np.testing.assert_array_equal(a, b)


@pytest.mark.devices(8)
def test_of_equal_elements_on_all_devices_the_lowest_slot_is_read():
    mem = bank(np.tile([[0.1, 0.1, 2.0]], (SLOTS, 1)), valid=np.arange(SLOTS) >= 7)
    _, shared = read_both(mem, views((0, 0, 0), (0, 0, 0)))
    assert set(np.unique(shared.source)) == {-1, 7}


@pytest.mark.devices(8)
def test_gradient_reaches_exactly_the_tokens_that_are_seen():
    rng = np.random.default_rng(3)
    mem = scene(rng.uniform([-1, -1, 1], [1, 1, 3], (SLOTS, 3)), [True] * SLOTS, 0)
    camera = views((0, 0, 0), (0.3, 0, 0))
    weights = rng.normal(size=(2, *GRID, 2)).astype(np.float32)

    def gradient(tokens):
        def loss(tokens):
            out = memory.sharded.read(mem.replace(tokens=tokens), camera, GRID, axes=AXES)
            return (out.tokens * weights).sum()

        return jax.grad(loss)(tokens)

    with jax.set_mesh(mesh()):
        found = np.asarray(jax.jit(gradient)(mem.tokens))
    source = np.asarray(read_both(mem, camera)[0].source)
    expected = np.zeros_like(found)
    for place in zip(*np.nonzero(source >= 0), strict=True):
        expected[source[place]] += weights[place]
    assert np.abs(expected).sum() > 0
    np.testing.assert_allclose(found, expected, atol=1e-6)


@pytest.mark.devices(8)
def test_a_batch_of_memories_can_be_split_over_the_other_axes():
    rng = np.random.default_rng(4)
    points = rng.uniform([-1, -1, 1], [1, 1, 3], (2, SLOTS, 3))
    mems = [scene(p, [True] * SLOTS, seed) for seed, p in enumerate(points)]
    together = jax.tree.map(lambda *leaves: jnp.stack(leaves), *mems)

    def run(mem):
        return memory.sharded.read(mem, views((0, 0, 0), (0.2, 0, 0)), GRID, axes=("context",))

    with jax.set_mesh(mesh()):
        found = jax.jit(jax.vmap(run, spmd_axis_name="fsdp"))(together)
    for i, mem in enumerate(mems):
        alone = read(mem, views((0, 0, 0), (0.2, 0, 0)))
        for a, b in zip(jax.tree.leaves(alone), jax.tree.leaves(found), strict=True):
            np.testing.assert_array_equal(a, b[i])


@pytest.mark.devices(8)
def test_work_of_a_device_falls_with_the_number_of_devices():
    elements, costs = 1 << 14, {}
    mem = jax.eval_shape(lambda: memory.create(elements, 4))
    camera = views((0, 0, 0))
    for count in (1, 2, 8):
        over = parallel.make_mesh(data=1, context=count, devices=jax.devices()[:count])
        with jax.set_mesh(over):
            run = jax.jit(
                lambda m: memory.sharded.read(m, camera, GRID),
                in_shardings=(memory.sharded.shardings(over, ("context",)),),
            )
            compiled = run.lower(mem).compile()
        cost = compiled.cost_analysis()
        costs[count] = cost["flops"], cost["bytes accessed"]
        text = compiled.as_text()
        # No device ever sees the whole memory, and only pictures travel.
        assert f"[{elements // count}," in text and (count == 1 or f"[{elements}" not in text)
        assert "all-gather" not in text
    for count in (2, 8):
        for one, many in zip(costs[1], costs[count], strict=True):
            assert many < 1.1 * one / count


def test_what_does_not_fit_is_refused():
    camera, bank = views((0, 0, 0)), memory.create(8, 1)
    with pytest.raises(ValueError, match=r"no mesh axis 'context', expected one of a mesh"):
        memory.sharded.read(bank, camera, GRID)
    with (
        jax.sharding.use_abstract_mesh(jax.sharding.AbstractMesh((3,), ("context",))),
        pytest.raises(
            ValueError, match=r"capacity 8, expected a multiple of 3 \(mesh axes context"
        ),
    ):
        memory.sharded.read(bank, camera, GRID)
