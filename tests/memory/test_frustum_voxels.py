"""Reference frames by overlap of voxels, against sets of Python."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial.transform import Rotation

from mirage_jax import memory
from mirage_jax.geometry import Camera
from mirage_jax.memory import frustum_voxels, released

RNG = np.random.default_rng(0)
XYZ = RNG.uniform([-3, -2, 1], [3, 2, 6], (200, 3)).astype(np.float32)
SIZE = (6, 8)
SIDE = 0.5
choose = jax.jit(frustum_voxels.choose, static_argnames=("count", "side", "threshold"))


def bank():
    mem = memory.create(230, 1)
    return mem.replace(
        xyz=mem.xyz.at[:200].set(XYZ),
        valid=mem.valid.at[:200].set(True),
        count=jnp.int32(200),
    )


def looking(shifts):
    poses = np.tile(np.eye(4, dtype=np.float32), (len(shifts), 1, 1))
    poses[:, 0, 3] = shifts
    return Camera(np.tile(np.float32([8, 8, 4, 3]), (len(shifts), 1)), poses, SIZE)


def voxels_seen(shift, count):
    x, y, z = (XYZ[:count] - np.float32([shift, 0, 0])).T
    u, v = 8 * x / z + 4, 8 * y / z + 3
    inside = (u >= 0) & (u < SIZE[1]) & (v >= 0) & (v < SIZE[0])
    return set(map(tuple, np.floor(XYZ[:count][inside] / SIDE).astype(int).tolist()))


def test_numbers_tell_voxels_apart():
    numbers = np.asarray(frustum_voxels.number_voxels(jnp.asarray(XYZ), SIDE))
    keys = list(map(tuple, np.floor(XYZ / SIDE).astype(int).tolist()))
    assert (
        len(set(numbers.tolist()))
        == len(set(keys))
        == len(set(zip(numbers.tolist(), keys, strict=True)))
    )
    assert numbers.min() >= 0 and numbers.max() < len(XYZ)


def test_overlap_counts_what_was_there_when_a_frame_was_stored():
    shifts, counts = [0.0, 1.0, 0.0, 5.0], [200, 200, 60, 200]
    target = voxels_seen(0.3, 200) | voxels_seen(-0.3, 200)
    expected = []
    for shift, count in zip(shifts, counts, strict=True):
        seen = voxels_seen(shift, count)
        expected.append(len(seen & target) / len(seen | target))
    found = frustum_voxels.overlaps(
        bank(), looking([0.3, -0.3]), looking(shifts), jnp.asarray(counts), side=SIDE
    )
    np.testing.assert_allclose(found, expected, rtol=1e-6)
    assert expected[0] > expected[1] > expected[3] and expected[0] > expected[2]


def test_the_greatest_overlaps_are_chosen_and_nothing_below_the_threshold():
    shifts, counts = [30.0, 0.0, 1.0, 0.0, 0.0], [200, 200, 200, 200, 0]
    args = bank(), looking([0.0]), looking(shifts), jnp.asarray(counts)
    slots, shares = choose(*args, count=4, side=SIDE, threshold=0.1)
    # Of equals the earlier, the free slot never.
    np.testing.assert_array_equal(slots, [1, 3, 2, -1])
    assert shares[0] == 1 and shares[3] == 0
    assert np.asarray(choose(*args, count=2, side=SIDE, threshold=0.1)[0]).tolist() == [1, 3]
    assert (np.asarray(choose(*args, count=9, side=SIDE, threshold=1.1)[0]) == -1).all()


def test_a_frame_covers_all_that_was_written_from_it():
    """Lifted through the corners of cells, the upper row and left column lie on its border."""
    grid, picture, frames = (5, 7), (40, 56), 24
    rotations = Rotation.random(frames, random_state=0).as_matrix()
    poses = np.tile(np.eye(4, dtype=np.float32), (frames, 1, 1))
    poses[:, :3, :3], poses[:, :3, 3] = rotations, RNG.normal(size=(frames, 3)) * 5
    lens = np.tile(np.float32([41.3, 39.7, 27.1, 21.9]), (frames, 1))
    camera = Camera(lens, poses, picture)
    depth = RNG.uniform(1, 9, (frames, *grid)).astype(np.float32)
    mem, _ = memory.write(
        memory.create(depth.size, 1),
        np.zeros((*depth.shape, 1), np.float32),
        depth,
        released.corner_camera(camera, grid),
    )
    seen = np.asarray(frustum_voxels.in_frustum(mem.xyz, mem.valid, camera))
    own = seen.reshape(frames, frames, -1)[np.arange(frames), np.arange(frames)]
    assert own.shape == (frames, 35) and own.all()
