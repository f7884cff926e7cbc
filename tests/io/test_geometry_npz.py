"""Mirage's geometry.npz: what is read of it, and what is refused, by name."""

import numpy as np
import pytest
from PIL import Image

from helpers import geometry_npz
from helpers.geometry_npz import FRAMES, SIZE
from mirage_jax.io import video as video_io
from mirage_jax.io.geometry_npz import read_geometry, resize

ARRAYS = geometry_npz.arrays()


def test_everything_is_read(tmp_path):
    found = read_geometry(geometry_npz.save(tmp_path / "geometry.npz"))
    np.testing.assert_array_equal(found.depths, ARRAYS["depths"])
    np.testing.assert_array_equal(found.cam2world, ARRAYS["poses_c2w"])
    np.testing.assert_array_equal(found.intrinsics, np.tile([25.6, 25.6, 16, 8], (FRAMES, 1)))
    np.testing.assert_array_equal(found.frames, ARRAYS["frames"])
    assert found.masks.all() and found.fps == 12 and len(found) == FRAMES
    assert found.original_size is None and found.size == SIZE
    camera = found.camera((8, 64))
    assert camera.size == (8, 64) and camera.cam2world.dtype == np.float64
    np.testing.assert_allclose(camera.intrinsics[0], [51.2, 12.8, 32, 4])


def test_what_need_not_be_there_may_be_missing(tmp_path):
    optional = ("masks", "frame_indices", "original_size", "processed_size", "fps")
    path = geometry_npz.save(tmp_path / "g.npz", **dict.fromkeys(optional))
    found = read_geometry(path, start=3)
    assert (found.masks, found.original_size, found.fps) == (None, None, None)
    sized = geometry_npz.save(tmp_path / "h.npz", original_size=np.array([32, 64]))
    assert read_geometry(sized).original_size == (32, 64)
    single = geometry_npz.save(tmp_path / "i.npz", frames=ARRAYS["frames"][:1])
    assert len(read_geometry(single).frames) == 1
    empty = geometry_npz.save(tmp_path / "j.npz", masks=np.zeros((0,)))
    assert read_geometry(empty).masks is None


