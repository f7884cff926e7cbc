"""Lenses of COLMAP and transforms.json through the source: straight pictures, or a refusal.

Points of known directions are projected forward by formulas written out here, drawn as spots into
the stored pictures, and must be where a pinhole with the clip's intrinsics sees them.
"""

import dataclasses
import json

import numpy as np
import pytest

from helpers import made_footage
from helpers.footage_reading import first_clip, refusal
from helpers.made_footage import room

SIZE = (96, 128)  # height, width
LENS = (90.0, 92.0, 63.0, 49.0)
RAYS = np.array([(x, y) for x in (-0.42, -0.2, 0.02, 0.4) for y in (-0.3, 0.0, 0.28)])
ROOM = room(10, 16)


def perspective(rays, k=(), p=(0, 0), below=()):
    """x (1 + k1 r^2 + k2 r^4 + ...) / (1 + below1 r^2 + ...), and tangentially by p1, p2."""
    x, y = rays.T
    r = np.hypot(x, y)
    radial = 1 + sum(k_i * r ** (2 * i) for i, k_i in enumerate(k, 1))
    radial = radial / (1 + sum(b * r ** (2 * i) for i, b in enumerate(below, 1)))
    across = 2 * p[0] * x * y + p[1] * (r**2 + 2 * x**2)
    down = p[0] * (r**2 + 2 * y**2) + 2 * p[1] * x * y
    return np.stack([x * radial + across, y * radial + down], -1)


def fisheye(rays, k=(), p=(0, 0), prism=(0, 0)):
    """The angle from the axis is the distance from the middle, bent by k; then the prism's."""
    angle = np.arctan2(np.linalg.norm(rays, axis=1), 1.0)
    around = np.arctan2(rays[:, 1], rays[:, 0])
    bent = angle * (1 + sum(k_i * angle ** (2 * i) for i, k_i in enumerate(k, 1)))
    flat = angle[:, None] * np.stack([np.cos(around), np.sin(around)], -1)
    tangential = perspective(flat, p=p) - flat + np.outer(angle**2, prism)
    return bent[:, None] * np.stack([np.cos(around), np.sin(around)], -1) + tangential


def pictures(bent):
    """A spot for each point, where a lens puts it."""
    u, v = bent.T * np.reshape(LENS[:2], (2, 1)) + np.reshape(LENS[2:], (2, 1))
    columns, rows = np.meshgrid(np.arange(SIZE[1]) + 0.5, np.arange(SIZE[0]) + 0.5)
    spots = zip(u, v, strict=True)
    near = [np.exp(-((columns - a) ** 2 + (rows - b) ** 2) / (2 * 1.6**2)) for a, b in spots]
    picture = np.uint8(np.rint(250 * np.max(near, 0)))
    return np.tile(picture[None, ..., None], (ROOM.frames, 1, 1, 3))


def clip_of(bent):
    lens = np.tile(np.float32(LENS), (ROOM.frames, 1))
    return dataclasses.replace(ROOM, video=pictures(bent), intrinsics=lens, depth=None)


def write_transforms(root, bent, frame=None, **fields):
    """Fields beside the focal length; some may be of one frame alone."""
    clip = dataclasses.replace(clip_of(bent), depth=np.ones((ROOM.frames, *SIZE), np.float32))
    made_footage.transforms(root, clip)
    path = root / "room" / "transforms.json"
    content = json.loads(path.read_text()) | fields
    content["frames"][1] |= frame or {}
    path.write_text(json.dumps(content))


def read(root):
    return first_clip(root, size=SIZE[0], width=SIZE[1], frames=2)


def refused(root):
    return refusal(root, size=SIZE[0], width=SIZE[1], frames=2)


