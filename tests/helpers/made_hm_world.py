"""Samples of HM-World: two videos, masks, Unreal's cameras, and when subjects come and go."""

import json

import numpy as np

from helpers.made_footage import write_video


def unreal_texts(poses):
    """Rows of the transposed matrices, Unreal's axes, centimetres, by frame."""
    # Forward, right, up are OpenCV's z, x, -y; left-handed, so that the world is turned as well.
    turn = np.array([[0.0, 0, 1, 0], [1, 0, 0, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    content = {}
    for number, pose in enumerate(poses):
        unreal = turn @ pose @ turn.T
        unreal[:3, 3] *= 100
        rows = (" ".join(f"{v:.12g}" for v in row) for row in unreal.T)
        content[str(number)] = "".join(f"[{row}] " for row in rows)
    return content


def unreal_video(root, clip):
    """A video alone with camera.json beside it."""
    folder = root / "scene_1"
    folder.mkdir()
    write_video(folder / "clip.mp4", clip.video)
    (folder / "camera.json").write_text(json.dumps(unreal_texts(clip.cam2world)))


def masks(count, size, colour):
    """The two upper rows are of a subject."""
    shown = np.zeros((count, *size, 3), np.uint8)
    shown[:, :2] = colour
    return shown


def hm_world(root, clip, colour=(255, 255, 255)):
    """A sample whose subject leaves at frame 2 of cond.mp4 and is back at frame 1 of tgt.mp4."""
    folder = root / "HM-World" / "sample1"
    folder.mkdir(parents=True)
    half = clip.frames // 2
    for part, video in (("cond", clip.video[:half]), ("tgt", clip.video[half:])):
        write_video(folder / f"{part}.mp4", video)
        write_video(folder / f"{part}_mask.mp4", masks(len(video), clip.size, colour))
    (folder / "camera.json").write_text(json.dumps(unreal_texts(clip.cam2world)))
    check = {
        "cond_check": {"BP_Actor": {"Manny": [{"frame": 2, "inFrame": False}]}},
        "tgt_check": {"BP_Actor": {"Manny": [{"frame": 1, "inFrame": True}]}},
    }
    (folder / "check.json").write_text(json.dumps(check))
    character = {"BP_Actor": {"Manny": {"0": "[1 0 0 0] [0 1 0 0] [0 0 1 0] [0 0 0 1] "}}}
    (folder / "character.json").write_text(json.dumps(character))
    (folder.parent / "caption.txt").write_text("sample1\ta room\nsample10\tanother room\n")
