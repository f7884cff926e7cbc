import jax
import jax.numpy as jnp
import numpy as np
from scipy.spatial.transform import Rotation

from helpers import surface as by_hand
from mirage_jax import geometry
from mirage_jax.memory import surface

GRID = H, W = (6, 8)
LENS = np.float32([70, 60, 31, 25])  # of pictures of 48 x 64 pixels, 8 of them a cell


def camera(turn=None):
    pose = np.eye(4, dtype=np.float32)
    pose[:3, :3] = np.eye(3) if turn is None else turn
    pose[:3, 3] = [0.5, -2, 3]
    return geometry.Camera(LENS[None], pose[None], (8 * H, 8 * W))


def found(depth, seen_by):
    depth = np.asarray(depth, np.float32)[None]
    return surface.tangents(jnp.asarray(depth), seen_by)[0]


def plane_depth(normal, distance):
    """Depth of the plane normal . x = distance, in coordinates of the camera."""
    u, v = np.meshgrid(np.arange(W) + 0.5, np.arange(H) + 0.5)
    ray = np.stack([(8 * u - LENS[2]) / LENS[0], (8 * v - LENS[3]) / LENS[1], np.ones_like(u)], -1)
    return distance / (ray @ normal)


def test_tangents_of_a_plane_lie_in_it_and_lead_to_the_neighbouring_cells():
    """To first order: the way to a neighbour and that to the opposite one average out its bend."""
    normal = np.array([0.3, -0.4, 0.87])
    depth, seen_by = (
        plane_depth(normal, 4.0),
        camera(Rotation.from_rotvec([0.3, 0.8, -0.2]).as_matrix()),
    )
    tangents = np.asarray(found(depth, seen_by))
    world_normal = seen_by.cam2world[0, :3, :3] @ normal
    np.testing.assert_allclose(tangents @ world_normal, 0, atol=2e-5)
    points = np.asarray(geometry.lift(np.float32(depth)[None], seen_by))[0]
    right = (points[:, 2:] - points[:, :-2]) / 2
    down = (points[2:] - points[:-2]) / 2
    np.testing.assert_allclose(tangents[:, 1:-1, 0], right, rtol=0.05, atol=0.02)
    np.testing.assert_allclose(tangents[1:-1, :, 1], down, rtol=0.05, atol=0.02)


def test_tangents_are_derivatives_of_the_planes_through_neighbours():
    """Cell by cell, with edges, unknown depth and slopes beyond what is believed."""
    rng = np.random.default_rng(0)
    turn = Rotation.random(rng=rng).as_matrix()
    for _ in range(5):
        depth = np.float32(rng.choice([1.0, 1.1, 1.3, 3.0, 40.0, 0.0], GRID))
        expected = by_hand.tangents(depth, LENS / 8, turn)
        np.testing.assert_allclose(found(depth, camera(turn)), expected, rtol=1e-3, atol=1e-3)


def test_an_edge_does_not_turn_the_surfaces_beside_it():
    depth = np.full(GRID, 2.0)
    depth[:, 4:] = 5.0
    tangents = np.asarray(found(depth, camera()))
    np.testing.assert_allclose(tangents[:, :4, 0], [[[2 * 8 / 70, 0, 0]] * 4] * H, atol=1e-6)
    np.testing.assert_allclose(tangents[:, 4:, 1], [[[0, 5 * 8 / 60, 0]] * 4] * H, atol=1e-6)


def test_gradients_are_finite_where_depth_is_unknown():
    depth = np.ones((1, *GRID), np.float32)
    depth[0, 2] = 0
    seen_by = camera()

    def length(depth):
        return jnp.sum(surface.tangents(depth, seen_by) ** 2)

    assert np.isfinite(jax.grad(length)(jnp.asarray(depth))).all()
