import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from mirage_jax import geometry
from mirage_jax.geometry import Camera


def random_poses(seed, count):
    poses = np.tile(np.eye(4), (count, 1, 1))
    poses[:, :3, :3] = Rotation.random(count, random_state=seed).as_matrix()
    poses[:, :3, 3] = np.random.default_rng(seed).normal(size=(count, 3))
    return poses


def cameras(seed=0, count=3, size=(48, 64)):
    rng = np.random.default_rng(seed)
    intrinsics = rng.uniform([50, 60, 25, 20], [70, 80, 35, 28], (count, 4))
    return Camera(intrinsics, random_poses(seed, count), size)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 2**31 - 1), st.sampled_from([(48, 64), (12, 16), (6, 4)]))
def test_project_inverts_lift_at_cell_centres(seed, grid):
    camera = cameras(seed)
    depth = np.random.default_rng(seed).uniform(0.5, 9, (3, *grid)).astype(np.float32)
    uv, z = jax.jit(geometry.project)(jax.jit(geometry.lift)(depth, camera), camera)
    rows, columns = np.meshgrid(*(np.arange(n) + 0.5 for n in grid), indexing="ij")
    expected = np.stack([columns * 64 / grid[1], rows * 48 / grid[0]], -1)
    np.testing.assert_allclose(uv, np.broadcast_to(expected, uv.shape), atol=2e-3)
    np.testing.assert_allclose(z, depth, rtol=1e-5)


def test_project_matches_the_textbook_matrices():
    camera = cameras(1, 2)
    points = np.random.default_rng(2).normal(size=(1, 40, 3)) * 3
    uv, z = geometry.project(points.astype(np.float32), camera)
    for i in range(2):
        fx, fy, cx, cy = camera.intrinsics[i]
        k = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]])
        homogeneous = np.concatenate([points[0], np.ones((40, 1))], 1)
        image = k @ (np.linalg.inv(camera.cam2world[i]) @ homogeneous.T)[:3]
        front = np.abs(image[2]) > 0.3
        np.testing.assert_allclose(z[i], image[2], atol=1e-5)
        np.testing.assert_allclose(uv[i][front], (image[:2] / image[2]).T[front], rtol=1e-3)


def test_hand_computed_pixel():
    camera = Camera(np.array([100.0, 100, 50, 40]), np.eye(4), (80, 100))
    uv, z = geometry.project(np.array([0.5, -0.25, 2.0], np.float32), camera)
    np.testing.assert_allclose(uv, [75.0, 27.5])
    assert float(z) == 2.0


def test_poses_against_linear_algebra():
    a, b = random_poses(0, 5), random_poses(1, 5)
    np.testing.assert_allclose(geometry.invert_pose(a), np.linalg.inv(a), atol=1e-12)
    np.testing.assert_allclose(geometry.relative_pose(a, b), np.linalg.inv(a) @ b, atol=1e-12)
    assert geometry.relative_pose(a, b).dtype == np.float64
    one_to_many = geometry.relative_pose(jnp.asarray(a[0]), jnp.asarray(b))
    np.testing.assert_allclose(one_to_many, np.linalg.inv(a[0]) @ b, atol=1e-5)
    expected = np.rad2deg(
        (Rotation.from_matrix(a[:, :3, :3]).inv() * Rotation.from_matrix(b[:, :3, :3])).magnitude()
    )
    np.testing.assert_allclose(geometry.pose_angle_deg(a, b), expected, atol=1e-9)
    np.testing.assert_allclose(
        geometry.pose_distance(a, b), np.linalg.norm(a[:, :3, 3] - b[:, :3, 3], axis=1)
    )


@pytest.mark.parametrize("degrees", [0.0, 1e-5, 90.0, 180.0])
def test_pose_angle_at_its_ends(degrees):
    b = np.eye(4)
    b[:3, :3] = Rotation.from_euler("y", degrees, degrees=True).as_matrix()
    assert float(geometry.pose_angle_deg(np.eye(4), b)) == pytest.approx(degrees, abs=1e-9)


def test_pluecker_rays_meet_the_lifted_points():
    camera = cameras(3)
    rays = np.asarray(geometry.pluecker_rays(camera, (6, 8)))
    points = np.asarray(geometry.lift(np.full((3, 6, 8), 2.5, np.float32), camera))
    direction, moment = rays[..., :3], rays[..., 3:]
    np.testing.assert_allclose(np.linalg.norm(direction, axis=-1), 1, atol=1e-5)
    # A point lies on the line exactly if its own moment about the origin is the line's.
    np.testing.assert_allclose(np.cross(points, direction), moment, atol=1e-4)


