"""The parts that readers of footage are made of: EXR, lenses, depth, times."""

import struct
import zipfile

import numpy as np
import pytest

from data_pipelines.sources.footage import maps
from data_pipelines.sources.footage.cameras import pair, poses_at
from data_pipelines.sources.footage.exr import read_channel
from data_pipelines.sources.footage.files import read_numbers, read_text, walk
from data_pipelines.sources.footage.registration import register_depth
from data_pipelines.sources.footage.undistort import Undistortion, distort
from helpers import made_footage
from mirage_jax.io.camera_files import CameraRecord

# -- EXR ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("compression", ["none", "rle", "zip1", "zip16"])
@pytest.mark.parametrize("form", ["half", "float"])
def test_exr_of_another_encoder_is_read(compression, form):
    depth = np.random.default_rng(0).uniform(0, 9, (37, 53)).astype(np.float32)
    depth[5:20, 5:30] = 2.5
    found = read_channel(made_footage.exr(depth, compression, form), "Z")
    np.testing.assert_allclose(found, depth, rtol=1e-3 if form == "half" else 0)


def test_what_is_no_whole_exr_is_refused():
    data = made_footage.exr(np.ones((40, 40), np.float32))
    with pytest.raises(ValueError, match="truncated or damaged EXR"):
        read_channel(data[: len(data) // 2], "Z")
    with pytest.raises(ValueError, match="expected 20000630 of EXR"):
        read_channel(b"no picture at all", "Z")
    with pytest.raises(ValueError, match="truncated"):
        read_channel(b"", "Z")


def exr_of(*, channel=b"Z", kind=2, compression=0, flags=0):
    """An EXR of 2x2 pixels of 7, by hand from the published file layout."""

    def field(name, type_, value):
        return name + b"\0" + type_ + b"\0" + struct.pack("<i", len(value)) + value

    window = struct.pack("<iiii", 0, 0, 1, 1)
    channels = channel + b"\0" + struct.pack("<iIii", kind, 0, 1, 1)
    channels += b"other\0" + struct.pack("<iIii", 2, 0, 1, 1) + b"\0"
    header = struct.pack("<II", 20000630, 2 | flags)
    header += field(b"channels", b"chlist", channels)
    header += field(b"compression", b"compression", bytes([compression]))
    header += field(b"dataWindow", b"box2i", window) + b"\0"
    value = {0: struct.pack("<I", 7), 1: b"\0\x47", 2: struct.pack("<f", 7)}[kind]
    other = struct.pack("<f", 1)
    rows = [value * 2 + other * 2] * 2
    places, blocks = b"", b""
    for number, row in enumerate(rows):
        places += struct.pack("<Q", len(header) + 16 + len(blocks))
        blocks += struct.pack("<ii", number, len(row)) + row
    return header + places + blocks


def test_exr_of_another_type_is_refused():
    for kind in (1, 2):
        np.testing.assert_array_equal(read_channel(exr_of(kind=kind), "Z"), np.full((2, 2), 7))
    for changes, message in (
        ({"kind": 0}, "channel Z of whole numbers, expected floats"),
        ({"channel": b"R"}, "found channels R, other, expected 'Z'"),
        ({"compression": 4}, "EXR compression 4, expected none, RLE, ZIPS or ZIP"),
        ({"flags": 0x200}, "flags 0x202, expected single-part scan lines"),
    ):
        with pytest.raises(ValueError, match=message):
            read_channel(exr_of(**changes), "Z")


# -- archives of maps ------------------------------------------------------------------------------


def archive_of(path, names, data):
    with zipfile.ZipFile(path, "w") as members:
        for name in names:
            members.writestr(name, data)
    return path


def test_maps_of_an_archive_go_by_the_frames_they_are_called_after(tmp_path):
    flat = [made_footage.exr(np.full((4, 4), number, np.float32)) for number in range(12)]
    path = tmp_path / "depth.zip"
    with zipfile.ZipFile(path, "w") as members:
        for number in (10, 2, 0, 1, *range(3, 10), 11):  # as they come, without zeros
            members.writestr(f"{number}.exr", flat[number])
    found = maps.archive(path, 12, maps.exr_depth, ".exr")([2, 10])
    assert [depth[0, 0] for depth in found] == [2, 10]


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (["00000.exr", "00002.exr", "00003.exr"], r"00002\.exr in the place of frame 1.*0 to 2"),
        (["1.exr", "2.exr", "3.exr"], r"1\.exr in the place of frame 0"),
        (["a.exr", "b.exr", "c.exr"], r"a\.exr in the place of frame 0"),
        (["0.png", "1.png", "3.png"], r"3\.png in the place of frame 2.*0 to 2"),
    ],
)
def test_an_archive_that_lacks_the_map_of_a_frame_is_refused(names, message, tmp_path):
    path = archive_of(tmp_path / "maps.zip", names, made_footage.exr(np.ones((4, 4), np.float32)))
    with pytest.raises(ValueError, match=rf"maps\.zip: found {message}"):
        maps.archive(path, 3, maps.exr_depth, names[0][-4:])


