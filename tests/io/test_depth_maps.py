"""Depth maps from files, resampled, and made of disparity."""

import re

import numpy as np
import pytest
from PIL import Image

from mirage_jax.io.depth_maps import depth_from_disparity, read_depth, resample

METRES = np.linspace(0.25, 60, 12, dtype=np.float32).reshape(3, 4)


def test_a_png_holds_millimetres(tmp_path):
    units = np.array([[0, 1, 1000], [1234, 40000, 65535]], np.uint16)
    Image.fromarray(units).save(tmp_path / "depth.png")
    found = read_depth(tmp_path / "depth.png")
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, [[0, 0.001, 1], [1.234, 40, 65.535]], rtol=1e-6)


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_arrays_hold_metres(tmp_path, dtype):
    depth = METRES.astype(dtype)
    depth[0, :2] = 0, np.inf
    np.save(tmp_path / "depth.npy", depth)
    np.savez(tmp_path / "depth.npz", depth=depth, colour=np.zeros(3))
    for name in ("depth.npy", "depth.npz"):
        found = read_depth(tmp_path / name)
        assert found.dtype == np.float32
        np.testing.assert_array_equal(found, depth.astype(np.float32))


def saved(path, array):
    if path.suffix == ".png":
        Image.fromarray(array).save(path)
    elif path.suffix == ".npz":
        np.savez(path, **array)
    else:
        np.save(path, array, allow_pickle=True)


def changed(value):
    depth = METRES.copy()
    depth[1, 2] = value
    return depth


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("d.npy", changed(np.nan), "1 of 12 pixels are NaN or negative, expected metres"),
        ("d.npy", changed(-1.0), "1 of 12 pixels are NaN or negative"),
        ("d.npy", changed(-np.inf), "1 of 12 pixels are NaN or negative"),
        ("d.npy", METRES[None], r"found shape \(1, 3, 4\), expected \[H, W\]"),
        ("d.npy", METRES[:0], r"found shape \(0, 4\)"),
        ("d.npy", np.zeros((3, 4), np.float32), "every pixel is 0"),
        ("d.npy", np.ones((3, 4), np.int32), "found int32, expected floating point metres"),
        ("d.npy", np.array([{"a": 1}], object), "allow_pickle=False"),
        ("d.npz", {"depths": METRES}, r"found arrays \['depths'\], expected 'depth'"),
        ("d.npz", {"depth": np.array([None])}, "allow_pickle=False"),
        ("d.png", np.ones((3, 4), np.uint8), "mode L, expected 16-bit grey"),
        ("d.png", np.ones((3, 4, 3), np.uint8), "mode RGB, expected 16-bit grey"),
        ("d.tiff", METRES, r"found suffix '\.tiff', expected \.png, \.npy, \.npz"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(tmp_path, name, content, message):
    path = tmp_path / name
    if path.suffix != ".tiff":
        saved(path, content)
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))}: .*{message}"):
        read_depth(path)


@pytest.mark.parametrize("suffix", [".png", ".npy", ".npz"])
def test_files_that_are_cut_off_or_something_else_are_named(tmp_path, suffix):
    whole, path = tmp_path / f"whole{suffix}", tmp_path / f"d{suffix}"
    noise = np.random.default_rng(0).integers(1, 60000, (40, 50), np.uint16)
    metres = noise / 1000
    saved(whole, {".png": noise, ".npy": metres, ".npz": {"depth": metres}}[suffix])
    content = whole.read_bytes()
    for broken in (content[: len(content) // 2], b"", b"no depth at all"):
        path.write_bytes(broken)
        with pytest.raises(ValueError, match=re.escape(str(path))):
            read_depth(path)
    with pytest.raises(FileNotFoundError):
        read_depth(tmp_path / f"none{suffix}")


def test_a_damaged_compressed_archive_is_named(tmp_path):
    path = tmp_path / "d.npz"
    np.savez_compressed(path, depth=np.arange(2000.0).reshape(40, 50) + 1)
    content = bytearray(path.read_bytes())
    middle = len(content) // 2
    content[middle : middle + 200] = b"\xff" * 200
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(path))):
        read_depth(path)


def test_resampling_takes_pixels_and_mixes_none():
    depth = np.arange(4 * 8, dtype=np.float32).reshape(4, 8)
    np.testing.assert_array_equal(resample(depth, (2, 4)), depth[1::2, 1::2])
    twice = resample(depth, (8, 16))
    np.testing.assert_array_equal(twice, depth.repeat(2, axis=0).repeat(2, axis=1))
    found = resample(depth, (3, 7))
    assert found.shape == (3, 7) and set(found.ravel()) <= set(depth.ravel())


@pytest.mark.parametrize(("scale", "shift"), [(1.0, 0.0), (300.0, 7.0), (0.01, -5.0)])
def test_disparity_of_any_scale_and_shift_gives_the_depth_it_came_from(scale, shift):
    disparity = scale / METRES.astype(np.float64) + shift
    found = depth_from_disparity(disparity, near=0.25, far=60.0)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, METRES, rtol=1e-5)


@pytest.mark.parametrize(
    ("disparity", "near", "far", "message"),
    [
        (METRES, 0.0, 1.0, r"found 0\.0, 1\.0 metres, expected 0 < near < far"),
        (METRES, 2.0, 1.0, "expected 0 < near < far"),
        (METRES, 1.0, np.inf, "expected 0 < near < far"),
        (METRES, np.nan, 2.0, "expected 0 < near < far"),
        (changed(np.nan), 1.0, 2.0, "1 of 12 values are not finite"),
        (changed(np.inf), 1.0, 2.0, "1 of 12 values are not finite"),
        (np.ones((2, 2), np.float32), 1.0, 2.0, r"every value is 1\.0"),
    ],
)
def test_disparity_that_says_nothing_is_refused(disparity, near, far, message):
    with pytest.raises(ValueError, match=message):
        depth_from_disparity(disparity, near, far)


@pytest.mark.parametrize("name", ["DEPTH.NPY", "Depth.Npz", "DEPTH.PNG"])
def test_suffixes_may_be_in_capitals(tmp_path, name):
    path = tmp_path / name
    if name.endswith("PNG"):
        Image.fromarray(np.round(METRES * 1000).astype(np.uint16)).save(path)
    else:
        with path.open("wb") as file:
            np.save(file, METRES) if name.endswith("NPY") else np.savez(file, depth=METRES)
    np.testing.assert_allclose(read_depth(path), METRES, atol=1e-3)
