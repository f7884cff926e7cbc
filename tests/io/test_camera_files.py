"""Camera files of other tools: the same camera written by hand as each of them has it."""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from helpers.made_footage import torch_bytes
from mirage_jax.io import camera_files
from mirage_jax.io.camera_files import CameraRecord
from mirage_jax.io.camera_files.colmap import PARAMETERS

# At (1, 2, 3), x right, y down, z forward; it has turned 90 degrees to the right: it looks along x.
POSE = np.array([[0.0, 0, 1, 1], [0, 1, 0, 2], [-1, 0, 0, 3], [0, 0, 0, 1]])
ORIGIN = np.eye(4)
W2C = [[0.0, 0, -1, 3], [0, 1, 0, -2], [1, 0, 0, -1], [0, 0, 0, 1]]
OPENGL = [[0.0, 0, -1, 1], [0, -1, 0, 2], [-1, 0, 0, 3], [0, 0, 0, 1]]
OPENGL_ORIGIN = [[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 0], [0, 0, 0, 1]]
UNREAL = "[0 1 0 0] [-1 0 0 0] [0 0 1 0] [300 100 -200 1] "
UNREAL_ORIGIN = "[1 0 0 0] [0 1 0 0] [0 0 1 0] [0 0 0 1] "
S = 0.7071067811865476
LENS = [400.0, 410.0, 320.0, 240.0]
FRACTIONS = [400 / 640, 410 / 480, 0.5, 0.5]
K = [[400.0, 0, 320], [0, 410, 240], [0, 0, 1]]


def first_rows(matrix):
    return " ".join(str(v) for row in matrix[:3] for v in row)


def save_re10k(folder):
    lens = " ".join(map(str, FRACTIONS))
    rows = [f"0 {lens} 0 0 {first_rows(ORIGIN)}", f"500000 {lens} 0 0 {first_rows(W2C)}"]
    (folder / "a.txt").write_text("\n".join(["https://example.org/v", *rows]))
    return folder / "a.txt"


def save_tum(folder):
    (folder / "a.txt").write_text(f"# tum\n0 0 0 0 0 0 0 1\n0.5 1 2 3 0 {S} 0 {S}\n")
    return folder / "a.txt"


def save_kitti(folder):
    (folder / "00.txt").write_text(f"{first_rows(ORIGIN)}\n{first_rows(POSE)}\n")
    return folder / "00.txt"


def save_colmap(folder):
    model = folder / "sparse" / "0"
    model.mkdir(parents=True)
    (model / "cameras.txt").write_text("# c\n7 OPENCV 640 480 400 410 320 240 0.1 0.2 0 0\n")
    # Image ids say nothing of the order; the second image's list of points is empty.
    (model / "images.txt").write_text(
        f"# i\n5 {S} 0 {-S} 0 3 -2 -1 7 f 2.png\n\n9 1 0 0 0 0 0 0 7 f 1.png\n1 2 -1 3 4 5\n"
    )
    return folder


def save_colmap_binary(folder):
    (folder / "cameras.bin").write_bytes(
        struct.pack("<Q", 1) + struct.pack("<iiQQ4d", 7, 1, 640, 480, *LENS)
    )
    points = struct.pack("<Qddqddq", 2, 1, 2, -1, 3, 4, 5)
    (folder / "images.bin").write_bytes(
        struct.pack("<Q", 2)
        + struct.pack("<i7di", 5, S, 0, -S, 0, 3, -2, -1, 7) + b"f 2.png\0" + points
        + struct.pack("<i7di", 9, 1, 0, 0, 0, 0, 0, 0, 7) + b"f 1.png\0" + struct.pack("<Q", 0)
    )  # fmt: skip
    return folder / "images.bin"


def save_transforms(folder):
    content = dict(zip(("fl_x", "fl_y", "cx", "cy"), LENS, strict=True))
    content |= {"w": 640, "h": 480, "k1": 0.1, "frames": [
        {"file_path": "10.png", "transform_matrix": OPENGL},
        {"file_path": "9.png", "transform_matrix": OPENGL_ORIGIN},
    ]}  # fmt: skip
    return save_json(folder / "transforms.json", content)


