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


def test_worth_is_confidence_and_thinning_over_age_and_crowding():
    """Now and then two cubes share a count, as they are hashed; most do not."""
    octaves = np.float32([0.25, 0.5, 1.0])
    rng = np.random.default_rng(0)
    size = rng.choice(octaves, N)
    mem, _ = bank(0, xyz=rng.choice(np.float32([0.1, 1.1, -0.9]), (N, 3)), size=size)
    xyz, valid = np.asarray(mem.xyz), np.asarray(mem.valid)
    cubes = [(*np.floor(p / s), s) for p, s in zip(xyz, size, strict=True)]
    crowd = collections.Counter(cube for cube, there in zip(cubes, valid, strict=True) if there)
    thinning = np.asarray(eviction.thinning(mem))
    found = np.asarray(worth_of(mem))
    agree = 0
    for slot in np.flatnonzero(valid):
        alone = mem.confidence[slot] * thinning[slot] / (1 + (300 - mem.frame[slot]) / 2000)
        expected = alone / crowd[cubes[slot]]
        assert found[slot] <= expected * 1.0001
        agree += abs(found[slot] / expected - 1) < 1e-4
    assert agree >= 0.8 * valid.sum() and max(crowd.values()) > 1


def test_a_memory_without_room_becomes_coarser_everywhere():
    """A floor of cells from four frames, of which half has to go: half of every quarter of it."""
    side = 40
    across, along = np.meshgrid(np.arange(side), np.arange(side), indexing="ij")
    xyz = np.stack([across, np.zeros_like(across), along], axis=-1).reshape(-1, 3)
    count = len(xyz)
    empty = memory.create(count, 1).replace(frames=jnp.int32(4))
    mem = empty.replace(
        xyz=jnp.asarray(xyz, jnp.float32),
        valid=jnp.ones(count, bool),
        confidence=jnp.ones(count),
        size=jnp.ones(count),
        frame=jnp.asarray(np.arange(count) % 4, jnp.int32),
    )
    thinned, went = make_room(mem, jnp.int32(count // 2), spared=jnp.zeros(count, bool))
    assert int(went) == count // 2
    kept = np.asarray(thinned.valid).reshape(side, side)
    quarters = kept.reshape(2, side // 2, 2, side // 2).mean(axis=(1, 3))
    assert np.abs(quarters - 0.5).max() < 0.1  # four standard deviations of 400 draws
    by_frame = [np.asarray(thinned.valid)[frame::4].mean() for frame in range(4)]
    assert np.abs(np.array(by_frame) - 0.5).max() < 0.1
    # Neighbours do not go together: of pairs both are kept in a quarter of cases.
    assert abs((kept[1:] & kept[:-1]).mean() - 0.25) < 0.08


def test_those_worth_least_go_and_of_equals_the_lowest_slot():
    for seed in range(20):
        mem, rng = bank(seed)
        if seed % 2:  # all alike: slots alone decide
            mem, rng = bank(
                seed, xyz=np.zeros((N, 3)), confidence=np.ones(N), frame=np.zeros(N, np.int32),
                size=np.ones(N),
            )  # fmt: skip
        spared = rng.random(N) < 0.2
        wanted = int(rng.integers(0, N + 20))
        worth = np.asarray(worth_of(mem))
        valid, pinned = np.asarray(mem.valid), np.asarray(mem.pinned)
        may_go = [s for s in range(N) if valid[s] and not pinned[s] and not spared[s]]
        lacking = max(0, min(wanted - int((~valid).sum()), len(may_go)))
        gone = sorted(may_go, key=lambda slot: (worth[slot], slot))[:lacking]
        after, count = make_room(mem, jnp.int32(wanted), spared=jnp.asarray(spared))
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
