import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax import memory
from mirage_jax.geometry import Camera
from mirage_jax.memory import rgb_cloud

SIZE = (12, 16)


def picture_of_a_wall(seed=0):
    video = np.random.default_rng(seed).integers(0, 256, (1, *SIZE, 3), np.uint8)
    camera = Camera(np.array([[16.0, 16, 8, 6]]), np.eye(4)[None], SIZE)
    return video, np.full((1, *SIZE), 2.0, np.float32), camera


write = jax.jit(rgb_cloud.write)
read = jax.jit(rgb_cloud.read, static_argnames=("grid", "prefer", "footprint"))


def test_rendering_at_the_written_pose_returns_the_picture():
    video, depth, camera = picture_of_a_wall()
    mem, report = write(rgb_cloud.create(200), video, depth, camera)
    assert int(report.written) == 192
    out = read(mem, camera, SIZE, footprint=1)
    assert np.asarray(out.visible).all()
    np.testing.assert_allclose(out.tokens, video / 127.5 - 1, atol=1e-6)


def test_points_keep_no_tangents():
    video, depth, camera = picture_of_a_wall()
    mem, _ = write(rgb_cloud.create(200), video, depth, camera)
    assert mem.tangents.shape == (200, 0, 3)
    assert memory.nbytes(mem) == 192 * (3 * 4 + 3 + 1 + 4 + 4 + 4 + 3 * 4 + 4 + 4 + 4 + 1)


def test_a_sideways_step_moves_the_picture_by_whole_pixels():
    video, depth, camera = picture_of_a_wall(1)
    mem, _ = write(rgb_cloud.create(192), video, depth, camera)
    moved = camera.replace(cam2world=camera.cam2world.copy())
    moved.cam2world[0, 0, 3] = 0.5  # 0.5 m at 2 m and focal length 16: four pixels
    out = read(mem, moved, SIZE, footprint=1)
    np.testing.assert_allclose(out.tokens[0, :, :12], video[0, :, 4:] / 127.5 - 1, atol=1e-6)
    for field in (out.visible, out.tokens, out.depth, out.age):
        assert not np.asarray(field)[0, :, 12:].any()
    assert (np.asarray(out.source)[0, :, 12:] == -1).all()


def test_footprint_closes_the_holes_of_moving_closer():
    video, depth, camera = picture_of_a_wall(2)
    mem, _ = write(rgb_cloud.create(192), video, depth, camera)
    closer = camera.replace(cam2world=camera.cam2world.copy())
    closer.cam2world[0, 2, 3] = 1.0
    assert np.asarray(read(mem, closer, SIZE, footprint=1).visible).mean() < 0.5
    out = read(mem, closer, SIZE, footprint=3)
    assert np.asarray(out.visible).all()
    np.testing.assert_allclose(out.depth, 1.0, rtol=1e-6)


@pytest.mark.parametrize("prefer", ["nearest", "best_view"])
def test_a_cloud_is_called_as_the_memory_is(prefer):
    """With the same values in both, whole pixels and no splats, they show the same."""
    video, depth, camera = picture_of_a_wall(3)
    depth = depth + np.linspace(0, 3, depth.size, dtype=np.float32).reshape(depth.shape)
    views = Camera(np.tile(camera.intrinsics, (2, 1)), np.stack([np.eye(4)] * 2), SIZE)
    views.cam2world[1, :3, 3] = 0.3, 0.1, 0.2
    options = {"static": np.ones((1, *SIZE)), "times": np.array([7.0], np.float32)}
    options["confidence"] = np.random.default_rng(0).uniform(size=depth.shape).astype(np.float32)
    outs = []
    for module in (memory, rgb_cloud):
        values = video / np.float32(127.5) - 1
        mem = module.create(192, 3, jnp.float32)
        mem, report = jax.jit(module.write)(mem, values, depth, camera, **options)
        assert int(report.written) == 192
        np.testing.assert_array_equal(mem.confidence, options["confidence"].ravel())
        look = jax.jit(module.read, static_argnames=("grid", "prefer", "footprint"))
        outs.append(look(mem, views, grid=SIZE, time=9.0, prefer=prefer, footprint=1))
    jax.tree.map(np.testing.assert_array_equal, *outs)
    assert set(np.unique(outs[1].age)) == {0.0, 2.0}


def test_pictures_of_another_dtype_are_refused():
    video, depth, camera = picture_of_a_wall()
    with pytest.raises(ValueError, match="found float32 pictures, expected uint8"):
        rgb_cloud.write(rgb_cloud.create(192), video.astype(np.float32), depth, camera)


def test_of_the_points_of_a_voxel_the_newest_stays():
    video, depth, camera = picture_of_a_wall(2)
    cloud, _ = write(rgb_cloud.create(400), video, depth, camera)
    newer = np.random.default_rng(3).integers(0, 256, video.shape, np.uint8)
    cloud, _ = write(cloud, newer, depth, camera)
    # Pixels of the wall are an eighth of a metre apart: cubes of that size, off their borders, hold
    # one each, and of both pictures the second; cubes twice as wide hold four.
    xyz = np.asarray(cloud.xyz[:384], np.float64)
    edge = np.float64(0.125)
    one = rgb_cloud.merged(cloud, edge)
    cubes = {tuple(cube) for cube in np.floor(xyz / edge).astype(int)}
    assert int(one.count) == len(cubes) and np.asarray(one.valid).sum() == len(cubes)
    assert {
        tuple(c) for c in np.floor(np.asarray(one.xyz[: one.count]) / edge).astype(int)
    } == cubes
    latest = {
        tuple(point): colour for point, colour in zip(xyz[192:], newer.reshape(-1, 3), strict=True)
    }
    kept = np.asarray(one.xyz, np.float64)[: one.count], np.asarray(one.tokens)[: one.count]
    for point, colour in zip(*kept, strict=True):
        np.testing.assert_array_equal(latest[tuple(point)], colour)
    assert int(rgb_cloud.merged(cloud, 2 * edge).count) < len(cubes) / 3
    with pytest.raises(ValueError, match=r"voxel: found 0\.0, expected metres"):
        rgb_cloud.merged(cloud, 0.0)
