"""Point and camera files, read back by readers that know nothing of their writers."""

import json

import numpy as np
import pytest

from helpers import read_models
from mirage_jax import trajectories
from mirage_jax.io import outputs, point_files, scene_files

RNG = np.random.default_rng(0)
XYZ = RNG.normal((0, 0, 4), 1, (7, 3)).astype(np.float32)
COLOURS = RNG.integers(0, 256, (7, 3), np.uint8)
POSES = trajectories.make("orbit_right", 4, angle=70, distance=2)
LENS = np.array([[90.0, 91, 64.5, 47], [90, 91, 64.5, 47], [70, 70, 64, 48], [90, 91, 64.5, 47]])
SIZE = (96, 128)


def projected(points, cam2world, lens):
    """Pixels of world points, OpenCV axes."""
    local = (points - cam2world[:3, 3]) @ cam2world[:3, :3]
    return local[:, :2] / local[:, 2:] * lens[:2] + lens[2:]


EXPECTED = [projected(XYZ, pose, lens) for pose, lens in zip(POSES, LENS, strict=True)]


def test_ply_has_the_points_with_all_their_properties(tmp_path):
    more = {"frame": np.arange(7), "confidence": np.linspace(0, 1, 7)}
    point_files.write_ply(tmp_path / "p.ply", XYZ, COLOURS, more)
    found = read_models.ply(tmp_path / "p.ply")
    np.testing.assert_array_equal(np.stack([found[n] for n in "xyz"], 1), XYZ)
    names = ("red", "green", "blue")
    np.testing.assert_array_equal(np.stack([found[n] for n in names], 1), COLOURS)
    np.testing.assert_array_equal(found["frame"], np.arange(7))
    np.testing.assert_array_equal(found["confidence"], np.float32(np.linspace(0, 1, 7)))


def test_colmap_puts_the_points_at_the_same_pixels(tmp_path):
    record = scene_files.cameras(POSES, LENS, SIZE, [0, 4, 8, 12])
    scene_files.write_colmap(tmp_path / "m", record, XYZ, COLOURS)
    lenses, images, points, colours = read_models.colmap(tmp_path / "m")
    np.testing.assert_array_equal(np.float32(points), XYZ)
    np.testing.assert_array_equal(colours, COLOURS)
    assert len(lenses) == 2 and all(size == SIZE for size, _ in lenses.values())
    assert list(images) == [f"frame_{n:05d}.png" for n in (0, 4, 8, 12)]
    for (pose, camera), expected in zip(images.values(), EXPECTED, strict=True):
        found = projected(points, pose, lenses[camera][1])
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_transforms_json_puts_the_points_at_the_same_pixels(tmp_path):
    """In OpenGL axes a camera looks along -z and rows count down from +y."""
    path = tmp_path / "transforms.json"
    scene_files.write_transforms(path, scene_files.cameras(POSES, LENS, SIZE), "p.ply")
    scene = json.loads(path.read_text())
    assert (scene["w"], scene["h"], scene["ply_file_path"]) == (128, 96, "p.ply")
    for frame, expected in zip(scene["frames"], EXPECTED, strict=True):
        pose = np.array(frame["transform_matrix"])
        x, y, z = ((XYZ - pose[:3, 3]) @ pose[:3, :3]).T
        u = frame["fl_x"] * x / -z + frame["cx"]
        v = frame["fl_y"] * -y / -z + frame["cy"]
        np.testing.assert_allclose(np.stack([u, v], 1), expected, atol=1e-6)


@pytest.mark.parametrize("frames", [1, 4])
def test_glb_shows_the_points_from_its_camera_at_the_same_place(tmp_path, frames):
    view, aspect = 2 * np.arctan(48 / 91), 128 / 96
    point_files.write_glb(tmp_path / "p.glb", XYZ, COLOURS, POSES[:frames], view, aspect)
    scene, values = read_models.glb(tmp_path / "p.glb")
    cloud, walk = (mesh["primitives"][0] for mesh in scene["meshes"])
    assert (cloud["mode"], walk["mode"]) == (0, 3)  # points, a line
    points = values(cloud["attributes"]["POSITION"])
    bounds = scene["accessors"][cloud["attributes"]["POSITION"]]
    np.testing.assert_array_equal(points.min(0), np.float32(bounds["min"]))
    np.testing.assert_array_equal(points.max(0), np.float32(bounds["max"]))
    rgba = values(cloud["attributes"]["COLOR_0"])
    back = 255 * (rgba[:, :3] / 255.0) ** (1 / 2.2)
    assert (
        np.abs(back - COLOURS).max() < 12
    )  # eight bits of linear light are coarse where it is dark
    assert np.abs(back - COLOURS)[COLOURS > 100].max() < 1.5
    node = scene["nodes"][2]
    pose = np.array(node["matrix"]).reshape(4, 4).T
    x, y, z = ((points - pose[:3, 3]) @ pose[:3, :3]).T
    lens = scene["cameras"][node["camera"]]["perspective"]
    up, right = np.tan(lens["yfov"] / 2), np.tan(lens["yfov"] / 2) * lens["aspectRatio"]
    expected = projected(XYZ, POSES[frames - 1], [91, 91, 64, 48])
    found = np.stack([(x / -z / right + 1) * 64, (1 - y / -z / up) * 48], 1)
    np.testing.assert_allclose(found, expected, atol=1e-3)
    line = values(walk["attributes"]["POSITION"])
    centres = np.repeat(POSES[:1], 2, 0)[:, :3, 3] if frames == 1 else POSES[:, :3, 3]
    np.testing.assert_allclose(line, centres * [1, -1, -1], atol=1e-6)


def test_our_own_files_are_replaced_and_those_of_others_are_not(tmp_path):
    point_files.write_ply(tmp_path / "p.ply", XYZ, COLOURS)
    point_files.write_glb(tmp_path / "p.glb", XYZ, COLOURS, POSES, 1.0, 1.0)
    record = scene_files.cameras(POSES, LENS, SIZE)
    scene_files.write_transforms(tmp_path / "t.json", record)
    scene_files.write_colmap(tmp_path, record, XYZ, COLOURS)
    kinds = {"p.ply": point_files.PLY, "p.glb": point_files.GLB, "t.json": scene_files.TRANSFORMS}
    kinds |= dict.fromkeys(scene_files.COLMAP_FILES, scene_files.COLMAP)
    for name, kind in kinds.items():
        outputs.check_file("--out", tmp_path / name, kind)
        (tmp_path / name).write_text("ply\nof another program\n")
        with pytest.raises(ValueError, match=r"no .* that mirage_jax wrote"):
            outputs.check_file("--out", tmp_path / name, kind)
