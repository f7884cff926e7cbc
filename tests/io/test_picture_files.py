"""Pictures and their depth from files, cut and resized with the camera that sees them."""

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from mirage_jax.io import image_files
from mirage_jax.io.picture_files import centred_window, read_picture, read_picture_depth


def test_the_middle_square_of_a_picture_is_used(tmp_path):
    picture = np.zeros((8, 20, 3), np.uint8)
    picture[:, 6:10] = [255, 0, 0]
    picture[:, 10:14] = [0, 0, 255]
    Image.fromarray(picture).save(tmp_path / "wide.png")
    found, camera = read_picture(tmp_path / "wide.png", (4, 4), 60.0)
    np.testing.assert_array_equal(found, np.tile([[255, 0, 0]] * 2 + [[0, 0, 255]] * 2, (4, 1, 1)))
    # Half of the square is seen under half of the angle.
    assert camera.size == (4, 4) and (camera.cam2world == np.eye(4)).all()
    focal = 2 / np.tan(np.deg2rad(30))
    np.testing.assert_allclose(camera.intrinsics, [focal, focal, 2, 2], rtol=1e-6)
    Image.fromarray(picture.transpose(1, 0, 2)).save(tmp_path / "tall.png")
    tall, _ = read_picture(tmp_path / "tall.png", (4, 4))
    np.testing.assert_array_equal(tall, found.transpose(1, 0, 2))


def test_a_photo_is_turned_the_way_its_camera_was_held(tmp_path):
    upright = np.zeros((8, 8, 3), np.uint8)
    upright[:4] = 255  # bright above
    exif = Image.Exif()
    exif[0x0112] = 6  # the sensor lay on its left side: turn by 90 degrees clockwise to see it
    lying = Image.fromarray(np.rot90(upright))
    lying.save(tmp_path / "photo.png", exif=exif)
    found, _ = read_picture(tmp_path / "photo.png", (8, 8))
    np.testing.assert_array_equal(found, upright)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_pictures_of_every_mode_become_rgb(mode, tmp_path):
    grey = Image.new("RGB", (6, 6), (40, 40, 40))
    (grey.quantize(2) if mode == "P" else grey.convert(mode)).save(tmp_path / "a.png")
    found, _ = read_picture(tmp_path / "a.png", (2, 2))
    assert found.dtype == np.uint8 and (found == 40).all() and found.shape == (2, 2, 3)


def test_files_that_are_no_picture_are_named(tmp_path, monkeypatch):
    path = tmp_path / "notes.png"
    path.write_text("not a picture")
    with pytest.raises(ValueError, match=re.escape(f"{path}: not a picture")):
        read_picture(path, (4, 4))
    whole = tmp_path / "whole.png"
    Image.effect_noise((64, 64), 50).save(whole)
    path.write_bytes(whole.read_bytes()[:500])
    with pytest.raises(ValueError, match=re.escape(f"{path}: damaged")):
        read_picture(path, (4, 4))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=re.escape(f"{whole}: too large")):
        read_picture(whole, (4, 4))
    with pytest.raises(OSError, match=r"absent\.png"):
        read_picture(tmp_path / "absent.png", (4, 4))


SIDES = st.integers(1, 400)


@given(SIDES, SIDES, st.integers(1, 300))
def test_windows_of_square_models_are_the_middle_square(height, width, side):
    most = min(height, width)
    expected = (height - most) // 2, (width - most) // 2, (most, most)
    assert centred_window((height, width), (side, side)) == expected


