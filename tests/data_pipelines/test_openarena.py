"""A map of Quake III's format, from its bytes to clips; skipped where nothing can be rendered."""

import dataclasses
import pickle
import zipfile

import numpy as np
import pytest

from data_pipelines.clip import validate
from data_pipelines.sources.openarena import ground
from data_pipelines.sources.openarena.bsp import LIQUID, METRES, PLAYER_CLIP, SOLID, read_bsp
from data_pipelines.sources.openarena.files import GameFiles
from data_pipelines.sources.openarena.renderer import Renderer
from data_pipelines.sources.openarena.shaders import parse_shaders
from data_pipelines.sources.openarena.source import OpenArenaSource
from data_pipelines.sources.openarena.surfaces import curved_points, triangles
from data_pipelines.sources.paths import level_cam2world
from helpers import quake_maps as made
from helpers.warps import psnrs

LEVEL = read_bsp(made.bsp(), "room")
SOLIDS = (made.PILLAR, made.STEP, made.LEDGE)


@pytest.fixture(scope="module")
def renders():
    available, reason = OpenArenaSource.available()
    if not available:
        pytest.skip(reason)


@pytest.fixture(scope="module")
def source(tmp_path_factory):
    folder = made.game(tmp_path_factory.mktemp("game"))
    return OpenArenaSource(root=str(folder), eval_share=0.0, frames=13, size=64)


def test_boxes_are_filled_where_a_brush_is():
    low, shape = np.array([-24.0, -24.0, -12.0]), np.array([60, 50, 48])
    found = ground.filled(LEVEL, low, shape, SOLID | PLAYER_CLIP)
    middles = low + ground.CELL * (np.stack(np.indices(shape), -1) + 0.5)
    inside = lambda box: ((middles > box[0]) & (middles < box[1])).all(-1)  # noqa: E731
    expected = np.any([inside(box) for box in SOLIDS], 0)
    shell = made.INSIDE + np.array([[-16.0], [16.0]])
    expected |= inside(shell) & ~inside(made.INSIDE)
    np.testing.assert_array_equal(found, expected)
    water = ground.filled(LEVEL, low, shape, LIQUID)
    np.testing.assert_array_equal(water, inside(made.POOL))


def test_a_camera_goes_where_a_player_can():
    floor = ground.floor_around(LEVEL, LEVEL.places("info_player")[0], curved_points(LEVEL))
    at = lambda x, y: bool(floor.is_free(np.array([[x, y]]) * METRES)[0])  # noqa: E731
    assert at(100, 100) and at(150, 260) and at(270, 60)
    assert at(200, 60) and not at(224, 184)  # beside the pillar, in it
    assert not at(184, 184) and at(160, 184)  # too near to it, and not
    assert not at(40, 340)  # the ledge is too high to climb
    assert not at(8, 100) and not at(-40, 100) and not at(5000, 0)  # walls, outside
    eyes = floor.eyes(np.array([[100.0, 100.0], [270.0, 60.0]]) * METRES)
    np.testing.assert_allclose(eyes[:, 2] / METRES, ground.EYE, atol=2.0)
    wide = ground.floor_around(LEVEL, np.array([300.0, 100.0, 32.0]), curved_points(LEVEL))
    at = lambda x, y: bool(wide.is_free(np.array([[x, y]]) * METRES)[0])  # noqa: E731
    assert at(390, 60) and not at(390, 340)  # the step is climbed, the pool not waded through
    assert not at(324, 240) and not at(324, 256)  # the bulge, which has no brush
    high = wide.eyes(np.array([[390.0, 60.0]]) * METRES)[0, 2] / METRES
    np.testing.assert_allclose(high, ground.EYE + made.STEP[1, 2], atol=2.0)
    assert ground.floor_around(LEVEL, np.array([224.0, 184.0, 100.0]), curved_points(LEVEL)) is None


def test_open_ways_end_at_walls():
    floor = ground.floor_around(LEVEL, np.array([100.0, 184.0, 32.0]), curved_points(LEVEL))
    eye = np.array([100.0, 184.0, 60.0]) * METRES
    assert abs(floor.open_way(eye, 0.0) - 100 * METRES) < 0.35  # the pillar
    assert abs(floor.open_way(eye, np.pi) - 100 * METRES) < 0.35  # the wall


def test_patches_are_curves_through_their_ends():
    face = LEVEL.faces[LEVEL.faces["kind"] == 2][0]
    points = triangles(LEVEL, face, 8)["place"]
    assert len(points) == 8 * 8 * 2 * 3
    share = (points[:, 0] - 300) / 48
    np.testing.assert_allclose(points[:, 1], 240 + 48 * share * (1 - share), atol=1e-3)


def test_shaders_name_pictures_holes_and_glows():
    shaders = dict(parse_shaders(made.SHADER))
    assert set(shaders) == {f"textures/test/{name}" for name in ("floor", "glow", "grate")}
    floor, glow, grate = (shaders[f"textures/test/{name}"] for name in ("floor", "glow", "grate"))
    assert floor.picture == "textures/test/painted.tga" and not floor.holes and not floor.glow
    assert glow.glow and not glow.holes
    assert grate.holes and grate.picture == "textures/test/grate.tga"


