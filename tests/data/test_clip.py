"""The clip record: what it refuses and what survives a round trip."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
from safetensors.numpy import load as load_safetensors

from data_pipelines import clip as clips
from data_pipelines.clip import ARRAY_FIELDS, Clip


def make_clip(frames=3, height=4, width=6, seed=0, **changes) -> Clip:
    rng = np.random.default_rng(seed)
    cam2world = np.tile(np.eye(4), (frames, 1, 1))
    angle = rng.uniform(-1, 1, frames)
    cam2world[:, 0, 0] = cam2world[:, 2, 2] = np.cos(angle)
    cam2world[:, 0, 2], cam2world[:, 2, 0] = np.sin(angle), -np.sin(angle)
    cam2world[:, :3, 3] = rng.normal(size=(frames, 3))
    fields = {
        "video": rng.integers(0, 256, (frames, height, width, 3), np.uint8),
        "depth": rng.uniform(0.5, 9, (frames, height, width)).astype(np.float32),
        "intrinsics": np.tile(np.float32([5, 5, width / 2, height / 2]), (frames, 1)),
        "cam2world": cam2world,
        "mover_ids": rng.integers(0, 70_000, (frames, height, width), np.int32),
        "world": "freedoom2/MAP07",
        "source": "freedoom",
        "trajectory": "easy",
        "seed": seed,
        "gamma": 0.6,
        "fps": 10.0,
        "name": f"clip-ü-{seed}",
    }
    fields["depth"].flat[:2] = [0, np.inf][: fields["depth"].size]
    return Clip(**(fields | changes))


def edited(array, index, value):
    array = array.copy()
    array[index] = value
    return array


def test_a_good_clip_passes_and_knows_its_size():
    clip = make_clip()
    assert clips.validate(clip) is clip
    assert (clip.frames, clip.size) == (3, (4, 6))


BASE = make_clip()
MIRROR = BASE.cam2world @ np.diag([-1.0, 1, 1, 1])
SHEAR = edited(BASE.cam2world, (1, 0, 1), 0.3)


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("video", BASE.video[..., :2], r"uint8 \[3, 4, 6, 2\]"),
        ("video", BASE.video[0], "uint8"),
        ("video", BASE.video.astype(np.float32), "float32"),
        ("depth", edited(BASE.depth, (1, 2, 3), np.nan), "NaN at frame 1, row 2, column 3"),
        ("depth", edited(BASE.depth, (1, 2, 3), -1), "-1"),
        ("depth", edited(BASE.depth, ..., np.inf), "unknown or sky"),
        ("depth", BASE.depth[:2], r"float32 \[2, 4, 6\]"),
        ("depth", BASE.depth.astype(np.float64), "float64"),
        ("intrinsics", edited(BASE.intrinsics, (2, 0), 0), "frame 2"),
        ("intrinsics", edited(BASE.intrinsics, (2, 3), np.nan), "frame 2"),
        ("cam2world", MIRROR, "left-handed"),
        ("cam2world", SHEAR, "frame 1"),
        ("cam2world", BASE.cam2world * 2.0, "orthonormal"),
        ("cam2world", edited(BASE.cam2world, (2, 1, 3), np.nan), "frame 2"),
        ("cam2world", edited(BASE.cam2world, (2, 3, 0), 0.1), "last row"),
        ("cam2world", BASE.cam2world[:, :3], r"\[3, 3, 4\]"),
        ("mover_ids", edited(BASE.mover_ids, (0, 0, 0), -2), "-2"),
        ("name", "", "non-empty"),
        ("gamma", 0.0, "positive"),
        ("fps", float("nan"), "positive"),
    ],
)
def test_a_bad_clip_is_refused_by_name_and_field(field, value, message):
    with pytest.raises(ValueError, match=message) as error:
        clips.validate(dataclasses.replace(BASE, **{field: value}))
    assert field in str(error.value)
    assert "expected" in str(error.value)
    if field != "name":
        assert BASE.name in str(error.value)


@pytest.mark.parametrize("shape", [(1, 1, 1), (2, 3, 5), (5, 8, 8)])
def test_round_trip_is_exact_and_writable(shape):
    clip = make_clip(*shape, seed=shape[0])
    back = clips.from_bytes(clips.to_bytes(clip))
    for field in dataclasses.fields(Clip):
        old, new = getattr(clip, field.name), getattr(back, field.name)
        if field.name in ARRAY_FIELDS:
            assert new.dtype == old.dtype
            assert new.flags.writeable
            np.testing.assert_array_equal(new, old)
        else:
            assert new == old and type(new) is type(old)


def test_equal_clips_have_equal_bytes():
    assert len({clips.to_bytes(make_clip()) for _ in range(20)}) == 1


def test_stored_video_is_plain_safetensors():
    np.testing.assert_array_equal(load_safetensors(clips.to_bytes(BASE))["video"], BASE.video)


def test_decode_returns_only_what_was_asked_for():
    record = clips.decode(clips.to_bytes(BASE), ("world", "depth"))
    assert list(record) == ["world", "depth"]
    np.testing.assert_array_equal(record["depth"], BASE.depth)
    with pytest.raises(ValueError, match="colour"):
        clips.decode(clips.to_bytes(BASE), ("colour",))


def test_damaged_bytes_are_refused():
    data = clips.to_bytes(BASE)
    for length in (0, 5, 40, len(data) // 2, len(data) - 1):
        with pytest.raises(ValueError, match="clip"):
            clips.from_bytes(data[:length])
    with pytest.raises(ValueError, match="not a stored clip"):
        clips.from_bytes(b"\x10" + bytes(7) + b"not json at all!" + bytes(99))
    with pytest.raises(ValueError, match="format"):
        clips.from_bytes(data.replace(b"mirage-clip-1", b"mirage-clip-9"))


def test_data_modules_do_not_import_jax():
    code = (
        "import sys, data_pipelines.recording, data_pipelines.sources.procedural;"
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
