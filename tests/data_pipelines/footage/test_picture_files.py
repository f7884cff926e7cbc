"""Picture files of every mode, as they are to be seen."""

import numpy as np
import pytest
from PIL import Image

from data_pipelines.sources.footage.picture_files import (
    picture_size,
    read_depth_png,
    read_picture,
)
from helpers.colour_profiles import linear_rgb_profile

COLOURS = np.random.default_rng(0).integers(0, 256, (4, 6, 3), np.uint8)


def saved(tmp_path, image, name="a.png", **options):
    image.save(tmp_path / name, **options)
    return tmp_path / name


def test_transparent_pixels_show_the_ground(tmp_path):
    alpha = np.full((4, 6, 1), 255, np.uint8)
    alpha[0, 0], alpha[0, 1] = 0, 51
    path = saved(tmp_path, Image.fromarray(np.concatenate([COLOURS, alpha], -1), "RGBA"))
    for ground in (0, 200):
        picture = read_picture(path, ground)
        np.testing.assert_array_equal(picture[1:], COLOURS[1:])
        assert picture[0, 0].tolist() == [ground] * 3
        blended = COLOURS[0, 1] * 0.2 + ground * 0.8
        np.testing.assert_allclose(picture[0, 1], blended, atol=1)


def test_palettes_with_a_transparent_colour_show_the_ground(tmp_path):
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    path = saved(tmp_path, image, transparency=0)
    assert read_picture(path, 7).tolist() == [[[7, 7, 7], [40, 50, 60]]]


def test_sixteen_bits_are_scaled_to_eight(tmp_path):
    path = saved(tmp_path, Image.fromarray(np.uint16([[0, 128, 129, 77 * 257, 65535]])))
    assert read_picture(path)[0].tolist() == [[v] * 3 for v in (0, 0, 1, 77, 255)]


def test_a_transparent_value_of_sixteen_bits_shows_the_ground(tmp_path):
    path = saved(tmp_path, Image.fromarray(np.uint16([[1000, 65535]])), transparency=1000)
    assert read_picture(path, 7).tolist() == [[[7] * 3, [255] * 3]]


def test_a_picture_is_read_as_when_a_world_starts_from_it(tmp_path):
    """With its colour profile, for one: what is trained on looks like what is walked into."""
    data = linear_rgb_profile()
    path = saved(tmp_path, Image.new("RGB", (2, 2), (128, 128, 128)), icc_profile=data)
    assert np.abs(read_picture(path).astype(int) - 188).max() <= 2


@pytest.mark.parametrize(("mode", "name"), [("L", "a.png"), ("CMYK", "a.jpg"), ("1", "a.png")])
def test_other_modes_become_rgb(mode, name, tmp_path):
    grey = Image.fromarray(np.tile(np.uint8([[0], [255]]), (8, 16))).convert(mode)
    picture = read_picture(saved(tmp_path, grey, name))
    assert picture.shape == (16, 16, 3) and picture.dtype == np.uint8
    assert picture[0].mean() < 60 and picture[1].mean() > 195


@pytest.mark.parametrize("orientation", range(1, 9))
def test_pictures_are_turned_as_exif_says(orientation, tmp_path):
    image = Image.fromarray(COLOURS)
    exif = image.getexif()
    exif[0x0112] = orientation
    path = saved(tmp_path, image, exif=exif)
    turned = {
        1: COLOURS, 2: COLOURS[:, ::-1], 3: COLOURS[::-1, ::-1], 4: COLOURS[::-1],
        5: COLOURS.swapaxes(0, 1), 6: np.rot90(COLOURS, -1),
        7: np.rot90(COLOURS, -1)[::-1], 8: np.rot90(COLOURS),
    }[orientation]  # fmt: skip
    if orientation == 7:  # mirrored along the other diagonal
        turned = COLOURS[::-1, ::-1].swapaxes(0, 1)
    np.testing.assert_array_equal(read_picture(path), turned)
    assert picture_size(path) == turned.shape[:2]


def test_depth_is_in_metres_and_unknown_is_0(tmp_path):
    path = saved(tmp_path, Image.fromarray(np.uint16([[0, 1, 5000, 65535]])))
    np.testing.assert_allclose(read_depth_png(path, 0.001, 65535), [[0, 0.001, 5, 0]], rtol=1e-6)
    np.testing.assert_allclose(read_depth_png(path, 0.0002)[0, 3], 13.107, rtol=1e-6)


def test_what_is_no_picture_is_refused(tmp_path):
    noise = np.random.default_rng(1).integers(0, 256, (40, 40, 3), np.uint8)
    whole = saved(tmp_path, Image.fromarray(noise), "whole.png")
    deep = saved(tmp_path, Image.fromarray(noise[..., 0].astype(np.uint16) * 257), "deep.png")
    cut = tmp_path / "cut.png"
    cut.write_bytes(deep.read_bytes()[:300])
    empty, text, loop = tmp_path / "empty.png", tmp_path / "text.png", tmp_path / "loop.png"
    empty.write_bytes(b"")
    text.write_text("no picture")
    loop.symlink_to(loop)
    for read in (read_picture, lambda path: read_depth_png(path, 0.001)):
        with pytest.raises(ValueError, match=r"cut\.png: damaged .*, expected a whole picture$"):
            read(cut)
    for path, why in ((empty, "empty"), (text, "not a"), (loop, "no such")):
        for read in (read_picture, lambda path: read_depth_png(path, 0.001)):
            with pytest.raises(ValueError, match=rf"{path.name}: .*{why}.*expected"):
                read(path)
    with pytest.raises(ValueError, match="mode RGB, expected 16-bit grey"):
        read_depth_png(whole, 0.001)


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.tif"])
def test_pictures_may_be_read_as_they_are_stored(name, tmp_path):
    image = Image.fromarray(np.tile(np.uint8([[[0], [255]]]), (8, 8, 3)))  # 8 x 16 pixels
    exif = image.getexif()
    exif[0x0112] = 6
    path = saved(tmp_path, image, name, exif=exif)
    assert read_picture(path).shape == (16, 8, 3)
    if name == "a.tif":  # which Pillow has turned before one could ask
        with pytest.raises(ValueError, match=r"a\.tif: found a TIFF of orientation 6, .* expected"):
            read_picture(path, turn=False)
        return
    stored = read_picture(path, turn=False)
    assert stored.shape == (8, 16, 3) and picture_size(path, turn=False) == (8, 16)
    assert np.abs(stored.astype(int) - np.asarray(image)).max() < 40
