"""Maps written here byte by byte: depth against closed forms and ray marching; broken files."""

import struct

import numpy as np
import pytest

from data_pipelines.sources import doom_map
from data_pipelines.sources.doom_map import camera_pwad, map_names, navigation_grid, read_map
from data_pipelines.sources.doom_rays import cast_rays
from helpers.wads import ROOMS, pack_wad, row_of_rooms

INTRINSICS = np.array([16.0, 19.2, 16.1, 15.8])
SIZE = (32, 32)


@pytest.fixture
def write(tmp_path):
    def write(lumps):
        path = tmp_path / "test.wad"
        path.write_bytes(pack_wad(lumps))
        return path

    return write


def march(eye, yaw, rooms, step=0.05, furthest=900.0):
    """Depth by walking along each ray in small steps until it leaves the air of a room."""
    height, width = SIZE
    fx, fy, cx, cy = INTRINSICS
    u, v = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    side, slope = (u - cx) / fx, (cy - v) / fy
    floor, ceiling = np.array([room[:2] for room in rooms], float).T
    sky = np.array([room[2].startswith("F_SKY") for room in rooms])
    depth = np.zeros(SIZE)
    active = np.ones(SIZE, bool)
    for t in np.arange(step, furthest, step):
        x = eye[0] + t * (np.cos(yaw) + side * np.sin(yaw))
        y = eye[1] + t * (np.sin(yaw) - side * np.cos(yaw))
        z = eye[2] + t * slope
        room = np.floor(x / 256).astype(int)
        outside = (room < 0) | (room >= len(rooms)) | (y < 0) | (y > 512)
        room = np.clip(room, 0, len(rooms) - 1)
        above = ~outside & (z > ceiling[room])
        # A ray enters the sky only by rising through a sky ceiling, not by hitting a lower wall.
        rising = above & sky[room] & (z - step * slope * 1.001 <= ceiling[room])
        hit = active & (outside | above | (z < floor[room]))
        depth[hit] = np.where(rising[hit], np.inf, t)
        active &= ~hit
    return depth


def test_depth_in_a_box_is_the_closed_form(write):
    rooms = [(0, 128, "FLAT1")]
    plan = read_map(write(row_of_rooms(rooms)), "MAP01")
    depth = cast_rays(plan, np.array([[56.0, 256.0, 41.0]]), np.zeros(1), INTRINSICS, SIZE).depth[0]
    fx, fy, cx, cy = INTRINSICS
    side = np.abs((np.arange(32) + 0.5 - cx) / fx)[None]
    slope = ((cy - (np.arange(32) + 0.5)) / fy)[:, None]
    plane = np.where(slope < 0, -41.0 / slope, (128.0 - 41.0) / slope)
    expected = np.minimum(np.minimum(200.0, 256.0 / side), plane)
    np.testing.assert_allclose(depth, expected, rtol=1e-9)


