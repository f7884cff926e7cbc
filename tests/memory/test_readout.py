"""The read-out against a brute-force loop over elements.

Where equality must be exact the scenes are made of numbers that float32 handles without rounding
(dyadic coordinates, power-of-two focal lengths and depths, axis-aligned cameras), so that points
lie exactly on cell borders and depths tie exactly, which random floats never do.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from helpers.points import GRID, SIZE, SLOTS, bank, coordinate, point
from mirage_jax import memory
from mirage_jax.geometry import Camera


@functools.partial(jax.jit, static_argnames=("grid", "prefer", "footprint"))
def read(mem, camera, grid=GRID, prefer="nearest", footprint=1, time=None):
    return memory.read(mem, camera, grid, prefer=prefer, footprint=footprint, time=time)


def brute_force(mem, intrinsics, cam2world, grid, size, margin=0.0):
    """Winner slot and depth per cell by a loop in float64; cells in doubt by `margin`."""
    h, w = grid
    source = np.full(grid, -1)
    depth = np.full(grid, np.inf)
    doubtful = np.zeros(grid, bool)
    fx, fy, cx, cy = intrinsics * np.array([w / size[1], h / size[0]] * 2)
    world2cam = np.linalg.inv(cam2world)
    for slot in range(mem.capacity):
        if not bool(mem.valid[slot]):
            continue
        x, y, z = (world2cam @ np.append(np.asarray(mem.xyz[slot], np.float64), 1))[:3]
        if z <= 1e-3:
            continue
        u, v = fx * x / z + cx, fy * y / z + cy
        if margin:
            near_u, near_v = abs(u - round(u)) < margin, abs(v - round(v)) < margin
            for du in (-margin, margin):
                for dv in (-margin, margin):
                    i, j = int(np.floor(v + dv)), int(np.floor(u + du))
                    if (near_u or near_v) and 0 <= i < h and 0 <= j < w:
                        doubtful[i, j] = True
        i, j = int(np.floor(v)), int(np.floor(u))
        if not (0 <= i < h and 0 <= j < w):
            continue
        if margin and abs(z - depth[i, j]) < margin:
            doubtful[i, j] = True
        if z < depth[i, j]:
            depth[i, j], source[i, j] = z, slot
    return source, np.where(source >= 0, depth, 0), doubtful


# The rotations that map axes to axes: exact in floating point.
AXIS_ROTATIONS = [
    np.eye(3),
    np.array([[0, 0, 1], [0, 1, 0], [-1, 0, 0]]),
    np.array([[-1, 0, 0], [0, 1, 0], [0, 0, -1]]),
    np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]]),
]


@settings(max_examples=150, deadline=None)
@given(
    points=st.lists(point, max_size=SLOTS),
    mask=st.lists(st.booleans(), min_size=SLOTS, max_size=SLOTS),
    rotation=st.sampled_from(range(4)),
    centre=st.tuples(coordinate, coordinate, coordinate),
)
def test_equals_brute_force_exactly(points, mask, rotation, centre):
    pose = np.eye(4)
    pose[:3, :3], pose[:3, 3] = AXIS_ROTATIONS[rotation], centre
    # The scene is built in front of the camera, then moved with it.
    xyz = np.asarray(points, float).reshape(-1, 3) @ pose[:3, :3].T + pose[:3, 3]
    mem = bank(xyz, valid=np.asarray(mask[: len(points)], bool))
    intrinsics = np.array([16.0, 16.0, 16.0, 8.0])
    out = read(mem, Camera(intrinsics, pose, SIZE))
    source, depth, _ = brute_force(mem, intrinsics, pose, GRID, SIZE)
    np.testing.assert_array_equal(out.source, source)
    np.testing.assert_array_equal(out.depth, depth.astype(np.float32))
    np.testing.assert_array_equal(out.visible, (source >= 0).astype(np.float32))
    np.testing.assert_array_equal(
        out.tokens, np.where(source[..., None] >= 0, np.asarray(mem.tokens)[source], 0)
    )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_equals_brute_force_on_general_scenes(seed):
    """Any rotation and position; cells with an element within rounding of a border are left out."""
    rng = np.random.default_rng(seed)
    mem = bank(rng.normal(size=(120, 3)) * 3, valid=rng.random(120) < 0.9)
    pose = np.eye(4)
    pose[:3, :3] = Rotation.random(random_state=seed).as_matrix()
    pose[:3, 3] = rng.normal(size=3)
    intrinsics = np.array([14.3, 15.1, 16.2, 11.7])
    out = read(mem, Camera(intrinsics, pose, SIZE), grid=(6, 8))
    source, depth, doubtful = brute_force(mem, intrinsics, pose, (6, 8), SIZE, margin=1e-3)
    assert doubtful.mean() < 0.5
    np.testing.assert_array_equal(np.asarray(out.source)[~doubtful], source[~doubtful])
    np.testing.assert_allclose(np.asarray(out.depth)[~doubtful], depth[~doubtful], rtol=1e-4)


def test_every_occupied_cell_has_a_winner_at_scale():
    """An element that set the minimum of its cell must be recognised afterwards, bit for bit."""
    rng = np.random.default_rng(0)
    mem = bank(rng.uniform([-4, -4, 1], [4, 4, 9], (20_000, 3)), channels=1)
    pose = np.eye(4)
    pose[:3, :3] = Rotation.from_euler("xyz", [3, 5, 7], degrees=True).as_matrix()
    poses = np.tile(pose, (3, 1, 1))
    poses[:, 0, 3] = 0, 0.3, 0.7
    out = read(mem, Camera(np.tile([30.0, 30, 32, 24], (3, 1)), poses, (48, 64)), grid=(24, 32))
    # Which cells are occupied, and how near, by numpy; the inner half of each cell is beyond doubt.
    local = (np.asarray(mem.xyz, np.float64) - poses[:, None, :3, 3]) @ pose[:3, :3]
    z = local[..., 2]
    uv = local[..., :2] / z[..., None] * 15 + [16, 12]
    inside = (z > 0.01) & (uv > 0.01).all(-1) & (uv[..., 0] < 31.99) & (uv[..., 1] < 23.99)
    certain = inside & (np.abs(uv - np.floor(uv) - 0.5) < 0.49).all(-1)
    column, row = np.floor(np.where(inside[..., None], uv, 0)).astype(int).transpose(2, 0, 1)
    view = np.broadcast_to(np.arange(3)[:, None], z.shape)
    occupied = np.zeros((3, 24, 32), bool)
    occupied[view[certain], row[certain], column[certain]] = True
    assert occupied.mean() > 0.9
    source, depth = np.asarray(out.source), np.asarray(out.depth)
    assert (source >= 0)[occupied].all()
    assert (depth[view, row, column] <= z + 1e-4)[certain].all()
    seen = source >= 0
    winner_depth = np.take_along_axis(z, source.reshape(3, -1), 1).reshape(source.shape)
    np.testing.assert_allclose(winner_depth[seen], depth[seen], rtol=1e-5)


def front_camera(lead=()):
    k = np.array([16.0, 16.0, 16.0, 12.0])
    return Camera(np.broadcast_to(k, (*lead, 4)), np.broadcast_to(np.eye(4), (*lead, 4, 4)), SIZE)


def test_empty_memory_reads_as_nothing():
    out = read(memory.create(SLOTS, 2), front_camera())
    for leaf in (out.tokens, out.visible, out.depth, out.age):
        assert not np.asarray(leaf).any()
    assert (np.asarray(out.source) == -1).all()


def test_write_then_read_at_the_same_pose_returns_what_was_written():
    rng = np.random.default_rng(1)
    tokens = rng.normal(size=(1, *GRID, 2)).astype(np.float32)
    depth = rng.uniform(1, 5, (1, *GRID)).astype(np.float32)
    camera = Camera(np.array([[20.0, 21.0, 15.3, 11.1]]), np.eye(4)[None], SIZE)
    mem, _ = jax.jit(memory.write)(memory.create(SLOTS, 2), tokens, depth, camera)
    out = read(mem, camera)
    np.testing.assert_array_equal(out.tokens, tokens)
    np.testing.assert_allclose(out.depth, depth, rtol=1e-6)


def test_leading_dimensions_and_vmap_agree_with_single_reads():
    rng = np.random.default_rng(2)
    mems = [bank(rng.uniform([-2, -2, 0.5], [2, 2, 4], (SLOTS, 3))) for _ in range(2)]
    poses = np.tile(np.eye(4), (2, 3, 1, 1))
    poses[..., :3, 3] = rng.normal(size=(2, 3, 3)) * 0.5
    cameras = Camera(np.broadcast_to([16.0, 16, 16, 12], (2, 3, 4)), poses, SIZE)
    together = read(mems[0], cameras)
    stacked = jax.tree.map(lambda *x: jnp.stack(x), *mems)
    mapped = jax.jit(jax.vmap(lambda m, c: memory.read(m, c, GRID)))(stacked, cameras)
    assert together.tokens.shape == (2, 3, *GRID, 2)
    for i in range(2):
        for j in range(3):
            jax.tree.map(
                np.testing.assert_array_equal,
                jax.tree.map(lambda x, at=(i, j): x[at], together),
                read(mems[0], cameras[i, j]),
            )
        jax.tree.map(
            np.testing.assert_array_equal,
            jax.tree.map(lambda x, at=i: x[at], mapped),
            read(mems[i], cameras[i]),
        )


def test_gradient_reaches_exactly_the_tokens_that_are_seen():
    mem = bank([[0, 0, 2], [0, 0, 1], [0, 0, -1], [50, 0, 1]])
    weights = np.random.default_rng(3).normal(size=(*GRID, 2)).astype(np.float32)

    def loss(tokens):
        return (read(mem.replace(tokens=tokens), front_camera()).tokens * weights).sum()

    gradient = np.asarray(jax.grad(loss)(mem.tokens))
    source = np.asarray(read(mem, front_camera()).source)
    expected = np.zeros_like(gradient)
    for i, j in zip(*np.nonzero(source >= 0), strict=True):
        expected[source[i, j]] += weights[i, j]
    assert (source == 1).sum() == 1 and np.abs(expected).sum() > 0
    np.testing.assert_array_equal(gradient, expected)


def test_age_counts_from_the_newest_element_or_the_given_time():
    mem = bank([[0, 0, 2], [1, 0, 2]], time=[3.0, 7.0])
    ages = np.asarray(read(mem, front_camera()).age)
    source = np.asarray(read(mem, front_camera()).source)
    assert ages[source == 0] == 4 and ages[source == 1] == 0 and not ages[source == -1].any()
    cameras = front_camera((2,))
    later = np.asarray(read(mem, cameras, time=np.array([7.0, 10.0])).age)
    assert later[0][source == 0] == 4 and later[1][source == 0] == 7


def mismatch_by_trigonometry(point, origin, centre):
    now, then = point - centre, point - origin
    cosine = now @ then / np.linalg.norm(now) / np.linalg.norm(then)
    return np.arccos(np.clip(cosine, -1, 1)) + abs(
        np.log(np.linalg.norm(now) / np.linalg.norm(then))
    )


@settings(max_examples=20, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_best_view_is_the_least_mismatch_on_the_nearest_surface(seed):
    rng = np.random.default_rng(seed)
    xyz = rng.uniform([-1.5, -1.5, 2.0], [1.5, 1.5, 2.4], (60, 3))
    origin = rng.normal(size=(60, 3)) * [1, 1, 0.3]
    mem = bank(xyz, origin=origin)
    out = read(mem, front_camera(), prefer="best_view")
    source, depth, _ = brute_force(mem, np.array([16.0, 16, 16, 12]), np.eye(4), GRID, SIZE)
    np.testing.assert_array_equal(np.asarray(out.visible) > 0, source >= 0)
    u, v = 16 * 4 / 32 * xyz[:, 0] / xyz[:, 2] + 2, 16 * 3 / 24 * xyz[:, 1] / xyz[:, 2] + 1.5
    for i, j in zip(*np.nonzero(source >= 0), strict=True):
        in_cell = (np.floor(u) == j) & (np.floor(v) == i) & (xyz[:, 2] <= depth[i, j] * 1.0499)
        values = [mismatch_by_trigonometry(xyz[n], origin[n], 0) for n in np.nonzero(in_cell)[0]]
        chosen = int(out.source[i, j])
        assert xyz[chosen, 2] <= depth[i, j] * 1.0501
        assert mismatch_by_trigonometry(xyz[chosen], origin[chosen], 0) <= min(values) + 1e-4
        assert float(out.depth[i, j]) == pytest.approx(xyz[chosen, 2], rel=1e-5)


def test_best_view_breaks_ties_by_lowest_slot_and_keeps_to_the_surface():
    same = [[0.1, 0.1, 2.0]] * 3
    mem = bank([*same, [0.1, 0.1, 1.0]], origin=[[1, 0, 0], [0, 1e-3, 0], [0, 1e-3, 0], [3, 0, 0]])
    out = read(mem, front_camera(), prefer="best_view")
    # Nearer by far is another surface, whatever its view.
    assert set(np.unique(out.source)) == {-1, 3}
    without = mem.replace(valid=mem.valid.at[3].set(False))
    out = read(without, front_camera(), prefer="best_view")
    assert set(np.unique(out.source)) == {-1, 1}


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**31 - 1))
def test_footprint_equals_splatting_every_element(seed):
    rng = np.random.default_rng(seed)
    xyz = np.column_stack([rng.uniform(-3, 3, (30, 2)), rng.choice([1.0, 2.0, 4.0], 30)])
    mem, grid = bank(xyz), (6, 8)
    out = read(mem, front_camera(), grid=grid, footprint=3)
    xyz = np.asarray(mem.xyz)[:30]
    column = np.floor(np.float32(4) * xyz[:, 0] / xyz[:, 2] + np.float32(4))
    row = np.floor(np.float32(4) * xyz[:, 1] / xyz[:, 2] + np.float32(3))
    best = np.full(grid, -1)
    for i in range(6):
        for j in range(8):
            hit = [
                (xyz[n, 2], n)
                for n in range(30)
                if 0 <= row[n] < 6
                and 0 <= column[n] < 8
                and abs(row[n] - i) <= 1
                and abs(column[n] - j) <= 1
            ]
            best[i, j] = min(hit)[1] if hit else -1
    np.testing.assert_array_equal(out.source, best)


def test_bad_options():
    mem = memory.create(4, 1)
    with pytest.raises(ValueError, match="footprint=2"):
        memory.read(mem, front_camera(), GRID, footprint=2)