def save_record3d(folder):
    # The OpenGL camera that looks along z, y down: half a turn about x.
    turned = (
        Rotation.from_euler("y", 90, degrees=True) * Rotation.from_euler("x", np.pi)
    ).as_quat()
    poses = [[1.0, 0, 0, 0, 0, 0, 0], [*turned, 1, 2, 3]]
    columns = [400.0, 0, 0, 0, 410, 0, 320, 240, 1]
    content = {"poses": poses, "K": columns, "w": 640, "h": 480, "fps": 2}
    return save_json(folder / "metadata.json", content)


def save_splatting(folder):
    both = {"width": 640, "height": 480, "fx": 400.0, "fy": 410.0}
    cameras = [
        {"img_name": "b", "position": [1, 2, 3], "rotation": POSE[:3, :3].tolist(), **both},
        {"img_name": "a", "position": [0, 0, 0], "rotation": np.eye(3).tolist(), **both},
    ]
    return save_json(folder / "cameras.json", cameras)


def save_json(path, content):
    path.write_text(json.dumps(content))
    return path


def save_geometry(folder):
    np.savez(
        folder / "geometry.npz",
        depths=np.ones((2, 480, 640), np.float32),
        intrinsics=np.array([K, K]),
        poses_c2w=np.stack([ORIGIN, POSE]),
        fps=np.array([2.0], np.float32),
    )
    return folder / "geometry.npz"


def save_alayaworld(folder):
    content = {"cam_c2w": np.stack([ORIGIN, POSE]), "intrinsics": np.array([K, K]), "fps": 16}
    (folder / "camera.pt").write_bytes(torch_bytes(content))
    return folder / "camera.pt"


def save_vipe(folder):
    np.savez(folder / "pose.npz", inds=[1, 0], data=np.stack([POSE, ORIGIN]))
    np.savez(folder / "intrinsics.npz", inds=[0, 1], data=np.array([LENS, LENS]))
    return folder


def save_lyra(folder):
    np.savez(
        folder / "a.npz",
        w2c=np.array([ORIGIN, W2C]),
        intrinsics=np.array([K, K]),
        image_height=480,
        image_width=640,
    )
    return folder / "a.npz"


def save_spatialvid(folder):
    np.save(folder / "poses.npy", [[0, 0, 0, 0, 0, 0, 1], [3, -2, -1, 0, -S, 0, S]])
    np.save(folder / "intrinsics.npy", [FRACTIONS, FRACTIONS])
    return folder


def save_llff(folder):
    hwf = [[480.0], [640], [400]]
    down_right_back = np.array([[0.0, 0, -1, 1], [1, 0, 0, 2], [0, -1, 0, 3]])
    origin = np.array([[0.0, 1, 0, 0], [1, 0, 0, 0], [0, 0, -1, 0]])
    rows = [[*np.hstack([m, hwf]).ravel(), 1, 9] for m in (origin, down_right_back)]
    np.save(folder / "poses_bounds.npy", rows)
    return folder / "poses_bounds.npy"


def save_spatia(folder):
    (folder / "w2c.txt").write_text(f"{json.dumps(ORIGIN.tolist())}\n{json.dumps(W2C)}\n")
    (folder / "intrinsics.txt").write_text(str(FRACTIONS).replace(",", ""))
    return folder / "w2c.txt"


def save_hy(folder):
    poses = {"0": ORIGIN.tolist(), "1": POSE.tolist()}
    content = {i: {"extrinsic": pose, "K": K} for i, pose in poses.items()}
    return save_json(folder / "pose.json", content)


def save_worldscore(folder):
    both = [OPENGL_ORIGIN, OPENGL]
    content = {"focal_length": 500, "scale": 1, "cameras": both, "cameras_interp": both}
    return save_json(folder / "camera_data.json", content)


def save_recammaster(folder):
    frames = {f"frame{i}": {"cam07": text} for i, text in enumerate((UNREAL_ORIGIN, UNREAL))}
    return save_json(folder / "camera_extrinsics.json", frames)


def save_hm_world(folder):
    return save_json(folder / "camera.json", {"0": UNREAL_ORIGIN, "1": UNREAL})