def test_pictures_may_lie_beside_the_file(tmp_path):
    path = geometry_npz.save(tmp_path / "geometry.npz", frames=None)
    with pytest.raises(FileNotFoundError, match=r"geometry\.npz: frames: .*clip\.mp4"):
        read_geometry(path)
    large = np.random.default_rng(1).integers(0, 256, (24, 40, 3), np.uint8)
    Image.fromarray(large).save(tmp_path / "first_frame.png")
    np.testing.assert_array_equal(read_geometry(path).frames[0], resize(large, SIZE))
    with pytest.raises(ValueError, match=r"frames: found none and first_frame\.png alone"):
        read_geometry(path, start=2)
    video_io.write_video(tmp_path / "clip.mp4", ARRAYS["frames"], 12, scale=1)
    found = read_geometry(path, start=2)
    assert found.frames.shape == ARRAYS["frames"].shape
    (tmp_path / "clip.mp4").unlink()
    (tmp_path / "first_frame.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"first_frame\.png: not a picture"):
        read_geometry(path)


class Trap:
    """Objects that tell when they are unpickled."""

    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


@pytest.mark.parametrize("name", ["depths", "poses_c2w", "frame_indices", "fps"])
def test_objects_are_never_unpickled(tmp_path, name):
    objects = np.array([Trap(), Trap()], dtype=object)
    path = geometry_npz.save(tmp_path / "trap.npz", **{name: objects})
    with pytest.raises(ValueError, match=rf"trap\.npz: {name}: .*never unpickled"):
        read_geometry(path)


def skewed(matrices):
    matrices = matrices.copy()
    matrices[2, 0, 1] = 1.0
    return matrices


def rounded(matrices):
    matrices = matrices.copy()
    matrices[:, 0, 1], matrices[:, 2, 2] = 1e-9, 1.0000001
    return matrices


@pytest.mark.parametrize(
    "changes",
    [
        {"intrinsics": rounded(ARRAYS["intrinsics"])},
        {"intrinsics": np.round(ARRAYS["intrinsics"]).astype(np.int64)},
        {"poses_c2w": np.tile(np.eye(4, dtype=np.int32), (FRAMES, 1, 1))},
        {"fps": np.float64(12.0)},
        {"fps": np.array(12)},
        {"frames": ARRAYS["frames"][:4]},
    ],
)
def test_what_means_the_same_is_taken(tmp_path, changes):
    found = read_geometry(geometry_npz.save(tmp_path / "g.npz", **changes))
    expected = [round(n) if "int" in str(changes.get("intrinsics", ARRAYS["masks"]).dtype) else n
                for n in (25.6, 25.6, 16, 8)]  # fmt: skip
    np.testing.assert_allclose(found.intrinsics[0], expected)
    assert found.fps == 12.0 and len(found) == FRAMES


@pytest.mark.parametrize(
    ("name", "spoil", "message"),
    [
        ("depths", lambda a: None, r"depths: found none among \['fps'"),
        ("depths", lambda a: a[0], r"depths: found float32 \(16, 32\), expected floating.*\(F, H"),
        ("depths", lambda a: a.astype(int), "depths: found int64"),
        ("depths", lambda a: 0 * a, r"depths\[0\]: found no depth above 0"),
        (
            "depths",
            lambda a: a - 9 * (a == a.flat[0]),
            "depths: 6656 of 6656 pixels are NaN or neg",
        ),
        ("depths", lambda a: np.nan * a, "depths: 6656 of 6656 pixels are NaN or negative"),
        ("depths", lambda a: a[:, :8], r"frames: found 13 of \(16, 32\).*expected up to 13 of \(8"),
        ("intrinsics", lambda a: None, "intrinsics: found none"),
        ("intrinsics", lambda a: a[1:], "intrinsics: found 12 frames, expected 13"),
        ("intrinsics", lambda a: a[:, :2], r"intrinsics: found float64 \(13, 2, 3\)"),
        ("intrinsics", skewed, r"intrinsics\[2\]: found .*expected \[\[fx, 0, cx\]"),
        ("intrinsics", lambda a: a * 0 + np.eye(3), r"intrinsics\[0\].*normalised"),
        ("poses_c2w", lambda a: a[..., :3, :], r"poses_c2w: found float64 \(13, 3, 4\)"),
        ("poses_c2w", lambda a: a[:5], "poses_c2w: found 5 frames"),
        ("poses_c2w", lambda a: 2 * a, r"poses_c2w\[0\]: found .*expected"),
        ("frames", lambda a: a[[*range(13), 0]], "frames: found 14 of"),
        ("fps", lambda a: np.array([12.0, 24.0]), r"fps: found float64 \(2,\), expected"),
        ("intrinsics", lambda a: skewed(a) * np.nan, r"intrinsics\[0\]: found .*nan"),
        ("frames", lambda a: a.astype(np.uint16), "frames: found uint16, expected uint8"),
        ("frames", lambda a: a.astype(np.float32), "frames: found float32"),
        ("masks", lambda a: a[:, :3], "masks: found"),
        ("masks", lambda a: a.astype(np.float32), "masks: found float32"),
        ("original_size", lambda a: np.array([0, 64]), r"original_size: found \[0, 64\]"),
        ("original_size", lambda a: np.array([1, 2, 3]), r"original_size: found int64 \(3,\)"),
        ("fps", lambda a: -a, "fps: found -12"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(tmp_path, name, spoil, message):
    changes = {"masks": None} if name == "depths" else {}
    path = geometry_npz.save(tmp_path / "bad.npz", **changes | {name: spoil(ARRAYS[name])})
    with pytest.raises(ValueError, match=rf"bad\.npz: {message}"):
        read_geometry(path)


def test_frames_that_are_not_there_are_refused(tmp_path):
    path = geometry_npz.save(tmp_path / "g.npz", frames=ARRAYS["frames"][:1])
    with pytest.raises(ValueError, match="found 13 frames, expected one with number 13"):
        read_geometry(path, start=13)
    with pytest.raises(
        ValueError, match="frames: found the first 1 alone, expected that of number 1"
    ):
        read_geometry(path, start=1)


def test_damaged_files_are_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none\.npz: no such file"):
        read_geometry(tmp_path / "none.npz")
    path = geometry_npz.save(tmp_path / "cut.npz")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"cut\.npz: not a readable \.npz"):
        read_geometry(path)
    middle = len(whole) // 2
    path.write_bytes(whole[:middle] + bytes(64) + whole[middle + 64 :])
    with pytest.raises(ValueError, match=r"cut\.npz: \w+: "):
        read_geometry(path)
    path.write_bytes(b"no archive")
    with pytest.raises(ValueError, match=r"cut\.npz: not a readable \.npz"):
        read_geometry(path)
    np.save(tmp_path / "one.npy", np.zeros(3))
    with pytest.raises(ValueError, match=r"one\.npy: found one array"):
        read_geometry(tmp_path / "one.npy")
