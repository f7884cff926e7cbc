"""Which pictures and cameras a world starts from."""

import numpy as np
import pytest

from mirage_jax.geometry import Camera
from mirage_jax.world.posed_pictures import posed_pictures

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


@pytest.mark.parametrize(
    ("pictures", "given", "message"),
    [
        (PICTURE[:8], None, "pictures: found 8 x 24 pixels, expected 16 x 24"),
        (np.stack([PICTURE] * 2), None, "camera: found none, expected one for each of 2"),
        (np.stack([PICTURE] * 2), camera(3), r"camera: found \(3,\) cameras of \(16, 24\)"),
        (PICTURE, camera(size=(24, 16)), r"cameras of \(24, 16\) pixels, expected \(1,\)"),
        (PICTURE, camera().replace(cam2world=-np.eye(4)), "camera: cam2world"),
        (PICTURE, camera().replace(intrinsics=-np.ones(4)), "camera: intrinsics"),
    ],
)
def test_what_does_not_fit_is_named(pictures, given, message):
    with pytest.raises(ValueError, match=message):
        posed_pictures(pictures, given, SIZE)