def save_hydra(folder):
    columns = [[0, -1, 0, 300], [1, 0, 0, 100], [0, 0, 1, -200], [0, 0, 0, 1]]
    parts = {"cond_cam": {"0": np.eye(4).tolist()}, "tgt_cam": {"0": columns}}
    return save_json(folder / "cam2.json", parts)


def save_seven_scenes(folder):
    for name, pose in (("frame-000000", ORIGIN), ("frame-000010", POSE)):
        np.savetxt(folder / f"{name}.pose.txt", pose)
    (folder / "camera-intrinsics.txt").write_text("400 0 320\n0 410 240\n0 0 1\n")
    return folder


PIXELS, PARTS = LENS, FRACTIONS
# How it is saved, its format, intrinsics as they are read, size, and what else is known.
CASES = [
    (save_re10k, "re10k", PARTS, None, {"timestamps": [0, 0.5]}),
    (save_tum, "tum", None, None, {"timestamps": [0, 0.5]}),
    (save_kitti, "kitti", None, None, {}),
    (save_colmap, "colmap", PIXELS, (480, 640), {"names": ("f 1.png", "f 2.png")}),
    (save_colmap_binary, "colmap", PIXELS, (480, 640), {"names": ("f 1.png", "f 2.png")}),
    (save_transforms, "transforms", PIXELS, (480, 640), {"names": ("9.png", "10.png")}),
    (save_record3d, "record3d", PIXELS, (480, 640), {"timestamps": [0, 0.5]}),
    (save_splatting, "splatting", PIXELS, (480, 640), {"names": ("a", "b")}),
    (save_geometry, "geometry", PIXELS, (480, 640), {"timestamps": [0, 0.5]}),
    (save_alayaworld, "alayaworld", PIXELS, None, {}),
    (save_vipe, "vipe", PIXELS, None, {}),
    (save_lyra, "lyra", PIXELS, (480, 640), {}),
    (save_spatialvid, "spatialvid", PARTS, None, {}),
    (save_llff, "llff", [400, 400, 320, 240], (480, 640), {}),
    (save_spatia, "spatia", PARTS, None, {}),
    (save_hy, "hy_worldplay", PIXELS, (1080, 1920), {}),
    (save_worldscore, "worldscore", [500, 500, 256, 256], (512, 512), {}),
    (save_recammaster, "recammaster", None, None, {}),
    (save_hm_world, "hm_world", None, None, {}),
    (save_hydra, "hm_world", None, None, {}),
    (save_seven_scenes, "matrices", None, None, {"names": ("frame-000000", "frame-000010")}),
]


@pytest.mark.parametrize(
    ("save", "name", "lens", "size", "more"), CASES, ids=[c[0].__name__[5:] for c in CASES]
)
def test_the_same_camera_is_read_from_every_format(tmp_path, save, name, lens, size, more):
    record = camera_files.read(save(tmp_path))
    assert record.format == name
    np.testing.assert_allclose(record.cam2world, [ORIGIN, POSE], atol=1e-7)
    assert record.cam2world.dtype == np.float64
    assert record.size == size
    if lens is None:
        assert record.intrinsics is None
    else:
        np.testing.assert_allclose(record.intrinsics, [lens, lens], rtol=1e-12)
        assert record.normalised == (lens is PARTS)
    for field, value in more.items():
        found = getattr(record, field)
        assert found == value if field == "names" else np.allclose(found, value)
    said = "\n".join(record.notes)
    for word in ("format:", "direction:", "axes:", "units:", "intrinsics:"):
        assert word in said


@pytest.mark.parametrize("case", CASES, ids=[c[0].__name__[5:] for c in CASES])
def test_damage_is_read_or_refused_and_never_anything_else(tmp_path, case):
    path, rng = case[0](tmp_path), np.random.default_rng(0)
    files = sorted(file for file in tmp_path.rglob("*") if file.is_file())
    for turn in range(12):
        file = files[turn % len(files)]
        whole = file.read_bytes()
        at = int(rng.integers(len(whole)))
        inserted = (b"nan", b"1e999", b"[", b"null", b"-", bytes([turn]))[turn % 6]
        file.write_bytes(whole[:at] + inserted + whole[at + int(rng.integers(6)) :])
        try:
            camera_files.read(path, bare=("c2w", "opencv"))
        except (ValueError, OSError) as error:
            assert str(tmp_path) in str(error) and "\n" not in str(error)
        file.write_bytes(whole)


