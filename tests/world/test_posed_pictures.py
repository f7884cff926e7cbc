"""Which pictures and cameras a world starts from."""

import numpy as np
import pytest
from PIL import Image

from mirage_jax.geometry import Camera
from mirage_jax.world.posed_pictures import maps_of_pictures, posed_pictures

SIZE = (16, 24)
PICTURE = np.zeros((*SIZE, 3), np.uint8)


def camera(*lead, size=SIZE):
    return Camera(np.full((*lead, 4), 12.0), np.tile(np.eye(4), (*lead, 1, 1)), size)


def test_one_picture_without_a_camera_sees_ninety_degrees_across_its_shorter_side():
    pictures, found = posed_pictures(PICTURE, None, SIZE)
    assert pictures.shape == (1, *SIZE, 3) and found.shape == (1,)
    np.testing.assert_allclose(found.intrinsics[0], [8, 8, 12, 8])  # tan 45 degrees = 8 / 8
    np.testing.assert_array_equal(found.cam2world[0], np.eye(4))


def test_several_pictures_keep_their_cameras():
    pictures, found = posed_pictures(np.stack([PICTURE] * 3), camera(3), SIZE)
    assert len(pictures) == 3 and found.shape == (3,)
    np.testing.assert_array_equal(found.intrinsics, camera(3).intrinsics)
    single, one = posed_pictures(PICTURE, camera(), SIZE)
    assert single.shape == (1, *SIZE, 3) and one.shape == (1,)


def test_images_of_pillow_and_lists_of_arrays_are_pictures():
    noise = np.random.default_rng(0).integers(0, 256, (2, *SIZE, 3), np.uint8)
    pictures, _ = posed_pictures(Image.fromarray(noise[0]), None, SIZE)
    np.testing.assert_array_equal(pictures, noise[:1])
    pictures, _ = posed_pictures(list(noise), camera(2), SIZE)
    np.testing.assert_array_equal(pictures, noise)


@pytest.mark.parametrize(
    ("pictures", "given", "message"),
    [
        (PICTURE / 255, None, r"pictures: found float64 of shape \(16, 24, 3\), expected uint8"),
        (PICTURE.astype(int), None, "pictures: found int64"),
        (
            PICTURE[..., 0],
            None,
            r"pictures: found uint8 of shape \(16, 24\), expected uint8 \[H, W",
        ),
        (np.zeros((*SIZE, 4), np.uint8), None, r"pictures: found uint8 of shape \(16, 24, 4\)"),
        ("photo.png", None, "pictures: found <U9 of shape"),
        (np.stack([PICTURE])[:0], camera(0), "pictures: found none"),
        (PICTURE[:8], None, "pictures: found 8 x 24 pixels, expected 16 x 24"),
        (np.stack([PICTURE] * 2), None, "camera: found none, expected one for each of 2"),
        (np.stack([PICTURE] * 2), camera(3), r"camera: found \(3,\) cameras of \(16, 24\)"),
        (PICTURE, (np.ones(4), np.eye(4)), "camera: found tuple, expected a geometry.Camera"),
        (PICTURE, camera(size=(24, 16)), r"size: found \(24, 16\), .* height, then width"),
        (PICTURE, camera().replace(cam2world=-np.eye(4)), "camera: cam2world"),
        (PICTURE, camera().replace(intrinsics=-np.ones(4)), "camera: intrinsics"),
    ],
)
def test_what_does_not_fit_is_named(pictures, given, message):
    with pytest.raises(ValueError, match=message):
        posed_pictures(pictures, given, SIZE)


def test_every_picture_has_a_map():
    two, depth = np.stack([PICTURE] * 2), np.random.default_rng(0).uniform(1, 2, (2, 8, 12))
    assert maps_of_pictures(None, PICTURE, "depth") is None
    np.testing.assert_array_equal(maps_of_pictures(depth.tolist(), two, "depth"), depth)
    np.testing.assert_array_equal(maps_of_pictures(depth[0], PICTURE, "depth"), depth[:1])
    message = r"depth: found shape \(1, 8, 12\), expected \[2, h, w\]"
    with pytest.raises(ValueError, match=message):
        maps_of_pictures(depth[:1], two, "depth")
    with pytest.raises(ValueError, match=r"static: found shape \(2, 8, 12\), expected \[h, w\]"):
        maps_of_pictures(depth, PICTURE, "static")
