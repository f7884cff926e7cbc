"""Camera files that cannot be read say in one line which file and frame, and what was expected."""

import json
import struct

import numpy as np
import pytest

from helpers.made_footage import evil_torch, torch_bytes
from mirage_jax.io import camera_files
from mirage_jax.io.camera_files import CameraRecord

TUM = "0 0 0 0 0 0 0 1\n1 1 2 3 0 0 0 1\n"
TWO = np.tile(np.eye(4), (2, 1, 1))
LENS = np.array([[400.0, 410, 320, 240]] * 2)
SQUARE = np.array([[400.0, 400, 320, 240]] * 2)


def refused(path, *parts, kind=ValueError, **told):
    with pytest.raises(kind) as error:
        camera_files.read(path, **told)
    message = str(error.value)
    assert "\n" not in message and str(path) in message, message
    for part in parts:
        assert part in message, message


def test_byte_order_marks_windows_lines_and_capitals_are_fine(tmp_path):
    folder = tmp_path / "a, b; ü"
    folder.mkdir()
    (folder / "WALK, one.TXT").write_bytes(
        b"\xef\xbb\xbf# t\r\n" + TUM.replace("\n", "\r\n").encode()
    )
    record = camera_files.read(folder / "WALK, one.TXT")
    np.testing.assert_array_equal(record.cam2world[1, :3, 3], [1, 2, 3])
    content = json.dumps({"cam2world": TWO.tolist()})
    (folder / "A.JSON").write_bytes(b"\xef\xbb\xbf" + content.encode())
    assert len(camera_files.read(folder / "A.JSON")) == 2


@pytest.mark.parametrize(
    ("name", "content", "parts"),
    [
        ("a.txt", b"0 0 0 \xff 0 0 0 1\n", ["byte 0xff", "UTF-8"]),
        ("a.txt", b"", ["no lines"]),
        ("a.txt", b"# only this\n", ["no lines"]),
        ("a.txt", TUM.encode() + b"2 1 1\n", ["line 3", "3 numbers, expected 8"]),
        ("a.txt", TUM.encode() + b"2 x 0 0 0 0 0 1\n", ["line 3", "'2 x 0", "qx qy qz qw"]),
        ("a.txt", TUM.encode() + b"2 nan 0 0 0 0 0 1\n", ["frame[2]", "NaN"]),
        ("a.txt", TUM.encode() + b"2 0 0 0 0 0 0 2\n", ["frame[2]", "length 2, expected 1"]),
        ("a.txt", b"1 2 3 4 5\n", ["5 columns", "8 (TUM)"]),
        ("a.csv", b"0,0,0,0,0,0,0,1\n", ["8 columns", "--from_format=tum"]),
        ("a.txt", b"1 0 0 0\n0 1 0 0\n0 0 1 0\n0 0 0 1\n1 0 0 0\n", ["5 rows", "multiple of 4"]),
        ("a.json", b"{", ["not a readable .json"]),
        ("a.json", b"3", ["found a int", "expected cameras"]),
        ("a.json", b'{"frames": [{"file_path": "a"}]}', ["frames[0]", "transform_matrix"]),
        ("a.json", b'{"frames": []}', ["0 poses"]),
        ("a.json", b'{"x": 1, "y": 2}', ["'x', 'y'", "cam2world"]),
        ("a.json", b'{"0": {"extrinsic": [[1]]}}', ["expected K"]),
        ("a.json", b'{"0": "[1 0 0] [1]"}', ["0", "four [a b c d]"]),
        ("a.npz", b"PK\x03\x04 broken", ["not a readable .npz"]),
        ("a.npy", b"\x93NUMPY\x01\x00", ["not a readable .npy"]),
        ("a.pt", b"PK", ["no whole torch file"]),
        ("a.pt", evil_torch(), ["print, expected tensors"]),
        ("a.pt", torch_bytes([1]), ["found a list, expected a tensor or a dict"]),
        ("a.pt", torch_bytes({"x": np.zeros(3)}), ["'x'", "cam2world"]),
        ("a.pt", torch_bytes({"cam_c2w": np.zeros((2, 5))}), ["cam_c2w", "(2, 5)"]),
        ("a.pkl", b"PK", ["pickle", "torch.save alone"]),
        ("a.xyz", b"", ["suffix '.xyz'"]),
        ("points.bin", b"", ["images.bin"]),
    ],
)  # fmt: skip
def test_faults_are_named(tmp_path, name, content, parts):
    (tmp_path / name).write_bytes(content)
    refused(tmp_path / name, *parts)


