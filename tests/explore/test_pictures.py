import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from mirage_jax.explore import pictures

PICTURE = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)


def file_of(picture, kind, **options):
    file = io.BytesIO()
    Image.fromarray(picture).save(file, kind, **options)
    return file.getvalue()


@pytest.mark.parametrize("kind", ["PNG", "WEBP"])
def test_a_dropped_picture_is_cut_to_the_middle(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    found, camera = pictures.picture_of_visitor(file_of(PICTURE, kind, **options), (40, 40), 90)
    np.testing.assert_array_equal(found, PICTURE[:, 10:50])
    np.testing.assert_allclose(camera.intrinsics, [20, 20, 20, 20], atol=1e-4)


def test_a_dropped_jpeg_lies_as_its_camera_was_held():
    exif = Image.Exif()
    exif[274] = 6  # to be turned by 90 degrees clockwise
    smooth = np.linspace(0, 255, 64 * 64).reshape(64, 64, 1).repeat(3, 2).astype(np.uint8)
    data = file_of(smooth, "JPEG", quality=100, exif=exif)
    found, _ = pictures.picture_of_visitor(data, (64, 64))
    assert np.abs(found.astype(int) - np.rot90(smooth, -1)).max() < 6


def png_of_size(width, height):
    """A PNG whose header alone says that it is large."""
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(bytes(100)))]
    chunks = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in parts
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "another kind"),
        (b"GIF89a" + bytes(100), "another kind"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n", "another kind"),
        (b"II*\0" + bytes(100), "another kind"),
        (file_of(PICTURE, "PNG")[:200], "damaged"),
        (file_of(PICTURE, "JPEG")[:300], "damaged"),
        (b"RIFF" + bytes(100), "not a picture"),
        (png_of_size(10_000, 5_000), "pixels"),
        (png_of_size(60_000, 60_000), "large"),
        (b"\xff\xd8\xff" + bytes(pictures.MAX_PICTURE), "bytes"),
    ],
)
def test_other_files_are_refused_without_a_path(data, said):
    with pytest.raises(ValueError, match="picture") as error:
        pictures.picture_of_visitor(data, (16, 16))
    assert said in str(error.value)
    assert "/tmp" not in str(error.value)


def test_what_is_sent_is_the_picture():
    smooth = np.add.outer(np.arange(48), np.arange(64))[..., None] * np.array([1, 2, 0]) % 200
    smooth = smooth.astype(np.uint8)
    data = pictures.encoded(smooth)
    assert data.startswith(b"\xff\xd8\xff")
    assert np.abs(pictures.decoded(data).astype(float) - smooth).mean() < 4
    np.testing.assert_array_equal(pictures.decoded(pictures.encoded_exactly(smooth)), smooth)


def test_thumbnails_are_small_and_of_the_same_shape():
    data = pictures.encoded(np.zeros((300, 600, 3), np.uint8))
    assert pictures.decoded(pictures.thumbnail(data, 128)).shape == (64, 128, 3)