def test_masks_may_begin_at_another_number_or_have_names(tmp_path):
    mask = made_footage.png(np.full((4, 4), 255, np.uint8))
    for names in (["1.png", "2.png"], ["a.png", "b.png"]):
        path = archive_of(tmp_path / "mask.zip", names, mask)
        assert len(list(maps.archive(path, 2, maps.png_mask, ".png")([0, 1]))) == 2


def test_depth_below_zero_names_the_map_and_its_frame(tmp_path):
    depth = np.ones((4, 4), np.float32)
    depth[1, 2] = -2.0
    data = made_footage.exr(depth)
    names = ["0.exr", "1.exr"]
    path = archive_of(tmp_path / "depth.zip", names, data)
    message = r"found -2.0 in 1 pixels, expected metres"
    with pytest.raises(ValueError, match=rf"depth\.zip: 1\.exr \(frame 1\): {message}"):
        list(maps.archive(path, 2, maps.exr_depth, ".exr")([1]))
    (tmp_path / "maps").mkdir()
    for name in names:
        (tmp_path / "maps" / name).write_bytes(data)
    with pytest.raises(ValueError, match=rf"1\.exr \(frame 1\): {message}"):
        list(maps.depth_folder(tmp_path / "maps", 2, 0.001)([1]))


# -- lenses ---------------------------------------------------------------------------------------

LENSES = {
    "OPENCV": {"k1": 0.2, "k2": -0.08, "p1": -0.01, "p2": 0.005},
    "FULL_OPENCV": {"k1": 0.2, "k2": 0.05, "k3": 0.0, "k4": 0.05, "k5": 0.01, "k6": 0.0},
    "OPENCV_FISHEYE": {"k1": -0.02, "k2": 0.003, "k3": 0.0, "k4": 0.0},
}


def scene(rays):
    """Brightness of what lies along a ray: smooth, so that it can be compared between pixels."""
    x, y = rays[..., 0], rays[..., 1]
    return 128 + 60 * np.sin(5 * x + 1) * np.cos(4 * y) + 50 * x


@pytest.mark.parametrize("lens", LENSES)
def test_an_undistorted_picture_is_that_of_a_pinhole(lens):
    """What a lens sees is found by inverting its model numerically, pixel by pixel."""
    size, k = (36, 48), np.array([40.0, 42.0, 23.0, 19.0])
    coefficients = LENSES[lens]
    u, v = np.meshgrid(np.arange(size[1]) + 0.5, np.arange(size[0]) + 0.5)
    bent = np.stack([(u - k[2]) / k[0], (v - k[3]) / k[1]], -1)

    rays = bent.copy()
    for _ in range(300):
        rays -= 0.5 * (distort(rays, lens, coefficients) - bent)
    assert np.abs(distort(rays, lens, coefficients) - bent).max() < 1e-9
    seen = np.repeat(scene(rays)[..., None], 3, -1)
    undistortion = Undistortion(lens, coefficients, size, tuple(k))
    fx, fy, cx, cy = undistortion.intrinsics
    expected = scene(np.stack([(u - cx) / fx, (v - cy) / fy], -1))
    found = undistortion.picture(np.rint(seen).astype(np.uint8))[..., 0]
    assert np.abs(found - expected)[1:-1, 1:-1].max() < 2.0
    near = undistortion.nearest(seen[..., 0].astype(np.float32))
    assert np.abs(near - expected).max() < 0.7 * 7  # half a diagonal away, where 7 to a pixel
    assert np.abs(seen[..., 0] - expected).max() > 3.0  # which it was not before
    assert fx >= k[0] and (cx, cy) == (k[2], k[3])


def test_distortion_by_hand():
    """One point of each model, worked out from the formulas of OpenCV's documentation."""
    ray = np.array([0.3, 0.4])  # r^2 = 0.25
    np.testing.assert_allclose(distort(ray, "OPENCV", {"k1": 0.4}), ray * 1.1)
    np.testing.assert_allclose(
        distort(ray, "OPENCV", {"p1": 0.1, "p2": 0.0}), [0.3 + 0.024, 0.4 + 0.1 * (0.25 + 0.32)]
    )
    angle = np.arctan(0.5)
    np.testing.assert_allclose(distort(ray, "OPENCV_FISHEYE", {}), ray * angle / 0.5)
    with pytest.raises(ValueError, match="lens OPENCV_FISHEYE: found p1"):
        distort(ray, "OPENCV_FISHEYE", {"p1": 0.1})
    with pytest.raises(ValueError, match="lens OPENCV: found sx1, expected only"):
        distort(ray, "OPENCV", {"sx1": 0.1})


