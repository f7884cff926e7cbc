"""The whole chain on generated rooms with the smallest of everything: what a user runs, once."""

import functools
import io
import json
import re
import shutil
import sys
from html.parser import HTMLParser

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import flagsaver
from jax.experimental.compilation_cache import compilation_cache
from PIL import Image
from rich.console import Console

from helpers import paths
from mirage_jax import trajectories
from mirage_jax.cli import evaluate, generate, record, train
from mirage_jax.cli.helpers import bench_steps, bench_walk, common
from mirage_jax.evaluation import efficiency, memory_walk
from mirage_jax.evaluation.stopwatch import Times
from mirage_jax.io import video as video_io
from mirage_jax.io.workdir import Workdir
from mirage_jax.training.latent_cache import LatentSource
from mirage_jax.weights import export, load_export
from mirage_jax.world import load_world

ROOT = paths.ROOT
QUICKSTART = str(ROOT / "experiments" / "quickstart.py")
SMALLER = {
    "host_devices": 1,  # the process has its devices already
    "record.size": 16,
    "record.frames": 17,
    "chunk_frames": 9,
    "vae.width_mults": (1, 1, 1),
    "vae.latent_channels": 4,
    "vae_training.steps": 2,
    "vae_training.pixels": 16,
    "geometry.width": 8,
    "geometry.layers": 1,
    "geometry_training.steps": 2,
    "denoiser.width": 12,
    "denoiser.mlp_width": 24,
    "denoiser.patch": (1, 1, 1),
    "denoiser_training.steps": 2,
    "memory.reads": 1,
    "memory.capacity": 40,
}
CHUNK = SMALLER["chunk_frames"]


def tiny_config(file=QUICKSTART, **changes):
    config = common.load_config(file)
    for name, value in (*config.tiny_overrides, *SMALLER.items(), *changes.items()):
        common._set_dotted(config, name, value)
    config.lock()
    return config


@pytest.fixture(scope="module", autouse=True)
def compilations():
    """A generator of random numbers that compiles fast.

    `prepare_jax` points the compilation cache into the work directory; put back afterwards.
    """
    theirs = ("jax_compilation_cache_dir", "jax_persistent_cache_min_compile_time_secs")
    before = {name: jax.config.values[name] for name in ("jax_default_prng_impl", *theirs)}
    jax.config.update("jax_default_prng_impl", "rbg")
    compilation_cache.reset_cache()  # or the folder of an earlier module is kept
    yield
    compilation_cache.reset_cache()
    for name, value in before.items():
        jax.config.update(name, value)


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """A work directory after record, train and evaluate."""
    workdir, config = Workdir(tmp_path_factory.mktemp("run")), tiny_config()
    common.prepare_jax(config, workdir)
    console = Console(quiet=True)
    with pytest.MonkeyPatch.context() as patch:
        small = {"elements": 700, "channels": 2, "grid": (6, 8), "repeats": 1}
        measure = functools.partial(
            efficiency.measure, chunks=(1,), repeats=1, read_benchmark=small
        )
        patch.setattr(efficiency, "measure", measure)
        record.run(config, workdir, console)
        train.run(config, workdir, console, "all")
        evaluate.run(config, workdir, console)
    return workdir


def command(module, *arguments):
    """Runs a command line to its end; returns the exit code."""
    argv = ["mirage", f"--config={QUICKSTART}", "--config.host_devices=1", *arguments]
    with (
        pytest.MonkeyPatch.context() as patch,
        flagsaver.flagsaver(),
        pytest.raises(SystemExit) as leave,
    ):
        # Overrides of config fields are looked up in sys.argv.
        patch.setattr(sys, "argv", argv)
        common.run(module.main, module.__name__)
    return leave.value.code or 0


# -- record and train ----------------------------------------------------------------------------