@given(SIDES, SIDES, st.integers(1, 300), st.integers(1, 300))
def test_windows_are_the_largest_of_their_shape_and_in_the_middle(height, width, h, w):
    top, left, (rows, columns) = centred_window((height, width), (h, w))
    assert top >= 0 and left >= 0 and top + rows <= height and left + columns <= width
    assert rows >= 1 and columns >= 1 and (rows == height or columns == width)
    # As much is cut off on one side as on the other, and the shape is kept to half a pixel.
    assert abs(height - rows - 2 * top) <= 1 and abs(width - columns - 2 * left) <= 1
    exact = min(height / h, width / w)
    for found, side in ((rows, h), (columns, w)):
        assert abs(found - max(exact * side, 1)) <= 0.5 + 1e-9


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_pixel_is_seen_along_the_same_ray(tmp_path_factory, data):
    """Whatever is cut off, a lens in the middle of the picture sees a pixel where it was."""
    height, width = data.draw(st.tuples(st.integers(4, 60), st.integers(4, 60)))
    size = data.draw(st.tuples(st.integers(2, 40), st.integers(2, 40)))
    degrees = data.draw(st.floats(20, 120))
    path = tmp_path_factory.mktemp("ray") / "a.png"
    Image.new("RGB", (width, height)).save(path)
    picture, camera = read_picture(path, size, degrees)
    assert picture.shape == (*size, 3) and camera.size == size
    top, left, window = centred_window((height, width), size)
    row = data.draw(st.floats(top, top + window[0]))
    column = data.draw(st.floats(left, left + window[1]))
    focal = min(window) / 2 / np.tan(np.deg2rad(degrees) / 2)
    expected = (column - width / 2) / focal, (row - height / 2) / focal
    fx, fy, cx, cy = camera.intrinsics
    u, v = (column - left) * size[1] / window[1], (row - top) * size[0] / window[0]
    np.testing.assert_allclose(((u - cx) / fx, (v - cy) / fy), expected, atol=1e-4)


@pytest.mark.parametrize("suffix", ["jpg", "png"])
def test_a_large_picture_is_cut_where_the_whole_one_is(tmp_path, monkeypatch, suffix):
    """Of a width that leaves half a block of pixels over on each side."""
    wave = 128 + 100 * np.sin(np.arange(8 * 97) / 256 * 2 * np.pi)
    path = tmp_path / f"photo.{suffix}"
    Image.fromarray(np.tile(wave, (8 * 64, 1)).astype(np.uint8)).save(path)
    small, camera = read_picture(path, (16, 16))
    monkeypatch.setattr(image_files, "_SPARE", 10**6)
    whole, expected = read_picture(path, (16, 16))
    assert np.abs(small.astype(int) - whole).mean() < 2  # 10 were it one block aside
    np.testing.assert_array_equal(camera.intrinsics, expected.intrinsics)


def test_depth_is_cut_as_the_picture_and_mixes_nothing(tmp_path):
    def cut(depth, size):
        Image.fromarray(np.zeros((*depth.shape, 3), np.uint8)).save(tmp_path / "photo.png")
        np.save(tmp_path / "depth.npy", depth)
        return read_picture_depth(tmp_path / "depth.npy", tmp_path / "photo.png", size)

    depth = np.arange(1, 1 + 4 * 8, dtype=np.float32).reshape(4, 8)
    np.testing.assert_array_equal(cut(depth, (4, 4)), depth[:, 2:6])
    np.testing.assert_array_equal(cut(depth.T, (4, 4)), depth.T[2:6])
    np.testing.assert_array_equal(cut(depth, (2, 2)), depth[1::2, 3:6:2])
    np.testing.assert_array_equal(cut(depth, (2, 8)), depth[1:3])
    twice = cut(depth, (8, 8))
    np.testing.assert_array_equal(twice, depth[:, 2:6].repeat(2, axis=0).repeat(2, axis=1))


def test_a_depth_map_must_be_of_the_pictures_size(tmp_path):
    metres = np.linspace(0.25, 60, 12, dtype=np.float32).reshape(3, 4)
    Image.fromarray(np.zeros((3, 4, 3), np.uint8)).save(tmp_path / "photo.png")
    np.save(tmp_path / "depth.npy", metres)
    found = read_picture_depth(tmp_path / "depth.npy", tmp_path / "photo.png", (3, 3))
    np.testing.assert_array_equal(found, metres[:, :3])
    np.save(tmp_path / "depth.npy", metres.T)
    expected = r"depth\.npy: found 4 x 3 pixels, expected 3 x 4 as the picture .*photo\.png"
    with pytest.raises(ValueError, match=expected):
        read_picture_depth(tmp_path / "depth.npy", tmp_path / "photo.png", (3, 3))
