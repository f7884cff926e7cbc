"""Contact sheets and the map, checked at known pixels."""

import numpy as np
import pytest

from mirage_jax.io import pictures


def _videos(frames=5, height=8, width=12):
    shape = (frames, height, width, 3)
    levels = np.arange(frames, dtype=np.uint8)[:, None, None, None]
    return {
        "truth": np.broadcast_to(100 + levels, shape).copy(),
        "model": np.broadcast_to(200 + levels, shape).copy(),
    }


def test_enlarge_repeats_pixels():
    picture = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)
    large = pictures.enlarge(picture, 3)
    assert large.shape == (6, 12, 3)
    np.testing.assert_array_equal(large[1::3, 2::3], picture)
    assert pictures.factor_for((5, 64, 96, 3)) == 3
    assert pictures.factor_for((256, 300, 3)) == 1


def test_contact_sheet_shows_the_chosen_frames_in_order():
    sheet = pictures.contact_sheet(_videos(), frames=[0, 2, -1], cell=16)
    # Cells are 16 x 24 with a gap of 4, below a head of 26 pixels, flush to the right.
    right = sheet.shape[1] - 4 - 12
    rows = [sheet[26 + 8, right - 28 * (2 - i)] for i in range(3)]
    assert [int(p[0]) for p in rows] == [100, 102, 104]
    rows = [sheet[26 + 20 + 8, right - 28 * (2 - i)] for i in range(3)]
    assert [int(p[0]) for p in rows] == [200, 202, 204]


def test_contact_sheet_takes_first_and_last_by_default():
    sheet = pictures.contact_sheet(_videos(), columns=2, cell=16)
    assert int(sheet[34, sheet.shape[1] - 16, 0]) == 104
    assert int(sheet[34, sheet.shape[1] - 44, 0]) == 100


def test_panels_of_other_shapes_are_named():
    videos = _videos()
    videos["model"] = videos["model"][:4]
    with pytest.raises(ValueError, match=r"'model': found shape \(4, 8, 12, 3\)"):
        pictures.contact_sheet(videos)
    with pytest.raises(ValueError, match="found none"):
        pictures.contact_sheet({})


def test_the_map_puts_elements_where_they_are():
    red, green = (255, 0, 0), (0, 255, 0)
    points = np.array([[-4, 0, 0], [4, 0, 0], [0, 0, 4], [0, -9, -4], [0, 0, -4]], np.float32)
    colours = np.array([red, green, (0, 0, 255), (9, 9, 9), (255, 255, 255)], np.uint8)
    poses = np.eye(4)[None].repeat(2, 0)
    valid = np.array([True, True, True, True, False])
    sky = pictures.memory_from_above(points, poses, colours=colours, valid=valid, size=480)
    ys, xs = np.nonzero((sky == red).all(-1))
    assert xs.mean() < 60
    ys_green, xs_green = np.nonzero((sky == green).all(-1))
    assert xs_green.mean() > 420
    assert ys.mean() == pytest.approx(ys_green.mean(), abs=1)
    ys_blue, _ = np.nonzero((sky == (0, 0, 255)).all(-1))
    assert ys_blue.mean() < ys.mean() - 150
    # Far above the camera, and not valid: neither is drawn.
    assert not (sky == 9).all(-1).any()
    assert not ((sky == 255).all(-1)).any()


def test_the_map_of_an_empty_memory_still_shows_the_path():
    poses = np.eye(4)[None].repeat(5, 0)
    poses[:, 0, 3] = np.arange(5)
    sky = pictures.memory_from_above(np.zeros((0, 3), np.float32), poses, history=3)
    assert (sky == pictures.PATH_START).all(-1).any()
    assert (sky == pictures.PATH_END).all(-1).any()


def test_the_map_does_not_depend_on_the_world_frame():
    rng = np.random.default_rng(0)
    points = rng.uniform(-4, 4, (300, 3))
    poses = np.eye(4)[None].repeat(6, 0)
    poses[:, 0, 3] = np.linspace(0, 2, 6)
    poses[:, 2, 3] = np.linspace(0, 1, 6) ** 2
    # A world with z up, as games and simulators have, turned and shifted.
    turn = np.eye(4)
    turn[:3, :3] = np.array([[0.6, 0, -0.8], [0.8, 0, 0.6], [0, -1, 0]])
    turn[:3, 3] = (10, -20, 3)
    assert np.linalg.det(turn[:3, :3]) == pytest.approx(1)
    turned = points @ turn[:3, :3].T + turn[:3, 3]
    same = pictures.memory_from_above(points, poses)
    other = pictures.memory_from_above(turned, turn @ poses)
    # Rounding may move a dot that falls on the border of two pixels.
    assert (same != other).any(-1).mean() < 0.01


def test_the_map_of_a_camera_that_looks_straight_down_is_defined():
    down = np.eye(4)
    down[:3, :3] = np.array([[1, 0, 0], [0, 0, -1], [0, 1, 0]]).T
    sky = pictures.memory_from_above(np.zeros((4, 3)), down[None])
    assert (sky != pictures.PAPER).any()