def assert_straight(clip, lens, bent):
    """Every spot is where a pinhole sees its point, and was not before."""
    assert clip.provenance.get("undistorted") == lens
    fx, fy, cx, cy = clip.intrinsics[0]
    expected = RAYS * [fx, fy] + [cx, cy]
    before = bent * LENS[:2] + LENS[2:]
    assert np.abs(RAYS * LENS[:2] + LENS[2:] - before).max() > 1.0
    inside = (expected > 7).all(1) & (expected < np.array(SIZE[::-1]) - 7).all(1)
    assert inside.sum() >= 4
    picture = clip.video[1, ..., 0].astype(float)
    for u, v in expected[inside]:
        left, top = int(u) - 5, int(v) - 5
        window = picture[top : top + 11, left : left + 11]
        rows, columns = np.mgrid[:11, :11] + 0.5
        found = [left + np.average(columns, weights=window), top + np.average(rows, weights=window)]
        np.testing.assert_allclose(found, [u, v], atol=0.3)


K, P = (-0.2, 0.05, 0.01, 0.0), (0.004, -0.006)
NAMED = dict(zip(("k1", "k2", "k3"), K, strict=False)) | {"p1": P[0], "p2": P[1]}
# What transforms.json says, the lens of the provenance, where it puts the points.
TRANSFORMS = {
    "opencv": ({"camera_model": "OPENCV", **NAMED}, "OPENCV", perspective(RAYS, K, P)),
    "no_model": (NAMED, "OPENCV", perspective(RAYS, K, P)),
    # Nerfstudio's k4 is r^8 of the numerator, no r^2 of OpenCV's denominator.
    "k4": ({**NAMED, "k4": -0.9}, "BROWN4", perspective(RAYS, (*K[:3], -0.9), P)),
    "fisheye": (
        {"camera_model": "OPENCV_FISHEYE", "k1": 0.05, "k4": -0.02},
        "OPENCV_FISHEYE",
        fisheye(RAYS, (0.05, 0, 0, -0.02)),
    ),
    "plain_fisheye": ({"camera_model": "OPENCV_FISHEYE"}, "OPENCV_FISHEYE", fisheye(RAYS)),
    "ngp_fisheye": ({"is_fisheye": True, "k1": 0.1}, "OPENCV_FISHEYE", fisheye(RAYS, (0.1,))),
    "named_and_marked": (
        {"camera_model": "opencv_fisheye", "is_fisheye": True, "k1": 0.1},
        "OPENCV_FISHEYE",
        fisheye(RAYS, (0.1,)),
    ),
}
COLMAP = {
    "SIMPLE_RADIAL": ((-0.15,), perspective(RAYS, (-0.15,))),
    "OPENCV": ((-0.2, 0.05, *P), perspective(RAYS, (-0.2, 0.05), P)),
    "FULL_OPENCV": (
        (-0.1, 0.05, *P, 0.01, 0.2, 0.05, 0.01),
        perspective(RAYS, (-0.1, 0.05, 0.01), P, (0.2, 0.05, 0.01)),
    ),
    "SIMPLE_FISHEYE": ((), fisheye(RAYS)),
    "FISHEYE": ((), fisheye(RAYS)),
    "RADIAL_FISHEYE": ((0.02, -0.01), fisheye(RAYS, (0.02, -0.01))),
    "OPENCV_FISHEYE": ((0, 0, 0, 0), fisheye(RAYS)),
    "THIN_PRISM_FISHEYE": (
        (0.02, 0.01, *P, -0.01, 0.004, 0.01, -0.008),
        fisheye(RAYS, (0.02, 0.01, -0.01, 0.004), P, (0.01, -0.008)),
    ),
}
SQUARE = ("SIMPLE_RADIAL", "SIMPLE_FISHEYE", "RADIAL_FISHEYE")


@pytest.mark.parametrize("name", TRANSFORMS)
def test_pictures_of_transforms_json_are_straightened(name, tmp_path):
    fields, lens, bent = TRANSFORMS[name]
    write_transforms(tmp_path, bent, **fields)
    assert_straight(read(tmp_path), lens, bent)


