"""Pictures and their depth from files, cut and resized with the camera that sees them."""

import re

import numpy as np
import pytest
from PIL import Image

from mirage_jax.io.picture_files import read_picture


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