@pytest.mark.parametrize(
    ("save", "field", "value", "message"),
    [
        (save_record3d, "w", [1], "h, w"),
        (save_record3d, "h", 1e400, "whole pixels"),
        (save_transforms, "w", 0.5, "whole pixels"),
        (save_worldscore, "focal_length", [1, 2], "found 2 numbers"),
        (save_hydra, "tgt_cam", 3, "expected frames by number"),
        (save_hy, "1", None, "expected extrinsic"),
    ],
)
def test_fields_of_another_kind_are_named(tmp_path, save, field, value, message):
    path = save(tmp_path)
    save_json(path, json.loads(path.read_text()) | {field: value})
    with pytest.raises(ValueError, match=message) as error:
        camera_files.read(path)
    assert str(path) in str(error.value)


def test_every_format_has_an_example():
    told = {"colmap_bin", "lingbot", "motionctrl"}  # never recognised
    assert {case[1] for case in CASES} | told == set(camera_files.FORMATS)


def test_formats_that_must_be_told(tmp_path):
    rows = [np.reshape(m, (4, 4))[:3].ravel().tolist() for m in (ORIGIN, W2C)]
    path = save_json(tmp_path / "a.json", rows)
    record = camera_files.read(path, "motionctrl")
    np.testing.assert_allclose(record.cam2world, [ORIGIN, POSE], atol=1e-12)
    np.save(tmp_path / "poses.npy", [ORIGIN, POSE])
    np.save(tmp_path / "intrinsics.npy", [LENS, LENS])
    record = camera_files.read(tmp_path, "lingbot")
    np.testing.assert_array_equal(record.cam2world, [ORIGIN, POSE])
    np.testing.assert_array_equal(record.intrinsics, [LENS, LENS])


def test_distortion_is_reported_and_kept(tmp_path):
    for save in (save_colmap, save_transforms):
        folder = tmp_path / save.__name__
        folder.mkdir()
        record = camera_files.read(save(folder))
        assert record.lens == "OPENCV" and record.distortion[0]["k1"] == 0.1
        assert any("lens: OPENCV" in note for note in record.notes)
        for name, out in (("colmap", folder / "out"), ("transforms", folder / "transforms.json")):
            assert camera_files.write(out, record, name) == ()
            again = camera_files.read(out)
            assert again.lens == "OPENCV" and again.distortion[1]["k1"] == 0.1
    assert camera_files.write(tmp_path / "a.npz", record) == ("distortion",)


def test_pictures_of_several_sizes_have_fractions(tmp_path):
    (tmp_path / "cameras.txt").write_text(
        "1 PINHOLE 640 480 400 410 320 240\n2 SIMPLE_PINHOLE 480 640 400 240 320\n"
    )
    (tmp_path / "images.txt").write_text("1 1 0 0 0 0 0 0 1 a\n\n2 1 0 0 0 0 0 0 2 b\n\n")
    record = camera_files.read(tmp_path)
    assert record.normalised and record.size is None
    np.testing.assert_allclose(record.pixel_intrinsics((480, 640))[0], LENS)
    np.testing.assert_allclose(record.pixel_intrinsics((640, 480))[1], [400, 400, 240, 320])


WRITTEN = [name for name, kind in camera_files.FORMATS.items() if kind.write]
FILES = {"colmap": "model", "colmap_bin": "model", "vipe": "pose.npz", "spatialvid": "poses.npy"}
FILES |= {"geometry": "geometry.npz", "llff": "poses_bounds.npy"}
FILES |= {"lyra": "a.npz", "lingbot": "poses.npy", "spatia": "w2c.txt", "matrices": "a.npz"}
JSON = ("transforms", "hy_worldplay", "worldscore", "motionctrl", "recammaster", "hm_world")
FILES |= dict.fromkeys(JSON, "a.json")

