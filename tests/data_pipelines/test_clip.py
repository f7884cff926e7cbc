"""The clip record: what it refuses, and what may be absent."""

import copy
import dataclasses
import subprocess
import sys

import numpy as np
import pytest

from data_pipelines import clip as clips
from helpers.made_clips import bare, edited, make_clip, make_full_clip


def faulty(thing, field, value):
    """A copy with another value, which is not checked by type as in a source without our hook."""
    thing = copy.copy(thing)
    object.__setattr__(thing, field, value)
    return thing


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
        ("intrinsics", edited(BASE.intrinsics, (2, 0), 0), r"frame\[2\]"),
        ("intrinsics", edited(BASE.intrinsics, (2, 3), np.nan), r"frame\[2\]"),
        ("cam2world", MIRROR, "right-handed"),
        ("cam2world", SHEAR, r"frame\[1\]"),
        ("cam2world", BASE.cam2world * [2.0, 2.0, 2.0, 1.0], "orthonormal"),
        ("cam2world", edited(BASE.cam2world, (2, 1, 3), np.nan), r"frame\[2\]"),
        ("cam2world", edited(BASE.cam2world, (2, 3, 0), 0.1), "last row"),
        ("cam2world", BASE.cam2world[:, :3], r"\[3, 3, 4\]"),
        ("mover_ids", edited(BASE.mover_ids, (0, 0, 0), -2), "-2"),
        ("times", np.zeros(3), "0 s after 0 s at frame 1"),
        ("times", np.array([0, np.inf, 1.0]), "inf at frame 1"),
        ("times", np.arange(2.0), r"float64 \[2\]"),
        ("caption", " ", "non-empty"),
        ("licence", 5, "non-empty"),
        ("provenance", {"versions": (1, 2)}, "plain JSON"),
        ("provenance", {"error": float("nan")}, "plain JSON"),
        ("provenance", "a url", "plain JSON"),
        ("seed", 1.5, "an integer"),
        ("name", "", "non-empty"),
        ("gamma", 0.0, "positive"),
        ("fps", float("nan"), "positive"),
    ],
)
def test_a_bad_clip_is_refused_by_name_and_field(field, value, message):
    with pytest.raises(ValueError, match=message) as error:
        clips.validate(faulty(BASE, field, value))
    assert field in str(error.value)
    assert "expected" in str(error.value)
    if field != "name":
        assert BASE.name in str(error.value)


def test_intrinsics_that_are_no_pixels_are_refused():
    clip = make_clip(3, 8, 8)
    with pytest.raises(ValueError, match=r"intrinsics at frame\[0\]: .*normalised"):
        clips.validate(dataclasses.replace(clip, intrinsics=clip.intrinsics / 8))


FULL = make_full_clip()


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("ids", np.array([7, 7], np.int32), "each once"),
        ("ids", np.array([0, 7], np.int32), "positive ids"),
        ("ids", np.array([7, 9]), "int64"),
        ("kinds", ("capsule",), "2 names"),
        ("looks", ["red", "blue"], "a tuple"),
        ("looks", ("red", ""), "2 names"),
        ("extent", np.zeros((2, 3), np.float32), "positive metres"),
        ("velocity", edited(FULL.bodies.velocity, (1, 0, 2), np.nan), "frame 1, body 0"),
        ("velocity", FULL.bodies.velocity[:, :1], r"float64 \[3, 1, 3\]"),
        ("body2world", edited(FULL.bodies.body2world, (2, 1, 0, 1), 0.3), r"\[2, 1\].*orthonormal"),
        ("visible", edited(FULL.bodies.visible, (0, 1), True), "body 9, visible, yet not present"),
        ("visible", np.zeros((3, 2), bool), "False at frame 0 for body 7, not as mover_ids"),
        ("visible", edited(FULL.bodies.visible, (1, 0), True), "True at frame 1 for body 7"),
    ],
)
def test_bad_bodies_are_refused_by_name_and_field(field, value, message):
    bodies = faulty(FULL.bodies, field, value)
    with pytest.raises(ValueError, match=message) as error:
        clips.validate(dataclasses.replace(FULL, bodies=bodies))
    assert f"clip {FULL.name!r}, bodies.{field}" in str(error.value)


def test_what_a_source_does_not_know_may_be_absent():
    assert clips.validate(FULL) is FULL
    clip = clips.validate(bare(FULL))
    for field in ("depth", "mover_ids", "times", "bodies", "seed", "caption", "licence"):
        assert getattr(clip, field) is None
        clips.validate(dataclasses.replace(FULL, **{field: None}))
    # Bodies that no ids show, e.g. tracked ones, may be visible where they like.
    shown = dataclasses.replace(FULL.bodies, visible=FULL.bodies.present)
    clips.validate(dataclasses.replace(FULL, mover_ids=None, bodies=shown))
    for field in ("video", "intrinsics", "cam2world"):
        with pytest.raises(ValueError, match=f"{field}: found NoneType"):
            clips.validate(faulty(clip, field, None))


def test_an_absent_part_that_is_required_is_named():
    np.testing.assert_array_equal(FULL.require("bodies.velocity"), FULL.bodies.velocity)
    for part in ("depth", "bodies.velocity"):
        with pytest.raises(ValueError, match=f"clip {FULL.name!r}, {part}: found none"):
            bare(FULL).require(part)


def test_times_default_to_the_frame_rate():
    np.testing.assert_allclose(make_clip(fps=10.0).timestamps, [0.0, 0.1, 0.2])
    np.testing.assert_allclose(FULL.timestamps, [1.5, 2.5, 1.5 + 8**0.5])


def test_bodies_can_be_cut_to_some_frames():
    cut = FULL.bodies.cut(slice(1, 3))
    assert cut.ids is FULL.bodies.ids and cut.extent is FULL.bodies.extent
    assert cut.kinds == FULL.bodies.kinds
    np.testing.assert_array_equal(cut.body2world[:, 0, 0, 3], [1.0, 2.0])
    np.testing.assert_array_equal(cut.present, np.ones((2, 2), bool))
    for field in ("velocity", "angular_velocity", "visible"):
        assert len(getattr(cut, field)) == 2


def test_data_modules_do_not_import_jax():
    code = (
        "import sys, data_pipelines.recording, data_pipelines.sources.procedural;"
        "sys.exit('jax' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
