"""Cutting and resizing keeps pictures, depth and intrinsics together."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirage_jax.io.framing import Framing

SIDES = st.integers(8, 60)


@given(height=SIDES, width=SIDES, h=SIDES, w=SIDES)
@settings(max_examples=60, deadline=None)
def test_a_point_is_seen_at_the_same_place_of_the_new_picture(height, width, h, w):
    """A ramp of columns and rows says, in every new pixel, where in the old picture it lies."""
    framing = Framing((height, width), (h, w))
    fx, fy, cx, cy = 40.0, 30.0, width * 0.4, height * 0.6
    columns, rows = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    new = framing.intrinsics(np.array([fx, fy, cx, cy]))
    u, v = np.meshgrid(np.arange(w) + 0.5, np.arange(h) + 0.5)
    # The ray of a new pixel, by the new intrinsics, meets the old picture here.
    old_u, old_v = (u - new[2]) / new[0] * fx + cx, (v - new[3]) / new[1] * fy + cy
    near_u = framing.nearest(columns)
    near_v = framing.nearest(rows)
    assert np.abs(near_u - old_u).max() <= 0.5 + 1e-6
    assert np.abs(near_v - old_v).max() <= 0.5 + 1e-6
    assert old_u.min() >= 0 and old_u.max() <= width and old_v.min() >= 0 and old_v.max() <= height


def test_pictures_are_cut_in_the_middle_and_averaged():
    picture = np.zeros((4, 8, 3), np.uint8)
    picture[:, 2:6] = [[[0], [200], [100], [100]]]
    small = Framing((4, 8), (2, 2)).picture(picture)
    assert small.shape == (2, 2, 3)
    assert small[0, 0, 0] < small[0, 1, 0]  # left of it the mean of dark and light
    assert Framing((4, 8), (4, 8)).picture(picture) is picture


def test_another_size_is_refused():
    with pytest.raises(ValueError, match="found 3 x 8 pixels, expected 4 x 8"):
        Framing((4, 8), (2, 2)).picture(np.zeros((3, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="size: found"):
        Framing((4, 8), (0, 2))
