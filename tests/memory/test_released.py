"""Lifting and reading as Mirage's released code does, against what that code computed."""

import itertools
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import paths
from mirage_jax import memory
from mirage_jax.chunks import chunk_bounds
from mirage_jax.geometry import Camera
from mirage_jax.memory import frustum_voxels, released

GOLDEN = paths.GOLDEN / "latent_point_cloud"
GRID = (11, 20)
CHANNELS = 8
POINTS = 1e-5  # metres
BORDER = 1e-5  # cells
FIRST, LATER = (88, 160), (56, 98)

read = jax.jit(memory.read, static_argnames=("grid", "cells"))
choose = jax.jit(frustum_voxels.choose, static_argnames="count")


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN / "io.npz") as arrays:
        return dict(arrays)


def intrinsics(matrices):
    return np.stack([matrices[..., i, j] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2))], axis=-1)


@jax.jit
def append(bank, depth, camera, tokens, excluded=None):
    """Writes frames [t, C, h, w] as `WorldModel.observe` does for cells at their corners."""
    static = None if excluded is None else released.nearest_mask(1.0 - excluded, GRID)
    bank, _ = memory.write(
        bank,
        jnp.moveaxis(jnp.asarray(tokens), 1, -1),
        released.bilinear_depth(depth, GRID),
        released.corner_camera(camera, GRID),
        static=static,
    )
    return bank


@pytest.fixture(scope="module")
def banks(golden):
    """The memory after the first picture and after each of the two updates."""
    g = golden
    first = Camera(intrinsics(g["K"])[None], g["pose0"][None], FIRST)
    second = Camera(intrinsics(g["u1_intrinsics"]), g["u1_cam2worlds"], FIRST)
    third = Camera(intrinsics(g["u2_intrinsics"]), g["u2_cam2worlds"], LATER)
    bank = memory.create(len(g["points2"]), CHANNELS)
    latent = np.moveaxis(g["latent0"], 0, 1)
    one = append(bank, g["depth0"][None], first, latent, g["mask0"][None])
    two = append(one, g["u1_depths"], second, g["u1_latents"], g["u1_masks"])
    return one, two, append(two, g["u2_depths"], third, g["u2_latents"])


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_points_and_features_are_those_of_the_released_cloud(golden, banks, stage):
    bank, valid = banks[stage], golden[f"valid{stage}"]
    count = int(bank.count)
    assert count == valid.sum()
    np.testing.assert_allclose(bank.xyz[:count], golden[f"points{stage}"][valid], atol=POINTS)
    np.testing.assert_array_equal(bank.tokens[:count], golden[f"feats{stage}"][valid])


def test_without_a_mask_every_cell_of_known_depth_is_kept(golden):
    g = golden
    camera = Camera(intrinsics(g["K"])[None], g["pose0"][None], FIRST)
    latent = np.moveaxis(g["latent0"], 0, 1)
    bank = append(memory.create(220, CHANNELS), g["depth0"][None], camera, latent)
    assert int(bank.count) == g["valid0_nomask"].sum()
    # Nothing to add: as the release's update that adds nothing.
    again = append(bank, 0 * g["depth0"][None], camera, latent)
    assert int(again.count) == int(bank.count) and g["noop_update_same_count"] == 1


def views(golden):
    count = len(golden["targets"])
    return Camera(np.tile(intrinsics(golden["Klat"]), (count, 1)), golden["targets"], GRID)


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_projections_are_those_of_the_released_cloud(golden, banks, stage):
    out = read(banks[stage], views(golden), GRID, cells="corner")
    for view in range(len(golden["targets"])):
        safe = golden[f"p2_view{view}_safe"] if stage == 2 else np.ones(GRID, bool)
        expected = np.moveaxis(golden[f"p{stage}_view{view}_latent"], 0, -1)
        np.testing.assert_array_equal(out.tokens[view][safe], expected[safe])
        seen = golden[f"p{stage}_view{view}_mask"]
        np.testing.assert_array_equal(out.visible[view][safe] > 0, seen[safe])


def at_cells(points, lens, pose):
    """Where points project to, in float64, and whether they are in front of the lens."""
    world2cam = np.linalg.inv(np.float64(pose))
    x, y, z = world2cam[:3, :3] @ np.float64(points).T + world2cam[:3, 3:]
    with np.errstate(all="ignore"):
        at = np.stack([lens[0] * x / z + lens[2], lens[1] * y / z + lens[3]], axis=-1)
    return at, z > 0


def undecided(points, lens, pose):
    """Cells that a point falls into or not by less than float32 can tell."""
    at, ahead = at_cells(points, lens, pose)
    cells = np.zeros(GRID, bool)
    for u, v in at[ahead]:
        edges = itertools.product((-BORDER, BORDER), repeat=2)
        reached = {(round(v + dv), round(u + du)) for dv, du in edges}
        for row, column in reached if len(reached) > 1 else ():
            if 0 <= row < GRID[0] and 0 <= column < GRID[1]:
                cells[row, column] = True
    return cells


