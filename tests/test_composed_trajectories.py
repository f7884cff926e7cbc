"""Paths of steps and keys against where a walker ends by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mirage_jax import geometry, trajectories


def test_steps_end_where_a_walker_would():
    # 2 m ahead, then facing left, 1 m ahead: that is 1 m to the left of where one stood.
    poses = trajectories.steps("forward:2m, turn_left:90, forward:1", 61)
    geometry.check_cam2world(poses)
    np.testing.assert_array_equal(poses[0], np.eye(4))
    np.testing.assert_allclose(poses[-1][:3, 3], [-1, 0, 2], atol=1e-9)
    np.testing.assert_allclose(poses[-1][:3, 2], [-1, 0, 0], atol=1e-9)


def test_frames_are_shared_by_how_far_steps_go():
    # 3 m and 45 degrees, as long as 1 m: the turn begins after three quarters.
    poses = trajectories.steps("forward:3m,turn_right:45deg", 81)
    turned = np.asarray(geometry.pose_angle_deg(poses[0], poses))
    np.testing.assert_allclose(poses[60][:3, 3], [0, 0, 3], atol=1e-9)
    assert turned[60] < 1e-6 and turned[62] > 1e-3 and turned[-1] == pytest.approx(45)


def test_back_retraces_the_way_and_ends_exactly_where_it_began():
    poses = trajectories.steps("forward:2m,turn_left:90,back", 41)
    np.testing.assert_array_equal(poses[-1], np.eye(4))
    np.testing.assert_allclose(poses, poses[::-1], atol=1e-9)
    assert geometry.pose_distance(poses[20], poses[0]) == pytest.approx(2)


@pytest.mark.parametrize(
    "text",
    ["clockwise:1m", "face_clockwise:0.3x", "full_circle,clockwise:2", "up:1,back,clockwise:1"],
)
def test_closed_paths_with_an_amount_end_exactly_where_they_began(text):
    poses = trajectories.steps(text, 61, scene_depth=3.0)
    np.testing.assert_array_equal(poses[-1], poses[0])
    np.testing.assert_allclose(poses[-2], poses[0], atol=0.01)  # the path itself comes back
    assert geometry.pose_distance(poses[0], poses[50]) > 0.1


def test_steps_scale_with_the_depth_of_the_scene():
    poses = trajectories.steps("forward:0.5x", 5, scene_depth=6.0)
    np.testing.assert_allclose(poses[-1][:3, 3], [0, 0, 3], atol=1e-9)
    assert trajectories.uses_scene_depth("turn_left:5,forward:0.5x")
    assert not trajectories.uses_scene_depth("forward:5m")
    with pytest.raises(ValueError, match="depth is not known"):
        trajectories.steps("forward:0.5x", 5)


def test_steps_without_amounts_go_as_far_as_named_paths():
    poses = trajectories.steps("push_in,pan_right", 9, angle=30, distance=4)
    np.testing.assert_allclose(poses[-1][:3, 3], [0, 0, 4], atol=1e-9)
    assert geometry.pose_angle_deg(poses[0], poses[-1]) == pytest.approx(30)


@pytest.mark.parametrize("name", trajectories.NAMES)
def test_a_single_step_is_the_named_path(name):
    np.testing.assert_allclose(
        trajectories.steps(name, 17, angle=50, distance=2),
        trajectories.make(name, 17, angle=50, distance=2),
        atol=1e-12,
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("forwards:2m,back", "did you mean 'forward'"),
        ("forward:2deg,back", "unit 'deg', expected metres"),
        ("turn_left:2m,back", "unit 'm', expected degrees"),
        ("back,forward:1", "after other steps"),
        ("forward:--1,back", "expected a number"),
        ("forward:2,,back", "found step ''"),
    ],
)
def test_steps_that_cannot_be_are_named(text, message):
    with pytest.raises(ValueError, match=message):
        trajectories.steps(text, 9)


def test_keys_move_by_frames():
    poses = trajectories.keys("w*10 a*5")
    assert len(poses) == 16
    np.testing.assert_allclose(poses[-1][:3, 3], [-0.1, 0, 0.2], atol=1e-12)
    both = trajectories.keys("wd*5", 8)  # at once, then waiting
    np.testing.assert_allclose(both[5:, :3, 3], [[0.1, 0, 0.1]] * 3, atol=1e-12)


def test_keys_walk_where_one_looks_and_stay_level():
    poses = trajectories.keys("l*120 i*40 w*50")  # 90 degrees right, 30 up
    geometry.check_cam2world(poses)
    np.testing.assert_allclose(poses[-1][:3, 3], [1, 0, 0], atol=1e-9)
    np.testing.assert_allclose(poses[-1][:3, 2], [np.cos(np.pi / 6), -0.5, 0], atol=1e-9)


def test_keys_in_latents():
    poses = trajectories.keys("w-31, right-1, d-4")
    assert len(poses) == 1 + 4 * 36
    # .08 a latent; one latent to the right is 3 degrees; then to that camera's right.
    right = 4 * 0.08 * np.array([np.cos(np.radians(3)), 0, -np.sin(np.radians(3))])
    np.testing.assert_allclose(poses[-1][:3, 3], right + np.array([0, 0, 2.48]), atol=1e-9)


def test_arrows_are_keys_and_are_held_with_others():
    np.testing.assert_array_equal(trajectories.keys("left*5"), trajectories.keys("j*5"))
    np.testing.assert_array_equal(
        trajectories.keys("w+right*8 up*2 down*3"), trajectories.keys("wl*8 i*2 k*3")
    )
    np.testing.assert_array_equal(trajectories.keys("W+LEFT+e*2"), trajectories.keys("wje*2"))


def test_a_mouse_turns_by_its_counts():
    poses = trajectories.keys("mouse(4,-2)*10")  # 40 counts right, 20 up, at 0.15 degrees
    ahead = poses[-1][:3, 2]
    assert np.degrees(np.arctan2(ahead[0], ahead[2])) == pytest.approx(6)
    assert np.degrees(np.arcsin(-ahead[1])) == pytest.approx(3)
    np.testing.assert_array_equal(poses[:, :3, 3], 0)
    walked = trajectories.keys("mouse(600,0)*1 w+mouse(0,0.5)*50")  # 90 degrees right, then ahead
    np.testing.assert_allclose(walked[-1][:3, 3], [1, 0, 0], atol=1e-9)
    with pytest.raises(ValueError, match=r"found 'mouse\(4\)', expected .*mouse\(RIGHT,DOWN\)"):
        trajectories.keys("mouse(4)*2")


def test_capitals_alone_are_held_for_a_latent():
    np.testing.assert_array_equal(trajectories.keys("WWAD"), trajectories.keys("w*8 a*4 d*4"))
    np.testing.assert_array_equal(trajectories.keys("WW LI"), trajectories.keys("w*8 l*4 i*4"))
    assert trajectories.is_keys("W") and not trajectories.is_keys("wwad")
    assert not trajectories.is_keys("WALK.npz") and not trajectories.is_keys("")


def test_a_file_whose_name_is_capitals_is_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert trajectories.is_keys("WASD") and trajectories.is_named("WASD")
    (tmp_path / "WASD").mkdir()
    assert not trajectories.is_keys("WASD") and not trajectories.is_named("WASD")


def test_keys_that_cannot_be_are_named():
    with pytest.raises(ValueError, match="key 'x'"):
        trajectories.keys("wx*5")
    with pytest.raises(ValueError, match="found 5 frames, expected at least 11"):
        trajectories.keys("w*10", 5)


def test_what_is_a_name_and_what_is_put_together():
    assert trajectories.is_composed("forward:2m") and trajectories.is_composed("forward")
    assert trajectories.is_composed("w*5") and trajectories.is_composed("w-5, d-1")
    for other in ("look_away", "walk.npz", "my,path.npz", "a/b.txt"):
        assert not trajectories.is_composed(other)


def test_names_of_other_tools():
    for alias, name in trajectories.ALIASES.items():
        np.testing.assert_array_equal(trajectories.make(alias, 5), trajectories.make(name, 5))


def test_new_closed_paths_go_where_they_say():
    circle = trajectories.make("orbit_circle", 41, distance=3)
    to_centre = np.array([0, 0, 3]) - circle[:, :3, 3]
    np.testing.assert_allclose(to_centre / 3, circle[:, :3, 2], atol=1e-9)
    assert np.linalg.norm(circle[20, :3, 3]) == pytest.approx(6)
    loop = trajectories.make("walk_loop", 41, distance=3)
    np.testing.assert_allclose(loop[20, :3, 3], [3, 0, 0], atol=1e-9)
    np.testing.assert_allclose(loop[20, :3, 2], [0, 0, -1], atol=1e-9)
    eight = trajectories.make("figure_eight", 401, distance=2)
    assert np.abs(eight[:, 0, 3]).max() == pytest.approx(2, abs=1e-3)
    np.testing.assert_allclose(eight[200, :3, 3], 0, atol=1e-9)  # crosses itself in the middle
    around = trajectories.make("look_around", 201, angle=60)
    yaw = np.degrees(np.arctan2(around[:, 0, 2], around[:, 2, 2]))
    assert yaw.max() == pytest.approx(60, abs=0.1) and yaw.min() == pytest.approx(-60, abs=0.1)


@settings(deadline=None, max_examples=40)
@given(
    distance=st.floats(-0.9, 4),
    depth=st.floats(1, 6),
    behind=st.floats(0.1, 5),
    text=st.sampled_from(["dolly_zoom", "vertigo", "dolly_zoom:{}m", "pan_left:0,dolly_zoom:{}m"]),
)
def test_a_dolly_zoom_keeps_the_size_of_what_is_at_the_depth(distance, depth, behind, text):
    text, frames = text.format(distance), 9
    options = {"distance": distance, "scene_depth": depth}
    composed = trajectories.is_composed(text)
    make = trajectories.steps if composed else trajectories.make
    poses = make(text, frames, **(options if composed else {"distance": distance}))
    zoom = trajectories.zoom_of(text, frames, **options)
    # A bar across the picture at the depth, and one farther away, as every frame shows them.
    ends = np.array([[-0.3, 0.1, 0], [0.4, 0.1, 0]])
    for z, keeps in ((depth, True), (depth + behind, False)):
        points = ends + np.array([0, 0, z])
        local = np.stack([(points - p[:3, 3]) @ p[:3, :3] for p in poses])
        seen = 60 * zoom[:, None] * local[..., 0] / local[..., 2]
        width = seen[:, 1] - seen[:, 0]
        if keeps:
            np.testing.assert_allclose(seen, np.tile(seen[:1], (frames, 1)), rtol=1e-9)
        else:  # it grows as the camera moves back, by the ratio of the two distances
            moved = np.linalg.norm(poses[:, :3, 3], axis=1) * np.sign(distance)
            expected = (1 + moved / depth) / (1 + moved / z)
            np.testing.assert_allclose(width / width[0], expected, rtol=1e-9)
    np.testing.assert_allclose(poses[-1, :3, 3], [0, 0, -distance], atol=1e-12)


def test_what_a_zoom_needs_and_which_paths_do():
    assert not any(trajectories.zooms(name) for name in trajectories.NAMES if name != "dolly_zoom")
    assert trajectories.zoom_of("push_in", 5) is None and trajectories.zoom_of("w*5", 6) is None
    there_and_back = trajectories.zoom_of("dolly_zoom:1m,turn_left:45,back", 17, scene_depth=2.0)
    np.testing.assert_allclose(there_and_back, there_and_back[::-1], atol=1e-12)
    assert there_and_back[8] == there_and_back.max() == 1.5 and there_and_back[-1] == 1
    # As a multiple of the depth, twice as far is twice the focal length; then from where that is.
    twice = trajectories.zoom_of("dolly_zoom:1x,dolly_zoom:1x", 9, scene_depth=3.0)
    np.testing.assert_allclose(twice[[0, 4, 8]], [1, 2, 4])
    with pytest.raises(ValueError, match="scene's depth is not known"):
        trajectories.zoom_of("dolly_zoom", 5)
    for distance, depth in ((-2, 2), (1, -1), (1, np.nan)):
        with pytest.raises(ValueError, match="expected it to stay ahead"):
            trajectories.zoom("dolly_zoom", 5, distance=distance, depth=depth)
