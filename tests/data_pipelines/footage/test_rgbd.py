"""TUM RGB-D and 7-Scenes: faults of their tables, named by file; and a lens that is told."""

import numpy as np
import pytest
from PIL import Image

from data_pipelines.sources.footage import seven_scenes
from data_pipelines.sources.footage.registration import register_depth
from helpers import made_footage
from helpers.footage_reading import forget
from helpers.footage_sources import made, refusal
from helpers.made_footage import FRAMES, SIZE, room


@pytest.fixture(autouse=True)
def anew():
    forget()


def spoil(path, old, new):
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("file", "spoilt", "message"),
    [
        (
            "groundtruth.txt",
            lambda rows: [*rows[:4], rows[5], rows[4], *rows[6:]],
            r"groundtruth\.txt: pose 4: found .*400000 s after .*500000 s, expected increasing",
        ),
        (
            "groundtruth.txt",
            lambda rows: [*rows[:4], rows[3], *rows[4:]],
            r"groundtruth\.txt: pose 3: found .* s again",
        ),
        # The comment is line 1, and the picture of line 5 comes again in line 6.
        (
            "rgb.txt",
            lambda rows: [*rows[:5], rows[4], *rows[5:]],
            r"rgb\.txt: line 6: found .* s again",
        ),
        (
            "depth.txt",
            lambda rows: [*rows, rows[-1]],
            rf"depth\.txt: line {FRAMES + 2}: found .* s again",
        ),
    ],
)
def test_times_of_tum_that_do_not_increase_are_said_of_their_file(file, spoilt, message, tmp_path):
    made_footage.tum_rgbd(tmp_path, room())
    path = tmp_path / "rgbd_dataset_room" / file
    rows = path.read_text().splitlines(keepends=True)
    path.write_text("".join(spoilt(rows)))
    with pytest.raises(ValueError, match=message):
        made(tmp_path, eval_share=0.0).clip("rgbd_dataset_room", 0)


@pytest.mark.parametrize(
    ("file", "text", "message"),
    [
        ("frame-000003.pose.txt", "1 0 0 0\n0 1 0 0\n0 0 1 0\n", "found 3 rows, expected 4"),
        ("frame-000003.pose.txt", "1 0 0 0\n0 1 0\n", "line 2: found 3 numbers, expected 4"),
        (
            "frame-000003.pose.txt",
            "1 0 0 0\n0 2 0 0\n0 0 1 0\n0 0 0 1\n",
            "pose: found .*expected an orthonormal rotation",
        ),
        ("camera-intrinsics.txt", "48 0 24\n0 48 24\n", "found 2 rows, expected 3"),
        ("camera-intrinsics.txt", "48 1 24\n0 48 24\n0 0 1\n", r"matrix\[0\]: found .*expected"),
    ],
)
def test_tables_of_seven_scenes_that_are_none_are_named(file, text, message, tmp_path):
    made_footage.seven_scenes(tmp_path, room())
    (tmp_path / "office" / "seq-01" / file).write_text(text)
    with pytest.raises(ValueError, match=f"{file}: {message}"):
        made(tmp_path, lens=(), eval_share=0.0).clip("office/seq-01", 0)


def test_frames_of_seven_scenes_go_by_the_number_of_their_files(tmp_path):
    """Takes need not begin at 0, nor have zeros before their numbers: 9 comes before 10."""
    made_footage.seven_scenes(tmp_path, room())
    folder = tmp_path / "office" / "seq-01"
    for path in sorted(folder.glob("frame-*"), reverse=True):
        number = int(path.name[6:12]) + 5
        path.rename(folder / f"frame-{number}{path.name[12:]}")
    source = made(tmp_path, lens=(), eval_share=0.0, size=SIZE, frames=FRAMES, register=False)
    clip = source.clip("office/seq-01", 0)
    np.testing.assert_allclose(clip.cam2world, room().cam2world, atol=1e-9)
    Image.fromarray(np.zeros((9, 9, 3), np.uint8)).save(folder / "frame-7.color.png")
    message = refusal(source)
    assert "frame-7.color.png: frame 7: found 9 x 9 pixels, expected 48 x 48" in message


def test_a_lens_that_is_given_is_that_of_every_layout(tmp_path, monkeypatch):
    """7-Scenes and pixelSplat, whose files have one of their own; and one with distortion."""
    lens = (50.0, 52.0, 23.0, 25.0)
    options = {"lens": lens, "size": SIZE, "frames": FRAMES, "eval_share": 0.0}
    made_footage.seven_scenes(tmp_path / "a", room())
    made_footage.pixelsplat(tmp_path / "b", room())
    made_footage.transforms(tmp_path / "c", room())
    spoil(tmp_path / "c" / "room" / "transforms.json", '"cx"', '"k1": 0.3, "cx"')
    for folder, said in (("a", "given"), ("b", "given"), ("c", "given, in place of OPENCV")):
        source = made(tmp_path / folder, **options)
        clip = source.clip(source.worlds("train")[0], 0)
        np.testing.assert_allclose(clip.intrinsics, np.tile(lens, (FRAMES, 1)), rtol=1e-6)
        assert clip.provenance["lens"] == said and "undistorted" not in clip.provenance
    np.testing.assert_array_equal(clip.video, room().video)  # nothing is undistorted any more
    seen = made(tmp_path / "a", **options).clip("office/seq-01", 0)
    plain = made(tmp_path / "a", **{**options, "register": False}).clip("office/seq-01", 0)
    np.testing.assert_array_equal(seen.depth, plain.depth)  # another sensor: of one camera
    depth_lens, place = room().intrinsics[0], np.array([-0.025, 0, 0])
    monkeypatch.setattr(seven_scenes, "_DEPTH_LENS", depth_lens)  # that of the published scenes
    forget()
    seen = made(tmp_path / "a", **options).clip("office/seq-01", 0)
    expected = register_depth(plain.depth[0], depth_lens, np.array(lens), place)
    np.testing.assert_allclose(seen.depth[0], expected, rtol=1e-6)
    without = made(tmp_path / "c", **{**options, "lens": ()}).clip("room", 0)
    assert without.provenance["undistorted"] == "OPENCV" and "lens" not in without.provenance