@pytest.mark.parametrize("name", COLMAP)
def test_pictures_of_colmap_are_straightened(name, tmp_path, monkeypatch):
    extra, bent = COLMAP[name]
    if name in SQUARE:
        monkeypatch.setitem(globals(), "LENS", (90.0, 90.0, 63.0, 49.0))
    made_footage.colmap(tmp_path, clip_of(bent), name, extra, name in SQUARE)
    assert_straight(read(tmp_path), name, bent)


def test_a_thin_prism_fisheye_without_prism_is_still_a_fisheye(tmp_path):
    bent = fisheye(RAYS)
    made_footage.colmap(tmp_path, clip_of(bent), "THIN_PRISM_FISHEYE", (0,) * 8)
    assert_straight(read(tmp_path), "THIN_PRISM_FISHEYE", bent)


def test_pinholes_stay_as_they_are(tmp_path):
    zeros = dict.fromkeys(("k1", "k2", "k3", "k4", "p1", "p2"), 0.0)
    write_transforms(tmp_path / "a", RAYS, camera_model="OPENCV", is_fisheye=False, **zeros)
    made_footage.colmap(tmp_path / "b", clip_of(RAYS), "OPENCV", (0,) * 4)
    for root in (tmp_path / "a", tmp_path / "b"):
        clip = read(root)
        np.testing.assert_array_equal(clip.video, pictures(RAYS)[:2])
        np.testing.assert_array_equal(clip.intrinsics[0], np.float32(LENS))
        assert "undistorted" not in clip.provenance


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"camera_model": "EQUIRECTANGULAR"}, "lens EQUIRECTANGULAR: found a model that is not"),
        ({"equirectangular": True}, "lens EQUIRECTANGULAR: found a model that is not undone"),
        ({"latlong": True}, "lens LATLONG: found a model that is not undone"),
        ({"ftheta_p0": 0.1}, "lens FTHETA: found a model that is not undone"),
        ({"camera_model": "FISHEYE624"}, "lens FISHEYE624: found a model that is not undone"),
        (
            {"camera_model": "OPENCV", "is_fisheye": True},
            "frames[0]: found lenses OPENCV_FISHEYE, OPENCV, expected one of them",
        ),
        (
            {"frame": {"camera_model": "OPENCV_FISHEYE"}},
            "lens OPENCV and OPENCV_FISHEYE: found frames of several kinds of lenses",
        ),
        (
            {"camera_model": "OPENCV_FISHEYE", "frame": {"camera_model": "PINHOLE"}},
            "lens OPENCV_FISHEYE and PINHOLE: found frames of several kinds of lenses",
        ),
    ],
)
def test_lenses_of_transforms_json_that_cannot_be_undone_are_refused(fields, found, tmp_path):
    write_transforms(tmp_path, RAYS, **fields)
    message = refused(tmp_path)
    assert "transforms.json: " in message and found in message


@pytest.mark.parametrize(
    ("name", "extra"),
    [("FOV", (0.9,)), ("DIVISION", (-0.1,)), ("EUCM", (0.5, 1)), ("FOV", (0,))],
)
def test_lenses_of_colmap_that_cannot_be_undone_are_refused(name, extra, tmp_path):
    made_footage.colmap(tmp_path, clip_of(RAYS), name, extra)
    assert f"lens {name}: found a model that is not undone, expected one of" in refused(tmp_path)


def test_a_pinhole_among_fisheyes_is_refused(tmp_path):
    """COLMAP: the second picture is of another camera."""
    made_footage.colmap(tmp_path, clip_of(RAYS), "FISHEYE")
    model = tmp_path / "room" / "sparse" / "0"
    cameras = (model / "cameras.txt").read_text()
    second = cameras.splitlines()[1].replace("1 FISHEYE", "2 PINHOLE")
    (model / "cameras.txt").write_text(cameras + second + "\n")
    images = (model / "images.txt").read_text()
    (model / "images.txt").write_text(images.replace("1 0001.png", "2 0001.png"))
    assert "lens FISHEYE and PINHOLE: found frames of several kinds" in refused(tmp_path)
