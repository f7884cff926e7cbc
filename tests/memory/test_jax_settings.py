"""Memory and cameras under settings of JAX that other code bases run with."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.programs import dtypes
from mirage_jax import geometry, memory
from mirage_jax.geometry import Camera
from mirage_jax.memory import (
    edit,
    frustum_voxels,
    fusion,
    regions,
    released,
    retrieval,
    rgb_cloud,
    surfels,
)

GRID, SIZE, FRAMES = (4, 6), (16, 24), 2
RNG = np.random.default_rng(0)
TOKENS = RNG.normal(size=(FRAMES, *GRID, 3)).astype(np.float32)
DEPTH = RNG.uniform(1, 5, (FRAMES, *SIZE)).astype(np.float32)
DEPTH[0, :4, :4], DEPTH[0, 4:8, :4], DEPTH[1, :4, :4] = 0, np.inf, np.nan
KNOWN = np.clip(np.nan_to_num(DEPTH), 0, 9)
POSES = np.tile(np.eye(4, dtype=np.float32), (FRAMES, 1, 1))
POSES[1, 0, 3] = 0.1
CAMERA = Camera(np.tile(np.float32([20, 20, 12, 8]), (FRAMES, 1)), POSES, SIZE)
PICTURES = RNG.integers(0, 256, (FRAMES, *SIZE, 3), np.uint8)


def geometry_of(depth, camera):
    points = geometry.lift(depth, camera)
    return (
        points,
        geometry.project(points, camera),
        geometry.pluecker_rays(camera, GRID),
        geometry.crop_camera(camera, 2, 3, GRID).intrinsics,
        geometry.pose_angle_deg(camera.cam2world, camera.cam2world),
    )


def written(tokens, depth, camera):
    static = np.ones(depth.shape, np.float32)
    return memory.write(memory.create(60, 3), tokens, depth, camera, static=static)


def read_in_all_ways(bank, camera):
    options = {}, {"prefer": "best_view"}, {"footprint": 3}, {"cells": "corner", "time": 4}
    empty = memory.create(5, 3)
    return [memory.read(bank, camera, GRID, **each) for each in options] + [
        memory.read(empty, camera, GRID)
    ]


def drawn(bank, camera):
    patches = jnp.broadcast_to(bank.tokens[:, None, None], (bank.capacity, 4, 4, 3))
    return surfels.render(bank, patches, camera, memory.read(bank, camera, GRID).source)


def references(bank, depth, camera):
    store = retrieval.add(retrieval.create(4, GRID), depth, camera, np.arange(FRAMES))
    corner = released.corner_camera(camera, GRID)
    maps = released.bilinear_depth(depth, GRID), released.nearest_mask(depth > 0, GRID)
    counts = jnp.full(FRAMES, 20, jnp.int32)
    return (
        retrieval.retrieve(store, camera, 2),
        frustum_voxels.choose(bank, camera, camera, counts, 2),
        corner.intrinsics,
        maps,
    )


def colours(pictures, depth, camera):
    cloud, _ = rgb_cloud.write(rgb_cloud.create(800), pictures, depth, camera)
    return rgb_cloud.read(cloud, camera, SIZE)


def fused(tokens, depth, camera):
    return fusion.write(memory.create(60, 3), tokens, depth, camera)


def edited(bank):
    """Every edit of every kind of region."""
    box = regions.Box((-1.0, -1.0, 0.0), (1.0, 1.0, 9.0))
    ball = regions.Sphere((0.0, 0.0, 3.0), 2.0)
    turned = regions.OrientedBox(POSES[1], (1.0, 2.0, 9.0))
    whole = jnp.ones(bank.capacity, bool)
    return (
        [edit.delete(bank, region) for region in (box, ball, turned, whole)],
        edit.move(bank, turned, POSES[1]),
        edit.swap(bank, ball, turned),
        edit.duplicate(bank, box, POSES[1]),
        edit.pin(bank, ball),
        edit.merge(bank, bank, POSES[1], time=2.0, voxel=0.1),
        edit.diff(bank, edit.compact(bank)),
    )


def everything(tokens, depth, pictures, camera):
    bank, report = written(tokens, depth, camera)
    return (
        geometry_of(KNOWN, camera),
        (bank, report),
        read_in_all_ways(bank, camera),
        drawn(bank, camera),
        references(bank, KNOWN, camera),
        colours(pictures, depth, camera),
    )


ARGUMENTS = (TOKENS, DEPTH, PICTURES, CAMERA)


@pytest.mark.long
def test_results_do_not_depend_on_settings():
    expected = jax.jit(everything)(*ARGUMENTS)
    with (
        jax.disable_jit(),
        jax.debug_nans(True),
        jax.numpy_rank_promotion("raise"),
        jax.enable_x64(True),
    ):
        found = everything(*ARGUMENTS)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        a, b = np.asarray(a), np.asarray(b)
        if b.dtype == np.float32:
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5)
            assert a.dtype == np.float32
        else:
            np.testing.assert_array_equal(a, b)


def test_nothing_is_computed_in_64_bits():
    arrays = jax.tree.map(jnp.asarray, ARGUMENTS)
    with jax.enable_x64(True), jax.checking_leaks():
        program = jax.make_jaxpr(everything)(*arrays)
        wide = jax.make_jaxpr(lambda x: 2.0 * x)(np.ones(2))
    assert "float64" not in dtypes(program.jaxpr) and len(dtypes(program.jaxpr)) > 3
    assert "float64" in dtypes(wide.jaxpr)


def test_fused_writes_and_edits_are_float32_of_given_ranks():
    with jax.enable_x64(True), jax.checking_leaks(), jax.numpy_rank_promotion("raise"):
        writes = jax.make_jaxpr(fused)(TOKENS, DEPTH, CAMERA)
        edits = jax.make_jaxpr(edited)(memory.create(60, 3))
    assert "float64" not in dtypes(writes.jaxpr) | dtypes(edits.jaxpr)


@pytest.mark.long
def test_fused_writes_and_edits_do_not_depend_on_settings():
    def run(*arguments):
        bank, report = fused(*arguments)
        return bank, report, edited(bank)

    few = TOKENS[:1], KNOWN[:1], CAMERA[:1]
    expected = jax.jit(run)(*few)
    with jax.disable_jit(), jax.debug_nans(True), jax.enable_x64(True):
        found = run(*few)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-5, atol=1e-5)


def test_cameras_of_float64_give_float32_points_and_elements():
    def run(lens, poses, tokens, depth):
        bank, _ = written(tokens, depth, Camera(lens, poses, SIZE))
        return bank, memory.read(bank, Camera(lens, poses, SIZE), GRID)

    with jax.enable_x64(True):
        arrays = (jnp.asarray(x, jnp.float64) for x in (CAMERA.intrinsics, POSES, TOKENS, DEPTH))
        made = jax.eval_shape(run, *arrays)
    assert {leaf.dtype.name for leaf in jax.tree.leaves(made)} == {"float32", "int32", "bool"}