numbers = st.floats(-1e3, 1e3).filter(lambda v: v == 0 or abs(v) > 1e-6)
vectors = st.tuples(numbers, numbers, numbers)
frames_of_path = st.lists(
    st.tuples(vectors, vectors, st.integers(1, 10**6)), min_size=2, max_size=4
)


def made_record(frames, focal, shift):
    poses = np.tile(np.eye(4), (len(frames), 1, 1))
    for pose, (turn, place, _) in zip(poses, frames, strict=True):
        pose[:3, :3] = Rotation.from_rotvec(np.array(turn) % 3).as_matrix()
        pose[:3, 3] = place
    lens = np.tile([focal, focal * 1.1, 640 * shift, 480 * shift], (len(frames), 1))
    times = np.cumsum([time for *_, time in frames]) / 1e6
    names = tuple(f"é {i:03d}.png" for i in range(len(frames)))
    return CameraRecord(poses, lens, (480, 640), timestamps=times, names=names)


@pytest.mark.parametrize("name", WRITTEN)
@settings(max_examples=12, deadline=None)
@given(frames=frames_of_path, focal=st.floats(50, 3000), shift=st.floats(0.3, 0.7))
def test_what_is_written_is_read_again(tmp_path_factory, name, frames, focal, shift):
    record = made_record(frames, focal, shift)
    if name == "llff":  # which has no other lens
        record = record.replace(intrinsics=np.tile([focal, focal, 320.0, 240.0], (len(frames), 1)))
    path = tmp_path_factory.mktemp("out") / FILES.get(name, "a.txt")
    lost = camera_files.write(path, record, name)
    again = camera_files.read(path, name)
    np.testing.assert_allclose(again.cam2world, record.cam2world, atol=1e-9)
    for field in ("timestamps", "names", "size"):
        if field in lost:
            continue
        value = getattr(record, field)
        found = getattr(again, field)
        assert np.allclose(found, value, rtol=1e-12) if field == "timestamps" else found == value
    if "intrinsics" not in lost:
        got = again.pixel_intrinsics((480, 640)) if again.size or again.normalised else None
        got = again.intrinsics if got is None else got
        np.testing.assert_allclose(got, record.intrinsics, rtol=1e-6)
    # Nothing else is said to be lost than what is.
    assert all(getattr(record, field) is not None for field in lost)


def test_what_is_written_of_mirage_is_its_layout(tmp_path):
    """Names, shapes and types as its inference has them; times that are even are its fps."""
    lens = np.array([LENS, LENS, LENS])
    poses = np.stack([ORIGIN, POSE, POSE])
    record = CameraRecord(poses, lens, (480, 640), timestamps=np.arange(3) / 24)
    assert camera_files.write(tmp_path / "geometry.npz", record, "geometry") == ()
    with np.load(tmp_path / "geometry.npz") as file:
        found = {name: (array.dtype.str, array.shape) for name, array in file.items()}
        np.testing.assert_array_equal(file["intrinsics"][1], K)
        assert file["processed_size"].tolist() == [480, 640] and file["fps"][0] == 24
    assert found == {
        "poses_c2w": ("<f8", (3, 4, 4)),
        "intrinsics": ("<f8", (3, 3, 3)),
        "processed_size": ("<i4", (2,)),
        "fps": ("<f4", (1,)),
    }
    again = camera_files.read(tmp_path / "geometry.npz")
    assert again.format == "geometry" and again.size == (480, 640)
    np.testing.assert_allclose(again.timestamps, record.timestamps, atol=1e-7)
    uneven = record.replace(timestamps=np.array([0.0, 0.1, 0.3]), size=None)
    assert camera_files.write(tmp_path / "b.npz", uneven, "geometry") == ("timestamps",)
    assert camera_files.read(tmp_path / "b.npz").size is None


def test_what_is_written_of_llff_is_its_layout(tmp_path):
    lens = np.array([[400.0, 400, 320, 240]] * 2)
    path = tmp_path / "poses_bounds.npy"
    record = CameraRecord(np.stack([ORIGIN, POSE]), lens, (480, 640))
    assert camera_files.write(path, record, "llff") == ()
    rows = np.load(path)
    by_hand = np.load(save_llff(tmp_path))
    np.testing.assert_allclose(rows[:, :15], by_hand[:, :15], atol=1e-12)
    assert rows[:, 15:].tolist() == [[0, np.inf]] * 2


