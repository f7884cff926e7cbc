import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax import memory
from mirage_jax.geometry import Camera
from mirage_jax.memory import surfels

SIZE, GRID, SIDE = (16, 24), (4, 6), 4
BLOCK = 4  # pixels of a block of the grid, and of a cell that surfels are written from
FOCAL = 20.0
INTRINSICS = (FOCAL, FOCAL, 12.0, 8.0)


def camera_at(*places):
    poses = np.tile(np.eye(4, dtype=np.float32), (len(places), 1, 1))
    poses[:, :3, 3] = places
    return Camera(np.tile(np.float32(INTRINSICS), (len(places), 1)), poses, SIZE)


def written(picture, depth, bank=None):
    """A memory of a picture seen from the origin, and the small pictures of its elements."""
    cells = picture.reshape(GRID[0], BLOCK, GRID[1], BLOCK, -1).transpose(0, 2, 1, 3, 4)
    flat = cells.reshape(1, *GRID, -1)
    bank = memory.create(96, flat.shape[-1]) if bank is None else bank
    return memory.write(bank, flat, np.broadcast_to(depth, (1, *GRID)), camera_at((0, 0, 0)))[0]


@jax.jit
def drawn(bank, camera):
    source = memory.read(bank, camera, GRID).source
    pictures = bank.tokens.reshape(-1, BLOCK, BLOCK, bank.channels // BLOCK**2)
    return surfels.render(bank, pictures, camera, source)


def noise(seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (*SIZE, 3)).astype(np.float32)


@pytest.mark.parametrize(("columns", "rows"), [(0, 0), (2, 0), (-2, 2), (4, -6)])
def test_a_wall_seen_from_beside_is_the_picture_moved(columns, rows):
    """By as many pixels as the parts that take an element each are wide, or a multiple.

    But for the border: elements whose centres lie outside the view are not seen.
    """
    picture, depth = noise(), 2.5
    place = (columns * depth / FOCAL, rows * depth / FOCAL, 0.0)
    found, found_depth = drawn(written(picture, depth), camera_at(place))
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    y, x = y + rows, x + columns
    inside = (y >= 0) & (y < SIZE[0]) & (x >= 0) & (x < SIZE[1])
    inside[:2] = inside[-2:] = inside[:, :2] = inside[:, -2:] = False
    expected = picture[np.clip(y, 0, SIZE[0] - 1), np.clip(x, 0, SIZE[1] - 1)]
    np.testing.assert_allclose(found[0][inside], expected[inside], atol=1e-4)
    shown = np.repeat(np.repeat(found_depth[0] > 0, 2, axis=0), 2, axis=1)
    assert shown[inside].all() and not np.any(np.asarray(found[0])[~shown])
    np.testing.assert_allclose(found_depth[found_depth > 0], depth, rtol=1e-6)


def test_a_wall_seen_from_half_the_distance_is_twice_as_large():
    """Away from the borders of the small pictures, where half a pixel has no second neighbour.

    Four pixels at the border are of elements whose centres may lie outside the view.
    """
    picture, depth = noise(), 3.0
    found = np.asarray(drawn(written(picture, depth), camera_at((0, 0, depth / 2)))[0])[0]
    for y in range(4, SIZE[0] - 4):
        for x in range(4, SIZE[1] - 4):
            row, column = (y + 0.5 - 8) / 2 + 8 - 0.5, (x + 0.5 - 12) / 2 + 12 - 0.5
            top, left = int(np.floor(row)), int(np.floor(column))
            if top % BLOCK == BLOCK - 1 or left % BLOCK == BLOCK - 1:
                continue
            below, right = row - top, column - left
            above = (1 - right) * picture[top, left] + right * picture[top, left + 1]
            under = (1 - right) * picture[top + 1, left] + right * picture[top + 1, left + 1]
            expected = (1 - below) * above + below * under
            np.testing.assert_allclose(found[y, x], expected, atol=1e-4)


def test_a_slanted_wall_is_foreshortened_as_it_is_from_another_pose():
    """A smooth pattern on a plane against what surfels show of it, which is several times as far
    off where they are not turned. Their pictures are fine, so that their borders do not matter."""
    normal, distance, fine = np.array([0.6, 0.0, 0.8]), 1.5, 4

    def pattern(camera, fine=1):
        y, x = (np.mgrid[: SIZE[0] * fine, : SIZE[1] * fine] + 0.5) / fine
        rays = np.stack([(x - 12) / FOCAL, (y - 8) / FOCAL, np.ones_like(x)], -1)
        place = camera.cam2world[0, :3, 3]
        depth = (distance - normal @ place) / (rays @ normal)
        at = place + depth[..., None] * rays
        return np.sin(at[..., :1]) + np.cos(at[..., 1:2]), depth

    picture, _ = pattern(camera_at((0, 0, 0)), fine)
    side = BLOCK * fine
    pictures = picture.reshape(GRID[0], side, GRID[1], side, 1).swapaxes(1, 2)
    centres = 1 / np.mean(1 / pattern(camera_at((0, 0, 0)))[1].reshape(4, 4, 6, 4), axis=(1, 3))
    bank = written(np.zeros((*SIZE, 1), np.float32), np.float32(centres))
    there = camera_at((0.5, -0.3, 0.6))
    source = memory.read(bank, there, GRID).source

    def error(bank):
        flat = pictures.reshape(24, side, side, 1).astype(np.float32)
        flat = np.pad(flat, ((0, bank.capacity - 24), *[(0, 0)] * 3))
        found, depth = surfels.render(bank, flat, there, source)
        shown = np.repeat(np.repeat(depth[0] > 0, 2, axis=0), 2, axis=1)
        assert shown.mean() > 0.6
        return np.sqrt(np.mean((np.asarray(found[0]) - pattern(there)[0])[shown] ** 2))

    upright = error(bank.replace(tangents=jnp.zeros_like(bank.tangents)))
    assert error(bank) < 0.01 and upright > 3 * error(bank)


def test_what_is_in_front_hides_what_is_behind_and_moves_further():
    far, near = noise(0), noise(1)
    bank = written(far, 4.0)
    in_front = np.zeros((1, *GRID), np.float32)
    in_front[0, :, 2:4] = 2.0  # columns 8 to 15 of the picture
    bank = written(near, in_front, bank)
    found, depth = drawn(bank, camera_at((0, 0, 0), (4 * 2.0 / FOCAL, 0, 0)))
    expected = far.copy()
    expected[:, 8:16] = near[:, 8:16]
    # Surfels overlap: what is in front may cover a pixel or two more.
    for columns in (slice(0, 6), slice(8, 16), slice(18, 24)):
        np.testing.assert_allclose(found[0][:, columns], expected[:, columns], atol=1e-4)
    # Four pixels to the left in front, two behind.
    np.testing.assert_allclose(found[1][:, 4:12], near[:, 8:16], atol=1e-4)
    np.testing.assert_allclose(found[1][:, 14:22], far[:, 16:24], atol=1e-4)
    np.testing.assert_array_equal(depth[1][:, 2:6], 2.0)


def by_definition(bank, pictures, camera, source):
    """`surfels.render`, pixel by pixel, for blocks of four pixels in parts of two."""
    xyz, size, tangents = (np.float64(x) for x in (bank.xyz, bank.size, bank.tangents))
    found = np.zeros((len(source), *SIZE, pictures.shape[-1]))
    depth = np.zeros((len(source), 8, 12))

    def seen(pose, slot):
        """Centre, widths of the picture per pixel, and depth per width, of an element."""
        turn = pose[:3, :3].T

        def pixel(point):
            x, y, z = turn @ (point - pose[:3, 3])
            return np.array([FOCAL * x / z + INTRINSICS[2], FOCAL * y / z + INTRINSICS[3]]), z

        centre, z = pixel(xyz[slot])
        if not tangents[slot].any():
            return (
                centre,
                z,
                np.eye(2) / (size[slot] * FOCAL / z if size[slot] > 0 else BLOCK),
                [0, 0],
            )
        step = 1e-6
        ways = [(pixel(xyz[slot] + step * t)[0] - centre) / step for t in tangents[slot]]
        jacobian = np.stack(ways, axis=1)
        if abs(np.linalg.det(jacobian)) < surfels.LEAST_AREA:
            return None
        return centre, z, np.linalg.inv(jacobian), [(turn @ t)[2] for t in tangents[slot]]

    for view, row, column in np.ndindex(len(source), *SIZE):
        pose = np.float64(camera.cam2world[view])
        part = column // 2 * 2 + 1, row // 2 * 2 + 1  # its centre
        block, covering = (row // BLOCK, column // BLOCK), {}
        for i in range(block[0] - 1, block[0] + 2):
            for j in range(block[1] - 1, block[1] + 2):
                inside = 0 <= i < GRID[0] and 0 <= j < GRID[1]
                slot = int(source[view, i, j]) if inside else -1
                element = seen(pose, slot) if slot >= 0 else None
                if element is None:
                    continue
                centre, z, widths, slope = element
                place = widths @ (part - centre)
                there = z + place @ slope
                if np.abs(place).max() <= surfels.COVERED and there > 1e-3:
                    covering[slot] = (np.abs(place).max(), there, centre, widths)
        if not covering:
            continue
        front = min(there for _, there, *_ in covering.values())
        slot = min(
            (s for s, c in covering.items() if c[1] <= front * (1 + surfels.SAME_SURFACE)),
            key=lambda s: covering[s][0],
        )
        _, there, centre, widths = covering[slot]
        at = (widths @ (np.array([column + 0.5, row + 0.5]) - centre) + 0.5) * SIDE - 0.5
        x, y = np.clip(at, 0, SIDE - 1)
        for i, j in np.ndindex(SIDE, SIDE):
            weight = max(1 - abs(y - i), 0) * max(1 - abs(x - j), 0)
            found[view, row, column] += weight * pictures[slot, i, j]
        depth[view, row // 2, column // 2] = there
    return found, depth


def test_every_pixel_is_what_the_definition_says():
    rng, count = np.random.default_rng(3), 40
    bank = memory.create(48, 1)
    place = np.stack([rng.uniform(-2, 2, 48), rng.uniform(-1.5, 1.5, 48), rng.uniform(1, 4, 48)], 1)
    span = rng.uniform(0.1, 0.9, 48) * (rng.random(48) < 0.8)
    turned = rng.uniform(-0.7, 0.7, (48, 2, 3)) * (rng.random((48, 1, 1)) < 0.7)
    bank = bank.replace(
        xyz=jnp.asarray(place, jnp.float32),
        size=jnp.asarray(span, jnp.float32),
        tangents=jnp.asarray(turned, jnp.float32),
        valid=jnp.arange(48) < count,
    )
    pictures = rng.normal(size=(48, SIDE, SIDE, 2)).astype(np.float32)
    camera = camera_at((0, 0, 0), (0.3, -0.2, 0.5))
    source = np.asarray(memory.read(bank, camera, GRID).source)
    found, depth = jax.jit(surfels.render)(bank, pictures, camera, source)
    expected, expected_depth = by_definition(bank, pictures, camera, source)
    assert 0.2 < np.mean(expected_depth > 0) < 0.9
    np.testing.assert_allclose(depth, expected_depth, rtol=1e-5)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    of_blocks = jax.jit(surfels.render)(bank, pictures[np.maximum(source, 0)], camera, source)
    np.testing.assert_array_equal(of_blocks[1], depth)
    np.testing.assert_allclose(of_blocks[0], found, atol=1e-5)  # of another program


def test_a_view_that_parts_do_not_divide_is_refused():
    bank = memory.create(4, 1)
    source = -np.ones((1, 5, 6), np.int32)
    message = r"found \(10, 12\) parts, expected divisors of \(16, 24\)"
    with pytest.raises(ValueError, match=message):
        surfels.render(bank, np.zeros((4, 2, 2, 1), np.float32), camera_at((0, 0, 0)), source)
