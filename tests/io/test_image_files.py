"""Picture files of every kind: as a viewer shows them, or refused with what to do."""

import re

import numpy as np
import pytest
from PIL import Image, ImageCms

from helpers.colour_profiles import linear_rgb_profile
from mirage_jax.io import image_files
from mirage_jax.io.image_files import FORMATS, picture_file_size, read_rgb

SHADES = np.array([[0, 40], [128, 255]], np.uint8)


def saved(path, image, **options):
    image.save(path, **options)
    return path


def assert_shades(path, expected=SHADES, atol=0):
    found = read_rgb(path)
    assert found.dtype == np.uint8 and found.shape == (*expected.shape, 3)
    difference = np.abs(found.astype(int) - expected[..., None].astype(int)).max()
    assert difference <= atol, found[..., 0]


@pytest.mark.parametrize("suffix", ["png", "tif", "pgm", "jp2"])
def test_sixteen_bit_greys_keep_their_shades(tmp_path, suffix):
    sixteen = Image.fromarray(SHADES.astype(np.uint16) * 257)
    assert_shades(saved(tmp_path / f"grey.{suffix}", sixteen))


def test_a_tiff_may_count_from_white_and_may_have_twelve_bits(tmp_path):
    inverted = Image.fromarray(65535 - SHADES.astype(np.uint16) * 257)
    assert_shades(saved(tmp_path / "inverted.tif", inverted, tiffinfo={262: 0}))
    # Two values in three bytes, of rows that end with a whole byte.
    high, low = np.array([[0, 0x800], [0xFFF, 0x7FF]]).T
    packed = bytes(
        b for x, y in zip(high, low, strict=True) for b in (x >> 4, (x & 15) << 4 | y >> 8, y & 255)
    )
    tags = [
        (256, 2),
        (257, 2),
        (258, 12),
        (259, 1),
        (262, 1),
        (273, 8),
        (277, 1),
        (278, 2),
        (279, len(packed)),
    ]
    body = (
        b"II*\0"
        + (8 + len(packed)).to_bytes(4, "little")
        + packed
        + len(tags).to_bytes(2, "little")
    )
    for tag, value in tags:
        body += tag.to_bytes(2, "little") + b"\4\0\1\0\0\0" + value.to_bytes(4, "little")
    (tmp_path / "twelve.tif").write_bytes(body + bytes(4))
    assert_shades(tmp_path / "twelve.tif", np.array([[0, 128], [255, 127]], np.uint8))


@pytest.mark.parametrize("mode", ["F", "I", "LAB"])
def test_pictures_without_a_known_white_are_refused_by_name(tmp_path, mode):
    path = saved(tmp_path / "odd.tif", Image.new(mode, (4, 4)))
    with pytest.raises(ValueError, match=re.escape(f"{path}: found ") + ".*convert it first"):
        read_rgb(path)


def test_a_float_picture_of_another_writer_is_refused_too(tmp_path):
    (tmp_path / "hdr.pfm").write_bytes(b"Pf\n2 2\n-1.0\n" + np.ones(4, "<f4").tobytes())
    with pytest.raises(ValueError, match=r"hdr\.pfm: found floating point"):
        read_rgb(tmp_path / "hdr.pfm")


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize("suffix", ["png", "webp", "tif"])
def test_what_lies_under_transparent_pixels_is_not_shown(tmp_path, mode, suffix):
    picture = Image.new("RGBA", (3, 1), (200, 200, 200, 255))
    picture.putpixel((1, 0), (10, 10, 10, 0))
    picture.putpixel((2, 0), (0, 0, 0, 51))  # a fifth of black over white
    options = {"lossless": True} if suffix == "webp" else {}
    assert_shades(
        saved(tmp_path / f"a.{suffix}", picture.convert(mode), **options),
        np.array([[200, 255, 204]], np.uint8),
    )


def test_a_palette_or_a_grey_may_have_a_transparent_value(tmp_path):
    indexed = Image.fromarray(np.array([[0, 1]], np.uint8)).convert("P")
    indexed.putpalette([10, 10, 10, 90, 90, 90])
    expected = np.array([[255, 90]], np.uint8)
    assert_shades(saved(tmp_path / "p.png", indexed, transparency=0), expected)
    assert_shades(saved(tmp_path / "p.gif", indexed, transparency=0), expected)
    grey = Image.fromarray(np.array([[5, 90]], np.uint8))
    assert_shades(saved(tmp_path / "l.png", grey, transparency=5), expected)
    sixteen = Image.fromarray(np.array([[1000, 90 * 257]], np.uint16))
    assert_shades(saved(tmp_path / "i.png", sixteen, transparency=1000), expected)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr"])
