"""HM-World: which camera is of which frame, what masks and events say, and what is refused."""

import json

import numpy as np
import pytest

from helpers.footage_reading import first_clip, made, refusal
from helpers.made_footage import FPS, FRAMES, SIZE, room, write_video
from helpers.made_hm_world import hm_world, unreal_texts

LENS = tuple(map(float, room().intrinsics[0]))
HALF = FRAMES // 2


@pytest.fixture
def sample(tmp_path):
    hm_world(tmp_path, room())
    return tmp_path / "HM-World" / "sample1"


def options(**more):
    return {"size": SIZE, "frames": FRAMES, "lens": LENS, **more}


def read(sample, **more):
    return first_clip(sample.parent, **options(**more))


def refused(sample, **more):
    return refusal(sample.parent, **options(**more))


def test_exits_and_entries_have_the_times_of_their_frames(sample):
    clip = read(sample)
    np.testing.assert_allclose(clip.times, np.arange(FRAMES) / FPS, atol=1e-3)
    shared = {"subject": "BP_Actor/Manny"}
    assert clip.provenance["cond_frames"] == HALF
    assert clip.provenance["events"] == [
        {**shared, "video": "cond", "frame": 2, "in_frame": False, "seconds": pytest.approx(0.2)},
        {**shared, "video": "tgt", "frame": 1, "in_frame": True, "seconds": pytest.approx(0.7)},
    ]
    assert "character" not in clip.provenance  # its poses are not about exits


def test_a_sample_alone_may_be_the_root_and_have_its_own_caption(sample):
    clip = first_clip(sample, **options())
    assert (clip.world, clip.caption) == ("sample1", "a room")
    (sample / "caption.txt").write_text("sample1 is a room of its own\n")
    assert first_clip(sample, **options()).caption == "sample1 is a room of its own"


def test_what_character_json_says_of_exits_is_kept_as_it_is(sample):
    (sample / "check.json").unlink()
    told = {"Manny": {"exit_time": 0.2, "entry_time": [0.7], "pose": [1, 2, 3]}, "fps": 15}
    (sample / "character.json").write_text(json.dumps(told))
    assert read(sample).provenance["character"] == {
        "Manny": {"exit_time": 0.2, "entry_time": [0.7]}
    }


def test_subjects_may_be_red_and_masks_smaller_than_the_video(tmp_path):
    hm_world(tmp_path, room(), colour=(250, 10, 10))
    sample = tmp_path / "HM-World" / "sample1"
    half = SIZE // 2
    shown = np.zeros((HALF, half, half, 3), np.uint8)
    shown[:, :, :8] = 255
    write_video(sample / "tgt_mask.mp4", shown)
    moving = read(sample).mover_ids
    assert (moving[:HALF, :2] == 1).all() and not moving[:HALF, 2:].any()
    assert (moving[HALF:, :, :16] == 1).all() and not moving[HALF:, :, 16:].any()
    (sample / "cond_mask.mp4").unlink()
    assert "cond_mask.mp4: no such file" in refused(sample)
    (sample / "tgt_mask.mp4").unlink()
    assert read(sample).mover_ids is None