def test_torch_files_are_read_by_the_names_of_their_tensors(tmp_path):
    path = tmp_path / "a.pt"
    path.write_bytes(torch_bytes({"w2c": np.array([ORIGIN, W2C]), "K": np.array(K), "n": 3}))
    record = camera_files.read(path, axes="opencv")
    np.testing.assert_allclose(record.cam2world, [ORIGIN, POSE], atol=1e-12)
    np.testing.assert_array_equal(record.intrinsics, [LENS, LENS])
    path.write_bytes(torch_bytes(np.array([ORIGIN, POSE])))
    record = camera_files.read(path, direction="c2w", axes="opencv")
    np.testing.assert_array_equal(record.cam2world, [ORIGIN, POSE])


@pytest.mark.parametrize("suffix", [".json", ".npy", ".npz", ".csv", ".txt", ".JSON", ".Npy"])
def test_plain_matrices_of_every_suffix(tmp_path, suffix):
    path = tmp_path / f"a, b{suffix}"
    record = CameraRecord(np.stack([ORIGIN, POSE]))
    camera_files.write(path, record, "matrices")
    again = camera_files.read(path, direction="c2w", axes="opencv")
    np.testing.assert_array_equal(again.cam2world, record.cam2world)


@pytest.mark.parametrize(
    "text",
    [
        "1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n0 0 1 1\n0 1 0 2\n-1 0 0 3\n0 0 0 1\n",
        "1 0 0 0\r\n0 1 0 0\r\n0 0 1 0\r\n0 0 1 1\r\n0 1 0 2\r\n-1 0 0 3\r\n",
        "\ufeff# rows\n1,0,0,0,0,1,0,0,0,0,1,0,\n0,0,1,1,0,1,0,2,-1,0,0,3,\n",
    ],
)
def test_rows_of_matrices_in_text(tmp_path, text):
    (tmp_path / "a.txt").write_text(text, "utf-8")
    record = camera_files.read(tmp_path / "a.txt", direction="c2w", axes="opencv")
    np.testing.assert_array_equal(record.cam2world, [ORIGIN, POSE])


def test_names_of_arrays_say_the_direction(tmp_path):
    np.savez(tmp_path / "a.npz", w2c=np.array([ORIGIN, W2C]), K=np.array(K))
    record = camera_files.read(tmp_path / "a.npz", axes="opencv")
    np.testing.assert_allclose(record.cam2world, [ORIGIN, POSE], atol=1e-12)
    np.testing.assert_array_equal(record.intrinsics, [LENS, LENS])
    assert any("320x240" not in note and "640x480" in note for note in record.notes)
    save_json(tmp_path / "world_to_camera.json", [ORIGIN.tolist(), W2C])
    record = camera_files.read(tmp_path / "world_to_camera.json", axes="opencv")
    np.testing.assert_allclose(record.cam2world, [ORIGIN, POSE], atol=1e-12)


def test_what_nothing_says_is_refused_with_a_hint(tmp_path):
    # Three steps forward, as cam2world with OpenCV axes.
    poses = np.tile(np.eye(4), (4, 1, 1))
    poses[:, 2, 3] = range(4)
    np.save(tmp_path / "a.npy", poses)
    with pytest.raises(ValueError, match=r"direction.*as c2w .*forward in 100%.*as w2c.* 0%"):
        camera_files.read(tmp_path / "a.npy")
    with pytest.raises(ValueError, match=r"axes.*as opencv .*100%.*opengl .* 0%.*--axes=opencv"):
        camera_files.read(tmp_path / "a.npy", direction="c2w")
    record = camera_files.read(tmp_path / "a.npy", bare=("c2w", "opencv"))
    np.testing.assert_array_equal(record.cam2world, poses)
    record = camera_files.read(tmp_path / "a.npy", direction="w2c", axes="opengl")
    np.testing.assert_array_equal(record.cam2world[3], [[1, 0, 0, 0], [0, -1, 0, 0],
                                                        [0, 0, -1, -3], [0, 0, 0, 1]])  # fmt: skip


