"""Conditioners, training samples and rollouts on several devices, each with a part of the slots."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import tiny_world
from helpers.tiny_world import CHANNELS, CHUNK, INTRINSICS, SIZE, STRIDE
from mirage_jax import memory, parallel, trajectories
from mirage_jax.geometry import Camera
from mirage_jax.world import Session, history, on_mesh, rollout
from mirage_jax.world.conditioners import Folded, Frames, Score, Surfels, Visibility
from mirage_jax.world.options import SamplerOptions

SLOTS = 64
KINDS = {
    "folded": Folded(CHANNELS, STRIDE, reads=2, fine=2, prefer="best_view", footprint=3),
    "surfels": Surfels(CHANNELS, STRIDE),
    "visibility": Visibility(CHANNELS, STRIDE),
    "corners": Score(CHANNELS, STRIDE),
}


def mesh():
    return parallel.make_mesh(data=2, context=4)


def camera(frames):
    poses = trajectories.make("look_and_walk", frames, angle=40, distance=0.5)
    return Camera(np.tile(INTRINSICS, (frames, 1)), poses.astype(np.float32), SIZE)


def assert_same_bits(a, b):
    for one, other in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        one, other = np.atleast_1d(one), np.atleast_1d(other)
        assert one.dtype == other.dtype
        np.testing.assert_array_equal(one.view(np.uint8), other.view(np.uint8))


@pytest.mark.devices(8)
@pytest.mark.parametrize(("kind", "read"), [*((kind, CHUNK) for kind in KINDS), ("surfels", 1)])
def test_what_is_written_and_read_is_the_same_and_stays_in_parts(kind, read):
    """Two writes that begin and end within parts; the second does not fit and drops some.

    What surfels decode follows the slots or, of a single frame, the blocks in view. What they draw
    is sums of products, which the compiler rounds as it fuses them: theirs is the same to rounding,
    while the memory, and which element each cell shows, are so in every bit.
    """
    conditioner, rng, encoder = KINDS[kind], np.random.default_rng(0), tiny_world.encoder()

    def frames(count):
        tokens = rng.normal(size=(count, 4, 6, CHANNELS)).astype(np.float32)
        depth = rng.uniform(2, 4, (count, 4, 6)).astype(np.float32)
        depth[0, :2] = 0
        times = np.arange(count, dtype=np.float32)
        return Frames(tokens, depth, camera(count), times)

    first, second = frames(1), frames(3)

    def run(first, second, views):
        bank, _ = conditioner.write(conditioner.create(SLOTS), first)
        bank, report = conditioner.write(bank, second)
        shown = memory.read(bank, views, (8, 12))
        return (bank, report, shown), conditioner.read(bank, views, encoder=encoder)

    arguments = first, second, camera(read)
    alone = jax.jit(run)(*arguments)
    assert int(alone[0][1].dropped) > 0 and np.asarray(alone[1]).any()
    with jax.set_mesh(mesh()):
        program = jax.jit(run).lower(*arguments).compile()
        together = jax.jit(run)(*arguments)
    assert_same_bits(alone[0], together[0])
    if kind == "surfels":
        np.testing.assert_allclose(alone[1], together[1], atol=1e-5)
    else:
        assert_same_bits(alone[1], together[1])
    assert together[0][0].tokens.sharding.shard_shape((SLOTS, CHANNELS)) == (SLOTS // 4, CHANNELS)
    text = program.as_text()
    assert "all-gather" not in text and f"f32[{SLOTS},{CHANNELS}]" not in text


@pytest.mark.devices(8)
def test_training_samples_are_the_same_and_each_lies_on_its_devices():
    poses = trajectories.make("look_and_walk", 2 * (CHUNK - 1) + 1, angle=40, distance=0.5)
    clips = jax.tree.map(jnp.asarray, tiny_world.latent_clips(4, poses))

    def make(clips):
        return history.returning_samples(clips, conditioner=KINDS["folded"], size=SIZE)

    alone = jax.jit(make)(clips)
    assert np.asarray(alone.context).any()
    with jax.set_mesh(mesh()):
        program = jax.jit(make, in_shardings=parallel.batch_sharding(mesh()))
        together, text = program(clips), program.lower(clips).compile().as_text()
    assert_same_bits(alone, together)
    assert "all-gather" not in text


def is_in_parts(bank):
    return bank.tokens.sharding.shard_shape((SLOTS, CHANNELS)) == (SLOTS // 4, CHANNELS)


def sessions(world, walk):
    """What a walk gives on one device and on eight."""
    model = tiny_world.world_model(sampler=SamplerOptions(steps=1))
    alone = walk(model, Session(model, world))
    with on_mesh.in_force(mesh()):
        on_it = on_mesh.place_model(model, mesh())
        together = walk(on_it, Session(on_it, world))
    return alone, together


def begun():
    picture = np.random.default_rng(0).integers(0, 256, (*SIZE, 3), np.uint8)
    return tiny_world.world_model().start(picture, capacity=SLOTS)


def assert_alike(alone, together):
    """Attention over split tokens adds in another order, so that frames agree to rounding alone."""
    for one, other in zip(alone, together, strict=True):
        assert is_in_parts(other)
        np.testing.assert_array_equal(one.valid, other.valid)
        np.testing.assert_allclose(one.xyz, other.xyz, atol=1e-4)


@pytest.mark.devices(8)
def test_a_session_keeps_its_memory_in_parts_and_compiles_nothing_twice():
    compiled = []

    def walk(model, session):
        banks = []
        for keys in ("w", "d"):
            video = session.step(keys).video
            banks.append(session.world.bank)
        del compiled[:]
        session.step("w")
        session.undo(2)
        assert_same_bits(session.world.bank, banks[0])
        session.redo()
        assert_same_bits(session.world.bank, banks[1])
        session.step("d")
        assert compiled == []
        return [*banks, session.world.bank], video

    jax.monitoring.register_event_duration_secs_listener(
        lambda name, *_, **__: compiled.append(name) if "backend_compile" in name else None
    )
    (alone, video), (together, split_video) = sessions(begun(), walk)
    assert_alike(alone, together)
    np.testing.assert_allclose(np.float32(video), np.float32(split_video), atol=1, rtol=0)


@pytest.mark.long
@pytest.mark.devices(8)
def test_edits_and_files_keep_a_memory_in_parts(tmp_path):
    half = np.arange(SLOTS) % 2 == 0
    there = np.eye(4, dtype=np.float32)
    there[:3, 3] = 0.5
    changes = {
        "delete": lambda bank: memory.edit.delete(bank, half),
        "move": lambda bank: memory.edit.move(bank, half, there),
        "duplicate": lambda bank: memory.edit.duplicate(bank, half, there),
        "compact": lambda bank: (memory.edit.compact(bank), None),
    }

    def walk(model, session):
        banks = []
        session.step("w")
        for name, change in changes.items():
            session.edit(change)
            banks.append(session.world.bank)
            path = tmp_path / f"{name}.world"
            session.save(path)
            banks.append(Session.load(model, path).world.bank)
            assert_same_bits(banks[-1], banks[-2])
        return banks

    assert_alike(*sessions(begun(), walk))


@pytest.mark.long
@pytest.mark.devices(8)
def test_a_rollout_keeps_its_memory_in_parts():
    model = tiny_world.world_model(sampler=SamplerOptions(steps=1))
    path = camera(2 * (CHUNK - 1) + 1).cam2world

    def walk():
        return list(rollout(model, begun(), path))[-1]

    alone = walk()
    with jax.set_mesh(mesh()):
        together = walk()
    assert_alike([alone.world.bank], [together.world.bank])
    np.testing.assert_allclose(np.float32(together.video), np.float32(alone.video), atol=1, rtol=0)
