"""Which elements make room, against loops."""

import collections

import jax
import jax.numpy as jnp
import numpy as np

from mirage_jax import memory
from mirage_jax.memory import eviction

N = 64
make_room = jax.jit(eviction.make_room)
worth_of = jax.jit(eviction.worth)
free_slots = jax.jit(eviction.free_slots)


def bank(seed, **fields):
    rng = np.random.default_rng(seed)
    given = {
        "xyz": rng.uniform(-3, 3, (N, 3)).astype(np.float32),
        "valid": rng.random(N) < 0.8,
        "confidence": rng.choice(np.float32([0.25, 0.5, 1.0]), N),
        "frame": rng.integers(0, 300, N).astype(np.int32),
        "size": rng.choice(np.float32([0.3, 0.5, 1.2]), N),
        "pinned": rng.random(N) < 0.2,
    } | fields
    empty = memory.create(N, 1).replace(frames=jnp.int32(300))
    return empty.replace(**jax.tree.map(jnp.asarray, given)), rng


def test_worth_is_confidence_over_age_distance_and_crowding():
    """Now and then two cubes share a count, as they are hashed; most do not."""
    octaves = np.float32([0.25, 0.5, 1.0])
    rng = np.random.default_rng(0)
    size = rng.choice(octaves, N)
    mem, _ = bank(0, xyz=rng.choice(np.float32([0.1, 1.1, -0.9]), (N, 3)), size=size)
    xyz, valid = np.asarray(mem.xyz), np.asarray(mem.valid)
    cubes = [(*np.floor(p / s), s) for p, s in zip(xyz, size, strict=True)]
    crowd = collections.Counter(cube for cube, there in zip(cubes, valid, strict=True) if there)
    here = jnp.array([0.5, 0.0, -2.0])
    found = np.asarray(worth_of(mem, here))
    agree = 0
    for slot in np.flatnonzero(valid):
        distance = np.linalg.norm(xyz[slot] - np.asarray(here))
        alone = mem.confidence[slot] / (1 + (300 - mem.frame[slot]) / 200) / (1 + distance / 10)
        expected = alone / crowd[cubes[slot]]
        assert found[slot] <= expected * 1.0001
        agree += abs(found[slot] / expected - 1) < 1e-4
    assert agree >= 0.8 * valid.sum() and max(crowd.values()) > 1


def test_those_worth_least_go_and_of_equals_the_lowest_slot():
    here = jnp.zeros(3)
    for seed in range(20):
        mem, rng = bank(seed)
        if seed % 2:  # all alike: slots alone decide
            mem, rng = bank(
                seed, xyz=np.zeros((N, 3)), confidence=np.ones(N), frame=np.zeros(N, np.int32),
                size=np.ones(N),
            )  # fmt: skip
        spared = rng.random(N) < 0.2
        wanted = int(rng.integers(0, N + 20))
        worth = np.asarray(worth_of(mem, here))
        valid, pinned = np.asarray(mem.valid), np.asarray(mem.pinned)
        may_go = [s for s in range(N) if valid[s] and not pinned[s] and not spared[s]]
        lacking = max(0, min(wanted - int((~valid).sum()), len(may_go)))
        gone = sorted(may_go, key=lambda slot: (worth[slot], slot))[:lacking]
        after, count = make_room(mem, jnp.int32(wanted), here, spared=jnp.asarray(spared))
        assert int(count) == lacking
        expected = valid.copy()
        expected[gone] = False
        np.testing.assert_array_equal(after.valid, expected)


def test_free_slots_are_handed_out_from_the_front():
    valid = np.random.default_rng(0).random(N) < 0.7
    free = np.flatnonzero(~valid)
    number = jnp.array([1, 0, 2, len(free), len(free) + 1, 3], jnp.int32)
    expected = [free[0], N, free[1], free[-1], N, free[2]]
    assert free_slots(jnp.asarray(valid), number).tolist() == expected