def test_what_is_told_outweighs_the_format(tmp_path):
    path = save_kitti(tmp_path)
    told = camera_files.read(path, direction="w2c", units="mm")
    np.testing.assert_allclose(told.cam2world[1], np.linalg.inv(POSE) @ np.diag([1, 1, 1, 1])
                               * np.where(np.arange(4) == 3, [[1e-3], [1e-3], [1e-3], [1]], 1),
                               atol=1e-12)  # fmt: skip
    assert any("although of KITTI poses: c2w" in note for note in told.notes)


def test_large_steps_are_remarked_on(tmp_path):
    poses = np.tile(np.eye(4), (3, 1, 1))
    poses[:, 2, 3] = 0, 500, 1000
    np.savez(tmp_path / "a.npz", poses_c2w=poses)  # metres, by the name
    record = camera_files.read(tmp_path / "a.npz")
    assert any("warning: the camera moves 500" in note for note in record.notes)
    record = camera_files.read(tmp_path / "a.npz", units="cm")
    assert record.cam2world[2, 2, 3] == 10 and record.metric
    assert not any("warning" in note for note in record.notes)


@pytest.mark.parametrize(("units", "factor"), [("m", 1.0), ("cm", 100.0), ("mm", 1000.0)])
def test_a_walk_in_other_units_than_metres_is_refused_unless_told(tmp_path, units, factor):
    """A walker of 1.4 m a second at 25 frames a second, handed in as it is and in cm and mm."""
    poses = np.tile(np.eye(4), (5, 1, 1))
    poses[:, 2, 3] = factor * 1.4 / 25 * np.arange(5)
    np.save(tmp_path / "a.npy", poses)
    bare = {"bare": ("c2w", "opencv")}
    if units == "m":
        record = camera_files.read(tmp_path / "a.npy", **bare)
        assert record.metric is None
        assert "units: not stated (any scale), taken as metres" in record.notes
    else:
        with pytest.raises(ValueError, match=r"a\.npy: found a camera that moves 5.*--units=cm"):
            camera_files.read(tmp_path / "a.npy", **bare)
    record = camera_files.read(tmp_path / "a.npy", units=units, **bare)
    np.testing.assert_allclose(record.cam2world[4, 2, 3], 4 * 0.056, rtol=1e-12)
    assert record.metric and f"units: {units}, as told" in record.notes
    # What is told to be metres is taken at its word; a scale of its own is never doubted.
    told = camera_files.read(tmp_path / "a.npy", units="m", **bare)
    np.testing.assert_array_equal(told.cam2world, poses)
    lens = np.tile(LENS, (5, 1))
    camera_files.write(tmp_path / "m", CameraRecord(poses, lens, (480, 640)), "colmap")
    assert camera_files.read(tmp_path / "m").metric is False


def test_one_of_several_cameras_is_picked(tmp_path):
    frames = {"frame0": {"cam01": UNREAL, "cam02": UNREAL_ORIGIN}}
    path = save_json(tmp_path / "a.json", frames)
    with pytest.raises(ValueError, match=r"2 cameras, expected --camera=one of cam01, cam02"):
        camera_files.read(path)
    with pytest.raises(ValueError, match="'cam03'"):
        camera_files.read(path, camera="cam03")
    np.testing.assert_array_equal(camera_files.read(path, camera="cam02").cam2world, [ORIGIN])