def test_opaque_pictures_of_other_modes_are_as_pillow_has_them(tmp_path, mode):
    picture = Image.fromarray(SHADES).convert("RGB").convert(mode)
    path = saved(tmp_path / "a.tif", picture)
    np.testing.assert_array_equal(read_rgb(path), np.asarray(picture.convert("RGB")))


def test_colours_of_another_profile_become_srgb(tmp_path):
    """Linear light stored as such: half of the light is 188 of 255 in sRGB."""
    matrix = ImageCms.ImageCmsProfile(ImageCms.createProfile("XYZ"))
    assert "sRGB" not in ImageCms.getProfileDescription(matrix)
    gamma = linear_rgb_profile()
    grey = Image.new("RGB", (2, 2), (128, 128, 128))
    plain = saved(tmp_path / "plain.png", grey)
    assert (read_rgb(plain) == 128).all()
    linear = saved(tmp_path / "linear.png", grey, icc_profile=gamma)
    assert np.abs(read_rgb(linear).astype(int) - 188).max() <= 2
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert (read_rgb(saved(tmp_path / "srgb.png", grey, icc_profile=srgb)) == 128).all()
    assert (read_rgb(saved(tmp_path / "bad.png", grey, icc_profile=b"nonsense")) == 128).all()


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["jpg", "png", "tif", "webp"])
def test_pictures_are_turned_as_their_camera_was_held(tmp_path, orientation, suffix):
    """EXIF 2.3: which side of the scene the stored first row and first column are."""
    upright = np.kron(np.array([[0, 255], [90, 170], [90, 255]]), np.ones((8, 8)))
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation].astype(np.uint8)
    exif = Image.Exif()
    exif[0x0112] = orientation
    options = {"lossless": True} if suffix == "webp" else {"quality": 95} if suffix == "jpg" else {}
    path = saved(tmp_path / f"a.{suffix}", Image.fromarray(stored), exif=exif, **options)
    assert picture_file_size(path) == upright.shape
    assert_shades(path, upright.astype(np.uint8), atol=3 if suffix == "jpg" else 0)
    small = read_rgb(path, at_least=2)
    assert small.shape[0] * 2 == small.shape[1] * 3 and min(small.shape[:2]) >= 4
    assert np.abs(small[[0, -1], [0, -1], 0].astype(int) - [0, 255]).max() <= 3


@pytest.mark.parametrize("suffix", ["jpg", "png"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_a_large_picture_is_averaged_while_it_is_read(tmp_path, suffix, mode):
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (6, 10), np.uint8)
    fine = Image.fromarray(coarse).resize((800, 480), Image.Resampling.BICUBIC)
    path = saved(tmp_path / f"a.{suffix}", fine.convert(mode))
    whole = read_rgb(path)
    small = read_rgb(path, at_least=30)
    assert whole.shape[:2] == (480, 800) and small.shape[:2] == (60, 100)
    means = whole.reshape(60, 8, 100, 8, 3).mean((1, 3))
    assert np.abs(small - means).max() < 6


def test_more_pixels_than_pillow_warns_of_are_read_without_a_word(tmp_path, monkeypatch, recwarn):
    path = saved(tmp_path / "a.png", Image.new("RGB", (40, 40)))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    assert read_rgb(path).shape == (40, 40, 3) and not recwarn.list
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 500)
    with pytest.raises(ValueError, match=re.escape(f"{path}: too large") + ".*resize it first"):
        read_rgb(path)


@pytest.mark.parametrize("brand", [b"heic", b"mif1"])
def test_heic_is_called_by_its_name(tmp_path, brand):
    (tmp_path / "a.heic").write_bytes(b"\0\0\0\x18ftyp" + brand + bytes(40))
    with pytest.raises(ValueError, match=r"a\.heic: a HEIC picture.*JPEG"):
        read_rgb(tmp_path / "a.heic")


@pytest.mark.parametrize("tag", [{254: 1}, {50706: b"\1\4\0\0"}])
def test_the_preview_of_a_raw_file_is_not_taken_for_the_picture(tmp_path, tag):
    path = saved(tmp_path / "a.tif", Image.new("RGB", (4, 4)), tiffinfo=tag)
    with pytest.raises(ValueError, match=r"a\.tif: a camera's raw file"):
        read_rgb(path)


def test_formats_that_are_programs_are_not_opened(tmp_path):
    path = saved(tmp_path / "a.eps", Image.new("RGB", (4, 4)))
    with pytest.raises(ValueError, match=r"a\.eps: not a picture"):
        read_rgb(path)
    Image.init()
    assert set(FORMATS) <= set(Image.OPEN)


def test_a_pillow_without_a_format_reads_the_others(tmp_path, monkeypatch):
    monkeypatch.delitem(Image.OPEN, "AVIF")
    image_files._formats.cache_clear()
    assert (read_rgb(saved(tmp_path / "a.png", Image.new("RGB", (4, 4)))) == 0).all()
    image_files._formats.cache_clear()