@pytest.mark.parametrize(
    ("fault", "parts"),
    [
        (lambda m: m.__setitem__((1, 0, 0), np.nan), ["frame[1]", "NaN", "1 of 2"]),
        (lambda m: m.__setitem__((1, 0, 0), -1.0), ["frame[1]", "left-handed", "determinant"]),
        (lambda m: m.__setitem__((1, 0, 0), 2.0), ["frame[1]", "orthonormal"]),
        (lambda m: m.__setitem__((1, 3, 0), 0.5), ["[1]", "last row"]),
        (lambda m: m.__setitem__((1, slice(None)), np.eye(4)[::-1]), ["[1]", "last row"]),
    ],
)
def test_matrices_that_are_no_poses_are_named(tmp_path, fault, parts):
    poses = TWO.copy()
    poses[:, :3, 3] = 1, 2, 3
    fault(poses)
    np.save(tmp_path / "p.npy", poses)
    refused(tmp_path / "p.npy", *parts, bare=("c2w", "opencv"))


def test_transposed_and_odd_arrays_are_named(tmp_path):
    moved = TWO.copy()
    moved[:, :3, 3] = 1, 2, 3
    np.save(tmp_path / "t.npy", moved.transpose(0, 2, 1))
    refused(tmp_path / "t.npy", "transposed", bare=("c2w", "opencv"))
    np.save(tmp_path / "s.npy", np.zeros((2, 5, 5)))
    refused(tmp_path / "s.npy", "(2, 5, 5)", "[F, 4, 4]")
    np.save(tmp_path / "o.npy", np.array([{}], dtype=object), allow_pickle=True)
    refused(tmp_path / "o.npy", "never unpickled")
    np.save(tmp_path / "q.npy", np.zeros((2, 7)))
    refused(tmp_path / "q.npy", "7 numbers", "--from_format=spatialvid")
    refused(tmp_path / "none.npy", kind=FileNotFoundError)
    np.savez(tmp_path / "g.npz", poses_c2w=TWO, intrinsics=np.eye(3), processed_size=[1, 2, 3])
    refused(tmp_path / "g.npz", "processed_size: found [1, 2, 3], expected height and width")


def test_counts_that_differ_are_named(tmp_path):
    np.savez(tmp_path / "a.npz", cam2world=TWO, intrinsics=np.tile(LENS, (2, 1)))
    refused(tmp_path / "a.npz", "intrinsics", "(4, 4)", "[2, 4]")
    np.savez(tmp_path / "pose.npz", inds=[0, 2], data=TWO)
    refused(tmp_path / "pose.npz", "inds", "0 to 1")
    np.savez(tmp_path / "b.npz", cam2world=TWO, timestamps=np.arange(3.0))
    refused(tmp_path / "b.npz", "timestamps", "found 3, expected 2")
    np.savez(tmp_path / "c.npz", cam2world=TWO, intrinsics=-LENS)
    refused(tmp_path / "c.npz", "intrinsics[0]", "above 0")