@pytest.mark.parametrize("name", list(PARAMETERS))
def test_every_lens_of_colmap_is_kept_or_refused(tmp_path, name):
    """Read, written as text and binary, and as transforms.json where that has such a lens."""
    values = {"f": 400.0, "fx": 400.0, "fy": 410.0, "cx": 320.0, "cy": 240.0}
    parameters = [values.get(p, 0.01 * (i + 1)) for i, p in enumerate(PARAMETERS[name])]
    source = tmp_path / "source"
    source.mkdir()
    line = " ".join(map(str, parameters))
    (source / "cameras.txt").write_text(f"1 {name} 640 480 {line}\n")
    (source / "images.txt").write_text("1 1 0 0 0 0 0 0 1 a.png\n\n")
    record = camera_files.read(source)
    for kind in ("colmap", "colmap_bin"):
        camera_files.write(tmp_path / kind, record, kind)
        again = camera_files.read(tmp_path / kind)
        np.testing.assert_array_equal(again.intrinsics, record.intrinsics)
        assert (again.lens, again.distortion) == (record.lens, record.distortion)
    path = tmp_path / "transforms.json"
    perspective = {"SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV"}
    fisheye = {"SIMPLE_FISHEYE", "FISHEYE"}
    fisheye |= {"SIMPLE_RADIAL_FISHEYE", "RADIAL_FISHEYE", "OPENCV_FISHEYE"}
    if name not in perspective | fisheye:
        with pytest.raises(ValueError, match=f"lens '{name}'"):
            camera_files.write(path, record, "transforms")
        return
    camera_files.write(path, record, "transforms")
    model = json.loads(path.read_text())["camera_model"]
    assert model == ("OPENCV_FISHEYE" if name in fisheye else "OPENCV")
    assert camera_files.read(path).distortion == record.distortion


def test_lenses_whose_pixels_are_no_longer_square(tmp_path):
    lens = np.array([[400.0, 500, 320, 240]])
    for name, general in (("RADIAL", "OPENCV"), ("RADIAL_FISHEYE", "OPENCV_FISHEYE")):
        record = CameraRecord(
            ORIGIN[None], lens, (480, 640), lens=name, distortion=({"k1": 0.1, "k2": 0.2},)
        )
        camera_files.write(tmp_path / name, record, "colmap")
        again = camera_files.read(tmp_path / name)
        assert again.lens == general and again.distortion[0]["k2"] == 0.2
        np.testing.assert_array_equal(again.intrinsics, lens)


@pytest.mark.parametrize("binary", [False, True])
def test_colmap_reads_what_is_written(tmp_path, binary):
    pycolmap = pytest.importorskip("pycolmap")
    record = CameraRecord(np.stack([ORIGIN, POSE]), np.array([LENS, LENS]), (480, 640))
    camera_files.write(tmp_path / "m", record, "colmap_bin" if binary else "colmap")
    model = pycolmap.Reconstruction(str(tmp_path / "m"))
    image = next(i for i in model.images.values() if i.name.endswith("1.png"))
    found = image.cam_from_world
    found = (found() if callable(found) else found).matrix()
    np.testing.assert_allclose(found, np.array(W2C)[:3], atol=1e-9)


@pytest.mark.parametrize("binary", [False, True])
def test_what_colmap_writes_is_read(tmp_path, binary):
    """A scene that COLMAP makes up, with points that its images see, and distortion."""
    pycolmap = pytest.importorskip("pycolmap")
    options = pycolmap.SyntheticDatasetOptions()
    options.num_rigs, options.num_frames_per_rig, options.num_points3D = 1, 7, 20
    options.camera_model_id = pycolmap.CameraModelId.OPENCV
    options.camera_params = [400.0, 410, 320, 240, 0.1, 0.02, 0.001, -0.002]
    options.camera_width, options.camera_height = 640, 480
    model = pycolmap.synthesize_dataset(options)
    (model.write_binary if binary else model.write_text)(str(tmp_path))
    record = camera_files.read(tmp_path)
    images = {image.name: image for image in model.images.values()}
    assert len(record) == len(images) == 7 and set(record.names) == set(images)
    for name, pose in zip(record.names, record.cam2world, strict=True):
        found = images[name].cam_from_world
        found = np.vstack([(found() if callable(found) else found).matrix(), [0, 0, 0, 1]])
        np.testing.assert_allclose(np.linalg.inv(found), pose, atol=1e-9)
    np.testing.assert_allclose(record.intrinsics, [LENS] * 7)
    assert record.size == (480, 640) and record.lens == "OPENCV"
    assert record.distortion[3] == {"k1": 0.1, "k2": 0.02, "p1": 0.001, "p2": -0.002}


def test_needs_no_jax():
    import subprocess
    import sys

    code = "import sys, mirage_jax.io.camera_files; sys.exit('jax' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_path_can_be_text(tmp_path):
    assert len(camera_files.read(str(save_tum(tmp_path)))) == 2
    assert isinstance(tmp_path, Path)
