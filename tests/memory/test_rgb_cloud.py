import jax
import numpy as np

from mirage_jax.geometry import Camera
from mirage_jax.memory import rgb_cloud

SIZE = (12, 16)


def picture_of_a_wall(seed=0):
    video = np.random.default_rng(seed).integers(0, 256, (1, *SIZE, 3), np.uint8)
    camera = Camera(np.array([[16.0, 16, 8, 6]]), np.eye(4)[None], SIZE)
    return video, np.full((1, *SIZE), 2.0, np.float32), camera


write = jax.jit(rgb_cloud.write)
read = jax.jit(rgb_cloud.read, static_argnames=("size", "footprint"))


def test_rendering_at_the_written_pose_returns_the_picture():
    video, depth, camera = picture_of_a_wall()
    mem, report = write(rgb_cloud.create(200), video, depth, camera)
    assert int(report.written) == 192
    rendered, visible = read(mem, camera, footprint=1)
    assert np.asarray(visible).all()
    np.testing.assert_allclose(rendered, video / 127.5 - 1, atol=1e-6)


def test_a_sideways_step_moves_the_picture_by_whole_pixels():
    video, depth, camera = picture_of_a_wall(1)
    mem, _ = write(rgb_cloud.create(192), video, depth, camera)
    moved = camera.replace(cam2world=camera.cam2world.copy())
    moved.cam2world[0, 0, 3] = 0.5  # 0.5 m at 2 m and focal length 16: four pixels
    rendered, visible = read(mem, moved, footprint=1)
    np.testing.assert_allclose(rendered[0, :, :12], video[0, :, 4:] / 127.5 - 1, atol=1e-6)
    assert not np.asarray(visible)[0, :, 12:].any() and not np.asarray(rendered)[0, :, 12:].any()


def test_footprint_closes_the_holes_of_moving_closer():
    video, depth, camera = picture_of_a_wall(2)
    mem, _ = write(rgb_cloud.create(192), video, depth, camera)
    closer = camera.replace(cam2world=camera.cam2world.copy())
    closer.cam2world[0, 2, 3] = 1.0
    assert np.asarray(read(mem, closer, footprint=1)[1]).mean() < 0.5
    assert np.asarray(read(mem, closer, footprint=3)[1]).all()