def test_truncated_binary_models_are_named(tmp_path):
    record = CameraRecord(TWO, LENS, (480, 640))
    model = tmp_path / "m"
    camera_files.write(model, record, "colmap_bin")
    for name in ("cameras.bin", "images.bin"):
        whole = (model / name).read_bytes()
        for size in {0, 4, 9, len(whole) // 2, len(whole) - 1}:
            (model / name).write_bytes(whole[:size])
            with pytest.raises(ValueError, match=rf"{name}: truncated") as error:
                camera_files.read(model)
            assert "\n" not in str(error.value)
        (model / name).write_bytes(whole)
    assert len(camera_files.read(model)) == 2
    # A count of images that no memory could hold ends at the first that is not there.
    (model / "images.bin").write_bytes(struct.pack("<Q", 2**60))
    with pytest.raises(ValueError, match="truncated"):
        camera_files.read(model)


@pytest.mark.parametrize(
    ("camera", "image", "message"),
    [
        ("1 PINHOLE 640 480 1 1 1", "1 1 0 0 0 0 0 0 1 a", "3 parameters.*expected 4 of PINHOLE"),
        ("1 FANCY 640 480 1", "1 1 0 0 0 0 0 0 1 a", "line 1: found model 'FANCY'"),
        ("1 PINHOLE 640", "1 1 0 0 0 0 0 0 1 a", "line 1.*expected CAMERA_ID MODEL"),
        ("1 PINHOLE 640 480 1 1 1 1", "1 1 0 0 0 0 0 0 2 a", "a: found camera 2.*: 1"),
        ("1 PINHOLE 640 480 1 1 1 1", "1 1 0 0 0 0 0 0 1", "line 1.*expected IMAGE_ID"),
        ("1 PINHOLE 640 480 1 1 1 1", "1 2 0 0 0 0 0 0 1 a", "quaternion .*length 2"),
    ],
)
def test_faulty_text_models_are_named(tmp_path, camera, image, message):
    (tmp_path / "cameras.txt").write_text(f"{camera}\n")
    (tmp_path / "images.txt").write_text(f"{image}\n\n")
    with pytest.raises(ValueError, match=message):
        camera_files.read(tmp_path)


def test_folders_without_one_kind_of_cameras_are_named(tmp_path):
    refused(tmp_path, "no cameras")
    (tmp_path / "transforms.json").write_text("{}")
    np.savez(tmp_path / "pose.npz", inds=[0, 1], data=TWO)
    refused(tmp_path, "transforms, vipe", "--from_format=")
    for i in range(2):
        (tmp_path / f"{i}.txt").write_text("-inf 0 0 0\n" * 3 + "0 0 0 1\n")
    refused(tmp_path, "0.txt", "not tracked", format="matrices")


def test_what_is_told_must_make_sense(tmp_path):
    (tmp_path / "a.txt").write_text(TUM)
    for told in ({"direction": "up"}, {"axes": "left"}, {"units": "ft"}):
        with pytest.raises(ValueError, match=rf"{next(iter(told))}: found"):
            camera_files.read(tmp_path / "a.txt", **told)
    with pytest.raises(ValueError, match="did you mean 'colmap'"):
        camera_files.read(tmp_path / "a.txt", "colmpa")


@pytest.mark.parametrize(
    ("name", "format", "record", "message"),
    [
        ("a.txt", "re10k", CameraRecord(TWO), "needs intrinsics"),
        ("a.txt", "re10k", CameraRecord(TWO, LENS), "need the pictures' size"),
        ("m", "colmap", CameraRecord(TWO, LENS), "pictures' size"),
        ("a.npz", "lyra", CameraRecord(TWO, LENS), "size"),
        ("pose.npz", "vipe", CameraRecord(TWO, LENS / 640, normalised=True), "size"),
        ("a.npz", "geometry", CameraRecord(TWO), "needs intrinsics"),
        ("a.pt", "alayaworld", CameraRecord(TWO), "only read"),
        ("a.npy", "llff", CameraRecord(TWO, LENS), "LLFF needs the pictures' size"),
        ("a.npy", "llff", CameraRecord(TWO, LENS, (480, 640)), "400, 410, 320, 240, expected fx"),
        ("a.npy", "llff", CameraRecord(TWO, SQUARE, (500, 640)), "320, 240, .*cy = 320, 250"),
        ("a.xyz", None, CameraRecord(TWO), "suffix '.xyz'"),
        ("a.npy", None, CameraRecord(TWO * 2), "frame"),
    ],
)
def test_what_cannot_be_written_is_named_and_nothing_is_left(
    tmp_path, name, format, record, message
):
    with pytest.raises(ValueError, match=message):
        camera_files.write(tmp_path / name, record, format)
    assert not [path for path in tmp_path.rglob("*") if path.is_file()]
