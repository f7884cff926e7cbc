"""SpatialVID: depth and masks of the annotated frames, read when they are asked for."""

import zipfile

import numpy as np
import pytest

from data_pipelines.sources.footage import spatialvid
from helpers import made_footage
from helpers.footage_reading import first_clip, made, refusal
from helpers.made_footage import FRAMES, SIZE, exr, room
from mirage_jax.io.numpy_files import ArrayFile

WHERE = {"size": SIZE, "frames": 4}


@pytest.fixture
def root(tmp_path):
    made_footage.spatialvid(tmp_path, room())
    return tmp_path


def depth_zip(root, maps):
    with zipfile.ZipFile(root / "depths" / "group_0001" / "0a00.zip", "w") as archive:
        for name, data in maps.items():
            archive.writestr(name, data)


def maps_of(shape, value=0.5):
    return {f"{i:05d}.exr": exr(np.full(shape, value, np.float32)) for i in range(FRAMES)}


def test_depth_is_the_inverse_of_what_is_stored_enlarged_to_the_video(root):
    stored = np.full((SIZE // 2, SIZE // 2), 0.25, np.float32)
    stored[0, 0], stored[0, 1], stored[0, 2], stored[0, 3] = -1, 0, np.nan, np.inf
    depth_zip(root, {f"{i:05d}.exr": exr(stored) for i in range(FRAMES)})
    depth = first_clip(root, **WHERE).depth[2]
    np.testing.assert_array_equal(depth[:2, :8], 0)  # not above 0, or no number: not known
    np.testing.assert_allclose(depth[2:], 4.0)
    np.testing.assert_allclose(depth[:, 8:], 4.0)
    beside = root / "annotations" / "group_0001" / "0a00" / "depth.zip"
    (root / "depths" / "group_0001" / "0a00.zip").rename(beside)
    np.testing.assert_array_equal(first_clip(root, **WHERE).depth[2], depth)
    beside.unlink()
    assert first_clip(root, **WHERE).depth is None


def test_only_the_depth_and_masks_of_a_clip_are_read(root, monkeypatch):
    """A scene of any length is opened without reading them, and none of them is kept."""
    read, decoded = [], []
    taken = ArrayFile.read
    monkeypatch.setattr(ArrayFile, "read", lambda s, name: (read.append(name), taken(s, name))[1])
    decode = spatialvid.maps.read_channel
    monkeypatch.setattr(
        spatialvid.maps, "read_channel", lambda *a: (decoded.append(0), decode(*a))[1]
    )
    source = made(root, **WHERE)
    assert source.clip_counts("train") == {"group_0001/0a00": 3}
    assert read == ["shape"] and not decoded
    source.clip("group_0001/0a00", 1)
    numbers = {int(name.split("_")[1]) for name in read[1:]}
    assert numbers == {4, 5, 6, 7} and len(decoded) == 4


def test_indexes_say_which_frames_have_poses(root):
    """Of a video of 24 frames the fourth and every second one after it."""
    path = root / "annotations" / "group_0001" / "0a00" / "indexes.txt"
    chosen = [*range(1, 23, 2), 23]
    path.write_text("".join(f"{i} {frame}\n" for i, frame in enumerate(chosen)))
    clip = first_clip(root, size=SIZE, frames=FRAMES)
    np.testing.assert_allclose(clip.times, np.array(chosen) / 10, atol=1e-3)
    for rows, said in (
        (chosen[:-1], "found 11 frames, expected 12, one for each pose"),
        ([*chosen[:-1], 24], "line 13: found frame 24 after 21, expected increasing numbers below"),
        (
            [1, 1, *chosen[2:]],
            "line 3: found frame 1 after 1, expected increasing numbers below 24",
        ),
        ([1.5, *chosen[1:]], "line 2: found frame 1.5, expected increasing numbers below 24"),
        ([1, 9, 7], "line 4: found frame 7 after 9, expected increasing numbers below 24"),
    ):
        lines = "".join(f"{i} {frame}\n" for i, frame in enumerate(rows))
        path.write_text("# row, frame\n" + lines)
        assert f"indexes.txt: {said}" in refusal(root, **WHERE)


def test_damaged_depth_is_refused_by_its_frame(root):
    path = root / "depths" / "group_0001" / "0a00.zip"
    maps = maps_of((SIZE, SIZE))
    del maps["00003.exr"]
    depth_zip(root, maps)
    message = refusal(root, **WHERE)
    assert "0a00.zip: found 11 .exr files, expected 12" in message
    assert "none is numbered 3 (frame 3)" in message
    depth_zip(root, maps_of((SIZE, 2 * SIZE)))
    assert "0a00.zip: frame 0: found 96x48 pixels, expected the shape" in refusal(root, **WHERE)
    maps = maps_of((SIZE, SIZE))
    maps["00002.exr"] = maps["00002.exr"][:200]
    depth_zip(root, maps)
    assert "00002.exr (frame 2): truncated or damaged EXR" in refusal(root, **WHERE)
    path.write_bytes(path.read_bytes()[:100])
    assert "0a00.zip: found no whole zip file" in refusal(root, **WHERE)


def test_a_mask_that_lacks_is_refused(root):
    path = root / "annotations" / "group_0001" / "0a00" / "dyn_masks.npz"
    with np.load(path) as arrays:
        whole = dict(arrays)
    np.savez(path, **{name: a for name, a in whole.items() if name != "f_5_data"})
    assert "dyn_masks.npz: found no array f_5_data" in refusal(root, **WHERE)
    np.savez(path, **{name: a for name, a in whole.items() if not name.startswith("f_5_")})
    assert "found masks of 11 frames, expected 12" in refusal(root, **WHERE)
    np.savez(path, **(whole | {"f_2_indices": np.array([9])}))
    with pytest.raises(ValueError, match=r"dyn_masks\.npz: frame 2: "):
        first_clip(root, **WHERE)