def test_the_published_149_matrices_go_with_the_frames_that_are_theirs(tmp_path):
    """By the data set's own reader: 75 matrices a video, the first taken from the next frame,
    and the ends repeated to 77. Grey tells the frame, the camera's place its matrix."""
    sample = tmp_path / "HM-World" / "s"
    sample.mkdir(parents=True)
    grey = np.repeat(np.arange(154, dtype=np.uint8), 16 * 16 * 3).reshape(154, 16, 16, 3)
    for part, frames in (("cond", grey[:77]), ("tgt", grey[77:])):
        write_video(sample / f"{part}.mp4", frames)
    poses = np.tile(np.eye(4), (149, 1, 1))
    poses[:, 0, 3] = np.arange(149)
    (sample / "camera.json").write_text(json.dumps(unreal_texts(poses)))
    used = [*range(149), 148]  # as the reader completes them to 150
    used[0] = 1
    padded = [used[i] for part in (range(75), range(75, 150)) for i in (part[0], *part, part[-1])]
    own = [frame for frame in range(154) if padded.count(padded[frame]) == 1]
    # Of a matrix that several frames have, one frame has it first-hand.
    own = sorted([*own, 2, 75, 78, 151])
    where = {"size": 16, "lens": (16.0, 16.0, 8.0, 8.0)}
    clip = read(sample, frames=len(own), **where)
    assert np.abs(clip.video[:, 8, 8, 0].astype(int) - own).max() <= 2
    np.testing.assert_allclose(clip.cam2world[:, 0, 3], [padded[frame] for frame in own], atol=1e-9)
    np.testing.assert_allclose(clip.times, np.array(own) / FPS, atol=2e-3)
    left_out = made(sample.parent, frames=9, **where).left_out()
    assert left_out == {"no camera of its own": 154 - len(own)}


def test_parts_of_camera_json_are_of_their_own_videos(sample):
    texts = room().cam2world
    turn = np.array([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    matrices = turn @ texts @ turn.T
    matrices[:, :3, 3] *= 100
    parts = {"cond_cam": matrices[: HALF - 1], "tgt_cam": matrices[HALF - 1 :]}
    write = {k: {str(i): m.tolist() for i, m in enumerate(v)} for k, v in parts.items()}
    (sample / "camera.json").write_text(json.dumps(write))
    assert "cond_cam: found 5 matrices, expected 6" in refused(sample)
    write["cond_cam"]["5"] = write["tgt_cam"].pop("0")
    (sample / "camera.json").write_text(json.dumps(write))
    np.testing.assert_allclose(read(sample).cam2world, texts, atol=1e-6)


def test_what_lacks_or_does_not_fit_is_refused_by_name(sample):
    assert "camera.json: found no intrinsics" in refused(sample, lens=())
    camera = (sample / "camera.json").read_text()
    few = dict(list(json.loads(camera).items())[:-1])
    (sample / "camera.json").write_text(json.dumps(few))
    message = refused(sample)
    assert "camera.json: found 11 matrices, expected 12" in message and "tgt.mp4" in message
    (sample / "camera.json").write_text(camera)
    check = json.loads((sample / "check.json").read_text())
    for entry, said in (
        ({"frame": 6, "inFrame": True}, "tgt_check: BP_Actor/Manny: found frame 6, expected one"),
        ({"frame": "1", "inFrame": True}, "expected a frame and inFrame"),
        ({"frame": 1}, "expected a frame and inFrame"),
    ):
        check["tgt_check"]["BP_Actor"]["Manny"] = [entry]
        (sample / "check.json").write_text(json.dumps(check))
        assert said in refused(sample)
    (sample / "check.json").write_text('{"cond_check": [1]}')
    assert "check.json: cond_check: found [1], expected lists of frames" in refused(sample)
    (sample / "check.json").unlink()
    write_video(sample / "cond_mask.mp4", np.zeros((HALF - 1, SIZE, SIZE, 3), np.uint8))
    message = refused(sample)
    assert "cond_mask.mp4: found 5 masks, expected 6" in message
    assert "frame 5 has no mask" in message
    write_video(sample / "tgt.mp4", np.zeros((HALF, 16, 16, 3), np.uint8))
    assert "tgt.mp4: found pictures of 16x16, expected 48x48 as cond.mp4" in refused(sample)
    (sample / "tgt.mp4").write_bytes((sample / "cond.mp4").read_bytes()[:-500])
    assert "tgt.mp4" in refused(sample)
    (sample / "tgt.mp4").unlink()
    assert "tgt.mp4: no such file" in refused(sample)


def test_the_licence_is_that_of_the_set_unless_a_file_says_otherwise(sample):
    assert read(sample).licence == "Apache-2.0"
    (sample / "licence.txt").write_text("mine\n")
    assert read(sample).licence == "mine"