def test_resize_and_crop_keep_each_world_point_on_its_picture_content():
    rng = np.random.default_rng(0)
    picture = rng.integers(0, 255, (48, 64, 3), np.uint8)
    camera = cameras()[0]
    cropped, crop = geometry.crop_picture(picture, camera, 5, 7, (32, 40))
    np.testing.assert_array_equal(cropped, picture[5:37, 7:47])
    points = np.array([[0.1, 0.2, 3.0]], np.float32) + camera.centre.astype(np.float32)
    full, _ = geometry.project(points, camera)
    cut, _ = geometry.project(points, crop)
    np.testing.assert_allclose(np.asarray(full) - [7, 5], cut, rtol=1e-5, atol=1e-4)
    resized, small = geometry.resize_picture(picture, camera, (12, 32))
    assert resized.shape == (12, 32, 3) and small.size == (12, 32)
    half, _ = geometry.project(points, small)
    np.testing.assert_allclose(np.asarray(full) * [0.5, 0.25], half, rtol=1e-5)
    with pytest.raises(ValueError, match="another resolution"):
        geometry.resize_picture(picture, small, (8, 8))
    with pytest.raises(ValueError, match="inside the picture"):
        geometry.crop_camera(camera, 20, 0, (32, 40))


def test_resizing_a_ramp_moves_content_as_the_intrinsics_say():
    ramp = np.broadcast_to(np.arange(64, dtype=np.uint8)[None, :, None] * 3, (48, 64, 3)).copy()
    small, _ = geometry.resize_picture(ramp, cameras()[0], (24, 32))
    expected = ((np.arange(32) + 0.5) * 2 - 0.5) * 3  # value at the same image coordinate
    np.testing.assert_allclose(small[10, 2:-2, 0], expected[2:-2], atol=1.0)


def test_camera_is_a_pytree_that_slices_and_maps():
    camera = cameras()
    assert camera.shape == (3,) and len(camera) == 3 and camera[1].shape == ()
    assert camera[None, 1:].shape == (1, 2) and camera[..., 0].shape == ()
    assert camera[...].cam2world.shape == (3, 4, 4)
    depth = np.ones((3, 4, 4), np.float32)
    mapped = jax.vmap(lambda d, c: geometry.lift(d, c))(depth, camera)
    np.testing.assert_allclose(mapped, geometry.lift(depth, camera), atol=1e-6)
    with pytest.raises(TypeError):
        len(camera[0])


def mirrored(poses):
    return poses * np.array([1, 1, -1, 1])


def sheared(poses):
    broken = poses.copy()
    broken[3, :3, 0] *= 1.01
    return broken


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda p: p[:, :3], r"path\.npz: found shape \(4, 3, 4\), expected \[\.\.\., 4, 4\]"),
        (lambda p: np.concatenate([p[:2], mirrored(p[2:])]), r"path\.npz\[2\].*right-handed"),
        (lambda p: sheared(p), r"path\.npz\[3\].*orthonormal"),
        (lambda p: np.where(np.arange(4)[:, None, None] == 1, np.nan, p), r"\[1\].*finite"),
        (lambda p: p.transpose(0, 2, 1), r"last row"),
        (lambda p: p.astype(str), r"dtype"),
    ],
)
def test_check_cam2world_names_index_and_expectation(break_it, message):
    poses = random_poses(4, 4)
    np.testing.assert_array_equal(geometry.check_cam2world(poses, "path.npz"), poses)
    with pytest.raises(ValueError, match=message):
        geometry.check_cam2world(break_it(poses), "path.npz")


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([60.0, 60, 32], "shape"),
        ([0.0, 60, 32, 32], "above 0"),
        ([60.0, np.nan, 32, 32], "finite"),
        ([0.9, 1.2, 0.5, 0.5], "normalised"),
    ],
)
def test_check_intrinsics(value, message):
    good = geometry.check_intrinsics([[60, 60, 32, 90]], (64, 64), "k")
    assert good.dtype == np.float64
    with pytest.raises(ValueError, match=message):
        geometry.check_intrinsics(value, (64, 64), "k")
