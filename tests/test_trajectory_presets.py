"""Presets of other projects: the paths they are said to be go where those projects' do."""

import re

import numpy as np
import pytest

from helpers import paths
from mirage_jax import geometry, trajectories
from mirage_jax.trajectories import PRESETS

DEPTH = 4.0
MODES = {"center_facing": 0, "no_rotation": 1, "trajectory_aligned": 2}
ALL = [(peer, name, text) for peer, names in PRESETS.items() for name, text in names.items()]


def path_of(text, frames=21):
    if trajectories.is_keys(text):
        return trajectories.keys(text)
    if trajectories.is_composed(text):
        return trajectories.steps(text, frames, scene_depth=DEPTH)
    return trajectories.make(text, frames, depth=DEPTH)


@pytest.mark.parametrize(("peer", "name", "text"), ALL)
def test_every_preset_is_a_path(peer, name, text):
    assert trajectories.is_named(text)
    poses = path_of(text)
    geometry.check_cam2world(poses)
    np.testing.assert_array_equal(poses[0], np.eye(4))


def test_gen3c_has_all_its_combinations_and_recammaster_its_ten():
    kinds = {"left", "right", "up", "down", "zoom_in", "zoom_out", "clockwise", "counterclockwise"}
    for mode in MODES:
        assert PRESETS[f"GEN3C, Lyra ({mode})"].keys() - {"none"} == kinds
    assert [int(name.split()[0]) for name in PRESETS["ReCamMaster"]] == list(range(1, 11))


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize(
    ("name", "end"),
    [
        ("left", (-1, 0, 0)),
        ("right", (1, 0, 0)),
        ("up", (0, -1, 0)),
        ("down", (0, 1, 0)),
        ("zoom_in", (0, 0, 1)),
        ("zoom_out", (0, 0, -1)),
        ("clockwise", None),
        ("counterclockwise", None),
    ],
)
def test_gen3c_goes_where_it_goes_and_looks_where_it_looks(name, end, mode):
    """Its camera is at p and looks at the centre, the centre + p or the centre + 2 p."""
    reach = 0.3 * DEPTH
    poses = path_of(PRESETS[f"GEN3C, Lyra ({mode})"][name])
    places = poses[:, :3, 3]
    if end is None:  # a circle of that radius, left and right of the start
        side = -1 if name == "clockwise" else 1
        np.testing.assert_allclose(
            np.linalg.norm(places - [side * reach, 0, 0], axis=1), reach, atol=1e-9
        )
        np.testing.assert_allclose(places[10], [2 * side * reach, 0, 0], atol=1e-9)
        # As the picture is seen, y down: down first, then to that side, which is clockwise if left.
        assert (places[1:10, 1] > 0).all() and (places[11:20, 1] < 0).all()
        np.testing.assert_allclose(poses[-1], np.eye(4), atol=1e-12)
    else:
        np.testing.assert_allclose(places[-1], reach * np.array(end), atol=1e-9)
    looks = np.array([0, 0, DEPTH]) + MODES[mode] * places - places
    looks /= np.linalg.norm(looks, axis=1, keepdims=True)
    np.testing.assert_allclose(poses[:, :3, 2], looks, atol=1e-9)
    np.testing.assert_allclose(poses[:, 1, 0], 0, atol=1e-9)  # level: right is level


def test_seva_looks_at_its_centre():
    for name in ("lemniscate", "move-up", "move-down", "move-left", "move-right"):
        poses = path_of(PRESETS["Stable Virtual Camera (SEVA)"][name], 41)
        looks = np.array([0, 0, DEPTH]) - poses[:, :3, 3]
        looks /= np.linalg.norm(looks, axis=1, keepdims=True)
        np.testing.assert_allclose(poses[:, :3, 2], looks, atol=1e-9)
    eight = path_of(PRESETS["Stable Virtual Camera (SEVA)"]["lemniscate"], 401)[:, :3, 3]
    a = np.tan(np.radians(30)) * DEPTH  # half its width
    x, y = eight[:, 0], eight[:, 1]
    np.testing.assert_allclose((x**2 + y**2) ** 2, a**2 * (x**2 - y**2), atol=0.02 * a**4)
    assert x[:200].min() == pytest.approx(-a, rel=1e-2) and x[:200].max() <= 0
    assert x[201:].max() == pytest.approx(a, rel=1e-2)
    assert eight[:, 2].max() == 0


def test_what_is_faced_stays_in_the_middle_at_the_depth_that_is_told():
    for depth, expected in ((5.0, 5.0), (None, 2 / 0.3)):
        poses = trajectories.make("face_right", 9, distance=2, depth=depth)
        seen = (np.array([0, 0, expected]) - poses[:, :3, 3])[:, None] @ poses[:, :3, :3]
        np.testing.assert_allclose(seen[:, 0, :2], 0, atol=1e-9)
    for depth in (0, -1.0, np.nan):
        with pytest.raises(ValueError, match=r"face_up: found something .* expected it"):
            trajectories.make("face_up", 5, depth=depth)
    for text in ("face_left:1m", "lead_up", "hold,face_clockwise"):
        assert trajectories.uses_scene_depth(text)
    assert not trajectories.uses_scene_depth("move_left:1m,clockwise")


def test_the_page_on_cameras_has_every_preset():
    page = (paths.ROOT / "docs" / "cameras.md").read_text()
    rows = re.findall(r"^\| ([^|]+) \| `([^|`]+)` \| `([^|`]+)` \|$", page, re.MULTILINE)
    assert [tuple(row) for row in rows] == ALL