@pytest.mark.parametrize(("x", "y", "yaw"), [(60, 200, 0.3), (300, 77, -2.9), (700, 400, 3.5)])
def test_depth_agrees_with_marching(write, x, y, yaw):
    plan = read_map(write(row_of_rooms()), "MAP01")
    eye = np.array([x, y, ROOMS[x // 256][0] + 41.0])
    depth = cast_rays(plan, eye[None], np.array([yaw]), INTRINSICS, SIZE).depth[0]
    expected = march(eye, yaw, ROOMS)
    assert (np.isinf(depth) == np.isinf(expected)).mean() > 0.995  # a step may pass an edge
    both = np.isfinite(depth) & np.isfinite(expected)
    depth, expected = depth[both], expected[both]
    assert both.mean() > 0.5
    assert (np.abs(depth - expected) <= 0.2 + 1e-3 * expected).mean() > 0.99
    assert len(np.unique(expected > 256)) == 2 or x > 256  # portals were looked through


def test_frames_are_independent(write):
    plan = read_map(write(row_of_rooms()), "MAP01")
    eyes = np.array([[60.0, 200.0, 41.0], [300.0, 77.0, 65.0], [700.0, 400.0, 1.0]])
    yaws = np.array([0.3, -2.9, 3.5])
    together = cast_rays(plan, eyes, yaws, INTRINSICS, SIZE)
    for i in range(3):
        alone = cast_rays(plan, eyes[i : i + 1], yaws[i : i + 1], INTRINSICS, SIZE)
        np.testing.assert_allclose(together.depth[i], alone.depth[0], rtol=1e-12)
        np.testing.assert_array_equal(together.sector[i], alone.sector[0])


def test_live_heights_replace_the_files(write):
    closed = [ROOMS[0], (0, 0, "FLAT1"), ROOMS[2]]
    eyes, yaws = np.array([[60.0, 200.0, 41.0]]), np.zeros(1)
    expected = cast_rays(
        read_map(write(row_of_rooms(closed)), "MAP01"), eyes, yaws, INTRINSICS, SIZE
    )
    floor, ceiling = np.array([room[:2] for room in closed], float).T
    plan = read_map(write(row_of_rooms()), "MAP01")
    live = cast_rays(plan, eyes, yaws, INTRINSICS, SIZE, floor=floor[None], ceiling=ceiling[None])
    np.testing.assert_array_equal(live.depth, expected.depth)
    assert live.depth.max() <= 196.0 + 1e-6  # the door is shut


def test_behind_a_fence_depth_is_unknown(write):
    eyes, yaws = np.array([[60.0, 200.0, 41.0]]), np.zeros(1)
    plain = cast_rays(read_map(write(row_of_rooms()), "MAP01"), eyes, yaws, INTRINSICS, SIZE)
    fenced_map = read_map(write(row_of_rooms(fence_after=0)), "MAP01")
    fenced = cast_rays(fenced_map, eyes, yaws, INTRINSICS, SIZE)
    behind = plain.depth > 196.0 + 1e-6
    assert behind.any() and (~behind).any()
    assert (fenced.depth[behind] == 0).all()
    np.testing.assert_array_equal(fenced.depth[~behind], plain.depth[~behind])


def test_navigation_keeps_clear_of_walls_steps_and_things(write):
    plan = read_map(write(row_of_rooms()), "MAP01")
    grid = navigation_grid(plan)
    points = grid.centres(np.argwhere(grid.free))
    assert len(points) > 200
    x, y = points.T
    assert ((x > 20) & (x < 748) & (y > 20) & (y < 492)).all()
    # The second room is 24 higher, a step that can be taken; the third lies 64 lower, a drop.
    assert (np.abs(x - 256) < 16).any() and not (np.abs(x - 512) < 20).any()
    assert np.linalg.norm(points - [640, 256], axis=1).min() > 20
    np.testing.assert_array_equal(grid.sector_at(points), (x // 256).astype(int))
    assert grid.is_free(points).all()
    outside = np.array([[-50.0, 100.0], [1e6, 0.0], [128.0, 2.0]])
    assert not grid.is_free(outside).any()
    assert grid.sector_at(outside).tolist() == [-1, -1, 0]


def test_map_names(write):
    assert map_names(write(row_of_rooms())) == ("MAP01",)


@pytest.mark.parametrize(
    ("lumps", "message"),
    [
        (row_of_rooms()[:-1], r"lacks the lumps.*SECTORS"),
        ([*row_of_rooms(), ("BEHAVIOR", b"ACS\0")], "Hexen"),
        ([("MAP02", b""), *row_of_rooms()[1:]], "MAP01 is not in the file"),
        (row_of_rooms(last_vertex=99), "vertex 99, but has only 8"),
    ],
)
def test_broken_maps_are_refused(write, lumps, message):
    with pytest.raises(ValueError, match=message):
        read_map(write(lumps), "MAP01")


def test_files_that_are_no_wad_are_refused(write):
    path = write(row_of_rooms())
    whole = path.read_bytes()
    path.write_bytes(whole[:-5])
    with pytest.raises(ValueError, match="cut short"):
        map_names(path)
    path.write_bytes(b"PK\x03\x04" + whole)
    with pytest.raises(ValueError, match="expected IWAD or PWAD"):
        map_names(path)


def test_camera_pwad_holds_one_script_of_four_arguments():
    data = camera_pwad()
    _, count, directory = struct.unpack_from("<4sii", data)
    lumps = {}
    for i in range(count):
        offset, size, name = struct.unpack_from("<ii8s", data, directory + 16 * i)
        lumps[name.rstrip(b"\0").decode()] = data[offset : offset + size]
    assert list(lumps) == ["LOADACS", "A_START", "CAMERA", "A_END"]
    assert lumps["LOADACS"].strip() == b"CAMERA"
    library = lumps["CAMERA"]
    assert library[:4] == b"ACS\0"
    table = struct.unpack_from("<i", library, 4)[0]
    scripts, number, address, arguments = struct.unpack_from("<4i", library, table)
    assert (scripts, number, arguments) == (1, 1, 4)
    assert struct.unpack_from("<i", library, table - 4)[0] == 1  # the last word: terminate
    assert address == 8 and doom_map.camera_pwad() == data
