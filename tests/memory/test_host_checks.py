"""What is wrong with NumPy's cameras and tokens is said before it is stored or read."""

import jax
import numpy as np
import pytest

from mirage_jax import memory
from mirage_jax.geometry import Camera
from mirage_jax.memory.host_checks import check_counts

T, GRID, C, SIZE = 2, (4, 6), 3, (16, 24)
LENS = np.tile(np.array([20.0, 20.0, 12.0, 8.0], np.float32), (T, 1))
POSES = np.tile(np.eye(4, dtype=np.float32), (T, 1, 1))
TOKENS = np.random.default_rng(0).normal(size=(T, *GRID, C)).astype(np.float32)
DEPTH = np.full((T, *SIZE), 4.0, np.float32)


def write(camera, tokens=TOKENS):
    return memory.write(memory.create(100, C), tokens, DEPTH, camera)


def read(camera, grid=GRID):
    return memory.read(memory.create(100, C), camera, grid)


def with_one(array, value):
    changed = np.array(array, np.float32)
    changed[(1,) * array.ndim] = value
    return changed


BAD = {
    "pose of NaN": (LENS, with_one(POSES, np.nan), SIZE, "only finite numbers"),
    "mirrored": (LENS, POSES * [1, 1, -1, 1], SIZE, "right-handed"),
    "scaled": (LENS, POSES * [2, 2, 2, 1], SIZE, "orthonormal"),
    "lens of NaN": (with_one(LENS, np.nan), POSES, SIZE, "only finite numbers"),
    "no focal length": (LENS * [0, 1, 1, 1], POSES, SIZE, "above 0"),
    "fractions": (LENS / [24, 16, 24, 16], POSES, SIZE, "normalised"),
    "size 0": (LENS, POSES, (0, 24), "2 whole numbers from 1"),
}


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("call", [write, read])
def test_a_camera_that_cannot_be_is_refused_by_name(call, name):
    lens, poses, size, words = BAD[name]
    with pytest.raises(ValueError, match=rf"memory.{call.__name__}: .*{words}"):
        call(Camera(lens, poses, size))


def test_tokens_that_are_not_finite_are_refused():
    with pytest.raises(ValueError, match=r"write: tokens: found NaN .*\(1 of 144 are wrong\)"):
        write(Camera(LENS, POSES, SIZE), with_one(TOKENS, np.inf))


@pytest.mark.parametrize("found", [(0, 6), (4.0, 6), (4,), "46", None, (True, 3), (1, 2, 3)])
def test_sizes_are_of_whole_numbers(found):
    with pytest.raises(ValueError, match=r"a size: found .*, expected 2 whole numbers from 1"):
        check_counts("a size", found, 2)
    check_counts("a size", np.array([4, 6]), 2)


def test_grids_and_memories_have_no_size_of_0():
    with pytest.raises(ValueError, match=r"memory\.read: grid: found \(0, 6\)"):
        read(Camera(LENS, POSES, SIZE), (0, 6))
    with pytest.raises(ValueError, match=r"memory: capacity, channels: found \(100, 0\)"):
        memory.create(100, 0)


def test_what_is_traced_is_let_pass():
    bank = jax.jit(lambda lens, poses: write(Camera(lens, poses, SIZE))[0])(LENS, POSES)
    shown = jax.jit(lambda poses: memory.read(bank, Camera(LENS, poses, SIZE), GRID))(POSES)
    assert int(bank.count) == 48 and float(shown.visible.mean()) == 1.0
