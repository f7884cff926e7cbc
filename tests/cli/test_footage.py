"""Footage of one's own, from its folder to clips and, in the long run, to a generated video."""

import dataclasses
import io
import json
import shutil
import types

import numpy as np
import pytest
from rich.console import Console

from data_pipelines.loading import ClipSource
from helpers import command_line, made_footage, paths, tiny_world
from helpers.command_line import assert_refused
from helpers.made_footage import room
from mirage_jax import trajectories
from mirage_jax.cli import compile as compile_command
from mirage_jax.cli.helpers import (
    dry_run,
    encoding,
    held_out_clips,
    picture_shapes,
    prompts,  # noqa: F401, its flags
    real_returns,
    training_data,
)
from mirage_jax.io import video_frames
from mirage_jax.io.workdir import Workdir
from mirage_jax.parallel import footprint, make_mesh
from mirage_jax.training import encoder_training

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
    assert_refused(call("record", *where, "--config.data.hop=3"), "eval", "expected the same")


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


def test_captures_that_come_back_are_scored(call, tmp_path, monkeypatch):
    """All but the networks: the returns are found, recorded, and compared with what is there."""
    root, model = tmp_path / "captures", tiny_world.world_model()
    made_footage.tum_rgbd(root, room(24))
    monkeypatch.setattr(real_returns.model_flags, "world_model", lambda *_: model)
    monkeypatch.setattr(real_returns, "fingerprint", lambda _: "")
    monkeypatch.setattr(real_returns, "refresh_cache", lambda *_, **__: None)
    latents = tiny_world.latent_clips(1, np.tile(np.eye(4), (9, 1, 1)))
    monkeypatch.setattr(held_out_clips, "load_clips", lambda _: latents)

    def generated(models, held_out, *, seed):
        assert set(models) == {"latent"} and held_out.video.shape[1:] == (9, *model.size, 3)
        truth = held_out.video[:, -5:]
        return {"memory": truth // 2 + 60, "memory_zeroed": 255 - truth}

    monkeypatch.setattr(real_returns.protocol, "generate", generated)
    lens = f"--config.data.lens={LENS}"
    where = (*TINY, f"--source={root}", "--protocol=revisit", "--returns=3", lens)
    code, out, err = call("evaluate", *where)
    assert code == 0 and "Latent memory" in out and "Memory emptied" in out, err
    [file] = (tmp_path / "run" / "revisit").glob("captures-*/scores.json")
    told = json.loads(file.read_text())
    assert 1 <= len(told["returns"]) <= 3
    assert all(len(one["frames"]) == 9 and one["away"] >= 2 for one in told["returns"])
    revisit = told["scores"]["revisit"]
    assert revisit["memory"]["psnr"]["mean"] > revisit["memory_zeroed"]["psnr"]["mean"]
    assert call("evaluate", *where)[0] == 0  # again, from what is recorded


def test_captures_that_never_come_back_are_refused(call, tmp_path, monkeypatch):
    monkeypatch.setattr(
        real_returns.model_flags, "world_model", lambda *_: tiny_world.world_model()
    )
    way_out = dataclasses.replace(room(24), cam2world=trajectories.make("push_in", 24, distance=9))
    made_footage.tum_rgbd(tmp_path / "walk", way_out)
    where = (*TINY, f"--source={tmp_path / 'walk'}", f"--config.data.lens={LENS}")
    refused = call("evaluate", *where)
    assert_refused(refused, "found no 9 frames that leave a place and come back")
    assert_refused(refused, "in scenes of up to 24 frames")


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


SHAPES = ("record.size=32", "record.width=48", "data.shapes=48x32,32x32")


def test_scenes_are_recorded_in_the_shape_nearest_to_their_own(call, tmp_path):
    made_footage.wide_and_tall(tmp_path / "walks", room(24))
    where = (*TINY, f"--config.data.root={tmp_path / 'walks'}", "--config.data.hop=4")
    shapes = [f"--config.{field}" for field in SHAPES]
    code, out, err = call("record", *where, *shapes)
    assert code == 0 and "footage-32x32 is left out: no scene" in " ".join(out.split()), err
    worlds = tmp_path / "run" / "worlds"
    assert "footage-32x32" in json.loads((worlds / "skipped.json").read_text())
    for name, size in {"footage": (32, 48), "footage-48x32": (48, 32)}.items():
        for split in ("train", "eval"):
            clip = ClipSource(worlds / name, split).clip(0)
            assert clip.size == size and clip.world.startswith("tall") == (size[0] > size[1])
    for field, words in {
        "data.shapes=48x32,48x32": "'48x32', expected HEIGHTxWIDTH",
        "data.shapes=32x48": "'32x48', expected HEIGHTxWIDTH",
        "data.shapes=tall": "'tall', expected HEIGHTxWIDTH",
        "data.shapes=48x34": "48x34, expected multiples of",
        "data.shapes=32x16": "expected a multiple of 8 up to 16",
        "loading.weights=1,2,3": "found 3, expected one for each of the 2 worlds",
    }.items():
        shown = [*shapes[:2], "--config.data.shapes=48x32", f"--config.{field}"]
        assert_refused(call("record", *where, *shown), words)


def some(clip, frames):
    """Some frames of a clip, by number."""
    arrays = ("video", "depth", "intrinsics", "cam2world")
    return dataclasses.replace(clip, **{name: getattr(clip, name)[frames] for name in arrays})


def test_footage_of_which_nothing_is_held_out_is_trained_on(call, tmp_path, monkeypatch):
    """A wide scene of 24 frames, of which some are held out, and a tall one of a single clip."""
    wide, tall = slice(0, 48), slice(8, 40)
    root = tmp_path / "walks"
    made_footage.transforms(root / "wide", made_footage.cropped(room(24), tall, wide))
    made_footage.transforms(
        root / "tall", made_footage.cropped(some(room(24), range(9)), wide, tall)
    )
    shapes = ("record.size=32", "record.width=48", "data.shapes=48x32", "data.hop=4")
    where = (*TINY, *(f"--config.{field}" for field in shapes))
    given, workdir = [], Workdir(tmp_path / "run")
    monkeypatch.setattr(
        encoder_training,
        "train_encoder",
        lambda vae, clips, *_, held_out: given.append((clips, held_out)) or tiny_world.encoder(),
    )
    code, out, err = call("train", *where, f"--source={root}", "--stage=encoder")
    said = "footage-48x32: no clip is held out, so nothing of it is evaluated"
    assert code == 0 and " ".join(out.split()).count(said) == 1, err
    folders = [workdir.worlds(name) for name in ("footage", "footage-48x32")]
    assert given == [(folders, folders[:1])]

    config = command_line.tiny_config("footage.py")
    config.record.size, config.record.width = 32, 48
    config.loading.latents = "video"  # of which nothing is encoded here

    def data(*worlds):
        config.worlds = worlds
        return training_data.training_data(config, workdir, "latent", make_mesh())

    both, alone = data("footage", "footage-48x32"), data("footage-48x32")
    assert both.train_apart == (1, 1) and both.held_out_apart == () and len(both.held_out) == 1
    assert both.eval_batches is not None
    assert alone.eval_batches is None and len(alone.train) == 1
    encoded = []
    monkeypatch.setattr(encoding, "refresh_cache", lambda *a, **_: encoded.append(a[4].stem))
    monkeypatch.setattr(encoding, "_check_skipped", lambda *_: None)
    config.loading.latents, config.worlds = "cached", ("footage", "footage-48x32")
    encoding.encode_recordings(config, workdir, Console(), "latent")
    assert encoded == ["footage-train", "footage-eval", "footage-48x32-train"]

    refused = call("evaluate", *where)
    assert_refused(refused, "footage-48x32: found no held-out clips", "data.eval_share")
    alone = (*TINY, f"--source={root / 'wide'}", "--config.data.eval_share=0")
    refused = call("train", *alone, "--config.keep_best=loss", f"--workdir={tmp_path / 'alone'}")
    assert_refused(refused, "config.keep_best: found 'loss', expected ''")


def test_footage_that_is_too_short_is_told_what_would_do(call, tmp_path):
    """By flags that then do, in the same work directory: nothing is left behind."""
    walks = tmp_path / "walks"
    walks.mkdir()
    made_footage.video(walks, some(room(24), range(20)))
    where = (TINY[0], f"--source={walks}", f"--config.data.lens={LENS}")
    refused = call("record", *where, "--config.record.workers=0")
    assert_refused(refused, "found 20 frames, expected a piece of 33 without a gap: --config.")
    advice = refused[2].partition("gap: ")[2].split(" makes ")[0].split()
    assert advice == ["--config.record.frames=17", "--config.chunk_frames=9"]
    code, out, err = call("record", *where, "--config.record.workers=0", *advice)
    assert code == 0 and "footage train: 1 clips" in out, err
    faster = call("record", *where, "--config.data.fps=20", f"--workdir={tmp_path / 'other'}")
    assert_refused(faster, "found 10 frames per second", "--config.data.fps, where 0 takes every")


def test_footage_goes_into_the_large_configs(call, tmp_path, monkeypatch):
    """Recorded by one command, and there for the next, which would train on it."""
    walks = tmp_path / "walks"
    walks.mkdir()
    made_footage.video(walks, some(room(24), [*range(24), *range(15, -1, -1)]))
    wan = f"--config={paths.EXPERIMENTS / 'wan22_5b_memory.py'}"
    where = (wan, "--config.tiny=true", f"--source={walks}", f"--config.data.lens={LENS}")
    where += ("--config.data.eval_share=0",)  # one walk, with no room for another clip
    code, out, err = call("record", *where)
    assert code == 0 and "footage train: 8 clips" in out, err
    stages = []
    monkeypatch.setattr(dry_run.programs, "step", lambda *given: stages.append(given[3]))
    for name in ("_describe_parameters", "_describe_step"):
        monkeypatch.setattr(dry_run, name, lambda *_: None)
    code, out, err = call("train", *where, "--dry_run")
    assert code == 0 and "data footage: train 8 clips recorded" in out, err
    assert len(stages) == 2 and all(batch["cam2world"].shape[1] == 33 for batch in stages)


@pytest.mark.long
def test_the_large_config_trains_on_footage(call, tmp_path):
    walks = tmp_path / "walks"
    walks.mkdir()
    made_footage.video(walks, some(room(24), [*range(24), *range(15, -1, -1)]))
    wan = f"--config={paths.EXPERIMENTS / 'wan22_5b_memory.py'}"
    where = (wan, "--config.tiny=true", f"--source={walks}", f"--config.data.lens={LENS}")
    code, _, err = call("train", *where, "--config.data.eval_share=0")
    assert code == 0, err
    assert (tmp_path / "run" / "model" / "denoiser_latent").exists()


@pytest.mark.long
@pytest.mark.parametrize("asked", ["--memory=rgb", "--config.memory.conditioner=score"])
def test_comparisons_train_on_several_shapes(call, tmp_path, asked):
    """Finite losses, of batches of both shapes."""
    made_footage.wide_and_tall(tmp_path / "walks", room(24))
    where = (*TINY, f"--source={tmp_path / 'walks'}", "--config.data.hop=4")
    where += tuple(f"--config.{field}" for field in SHAPES)
    kind = "rgb" if "rgb" in asked else "latent"
    for stage in ("encoder", "cache", "denoiser"):  # of which the head is no part
        code, out, err = call("train", *where, asked, f"--stage={stage}")
        assert code == 0, err
    lines = (tmp_path / "run" / "training" / f"denoiser_{kind}" / "metrics.jsonl").read_text()
    losses = [json.loads(line)["loss"] for line in lines.splitlines() if '"loss"' in line]
    assert losses and np.isfinite(losses).all()
    assert " ".join(out.split()).count(f"denoiser ({kind} memory): a step takes") == 2


def test_every_picture_shape_is_compiled_and_described(call, tmp_path, monkeypatch):
    found = []
    monkeypatch.setattr(dry_run.programs, "step", lambda *given: found.append(given[3]))
    for name in ("_describe_parameters", "_describe_step"):
        monkeypatch.setattr(dry_run, name, lambda *_: None)
    shapes = [f"--config.{field}" for field in SHAPES]
    code, out, err = call("train", *TINY, *shapes, "--dry_run")
    assert code == 0 and out.count("pictures of 48 x 32:") == out.count("32 x 48:") == 2, err
    grids = [batch["depth"].shape[2:] for batch in found if "depth" in batch]
    assert grids == [(4, 6), (6, 4), (4, 4)] * 2

    config = command_line.tiny_config("footage.py")
    config.record.width, config.data.shapes = 48, "48x32"
    config.worlds = picture_shapes.footage_worlds(config)
    traced = []
    memory = {name: 2**30 for name in ("arguments", "outputs", "reused", "temporaries", "needed")}
    memory |= {"peak": None, "capacity": None, "fits": None}
    measured = {"memory": memory, "program": None, "roofline": None, "flops": 1e12}
    facts = {"trained": 1, "frozen": 0, "batch": 1, "tokens": 2, "clean_tokens": 0}
    facts |= {"attention": "dense"}
    monkeypatch.setattr(
        dry_run.programs,
        "train",
        lambda own, *_: traced.append((own.record.size, own.record.width)) or (None, facts),
    )
    told = types.SimpleNamespace(to_json=lambda: {**measured, "seconds": (1, 2)})
    monkeypatch.setattr(footprint, "measure", lambda *_: told)
    console = Console(record=True, width=120, file=io.StringIO())
    asked = {"topology": "cpu:1", "program": "train"}
    assert compile_command.run(config, Workdir(tmp_path), console, **asked) == 0
    assert traced == [(32, 48), (48, 32)]
    [file] = (tmp_path / "compile").glob("*.json")
    assert set(json.loads(file.read_text())["programs"]) == {"train 32x48", "train 48x32"}
    assert "train 48x32" in console.export_text()


@pytest.mark.long
def test_footage_of_several_shapes_becomes_a_world(call, tmp_path, monkeypatch):
    made_footage.wide_and_tall(tmp_path / "walks", room(24))
    where = (*TINY, f"--config.data.root={tmp_path / 'walks'}")
    where += tuple(f"--config.{field}" for field in SHAPES)
    for command in ("train", "evaluate"):
        code, _, err = call(command, *where)
        assert code == 0, err
    assert set(json.loads((tmp_path / "run" / "results.json").read_text())["worlds"]) == {
        "footage",
        "footage-48x32",
    }
    monkeypatch.chdir(tmp_path)
    made_footage.write_pictures(tmp_path, room().video[:1], "first.png")
    shown = (f"--workdir={tmp_path / 'run'}", f"--image={tmp_path / 'first.png'}")
    code, _, err = call("generate", *shown, "--trajectory=look_away")
    assert code == 0, err
    height, width = video_frames.VideoFrames(tmp_path / "generated.mp4").size  # enlarged
    assert height * 48 == width * 32

    made_footage.write_pictures(tmp_path, room().video[:1, :, 8:24], "tall.png")
    for start in ("--image=tall.png", "--world=tall.world"):  # which goes on in its shape
        shown = (f"--workdir={tmp_path / 'run'}", start, "--out=tall.mp4", "--trajectory=push_in")
        code, _, err = call("generate", *shown)
        assert code == 0, err
        height, width = video_frames.VideoFrames(tmp_path / "tall.mp4").size
        assert height * 32 == width * 48
    code, _, err = call("generate", *shown, "--video_size=32,48")
    assert code != 0 and "tall.world" in err  # of the other shape
    code, _, err = call("generate", *shown, "--video_size=32,32")
    assert code != 0 and "found (32, 32), expected (32, 48) or (48, 32)" in err


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
