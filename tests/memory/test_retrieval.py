import jax
import numpy as np
from scipy.spatial.transform import Rotation

from mirage_jax.geometry import Camera
from mirage_jax.memory import retrieval

GRID = (8, 8)
SIZE = (64, 64)
WALL = 4.0

add = jax.jit(retrieval.add)
shared_view = jax.jit(retrieval.shared_view)
retrieve = jax.jit(retrieval.retrieve, static_argnums=2)


def looking(yaws, positions=None):
    poses = np.tile(np.eye(4), (len(yaws), 1, 1))
    yaws = np.asarray(yaws, float)
    poses[:, :3, :3] = Rotation.from_euler("y", yaws[:, None], degrees=True).as_matrix()
    if positions is not None:
        poses[:, :3, 3] = positions
    return Camera(np.tile([64.0, 64, 32, 32], (len(yaws), 1)), poses, SIZE)


def store(cameras, depth):
    keyframes = retrieval.create(6, GRID)
    depth = np.broadcast_to(np.asarray(depth, np.float32).reshape(-1, 1, 1), (len(cameras), *GRID))
    return add(keyframes, depth, cameras, np.arange(len(cameras), dtype=np.int32) + 10)


def test_share_falls_with_the_angle_and_ends_at_nothing():
    keyframes = store(looking([0, 15, 30, 90, 180]), [WALL])
    share, _ = shared_view(keyframes, looking([0]))
    share = np.asarray(share)
    assert share[0] > 0.99
    assert share[0] > share[1] + 0.2 > share[2] + 0.4 and share[2] > 0.05
    np.testing.assert_array_equal(share[3:], 0)  # beyond both fields of view; the free slot


def test_a_view_blocked_by_a_wall_shares_nothing_behind_it():
    """Same frustum, but the second keyframe stands at the same place behind a board at 0.5 m."""
    target = looking([0], [[0, 0, 1.0]])
    keyframes = store(looking([0, 0]), [WALL, 0.5])
    # The board itself must not pass for the surface the target sees: the target is past it.
    share = np.asarray(shared_view(keyframes, target)[0])
    assert share[0] > 0.95 and share[1] == 0


def test_retrieve_covers_instead_of_repeating():
    """Two near-copies of the left half and one view of the right half: the right comes second."""
    keyframes = store(looking([-22, -21, 24, 180]), [WALL])
    slots, gains = retrieve(keyframes, looking([0]), 4)
    slots, gains = np.asarray(slots), np.asarray(gains)
    assert {int(slots[0]) in (0, 1), int(slots[1]) in (0, 1)} == {True, False}
    assert 2 in slots[:2] and 3 not in slots and slots[3] == -1 and gains[3] == 0
    assert (np.diff(gains) <= 0).all()
    share, seen = shared_view(keyframes, looking([0]))
    chosen = [s for s in slots if s >= 0]
    assert gains[0] == np.asarray(share).max()
    np.testing.assert_allclose(gains.sum(), np.asarray(seen)[chosen].any(0).mean(), rtol=1e-6)
    assert int(keyframes.frame[slots[0]]) == slots[0] + 10


def test_the_store_reports_what_did_not_fit_and_empty_retrieves_nothing():
    keyframes = store(looking(range(0, 8)), [WALL])
    assert int(keyframes.count) == 6 and int(keyframes.dropped) == 2
    np.testing.assert_array_equal(keyframes.frame, np.arange(10, 16))
    slots, gains = retrieve(retrieval.create(6, GRID), looking([0]), 4)
    assert (np.asarray(slots) == -1).all() and not np.asarray(gains).any()