def test_a_lens_that_no_pinhole_can_stand_in_for_is_refused():
    with pytest.raises(ValueError, match="found no pinhole within its picture"):
        Undistortion("OPENCV", {"k1": 0.1}, (36, 48), (10.0, 10.0, -24.0, 18.0))


# -- depth of a camera beside the colour camera ----------------------------------------------------


def test_depth_is_brought_into_the_colour_picture():
    """Two planes, as the depth camera and, 3 cm beside it, the colour camera see them."""
    depth_lens, lens = np.array([60.0, 60, 32, 24]), np.array([50.0, 50, 32, 24])
    place = np.array([-0.03, 0.0, 0.0])

    def planes(k, shift):
        x = (np.arange(64) + 0.5 - k[2]) / k[0]
        # The near plane ends at x = 0 of the colour camera.
        return np.tile(np.where(x * 1.0 < shift, 1.0, 2.0), (48, 1)).astype(np.float32)

    seen = planes(depth_lens, 0.03)
    found = register_depth(seen, depth_lens, lens, place)
    expected = planes(lens, 0.0)
    inside = found[6:-6, 8:-8]
    assert (inside > 0).mean() > 0.9  # but for what only one of the cameras sees
    assert (inside == expected[6:-6, 8:-8])[inside > 0].mean() > 0.98
    assert (register_depth(np.zeros((4, 4), np.float32), depth_lens, lens, place) == 0).all()


# -- times ----------------------------------------------------------------------------------------


def test_times_are_paired_with_the_nearest_once():
    times = np.array([0.0, 0.1, 0.195, 0.31, 9.0])
    others = np.array([0.02, 0.19, 0.21, 0.3])
    assert pair(times, others, 0.05).tolist() == [0, -1, 1, 3, -1]
    assert pair(times, others[:0], 0.05).tolist() == [-1] * 5
    assert pair(times, np.array([0.1]), 0.01).tolist() == [-1, 0, -1, -1, -1]


def test_pairs_are_those_of_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(50):
        times, others = np.sort(rng.uniform(0, 1, 12)), np.sort(rng.uniform(0, 1, 9))
        found = pair(times, others, 0.06)
        nearest = np.abs(times[:, None] - others).argmin(1)
        gap = np.abs(times - others[nearest])
        for i, number in enumerate(found):
            rivals = gap[nearest == nearest[i]]
            good = gap[i] <= 0.06 and gap[i] == rivals.min()
            assert number == (nearest[i] if good else -1)


def test_poses_between_two_are_halfway():
    poses = np.tile(np.eye(4), (3, 1, 1))
    quarter = np.array([[0.0, 0, 1], [0, 1, 0], [-1, 0, 0]])  # about y
    poses[1, :3, :3], poses[1, 0, 3], poses[2, 0, 3] = quarter, 2.0, 2.0
    poses[2, :3, :3] = quarter
    record = CameraRecord(cam2world=poses, timestamps=np.array([0.0, 1.0, 5.0]))
    found, known = poses_at(record, np.array([-0.1, 0.0, 0.5, 1.0, 3.0, 5.0, 5.1]), gap=1.5)
    assert known.tolist() == [False, True, True, True, False, False, False]
    half = np.sqrt(0.5)
    expected = np.array([[half, 0, half], [0, 1, 0], [-half, 0, half]])
    np.testing.assert_allclose(found[2, :3, :3], expected, atol=1e-12)
    np.testing.assert_allclose(found[2, :3, 3], [1.0, 0, 0])
    np.testing.assert_allclose(found[[1, 3]], poses[:2], atol=1e-12)


# -- text -----------------------------------------------------------------------------------------


def test_text_may_have_a_mark_and_windows_line_ends(tmp_path):
    path = tmp_path / "a.txt"
    path.write_bytes("\ufeff# c\r\n1 2\r\n\r\n3 4\r\n".encode())
    assert read_numbers(path, 2) == [[1, 2], [3, 4]]
    path.write_bytes(b"caf\xe9")
    with pytest.raises(ValueError, match=r"a\.txt: found byte 0xe9 at 3, expected text in UTF-8"):
        read_text(path)
    path.write_text("1 2\n3 x\n")
    with pytest.raises(ValueError, match=r"a\.txt: line 2: found .3 x., expected a row of numbers"):
        read_numbers(path, 2)
    path.write_text("1 2 3\n")
    with pytest.raises(ValueError, match=r"a\.txt: line 1: found 3 numbers, expected 2"):
        read_numbers(path, 2)


def test_links_to_folders_above_are_followed_once(tmp_path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path)
    (tmp_path / "elsewhere").symlink_to(tmp_path / "a")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    found = [folder.relative_to(tmp_path).as_posix() for folder in walk(tmp_path)]
    assert found == [".", "a", "a/b"]
    with pytest.raises(ValueError, match="no such folder"):
        list(walk(tmp_path / "none"))
