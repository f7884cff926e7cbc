"""What is meant without doubt is understood, and anything else is refused in words of our own.

As a user calls it: signatures are not checked here.
"""

import inspect

import numpy as np
import pytest

from mirage_jax import geometry, memory
from mirage_jax.geometry import Camera

FRAMES, GRID, SIZE = 2, (2, 3), (4, 6)
LENS = np.float32([5, 4, 3, 2])
MATRIX = np.float32([[5, 0, 3], [0, 4, 2], [0, 0, 1]])
POSES = np.tile(np.eye(4, dtype=np.float32), (FRAMES, 1, 1))
POSES[1, 0, 3] = 0.5
CAMERA = Camera(np.tile(LENS, (FRAMES, 1)), POSES, SIZE)
TOKENS = np.random.default_rng(0).integers(0, 99, (FRAMES, *GRID, 3))
DEPTH = np.full((FRAMES, *SIZE), 2, np.float32)
# Under the types of the test suite these would not get as far as the functions' own words.
write, read = inspect.unwrap(memory.write), inspect.unwrap(memory.read)


def element_positions(tokens, depth, camera):
    bank, _ = write(memory.create(12, 3), tokens, depth, camera)
    return np.asarray(bank.xyz)


@pytest.mark.parametrize(
    "camera",
    [
        Camera(np.tile(MATRIX, (FRAMES, 1, 1)), POSES, SIZE),
        Camera(MATRIX, POSES, SIZE),
        Camera(LENS, POSES, SIZE),
        Camera(LENS[None], POSES[:, :3], SIZE),
        Camera(LENS.tolist(), POSES.tolist(), SIZE),
    ],
    ids=["matrices", "matrix", "shared", "3x4", "lists"],
)
def test_cameras_that_mean_the_same(camera):
    found = geometry.complete_camera(camera, "camera")
    np.testing.assert_array_equal(found.intrinsics, CAMERA.intrinsics)
    np.testing.assert_array_equal(found.cam2world, CAMERA.cam2world)


@pytest.mark.parametrize(
    ("camera", "message"),
    [
        (Camera(LENS[:3], POSES, SIZE), r"intrinsics: found shape \(3,\), expected \(2, 4\) with"),
        (Camera(np.tile(LENS, (3, 1)), POSES, SIZE), r"intrinsics: found shape \(3, 4\), expected"),
        (
            Camera(LENS, POSES[0, 0], SIZE),
            r"cam2world: found shape \(4,\), expected \[\.\.\., 4",
        ),
        (Camera(LENS, POSES[:, :3, :3], SIZE), r"cam2world: found shape \(2, 3, 3\), expected"),
    ],
)
def test_other_cameras_are_refused(camera, message):
    with pytest.raises(ValueError, match="memory.write: " + message):
        write(memory.create(12, 3), TOKENS, DEPTH, camera)
    with pytest.raises(ValueError, match="memory.read: " + message):
        read(memory.create(12, 3), camera, GRID)


def test_lists_and_whole_numbers_are_written():
    expected = element_positions(TOKENS, DEPTH, CAMERA)
    assert np.abs(expected).max() > 1
    found = element_positions(TOKENS.tolist(), DEPTH.tolist(), Camera(MATRIX, POSES, SIZE))
    np.testing.assert_array_equal(found, expected)
    found = element_positions(TOKENS.astype(np.uint8), DEPTH.astype(np.uint8), CAMERA)
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("tokens", "depth", "message"),
    [
        (
            TOKENS[0],
            DEPTH,
            r"tokens has shape \(2, 3, 3\), expected \[T, h, w, C\] with an axis",
        ),
        (
            TOKENS,
            DEPTH[0],
            r"depth has shape \(4, 6\), expected \[T, H, W\] with an axis",
        ),
        (TOKENS, DEPTH[..., None], r"depth has shape \(2, 4, 6, 1\), expected \[T, H, W\]"),
    ],
)
def test_a_missing_axis_is_named(tokens, depth, message):
    with pytest.raises(ValueError, match=message):
        write(memory.create(12, 3), tokens, depth, CAMERA)


def test_a_grid_is_two_numbers():
    with pytest.raises(ValueError, match=r"found grid \(2,\), expected \(rows, columns\) of cells"):
        read(memory.create(12, 3), CAMERA, (2,))