@pytest.mark.parametrize("stage", [0, 1, 2])
def test_a_longer_lens_reads_the_same(golden, banks, stage):
    lens = intrinsics(golden["Klat"]) * np.float32([1.3, 1.3, 1, 1])
    out = read(banks[stage], Camera(lens, golden["targets"][1], GRID), GRID, cells="corner")
    # The saved safe masks are of the lens itself; these cells turn on the last bit of a float32.
    safe = ~undecided(golden[f"points{stage}"], lens, golden["targets"][1])
    assert (~safe).sum() == (0 if stage == 0 else 24)
    expected = np.moveaxis(golden[f"p{stage}_zoom_latent"], 0, -1)
    np.testing.assert_array_equal(out.tokens[safe], expected[safe])
    np.testing.assert_array_equal(out.visible[safe] > 0, golden[f"p{stage}_zoom_mask"][safe])


def cloud(xyz):
    """One-hot tokens at the given points."""
    bank = memory.create(len(xyz), len(xyz))
    return bank.replace(
        xyz=jnp.asarray(xyz, jnp.float32),
        tokens=jnp.eye(len(xyz)),
        valid=jnp.ones(len(xyz), bool),
        count=jnp.int32(len(xyz)),
    )


def test_halves_are_rounded_to_even_and_the_last_of_equals_wins(golden):
    camera = Camera(np.float32([1, 1, 0, 0]), np.eye(4, dtype=np.float32), (5, 5))
    halves = read(cloud([[1.5, 2, 1], [3.5, 2, 1], [2.5, 2, 1]]), camera, (5, 5), cells="corner")
    np.testing.assert_array_equal(np.moveaxis(halves.tokens, -1, 0), golden["halfpix_latent"])
    np.testing.assert_array_equal(halves.visible > 0, golden["halfpix_mask"])
    equals = read(cloud([[1, 1, 1], [1, 1, 1], [1, 1, 1]]), camera, (5, 5), cells="corner")
    np.testing.assert_array_equal(equals.tokens[1, 1], golden["tie_winner"])
    ahead = read(
        cloud([[1, 1, 1], [1, 1, 0.5], [2e-4, 1e-4, 1e-4]]), camera, (5, 5), cells="corner"
    )
    assert ahead.source[2, 2] == 1 and ahead.source[1, 1] == 0 and ahead.source[1, 2] == 2


@pytest.fixture(scope="module")
def released_points(golden, banks):
    """The memory after both updates, its points to the last bit those of the release."""
    points = golden["points2"][golden["valid2"]]
    return banks[2].replace(xyz=banks[2].xyz.at[: len(points)].set(points))


def exactly_inside(points, frames, view):
    """In front of a view and within its picture, its upper and left border included."""
    at, ahead = at_cells(points, frames.intrinsics[view], frames.cam2world[view])
    ends = np.float64(GRID[::-1])
    return ahead & (at > -BORDER).all(-1) & (at < ends - BORDER).all(-1)


def test_frusta_hold_the_points_of_the_release_and_all_on_their_upper_and_left_border(
    golden, released_points
):
    bank, frames = released_points, views(golden)
    points = bank.xyz[: int(bank.count)]
    seen = np.asarray(frustum_voxels.in_frustum(bank.xyz, bank.valid, frames))[:, : len(points)]
    for view, expected in enumerate(golden["visible_counts"]):
        at, ahead = at_cells(points, frames.intrinsics[view], frames.cam2world[view])
        within = ahead & (at > BORDER).all(-1) & (at < np.float64(GRID[::-1]) - BORDER).all(-1)
        exact = exactly_inside(points, frames, view)
        np.testing.assert_array_equal(seen[view], exact)
        # There rounding decides in the release: whole columns of the first picture.
        assert within.sum() <= expected <= within.sum() + 40
        assert exact.sum() - within.sum() <= 40


def test_voxel_overlaps_and_the_chosen_frames_are_those_of_the_release(
    golden, banks, released_points
):
    bank, frames = released_points, views(golden)
    elements = jnp.full(len(golden["targets"]), bank.count)
    overlaps = jax.jit(frustum_voxels.overlaps)
    found = [overlaps(bank, frames[i][None], frames, elements) for i in range(len(frames))]
    points = bank.xyz[: int(bank.count)]
    voxels = np.floor(np.asarray(points) / np.float32(frustum_voxels.VOXEL))
    held = [
        set(map(tuple, voxels[exactly_inside(points, frames, view)])) for view in range(len(frames))
    ]
    exact = [[len(a & b) / max(len(a | b), 1) for a in held] for b in held]
    np.testing.assert_allclose(found, exact, rtol=1e-6)
    # Of the points on borders (above) the release has those that rounding lets in.
    np.testing.assert_allclose(found, golden["iou_matrix_f64"], atol=0.02)
    targets = frames[golden["ref_target_pose_indices"]]
    for bank in (released_points, banks[2]):
        slots, shares = choose(bank, targets, frames, elements, count=4)
        np.testing.assert_array_equal(slots, golden["ref_selected"])
        assert (np.diff(shares) <= 0).all()


def test_chunks_of_a_path_are_those_of_the_release():
    plans = json.loads((GOLDEN / "config.json").read_text())["plans"]
    for frames, plan in plans.items():
        bounds = chunk_bounds(int(frames), 33)
        found = [[first + 1 if first else 0, last + 1, last - first + 1] for first, last in bounds]
        assert found == plan