def test_later_archives_replace_files_and_what_is_not_drawn_is_left_out(source, tmp_path):
    _, surfaces = source.read("openarena/room")
    assert surfaces.missing == ()  # the picture of the first archive is none, the second's is
    drawn = set(surfaces.corners["texture"].tolist())
    assert drawn == {-1.0, 0.0, 1.0, 2.0}  # sky, wall, floor, water; no glow
    with zipfile.ZipFile(tmp_path / "pak0.pk3", "w") as archive:
        archive.writestr("maps/room.bsp", made.bsp())
    _, unpainted = OpenArenaSource(root=str(tmp_path)).read("openarena/room")
    names = ("wall", "floor", "water", "glow")  # no script says what the last one is
    assert unpainted.missing == tuple(f"textures/test/{name}" for name in names)
    assert (unpainted.pictures == [128, 128, 128, 255]).all()
    assert len(surfaces.corners) == (6 + 4 * 5) * 6 + 6 * 6 * 2 * 3


def test_depth_is_that_of_the_boxes(renders, source):
    _, surfaces = source.read("openarena/room")
    pose = level_cam2world(np.array([[110.0, 90.0, 60.0]]) * METRES, np.array([0.6]), 0.1)[0]
    with Renderer(surfaces, LEVEL.lightmaps, (48,)) as renderer:
        lens = np.array([30.0, 34.0, 25.0, 22.0])
        picture, depth = renderer.draw(pose, lens, 48)
    fx, fy, cx, cy = lens
    v, u = np.mgrid[:48, :48] + 0.5
    ways = np.stack([(u - cx) / fx, (v - cy) / fy, np.ones((48, 48))], -1) @ pose[:3, :3].T
    eye = pose[:3, 3] / METRES

    def along(box):
        ends = (box[:, None, None] - eye) / ways
        return np.minimum(*ends).max(-1), np.maximum(*ends).min(-1)

    expected = along(made.INSIDE)[1]
    sky = np.abs(eye[2] + expected * ways[..., 2] - made.INSIDE[1, 2]) < 1e-6
    for box in (*SOLIDS, made.POOL):
        enter, leave = along(box)
        hit = (enter < leave) & (enter > 0) & (enter < expected)
        expected, sky = np.where(hit, enter, expected), sky & ~hit
    np.testing.assert_allclose(depth, np.where(sky, np.inf, expected * METRES), rtol=1e-4)
    assert 100 < sky.sum() < sky.size / 2
    assert picture.std() > 10


def test_geometry_predicts_the_other_views(renders, source):
    clips = list(source.clips("openarena/room", 2, seed=0))
    assert [clip.trajectory for clip in clips] == ["easy", "parallax"]
    for clip in clips:
        validate(clip)
        assert clip.licence == "GPL-2.0-or-later" and (clip.mover_ids == 0).all()
    warped, unwarped = psnrs(clips, [(0, 2), (5, 6), (6, 8)])
    assert warped > 29 and warped > unwarped + 6
    np.testing.assert_allclose(clips[0].cam2world[-1], clips[0].cam2world[0], atol=1e-9)
    np.testing.assert_array_equal(clips[0].video[-1], clips[0].video[0])
    again = next(source.clips("openarena/room", 1, seed=0))
    np.testing.assert_array_equal(again.video, clips[0].video)


def test_maps_are_held_out_by_name(tmp_path):
    folder = made.game(tmp_path, {f"map{i}": b"" for i in range(40)})
    source = OpenArenaSource(root=str(folder), eval_share=0.3)
    train, held_out = source.worlds("train"), source.worlds("eval")
    assert len(train) + len(held_out) == 40 and not set(train) & set(held_out)
    assert 4 < len(held_out) < 20
    more = dataclasses.replace(source, eval_share=0.6).worlds("eval")
    assert set(held_out) < set(more)
    assert pickle.loads(pickle.dumps(source)).worlds("train") == train
    with pytest.raises(ValueError, match="'openarena/none', expected one of openarena/map0"):
        source.clips("openarena/none", 1, seed=0)


def test_what_is_no_map_is_refused_by_name(tmp_path):
    whole = made.bsp()
    with pytest.raises(ValueError, match=r"room: found b'IWAD.*expected b'IBSP'"):
        read_bsp(b"IWAD" + whole[4:], "room")
    with pytest.raises(ValueError, match=r"room, lightmaps: found \d+ bytes.*within the file"):
        read_bsp(whole[:-5], "room")
    faces = bytearray(whole)
    begin = int.from_bytes(whole[8 + 8 * 13 : 12 + 8 * 13], "little")
    faces[begin : begin + 4] = (99).to_bytes(4, "little")
    with pytest.raises(ValueError, match="room, faces 0: found texture 99, expected within the 6"):
        read_bsp(bytes(faces), "room")
    with pytest.raises(FileNotFoundError, match=r"found no \.pk3 file"):
        GameFiles(tmp_path)
    (tmp_path / "pak.pk3").write_bytes(b"text")
    with pytest.raises(ValueError, match=r"pak\.pk3: .*expected a pk3"):
        GameFiles(tmp_path)
    with zipfile.ZipFile(tmp_path / "pak.pk3", "w") as archive:
        archive.writestr("maps/room.bsp", whole)
    data = bytearray((tmp_path / "pak.pk3").read_bytes())
    data[200] ^= 1
    (tmp_path / "pak.pk3").write_bytes(data)
    with pytest.raises(ValueError, match=r"pak\.pk3, maps/room\.bsp: .*expected a whole file"):
        GameFiles(tmp_path).read("maps/room.bsp")
    (tmp_path / "pak.pk3").unlink()
    with pytest.raises(ValueError, match=r"found no maps/\*\.bsp"):
        OpenArenaSource(root=str(made.game(tmp_path, {}))).worlds("train")
    with pytest.raises(ValueError, match="found root '', expected a folder"):
        OpenArenaSource().worlds("train")
