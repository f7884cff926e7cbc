"""Worlds that keep bodies: seen in pictures, carried on by a rollout, saved and read again."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import mirage_jax
from helpers import tiny_world
from helpers.tiny_world import CHANNELS, CHUNK, GRID, INTRINSICS, READOUT, SIZE
from mirage_jax import trajectories
from mirage_jax.geometry import Camera
from mirage_jax.memory import movers
from mirage_jax.origin import Origin
from mirage_jax.world import moving
from mirage_jax.world.options import MemoryOptions, SamplerOptions
from mirage_jax.world.world_file import load_world, read_world_file, save_world

BODIES = movers.MoverOptions(
    slots=2, detections=1, views=1, view_cells=2, least_pixels=4, birth_pixels=4, fps=10.0
)
PICTURES = np.random.default_rng(0).integers(0, 256, (3, *SIZE, 3), np.uint8)
EYE = 1.5


def seen():
    """Depth and what stands still of a body that goes right, half a metre a frame, on a floor."""
    v, u = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    right, down = (u - INTRINSICS[2]) / INTRINSICS[0], (v - INTRINSICS[3]) / INTRINSICS[1]
    floor = np.where(down > 0, EYE / np.maximum(down, 1e-6), np.inf)
    depth, still = [], []
    for x in (-0.5, 0.0, 0.5):
        body = (np.abs(4 * right - x) < 0.6) & (4 * down < EYE) & (4 * down > -0.2)
        depth.append(np.where(body, 4.0, np.minimum(floor, 9.0)))
        still.append(~body)
    return np.stack(depth).astype(np.float32), np.stack(still).astype(np.float32)


@pytest.fixture(scope="module")
def model():
    told = dataclasses.replace(READOUT, movers=True)
    options = {"sampler": SamplerOptions(steps=1), "memory": MemoryOptions(capacity=100)}
    return tiny_world.world_model(told=told, movers=BODIES, **options)


@pytest.fixture(scope="module")
def started(model):
    depth, still = seen()
    poses = np.tile(np.eye(4, dtype=np.float32), (3, 1, 1))
    camera = Camera(np.tile(INTRINSICS, (3, 1)), poses, SIZE)
    return model.start(PICTURES, camera, depth=depth, static=still)


def test_a_chunk_has_the_shapes_that_its_model_says(model):
    """Traced alone; what is computed is in the long tests below."""
    one = jax.ShapeDtypeStruct
    camera = Camera(one((1, 4), jnp.float32), one((1, 4, 4), jnp.float32), SIZE)
    world, report = jax.eval_shape(model.begin, one((1, *SIZE, 3), jnp.float32), camera)
    assert world.movers.slots == BODIES.slots and report.movers.found.shape == ()
    assert world.movers.view_tokens.shape == (2, 1, 2, 2, CHANNELS)
    path = one((CHUNK, 4, 4), jnp.float32)
    later, latents, report = jax.eval_shape(model.advance, world, path, jax.random.key(0))
    assert jax.tree.structure(later) == jax.tree.structure(world)
    assert jax.tree.map(lambda x: x.shape, later) == jax.tree.map(lambda x: x.shape, world)
    assert latents.shape == (2, *GRID, CHANNELS) and report.movers.found.shape == ()
    assert model.denoiser.memory_channels == model.conditioner.read_channels
    without = model.replace(movers=None)
    world, report = jax.eval_shape(without.begin, one((1, *SIZE, 3), jnp.float32), camera)
    assert world.movers is None and report.movers is None


@pytest.mark.long
def test_a_body_of_the_pictures_is_kept_with_its_looks(started):
    table = started.movers
    assert list(np.asarray(table.status)) == [movers.CONFIRMED, movers.FREE]
    # OpenCV axes: up is -y, the floor EYE below the camera.
    np.testing.assert_allclose(table.up, [0, -1, 0], atol=1e-4)
    np.testing.assert_allclose(table.floor, -EYE, atol=0.1)
    np.testing.assert_allclose(table.position[0], [0.5, EYE, 4.4], atol=0.5)
    assert float(table.velocity[0, 0]) > 1.0 and float(table.heading[0, 0]) > 0.8
    assert bool(table.view_valid[0, 0]) and np.asarray(table.view_tokens[0, 0]).any()
    np.testing.assert_allclose(table.last_seen[0], 0.2, atol=1e-6)
    assert started.origin.frame_seconds == pytest.approx(0.1)


@pytest.mark.long
def test_where_nothing_moves_the_table_is_as_if_it_had_been_looked_for(started, monkeypatch):
    depth, _ = seen()
    poses = jnp.tile(jnp.eye(4), (3, 1, 1))
    camera = Camera(jnp.tile(jnp.asarray(INTRINSICS), (3, 1)), poses, SIZE)

    def gone_on():
        @jax.jit
        def run(table, moves):
            return moving.observe(
                table, started.bank, jnp.zeros((3, *SIZE, 3)), moves, jnp.asarray(depth), camera,
                3.0 + jnp.arange(3.0), encode=lambda crops: jnp.ones((len(crops), 2, 2, CHANNELS)),
                stride=8, options=BODIES, measured=True,
            )  # fmt: skip

        nowhere = jnp.zeros(depth.shape, bool)
        return run(started.movers, nowhere), run(started.movers, nowhere.at[:, 4:9, 4:9].set(True))

    found = gone_on()
    monkeypatch.setattr(moving, "_if_any", lambda which, made, nothing: made())
    jax.tree.map(np.testing.assert_array_equal, found, gone_on())
    assert int(found[0][1].found) == 0 < int(found[1][1].found)


@pytest.mark.long
def test_what_is_read_of_bodies_stands_behind_what_was_read_before(model, started):
    poses = jnp.tile(jnp.eye(4), (CHUNK, 1, 1))
    camera = Camera(jnp.tile(jnp.asarray(INTRINSICS), (CHUNK, 1)), poses, SIZE)
    times = 2.0 + jnp.arange(float(CHUNK))
    table = started.movers
    with_bodies = read_with(model, started.bank, camera, times, table)
    without = read_with(model, started.bank, camera, times, None)
    count = READOUT.read_channels
    assert with_bodies.shape[-1] == model.conditioner.read_channels == count + 2 * (CHANNELS + 3)
    plain = jax.jit(READOUT.read)(started.bank, camera)
    np.testing.assert_array_equal(with_bodies[..., :count], plain)
    np.testing.assert_array_equal(without[..., :count], plain)
    assert not np.asarray(without[..., count:]).any()
    bodies = np.asarray(with_bodies[..., count:]).reshape(2, *GRID, 2, CHANNELS + 3)
    alpha = bodies[..., CHANNELS]
    assert alpha.max() > 0.2
    # It goes right: its middle moves on from the first read to the last.
    place = (alpha * np.arange(GRID[1])[:, None]).sum((1, 2)) / alpha.sum((1, 2))
    assert place[-1, -1] > place[0, 0] or not alpha[-1, ..., -1].any()


def read_with(model, bank, camera, times, table):
    read = jax.jit(lambda *a: model.conditioner.read(a[0], a[1], a[2], None, a[3], BODIES))
    return read(bank, camera, times, table)


@pytest.mark.long
def test_a_rollout_carries_bodies_on_and_a_saved_world_has_them(model, started, tmp_path):
    path = trajectories.make("look_away", CHUNK, angle=60)
    (chunk,) = mirage_jax.rollout(model, started, path)
    table = chunk.world.movers
    np.testing.assert_allclose(table.time, (3 - 1 + CHUNK - 1) / BODIES.fps, rtol=1e-6)
    assert int(table.id[0]) == 0
    counts = chunk.report.movers
    assert int(counts.found) == int(counts.matched + counts.born + counts.merged + counts.refused)
    file = tmp_path / "bodies.world"
    save_world(file, chunk.world)
    again = load_world(file)
    jax.tree.map(np.testing.assert_array_equal, again, chunk.world)
    stored = read_world_file(file).entities
    assert stored is not None and list(stored["id"]) == [0, -1]
    np.testing.assert_allclose(stored["last_seen"][0], float(table.last_seen[0]) * 10, rtol=1e-6)


def test_a_clock_of_another_pace_is_refused():
    assert moving.timed(Origin(), None).frame_seconds is None
    with pytest.raises(ValueError, match=r"frame_seconds: found 0.5, expected 0.1"):
        moving.timed(Origin(frame_seconds=0.5), BODIES)


@pytest.mark.parametrize("shapes", [((1, 4, 6), (1, 2, 3)), ((1, 2, 3), (1, 4, 6))])
def test_masks_and_depth_of_different_sizes_meet_at_the_larger(shapes):
    mask, depth = moving.same_size(jnp.ones(shapes[0], bool), jnp.ones(shapes[1]))
    assert mask.shape == depth.shape == (1, 4, 6)
    with pytest.raises(ValueError, match="expected one that divides"):
        moving.same_size(jnp.ones((1, 4, 6), bool), jnp.ones((1, 3, 4)))
