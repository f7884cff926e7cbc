"""A memory in tiles shows what the whole memory does, bit for bit."""

import functools

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from helpers.points import GRID, SIZE, bank, coordinate, point
from mirage_jax import memory
from mirage_jax.geometry import Camera
from mirage_jax.memory import tiles

SLOTS = 200
K = np.array([16.0, 16.0, 16.0, 12.0], np.float32)
OPTIONS = (
    {},
    {"prefer": "best_view"},
    {"footprint": 3},
    {"cells": "corner"},
    {"far": 1.5},
    {"time": 7.0},
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
@settings(max_examples=30, deadline=None, derandomize=True)
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