def test_every_stage_leaves_its_part(run):
    for name in ("encoder", "geometry", "denoiser_latent"):
        assert (run.model(name) / "model.safetensors").is_file()
        assert (run.model(name) / "architecture.json").is_file()
        lines = (run.stage(name) / "metrics.jsonl").read_text().splitlines()
        metrics = [json.loads(line) for line in lines]
        assert all(np.isfinite(m["loss"]) for m in metrics if "loss" in m)
        assert any("eval/loss" in m for m in metrics)
    for split in ("train", "eval"):
        assert len(LatentSource([run.latents("procedural", split)])) == 16
    assert not run.model("denoiser_none").exists()


def test_compiled_programs_are_kept_in_the_work_directory(run):
    names = [path.name for path in (run.root / "compilation_cache").iterdir()]
    assert any(name.startswith("jit_step-") for name in names), names


def test_the_steps_of_a_trace_are_given_on_the_command_line(monkeypatch, capsys, tmp_path):
    given = []
    monkeypatch.setattr(train, "run", lambda config, *_, **__: given.append(config.profile_steps))
    monkeypatch.setattr(common, "prepare_jax", lambda *_: None)
    assert command(train, f"--workdir={tmp_path}", "--profile_steps=2:4") == 0
    assert command(train, f"--workdir={tmp_path}") == 0
    assert given == [(2, 4), (0, 0)]
    assert command(train, f"--workdir={tmp_path}", "--profile_steps=2-4") == 2
    expected = "--profile_steps: found '2-4', expected first:last, as in 10:12"
    assert expected in " ".join(capsys.readouterr().err.split())


def test_training_again_finds_everything_done(run):
    exports = list((run.root / "model").rglob("*.safetensors"))
    caches = list((run.root / "latents").iterdir())
    assert len(exports) == 3 and len(caches) == 4  # a file and its key for each split
    before = {path: path.stat().st_mtime_ns for path in exports + caches}
    log = Console(record=True, width=200, file=io.StringIO())
    for stage in train.STAGES:
        train.run(tiny_config(), run, log, stage)
    said = log.export_text()
    assert said.count("already at step 2 of 2") == 3 and said.count("up to date") == 2
    assert {path: path.stat().st_mtime_ns for path in before} == before


def test_a_checkpoint_of_another_architecture_is_refused(run, capsys):
    other = tiny_config(**{"denoiser.mlp_width": 32})
    with pytest.raises(ValueError, match=r"another architecture; tensor '.*mlp.*found .* expected"):
        train.run(other, run, Console(quiet=True), "denoiser")
    changes = [f"--config.{name}={value}" for name, value in SMALLER.items()]
    arguments = ["--config.tiny=true", f"--workdir={run.root}", "--stage=geometry", *changes]
    assert command(train, *arguments, "--config.geometry.width=24") == 2
    err = capsys.readouterr().err
    assert "config.geometry.width: found 24, expected 8, which the checkpoints" in err
    assert "name another --workdir" in err and "Traceback" not in err


# -- evaluate ------------------------------------------------------------------------------------


@pytest.mark.long
def test_bodies_are_recorded_learned_and_reported(tmp_path):
    """Beside places, by the same commands; encoder and denoiser know nothing of them."""
    worlds = ("procedural", "procedural_bodies")
    config = tiny_config(**{"worlds": worlds, "record.size": 32, "record.bodies": 2})
    config.record.train_clips.procedural_bodies = config.record.eval_clips = 8
    workdir, console = Workdir(tmp_path), Console(quiet=True)
    record.run(config, workdir, console)
    train.run(config, workdir, console, "all")
    found = evaluate.run(config, workdir, console)
    assert set(found["worlds"]) == {"procedural"}
    bodies = found["bodies"]
    assert bodies["clips"] == 8 and bodies["views"] > 0
    assert bodies["methods"]["nothing_remembered"]["present"]["value"] == 0.0
    assert bodies["methods"]["memory"]["present"]["views"] == bodies["views"]
    page = workdir.report.read_text()
    assert "Bodies that come back" in page and "bodies left out" in page


