import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax import memory, trajectories
from mirage_jax.geometry import Camera
from mirage_jax.world.conditioners import RAY_CHANNELS, Folded, camera_rays

SIZE = (16, 24)
GRID = (2, 3)
INTRINSICS = np.array([14.0, 13.0, 12.5, 7.5])
C = 2

EXTRAS = 3  # visibility, confidence, inverse depth

camera_rays = jax.jit(camera_rays, static_argnames="grid")
call = jax.jit(Folded.__call__, static_argnums=0)


def memory_context(bank, camera, **options):
    return call(folded(**options), bank, camera)


def folded(**options):
    return Folded(C, SIZE[0] // GRID[0], **options)


def cameras(poses):
    intrinsics = np.tile(INTRINSICS, (len(poses), 1)).astype(np.float32)
    return Camera(jnp.asarray(intrinsics), jnp.asarray(poses, jnp.float32), SIZE)


def path(frames=5, **options):
    start = trajectories.make("pan_right", 2, angle=30)[-1]
    start[:3, 3] = 1, -2, 3
    return trajectories.make("look_and_walk", frames, start=start, **options)


def bank_of(points, tokens, confidence, capacity=6):
    count = len(points)
    bank = memory.create(capacity, C)
    return bank.replace(
        xyz=bank.xyz.at[:count].set(jnp.asarray(points, jnp.float32)),
        tokens=bank.tokens.at[:count].set(jnp.asarray(tokens, jnp.float32)),
        valid=bank.valid.at[:count].set(True),
        confidence=bank.confidence.at[:count].set(jnp.asarray(confidence, jnp.float32)),
        count=jnp.int32(count),
    )


def seen_at(point, pose, grid):
    """Row and column of the cell of `grid` that a point projects into, and its depth; or None."""
    x, y, z = np.linalg.inv(pose) @ [*point, 1.0] @ np.eye(4, 3)
    if z <= 0:
        return None
    fx, fy, cx, cy = INTRINSICS
    column = np.floor((fx * x / z + cx) / SIZE[1] * grid[1])
    row = np.floor((fy * y / z + cy) / SIZE[0] * grid[0])
    inside = 0 <= row < grid[0] and 0 <= column < grid[1]
    return (int(row), int(column), z) if inside else None


@pytest.mark.parametrize(("reads", "fine"), [(1, 1), (2, 2), (4, 2)])
def test_one_element_is_where_projection_by_hand_puts_it(reads, fine):
    """Every other number is zero: nothing is shown where nothing is known."""
    poses = path(9, angle=100, distance=1.0)
    point = (poses[0] @ [0.35, -0.2, 2.2, 1])[:3]
    token, confidence = np.array([3.0, -5.0]), 0.7
    bank = bank_of([point], [token], [confidence])
    context = memory_context(bank, cameras(poses), reads=reads, fine=fine)

    channels = C + EXTRAS
    expected = np.zeros((3, *GRID, reads, fine, fine, channels))
    frames = {1: [[0], [4], [8]], 2: [[0, 0], [2, 4], [6, 8]]}
    frames[4] = [[0] * 4, [1, 2, 3, 4], [5, 6, 7, 8]]
    found = 0
    for latent, covered in enumerate(frames[reads]):
        for read, frame in enumerate(covered):
            cell = seen_at(point, poses[frame], (GRID[0] * fine, GRID[1] * fine))
            if cell is None:
                continue
            found += 1
            row, column, depth = cell
            place = (latent, row // fine, column // fine, read, row % fine, column % fine)
            expected[place] = [*token, 1.0, confidence, 1 / depth]
    assert 0 < found < 3 * reads  # the path looks away and comes back
    assert context.shape[-1] == folded(reads=reads, fine=fine).channels
    np.testing.assert_allclose(context, expected.reshape(context.shape), atol=1e-5)


def test_the_nearer_element_hides_the_other_with_its_confidence():
    points = np.array([[0.2, 0.1, 4.0], [0.1, 0.05, 2.0]])
    bank = bank_of(points, [[1, 1], [2, 2]], [0.9, 0.4])
    hold = np.tile(np.eye(4), (1, 1, 1))
    context = np.asarray(memory_context(bank, cameras(hold), reads=1, fine=1))
    shown = context[0][context[0, ..., C] > 0]
    np.testing.assert_allclose(shown, [[2, 2, 1, 0.4, 0.5]], rtol=1e-6)


def test_holes_show_what_falls_beside_them_in_channels_of_their_own():
    """Against a search over all elements around each empty cell."""
    rng = np.random.default_rng(0)
    depth = rng.uniform(2.0, 4.0, 5)
    points = np.stack([*rng.uniform(-0.5, 0.5, (2, 5)) * depth, depth], axis=1)
    tokens, confidences = rng.normal(size=(5, C)), rng.uniform(0.2, 1.0, 5)
    bank = bank_of(points, tokens, confidences)
    fine, pose = 2, np.eye(4)
    context = memory_context(bank, cameras(pose[None]), reads=1, fine=fine, footprint=3)
    assert context.shape[-1] == folded(reads=1, fine=fine, footprint=3).channels

    grid = GRID[0] * fine, GRID[1] * fine
    cells = {n: seen_at(point, pose, grid) for n, point in enumerate(points)}
    expected = np.zeros((*grid, 2 * C + EXTRAS + 1))
    kinds = {"own": 0, "beside": 0, "empty": 0}
    for row in range(grid[0]):
        for column in range(grid[1]):
            near = [
                (cell[2], n, cell[:2] == (row, column))
                for n, cell in cells.items()
                if cell and max(abs(cell[0] - row), abs(cell[1] - column)) <= 1
            ]
            own = [entry for entry in near if entry[2]]
            kinds["own" if own else "beside" if near else "empty"] += 1
            if not near:
                continue
            z, n, _ = min(own or near)
            parts = (tokens[n], np.zeros(C)) if own else (np.zeros(C), tokens[n])
            flags = [float(bool(own)), confidences[n], 1 / z, float(not own)]
            expected[row, column] = [*parts[0], *parts[1], *flags]
    assert all(kinds.values())
    in_cells = expected.reshape(GRID[0], fine, GRID[1], fine, -1).transpose(0, 2, 1, 3, 4)
    np.testing.assert_allclose(context[0], in_cells.reshape(*GRID, -1), atol=1e-5)


def test_an_element_at_the_lens_does_not_blow_up_inverse_depth():
    bank = bank_of([[0.0, 0.0, 0.004]], [[1, 1]], [1.0])
    context = memory_context(bank, cameras(np.eye(4)[None]), reads=1, fine=1)
    assert np.asarray(context).max() == pytest.approx(10.0)


def test_an_empty_memory_shows_nothing_whatever_lies_in_its_free_slots():
    poses = path()
    bank = bank_of(np.tile([1.0, -2, 5], (6, 1)), np.full((6, C), 7.0), np.ones(6))
    emptied = bank.replace(valid=jnp.zeros(6, bool))
    for empty in (emptied, memory.create(6, C)):
        assert not np.asarray(memory_context(empty, cameras(poses))).any()


def test_rays_are_pluecker_coordinates_of_the_relative_poses():
    poses = path()
    rays = camera_rays(cameras(poses), GRID)
    assert rays.shape == (2, *GRID, RAY_CHANNELS)
    fx, fy, cx, cy = INTRINSICS
    for latent, covered in enumerate([[0] * 4, [1, 2, 3, 4]]):
        for read, frame in enumerate(covered):
            relative = np.linalg.inv(poses[0]) @ poses[frame]
            for row in range(GRID[0]):
                for column in range(GRID[1]):
                    u, v = (column + 0.5) * 8, (row + 0.5) * 8
                    direction = relative[:3, :3] @ [(u - cx) / fx, (v - cy) / fy, 1]
                    direction /= np.linalg.norm(direction)
                    moment = np.cross(relative[:3, 3], direction)
                    np.testing.assert_allclose(
                        rays[latent, row, column, 6 * read : 6 * read + 6],
                        [*direction, *moment],
                        atol=2e-6,
                    )


def test_rays_and_context_do_not_depend_on_where_the_world_begins():
    poses, moved = path(), np.linalg.inv(path(3, angle=70)[1])
    points = (poses[0] @ np.array([[0.4, 0.1, 2, 1], [-0.5, 0.2, 3, 1]]).T).T
    tokens = [[1, 2], [3, 4]]
    here = bank_of(points[:, :3], tokens, [1, 1])
    there = bank_of((points @ moved.T)[:, :3], tokens, [1, 1])
    np.testing.assert_allclose(
        camera_rays(cameras(poses), GRID),
        camera_rays(cameras(moved @ poses), GRID),
        atol=5e-6,
    )
    context = memory_context(here, cameras(poses))
    assert np.asarray(context).any()
    np.testing.assert_allclose(context, memory_context(there, cameras(moved @ poses)), atol=1e-5)
