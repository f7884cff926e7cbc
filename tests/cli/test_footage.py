"""Footage of one's own, from its folder to clips and, in the long run, to a generated video."""

import json
import shutil

import pytest

from data_pipelines.loading import ClipSource
from helpers import made_footage, paths
from helpers.command_line import assert_refused
from helpers.made_footage import room

LENS = ",".join(f"{float(value):g}" for value in room().intrinsics[0])
TINY = (f"--config={paths.EXPERIMENTS / 'footage.py'}", "--config.tiny=true")


@pytest.fixture
def walks(tmp_path):
    root = tmp_path / "walks"
    root.mkdir()
    made_footage.video(root, room(24))
    return root


def test_one_command_records_a_folder_of_videos(call, walks, tmp_path):
    where = (*TINY, f"--config.data.root={walks}", f"--config.data.lens={LENS}")
    code, out, err = call("record", *where)
    assert code == 0 and "footage train: 6 clips, 0 rejected" in out, err
    folder = tmp_path / "run" / "worlds" / "footage"
    clip = ClipSource(folder, "train", ("video", "depth")).clip(0)
    assert clip.video.shape == (9, 32, 32, 3) and clip.mover_ids is None
    card = json.loads((folder / "dataset.json").read_text())
    assert card["splits"]["eval"]["clips"] == 2
    # Again: nothing is left to do. With other arguments: refused.
    assert call("record", *where)[0] == 0
    assert_refused(call("record", *where, "--config.data.hop=3"), "train", "expected the same")


def test_frames_that_are_left_out_are_said(call, tmp_path):
    root = tmp_path / "scan"
    made_footage.colmap(root, room())
    (root / "room" / "images" / "0003.png").unlink()
    where = (*TINY, f"--config.data.root={root}", "--config.record.frames=5")
    assert_refused(call("record", *where), "found no picture 0003.png", "missing=skip")
    shutil.rmtree(tmp_path / "run")
    code, out, _ = call("record", *where, "--config.data.missing=skip")
    assert code == 0 and "1 frames left out: picture missing" in " ".join(out.split())


def test_footage_that_is_not_named_or_not_there_is_refused(call, tmp_path):
    assert_refused(call("record", *TINY), "data.root: found ''")
    gone = f"--config.data.root={tmp_path / 'none'}"
    assert_refused(call("record", *TINY, gone), "none: no such file or folder")
    wrong = "--config.data.format=reel"
    assert_refused(call("record", *TINY, gone, wrong), "data.format", "'reel'", "'video'")


@pytest.mark.long
def test_a_video_trains_in_windows_without_a_cache(call, tmp_path):
    root = tmp_path / "walks"
    root.mkdir()
    made_footage.video(root, room(60))
    where = (*TINY, f"--config.data.root={root}", f"--config.data.lens={LENS}")
    windows = ("latents=video", "window=13", "gap=4")
    longer = (*(f"--config.loading.{field}" for field in windows), "--config.record.frames=17")
    code, _, err = call("train", *where, *longer, "--config.denoiser_training.preceding=1")
    assert code == 0, err
    latents = tmp_path / "run" / "latents"
    assert not list(latents.glob("*train*")) and (latents / "footage-eval.array_record").exists()
    assert (tmp_path / "run" / "model" / "denoiser_latent").exists()


@pytest.mark.long
def test_a_video_becomes_a_world(call, walks, tmp_path, monkeypatch):
    where = (*TINY, f"--config.data.root={walks}", f"--config.data.lens={LENS}")
    monkeypatch.chdir(tmp_path)
    for command in ("train", "evaluate"):
        code, _, err = call(command, *where)
        assert code == 0, err
    results = json.loads((tmp_path / "run" / "results.json").read_text())
    assert "footage" in json.dumps(results)
    picture = tmp_path / "first.png"
    made_footage.write_pictures(tmp_path, room().video[:1], "first.png")
    where = (f"--workdir={tmp_path / 'run'}", f"--image={picture}", "--trajectory=look_away")
    code, _, err = call("generate", *where)
    assert code == 0 and (tmp_path / "generated.mp4").stat().st_size > 1000, err