def test_results_hold_every_control_and_name_those_that_are_missing(run):
    found = json.loads(run.results.read_text())
    world = found["worlds"]["procedural"]
    assert found["world"] == "procedural" and world["clips"] == 16
    assert set(world["revisit"]) == {
        "memory",
        "memory_zeroed",
        "vae_reconstruction",
        "copy_nearest_view",
        "copy_first_frame",
    }
    for method in world["revisit"].values():
        assert 0 < method["psnr"]["mean"] < 100 and -1 <= method["ssim"]["mean"] <= 1
    assert {entry["control"] for entry in found["missing"]} == {"no_memory", "rgb_memory"}
    assert all("make compare" in entry["reason"] for entry in found["missing"])
    assert world["geometry"]["abs_rel"] > 0
    assert found["sampling_steps"] == 2 and found["revisit"] == world["revisit"]
    assert found["seconds"]["evaluate"] > 0
    assert json.loads(run.seconds.read_text()) == found["seconds"]
    assert 0 < world["parallax_clips"] < 16  # the source makes returns of both kinds


class Addresses(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.found, self.tags = [], []
        self.feed(page)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.found += [value for name, value in attributes if name in ("src", "href")]


def test_the_report_is_one_page_with_everything_in_it(run):
    page = run.report.read_text()
    for text in ("Latent memory", "Memory emptied", "Copy nearest view", "Encoder ceiling"):
        assert text in page
    assert "procedural: leave and return" in page and "procedural: from one picture" in page
    assert "the memory from above" in page and "make compare" in page
    assert "denoiser.width = 12" in page
    addresses = Addresses(page)
    assert addresses.found and all(a.startswith(("data:", "#")) for a in addresses.found)
    assert re.search(r"data:(video|image)/", page)


# -- generate ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def picture(tmp_path_factory):
    path = tmp_path_factory.mktemp("picture") / "photo.png"
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    Image.fromarray(noise).save(path)
    return path


@pytest.fixture(scope="module")
def walk(run, picture):
    """A video of two chunks from a photo, and a third chunk from the world it left."""
    out = run.root / "walk.mp4"
    options = [f"--workdir={run.root}", "--config.memory.capacity=40", "--config.sampling.steps=2"]
    assert command(generate, *options, f"--image={picture}", f"--out={out}") == 0
    first = load_world(out.with_suffix(".world"))
    more = run.root / "more.mp4"
    there = f"--world={out.with_suffix('.world')}"
    ways = ["--trajectory=pan_left", f"--frames={CHUNK}"]
    assert command(generate, *options, there, *ways, f"--out={more}") == 0
    return out, first, more


def test_generate_writes_a_video_and_the_world(walk):
    out, world, _ = walk
    frames, fps = video_io.read_video(out)
    assert len(frames) == 2 * (CHUNK - 1) + 1 and fps == 10
    assert int(world.frames) == len(frames)
    # look_away comes back: the same pose, from float32.
    np.testing.assert_allclose(world.cam2world, np.eye(4), atol=1e-6)
    assert 0 < int(world.bank.count) <= 40


def test_generate_goes_on_from_a_saved_world(walk):
    _, before, more = walk
    frames, _ = video_io.read_video(more)
    assert len(frames) == CHUNK - 1  # new ones only
    after = load_world(more.with_suffix(".world"))
    assert int(after.frames) == int(before.frames) + CHUNK - 1
    count = int(before.bank.count)
    np.testing.assert_array_equal(after.bank.xyz[:count], before.bank.xyz[:count])
    turned = trajectories.make("pan_left", CHUNK, angle=90)[-1]
    np.testing.assert_allclose(after.cam2world, turned, atol=1e-5)


@pytest.mark.long
def test_a_student_and_a_tiny_decoder_are_made_of_a_run_and_measured(run, tmp_path):
    workdir = Workdir(tmp_path / "run")
    shutil.copytree(run.root, workdir.root)
    teacher = workdir.model("denoiser_latent") / "model.safetensors"
    before, console = teacher.read_bytes(), Console(quiet=True)
    distill = str(ROOT / "experiments" / "distill.py")
    config = tiny_config(distill, **{"tiny_decoder_training.pixels": 16})
    for stage in ("distill", "tiny_decoder"):
        train.run(config, workdir, console, stage)
    assert teacher.read_bytes() == before
    student, made = load_export(workdir.model("denoiser_student"))
    moved = jax.tree.map(
        lambda one, other: float(jnp.abs(one - other).max()),
        student,
        load_export(workdir.model("denoiser_latent"))[0],
    )
    # Adam without a first moment moves a weight by sqrt(k) learning rates in step k at most.
    section = config.distill_training
    most = section.learning_rate * np.sqrt(np.arange(1, section.steps + 1)).sum()
    assert 0 < max(jax.tree.leaves(moved)) <= 1.01 * most
    assert (made["sampler"]["method"], made["sampler"]["steps"]) == ("consistency", 2)

    # Matching goes on with it, and stores what becomes of it in its place; the critic is not kept.
    train.run(config, workdir, console, "match")
    matched, says = load_export(workdir.model("denoiser_student"))
    assert says == made and jax.tree.map(np.shape, matched) == jax.tree.map(np.shape, student)
    steps = config.match_training.steps // config.match_training.critic_steps
    # Of two steps of the critic the student takes one, in which Adam's average has seen zeros too.
    most = 2 * config.match_training.learning_rate * np.sqrt(config.match_training.steps) * steps
    apart = jax.tree.map(lambda one, other: float(jnp.abs(one - other).max()), matched, student)
    assert 0 < max(jax.tree.leaves(apart)) <= most
    assert (workdir.stage("denoiser_matched") / "checkpoints").is_dir()
    assert not workdir.model("denoiser_matched").exists()

    bench_steps.run(config, workdir, console, steps=(1, 2), many=2, clips=1)
    found = json.loads((workdir.root / "bench_steps.json").read_text())
    for rows in found["worlds"].values():
        assert {name: sorted(of) for name, of in rows.items()} == {
            "teacher": ["1", "2"],
            "student": ["1", "2"],
        }
        scores = [score for of in rows.values() for one in of.values() for score in one.values()]
        assert np.isfinite(scores).all()
    assert (workdir.model("tiny_decoder") / "model.safetensors").is_file()


def test_generate_takes_the_depth_of_the_picture(run, picture, tmp_path):
    metres = np.full((30, 40), 7.0, np.float32)
    np.save(tmp_path / "depth.npy", metres)
    out = tmp_path / "deep.mp4"
    options = [f"--workdir={run.root}", "--config.memory.capacity=40", "--config.sampling.steps=2"]
    given = [f"--image={picture}", f"--depth={tmp_path / 'depth.npy'}", f"--frames={CHUNK}"]
    assert command(generate, *options, *given, f"--out={out}") == 0
    bank = load_world(out.with_suffix(".world")).bank
    first = np.asarray(bank.valid) & (np.asarray(bank.time) == 0)
    assert first.any()
    np.testing.assert_allclose(np.asarray(bank.xyz)[first, 2], 7.0, rtol=1e-6)


def test_generate_says_what_is_wrong(run, picture, walk, capsys, tmp_path):
    def refused(*arguments):
        out = tmp_path / "bad.mp4"
        code = command(generate, f"--workdir={run.root}", f"--out={out}", *arguments)
        assert code == 2 and not out.exists()
        err = capsys.readouterr().err
        assert err.startswith("mirage: error: ") and "Traceback" not in err
        return err

    notes = tmp_path / "notes.png"
    notes.write_text("no picture")
    assert f"{notes}: not a picture" in refused(f"--image={notes}")
    photo = f"--image={picture}"
    assert "found 8 poses, expected 1 + 8 n" in refused(photo, "--frames=8")
    np.save(tmp_path / "depth.npy", np.ones((40, 30), np.float32))
    err = refused(photo, f"--depth={tmp_path / 'depth.npy'}")
    assert "depth.npy: found 40 x 30 pixels, expected 30 x 40 as the picture" in err
    assert "--depth does not go with --world" in refused("--world=x", "--depth=y.png")
    poses = trajectories.make("hold", CHUNK + 1)
    trajectories.save(tmp_path / "path.npz", poses)
    err = refused(photo, f"--trajectory={tmp_path / 'path.npz'}")
    assert f"{tmp_path / 'path.npz'}: found 10 poses" in err
    poses[2, 0] *= -1
    np.savez(tmp_path / "mirror.npz", cam2world=poses[:CHUNK])
    err = refused(photo, f"--trajectory={tmp_path / 'mirror.npz'}")
    assert "mirror.npz: frame[2]" in err and "right-handed" in err
    assert "did you mean 'look_away'" in refused(photo, "--trajectory=look_awya")
    assert "not a saved world" in refused(f"--world={notes}")
    assert not list(tmp_path.glob("*.world")) and not list(tmp_path.glob(".*"))


@pytest.mark.parametrize(
    ("fuse", "capacity", "lost"), [(False, 5, 7), (False, 12, 0), (True, 5, 0)]
)
def test_a_full_memory_is_said(fuse, capacity, lost, run, picture, capsys, tmp_path):
    workdir = Workdir(tmp_path)
    shutil.copytree(run.root / "model", tmp_path / "model")
    # A head for which nothing moves or is sky: every cell is remembered, 4 of the picture and of
    # each of two keyframes.
    params, architecture = load_export(workdir.model("geometry"))
    params["maps"] = {
        "kernel": jnp.zeros_like(params["maps"]["kernel"]),
        "bias": jnp.array([0.0, -1.0, -20.0, -20.0]),
    }
    export(workdir.model("geometry"), params, architecture)
    options = [f"--config.memory.capacity={capacity}", f"--config.memory.fuse={fuse}"]
    options.append("--config.sampling.steps=2")
    out = tmp_path / "full.mp4"
    where = [f"--workdir={tmp_path}", f"--image={picture}", f"--out={out}", f"--frames={CHUNK}"]
    assert command(generate, *options, *where) == 0
    bank = load_world(out.with_suffix(".world")).bank
    assert (int(bank.count), int(bank.dropped)) == (min(capacity, 12), lost)
    said = " ".join(capsys.readouterr().out.split())
    assert f"memory: {int(bank.valid.sum())} of {capacity} elements" in said
    record = json.loads(out.with_suffix(".json").read_text())["iterations"]
    fused, evicted = (
        sum(chunk[f"elements_{name}"] for chunk in record) for name in ("fused", "evicted")
    )
    assert f"{fused} known already" in said and (fused + evicted > 0) == fuse
    assert (f", {evicted} to make room" in said) == (evicted > 0)
    assert ("memory was full" in said) == (lost > 0)
    assert (f"{lost} elements were not remembered" in said) == (lost > 0)


def test_memories_are_walked_along_held_out_clips(run, monkeypatch):
    slots = lambda calls, _: [Times(1.0 + len(call.args[0].xyz), 0.0) for call in calls]  # noqa: E731
    monkeypatch.setattr(memory_walk, "median_times", slots)
    log = Console(record=True, width=200, file=io.StringIO())
    bench_walk.run(tiny_config(), run, 2, log)
    written = json.loads((run.root / "bench_memory_walk.json").read_text())
    assert written["chunks"] == 2 and list(written["worlds"]) == ["procedural"]
    fused, tight, appended = written["worlds"]["procedural"].values()
    # A picture and two chunks of two keyframes, each of 2 x 2 cells, less what the head leaves out.
    assert appended["capacity"] == 5 * 4 and appended["fused"] == appended["dropped"] == 0
    assert fused["written"] + fused["fused"] == appended["written"] <= 2 * 4 * 4
    assert tight["dropped"] == 0 and tight["capacity"] <= fused["capacity"]
    said = log.export_text()
    assert "procedural: 2 chunks of 9 frames" in said and f"{fused['fused']:,} fused" in said
