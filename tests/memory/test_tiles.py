"""A memory in tiles shows what the whole memory does, bit for bit."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from helpers.points import GRID, SIZE, bank, coordinate, point
from mirage_jax import memory
from mirage_jax.geometry import Camera
from mirage_jax.memory import boxes, tiles
from mirage_jax.memory.bank import COUNTERS, ELEMENT_FIELDS

SLOTS = 200
K = np.array([16.0, 16.0, 16.0, 12.0], np.float32)
OPTIONS = (
    {},
    {"prefer": "best_view", "footprint": 3},
    {"cells": "corner"},
    {"far": 1.5, "time": 7.0},
)


@functools.partial(jax.jit, static_argnames=("prefer", "footprint", "cells", "far"))
def read(mem, camera, **options):
    return memory.read(mem, camera, GRID, **options)


def views(*centres, seed=None):
    poses = np.tile(np.eye(4, dtype=np.float32), (len(centres), 1, 1))
    poses[:, :3, 3] = centres
    if seed is not None:
        poses[:, :3, :3] = Rotation.random(len(centres), random_state=seed).as_matrix()
    return Camera(np.tile(K, (len(centres), 1)), poses, SIZE)


def scene(points, seed, spread=1):
    """A memory of `SLOTS` slots with the points repeated in it in runs, some of them not valid."""
    rng = np.random.default_rng(seed)
    xyz = np.zeros((SLOTS, 3), np.float32)
    if len(points):
        xyz = np.repeat(np.asarray(points, np.float32), spread, axis=0)
        xyz = np.resize(xyz, (SLOTS, 3))
    valid = (rng.random(SLOTS) < 0.8) & bool(len(points))
    return bank(xyz, valid=valid, origin=rng.normal(size=(SLOTS, 3)), time=rng.permutation(SLOTS))


def assert_same(a, b):
    for name in ("tokens", "visible", "depth", "age", "source"):
        x, y = (np.asarray(getattr(out, name)) for out in (a, b))
        np.testing.assert_array_equal(x.view(np.uint32), y.view(np.uint32), err_msg=name)


def assert_reads_the_same(mem, tiled, camera, options):
    whole = read(mem, camera, **options)
    assert_same(whole, tiled.read(camera, GRID, **options))
    plan = {"far": options.get("far", np.inf), "margin": 1 + 4 * ("cells" in options)}
    gathered = tiled.gather(camera, **plan)
    out = read(gathered.memory, camera, **{"time": np.float32(tiled.newest), **options})
    assert_same(whole, out.replace(source=gathered.slots(out.source)))
    return whole


@pytest.mark.parametrize("place", tiles.PLACES)
@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    points=st.lists(point, max_size=30),
    centre=st.tuples(coordinate, coordinate, coordinate),
    seed=st.integers(0, 2**31 - 1),
    spread=st.sampled_from([1, 7, 16]),
    options=st.sampled_from(OPTIONS),
)
def test_ties_borders_and_holes_read_the_same(place, points, centre, seed, spread, options):
    """Coordinates on a grid: many elements share a cell and a depth, across tiles."""
    mem = scene(points, seed, spread)
    tiled = tiles.from_memory(mem, place=place, working=256)
    assert_reads_the_same(mem, tiled, views((0, 0, 0), centre), options)


@pytest.mark.parametrize("place", tiles.PLACES)
def test_general_scenes_read_the_same_and_most_tiles_stay_where_they_are(place):
    """Surfaces all around, tens of metres from the origin; views from outside the first tile."""
    rng = np.random.default_rng(5)
    angle = np.linspace(0, 40 * np.pi, 20_000)
    radius = 8 + np.sin(3 * angle)
    xyz = np.stack([radius * np.cos(angle), 0.1 * angle - 6, radius * np.sin(angle)], axis=1)
    xyz = np.float32(xyz + rng.normal(size=(20_000, 3)) * 0.01 + [40, 0, -30])
    mem = bank(xyz, valid=rng.random(20_000) < 0.9, time=rng.permutation(20_000))
    tiled = tiles.from_memory(mem, place=place, working=1 << 14)
    seen = 0
    for seed in range(4):
        camera = views((40, 0, -30), (41, 2, -29), (40, -30, -30), seed=seed)
        seen += assert_reads_the_same(mem, tiled, camera, {}).visible.sum()
        assert int(tiled.gather(camera[:1]).memory.count) < 20_000 / 3
    assert seen > 20


def brute_force(corners, camera, far):
    """Whether points all through a box project into the picture, in float64."""
    share = np.linspace(0, 1, 7)
    grid = np.stack(np.meshgrid(share, share, share), axis=-1).reshape(-1, 3)
    points = corners[:3] + grid * (corners[3:] - corners[:3])
    for lens, pose in zip(camera.intrinsics, np.float64(camera.cam2world), strict=True):
        x, y, z = ((points - pose[:3, 3]) @ pose[:3, :3]).T
        front = (z > 1e-3) & (z <= far)
        u, v = lens[0] * x + lens[2] * z, lens[1] * y + lens[3] * z
        inside = front & (u >= 0) & (u < SIZE[1] * z) & (v >= 0) & (v < SIZE[0] * z)
        if inside.any():
            return True
    return False


@settings(max_examples=40, deadline=None, derandomize=True)
@given(seed=st.integers(0, 2**31 - 1), far=st.sampled_from([np.inf, 3.0]))
def test_no_box_is_refused_that_reaches_into_a_view(seed, far):
    rng = np.random.default_rng(seed)
    low = rng.normal(size=(60, 3)) * 4
    corners = np.concatenate([low, low + rng.exponential(size=(60, 3))], axis=1)
    camera = views(*rng.normal(size=(2, 3)), seed=seed)
    found = boxes.may_be_seen(corners, boxes.frusta(camera, far, 0.0))
    reached = np.array([brute_force(box, camera, far) for box in corners])
    assert not (reached & ~found).any()
    assert found.mean() < 0.9  # it does refuse


def test_the_tree_finds_the_boxes_that_a_test_of_each_finds(monkeypatch):
    monkeypatch.setattr(boxes, "_TOP", 4)
    rng = np.random.default_rng(0)
    low = np.cumsum(rng.normal(size=(3000, 3)) * 0.3, axis=0)
    corners = np.concatenate([low, low + 0.2], axis=1)
    corners[rng.random(3000) < 0.1] = np.nan
    tree = boxes.BoxTree()
    for first in (0, 5, 1000, 2999):  # in parts, of which the later replace what is there
        index = np.arange(first, 3000)
        tree.put(index, corners[first:])
    moved = np.array([7, 1500, 2998])
    corners[moved] = [-0.1, -0.1, 1, 0.1, 0.1, 1.2]
    tree.put(moved, corners[moved])
    for seed in range(5):
        planes = boxes.frusta(views(low[seed], (0, 0, 0), seed=seed), np.inf, 1.0)
        each = np.flatnonzero(boxes.may_be_seen(corners, planes))
        np.testing.assert_array_equal(tree.find(planes), each)
        assert 0 < len(each) < 3000


@pytest.mark.parametrize("place", (*tiles.PLACES, "folder"))
def test_writes_give_the_memory_that_writes_to_a_whole_one_give(place, tmp_path):
    rng = np.random.default_rng(2)
    where = {"folder": tmp_path} if place == "folder" else {"place": place}
    tiled, whole = tiles.TiledMemory(2, **where), memory.create(100, 2)
    for _ in range(3):  # a tile is begun by one write and gone on with by the next
        depth = rng.uniform(1, 3, (2, *GRID)).astype(np.float32)
        depth[rng.random(depth.shape) < 0.3] = 0
        tokens = rng.normal(size=(2, *GRID, 2)).astype(np.float32)
        camera = views(*rng.normal(size=(2, 3)))
        whole, expected = jax.jit(memory.write)(whole, tokens, depth, camera)
        report = tiled.write(tokens, depth, camera)
        assert jax.tree.map(int, report) == jax.tree.map(int, expected)
        assert_same(read(whole, camera), tiled.read(camera, GRID))
    assert tiled.count % tiles.TILE and tiled.nbytes == memory.nbytes(whole)
    kept = tiled.to_memory()
    for name in ELEMENT_FIELDS:
        expected = np.asarray(getattr(whole, name))[: int(whole.count)]
        np.testing.assert_array_equal(getattr(kept, name), expected)
    assert {name: int(getattr(whole, name)) for name in COUNTERS} == tiled.counters


@pytest.mark.parametrize("place", tiles.PLACES)
def test_what_becomes_of_a_gathered_memory_is_taken_over(place):
    rng = np.random.default_rng(6)
    mem = scene(rng.uniform([-2, -2, 1], [2, 2, 3], (SLOTS, 3)), 0)
    far_off = np.asarray(mem.xyz) + np.float32([0, 0, -100]) * (np.arange(SLOTS) < 96)[:, None]
    mem = mem.replace(xyz=jnp.asarray(far_off))
    tiled, camera = tiles.from_memory(mem, place=place, working=256), views((0, 0, 0))
    gathered = tiled.gather(camera, room=12)
    slots = np.asarray(gathered.slots(jnp.arange(int(gathered.used))))
    assert slots[0] >= 96 and (np.diff(slots) > 0).all()
    # Elements move out of every tile, one goes, and a frame is written.
    edited = gathered.memory
    edited = edited.replace(
        xyz=edited.xyz.at[4:8].set(jnp.float32([50.0, 0, 0])), valid=edited.valid.at[9].set(False)
    )
    frame = rng.normal(size=(1, *GRID, 2)), np.full((1, *GRID), 2, np.float32), camera
    write = jax.jit(memory.write)
    after, _ = write(edited, *frame)
    tiled.absorb(gathered, after)
    xyz, valid = np.array(mem.xyz), np.array(mem.valid)
    xyz[slots[4:8]], valid[slots[9]] = [50, 0, 0], False
    expected = mem.replace(xyz=jnp.asarray(xyz), valid=jnp.asarray(valid))
    expected, _ = write(with_room(expected, 12), *frame)
    aside = np.array([[0, 0, 1, 45], [0, 1, 0, 0], [-1, 0, 0, 0], [0, 0, 0, 1]], np.float32)
    for view in (camera, Camera(K[None], aside[None], SIZE)):
        assert_same(read(expected, view), tiled.read(view, GRID))
    assert tiled.count == SLOTS + 12 and tiled.counters["frames"] == 1


def with_room(mem, slots):
    def longer(name):
        row = getattr(mem, name)
        return jnp.pad(row, [(0, slots)] + [(0, 0)] * (row.ndim - 1))

    return mem.replace(**{name: longer(name) for name in ELEMENT_FIELDS})


def test_what_was_saved_in_a_folder_is_there_again_and_what_was_not_is_not(tmp_path):
    rng = np.random.default_rng(3)
    mem = scene(rng.uniform([-2, -2, 1], [2, 2, 3], (SLOTS, 3)), 1)
    mem = mem.replace(count=jnp.int32(SLOTS - 3))
    first, camera = tiles.from_memory(mem, folder=tmp_path), views((0, 0, 0))
    first.save()
    expected = first.read(camera, GRID)
    nearer = mem.replace(xyz=mem.xyz * 0.5)
    first.append(nearer)  # and the process is killed
    assert not np.array_equal(first.read(camera, GRID).depth, expected.depth)
    again = tiles.TiledMemory(2, folder=tmp_path)
    assert again.counters == {**dict.fromkeys(COUNTERS, 0), "count": SLOTS - 3}
    assert_same(again.read(camera, GRID), expected)
    assert_same(read(again.to_memory(), camera), expected)


@pytest.mark.parametrize("place", tiles.PLACES)
def test_an_empty_memory_shows_nothing(place):
    tiled, camera = tiles.TiledMemory(2, place=place, working=256), views((0, 0, 0))
    out = tiled.read(camera, GRID)
    assert_same(out, read(memory.create(1, 2), camera))
    assert not np.asarray(out.visible).any()
    assert int(tiled.gather(camera, room=20).memory.count) == 0
    assert tiled.to_memory().capacity == 1 and tiled.newest == -np.inf


def test_a_view_that_needs_more_doubles_the_working_memory_and_says_so():
    mem = scene(np.random.default_rng(0).uniform([-1, -1, 1], [1, 1, 2], (SLOTS, 3)), 0)
    tiled = tiles.from_memory(mem, working=48)
    with pytest.warns(UserWarning, match=r"needs 208 slots, more than the 48 .* now has 384"):
        gathered = tiled.gather(views((0, 0, 0)))
    assert gathered.memory.capacity == 384
    assert int(gathered.memory.valid.sum()) == int(mem.valid.sum())


def test_what_does_not_fit_is_refused(tmp_path):
    with pytest.raises(ValueError, match="place: found 'disk', expected one of host, device"):
        tiles.TiledMemory(2, place="disk")
    with pytest.raises(ValueError, match="working: found 3, expected at least 16"):
        tiles.TiledMemory(2, working=3)
    with pytest.raises(ValueError, match="found a memory of 2 channels, expected 3"):
        tiles.TiledMemory(3).append(memory.create(4, 2))
    with pytest.raises(ValueError, match="save: found no folder"):
        tiles.TiledMemory(2).save()
    tiled = tiles.from_memory(scene([(0, 0, 1)], 0), folder=tmp_path)
    tiled.save()
    with pytest.raises(ValueError, match=r"memory.json: found .* expected"):
        tiles.TiledMemory(3, folder=tmp_path)
    with pytest.raises(ValueError, match="found 200 elements in the folder"):
        tiles.from_memory(scene([(0, 0, 1)], 0), folder=tmp_path)
    (tmp_path / "time.bin").write_bytes(b"few")
    with pytest.raises(ValueError, match=r"time.bin: found 0 whole rows in tiles, expected 200"):
        tiles.TiledMemory(2, folder=tmp_path)
    (tmp_path / "memory.json").write_text("{")
    with pytest.raises(ValueError, match=r"memory.json: no header of a tiled memory"):
        tiles.TiledMemory(2, folder=tmp_path)
