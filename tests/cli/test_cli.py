"""Commands as a person meets them: one line and exit code 2 for everything that can be mended."""

import dataclasses
import functools
import io
import json
import re
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_world
from absl import flags
from absl.testing import flagsaver
from flax import linen as nn
from PIL import Image
from rich.console import Console

from data_pipelines import recording, sources
from data_pipelines.sources.procedural import ProceduralSource
from mirage_jax import conditioning, trajectories
from mirage_jax.cli import bench, build, common, evaluate, generate, main, quickstart, record, train
from mirage_jax.cli import compile as compile_command
from mirage_jax.evaluation import efficiency
from mirage_jax.layout import Layout
from mirage_jax.parallel import unboxed
from mirage_jax.training.branch_task import ADDED
from mirage_jax.training.export import export

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted(p for p in (ROOT / "experiments").glob("*.py") if p.name != "__init__.py")
CONFIG = f"--config={ROOT / 'experiments' / 'quickstart.py'}"
COMMANDS = {
    "quickstart": quickstart,
    "record": record,
    "train": train,
    "generate": generate,
    "evaluate": evaluate,
    "bench": bench,
    "compile": compile_command,
}
QUIET = Console(quiet=True)


@pytest.fixture
def call(tmp_path, capsys, monkeypatch):
    """Runs a command line in this process; returns (exit code, stdout, stderr)."""
    monkeypatch.setattr(common, "prepare_jax", lambda config, layout: None)

    def run(command, *arguments):
        workdir = f"--workdir={tmp_path / 'run'}"
        argv = [f"mirage {command}", CONFIG, workdir, *arguments]
        # Overrides of config fields are looked up in sys.argv.
        monkeypatch.setattr(sys, "argv", argv)
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as leave:
            common.run(COMMANDS[command].main, COMMANDS[command].__name__)
        out, err = capsys.readouterr()
        return leave.value.code or 0, out, err

    return run


def assert_refused(outcome, *parts):
    code, _, err = outcome
    assert code == 2
    assert err.startswith("mirage: error: ") and "Traceback" not in err
    for part in parts:
        assert part in err, err


@pytest.fixture(scope="module")
def tiny_config():
    config = common.load_config(str(ROOT / "experiments" / "quickstart.py"))
    for name, value in config.tiny_overrides:
        common._set_dotted(config, name, value)
    return config


# -- the entry point -----------------------------------------------------------------------------


@pytest.mark.parametrize("arguments", [[], ["--help"], ["help"]])
def test_the_program_introduces_itself(arguments, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mirage", *arguments])
    main.main()
    out = capsys.readouterr().out
    for command in main.COMMANDS:
        assert f"mirage {command} " in out
    assert set(main.COMMANDS) == set(COMMANDS)


@pytest.mark.parametrize(
    ("typed", "hint"), [("trian", "did you mean 'train'?"), ("xyz", "Known: quickstart, record")]
)
def test_an_unknown_command_is_told_the_nearest(typed, hint, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mirage", typed])
    with pytest.raises(SystemExit) as leave:
        main.main()
    err = capsys.readouterr().err
    assert leave.value.code == 2 and f"no command '{typed}'" in err and hint in err


def test_a_command_gets_the_rest_of_the_line(monkeypatch):
    seen = []
    monkeypatch.setattr(evaluate, "cli", lambda: seen.append(list(sys.argv)))
    monkeypatch.setattr(sys, "argv", ["mirage", "evaluate", "--workdir=x"])
    main.main()
    assert seen == [["mirage evaluate", "--workdir=x"]]


@pytest.mark.parametrize("command", list(COMMANDS))
def test_help_lists_flags_and_every_field(command, call):
    code, out, _ = call(command, "--help")
    assert code == 0
    assert out.startswith(f"mirage {command}")
    own = {"generate": "--image", "train": "--stage", "quickstart": "--compare"}
    for text in ("--config", "--workdir", "--debug", own.get(command, "")):
        assert text in out
    assert "record.frames = 33" in out and "denoiser.width = 192" in out
    assert "tiny_overrides" not in out


def test_a_mistake_is_one_line_in_a_process_of_its_own(tmp_path):
    """The same as below through the real program: no traceback without --debug."""
    command = [sys.executable, "-m", "mirage_jax.cli.main", "train", "--stage=cache"]
    where = [f"--workdir={tmp_path}", CONFIG]
    done = subprocess.run([*command, *where], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    assert lines[-1].startswith("mirage: error: ") and "encoder" in lines[-1]
    assert "Traceback" not in done.stderr


# -- flags and configs ---------------------------------------------------------------------------


def test_an_unknown_field_is_told_the_nearest(call):
    assert_refused(call("train", "--config.vae.base_widht=8"), "base_widht", "base_width")
    assert_refused(call("train", "--config.sampling.stepz=8"), "stepz", "steps")


def test_an_unknown_flag_is_told_the_nearest(call):
    assert_refused(call("train", "--worksdir=x"), "worksdir", "workdir")


@pytest.mark.parametrize(
    "typed", ["--config.seed=many", "--config.vae.linear_path=5", "--config.record.size=6.5"]
)
def test_a_value_of_another_type_is_refused(call, typed):
    assert_refused(call("train", typed), typed.split("=")[1])


def test_other_mistakes_in_the_flags(call):
    assert_refused(call("train", "--stage=denoising"), "denoising", "denoiser")
    assert_refused(call("train", "everything"), "unexpected argument 'everything'", "--name=value")
    assert_refused(call("train", "--config=nowhere.py"), "nowhere.py")


def test_debug_shows_the_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "prepare_jax", lambda config, layout: None)
    argv = ["mirage train", CONFIG, f"--workdir={tmp_path}", "--debug"]
    monkeypatch.setattr(sys, "argv", argv)
    with flagsaver.flagsaver(), pytest.raises(ValueError, match="no recorded clips"):
        common.run(train.main, train.__name__)


def test_an_interruption_has_the_exit_code_of_the_shell(call, monkeypatch):
    def interrupted(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate, "run", interrupted)
    code, _, err = call("evaluate")
    assert code == 130 and "the same command goes on from there" in err


def test_the_tiny_variant_gives_way_to_the_command_line(monkeypatch):
    def resolved(*arguments):
        argv = ["mirage", CONFIG, *arguments]
        monkeypatch.setattr(sys, "argv", argv)
        with flagsaver.flagsaver():
            flags.FLAGS(argv)
            return common.resolve_config()

    plain = resolved()
    assert plain.record.size == 64 and plain.worlds == ("freedoom", "labmaze")
    tiny = resolved("--config.tiny=true", "--config.record.size=48", "--config.seed=5")
    assert (tiny.record.size, tiny.seed) == (48, 5)
    for name, value in tiny.tiny_overrides:
        if name != "record.size":
            assert functools.reduce(getattr, name.split("."), tiny) == value
    with pytest.raises((AttributeError, KeyError)):
        tiny.new_field = 1  # locked


def test_a_frozen_backbone_is_read_from_an_export(tmp_path):
    config = common.load_config(str(ROOT / "experiments" / "wan22_5b_memory.py"))
    for name, value in config.tiny_overrides:
        common._set_dotted(config, name, value)
    task = build.denoiser_task(config, "latent", ())
    config.denoiser_training.backbone = ""
    with pytest.raises(common.UserError, match=r"denoiser_training\.backbone: found none"):
        build.branch_task(config, task)
    shapes = jax.eval_shape(lambda: nn.unbox(task.init(jax.random.key(0))))
    pretrained = {
        name: jax.tree.map(lambda leaf: np.full(leaf.shape, 2.5, np.float32), part)
        for name, part in shapes.items()
        if name not in ADDED
    }
    export(tmp_path, pretrained, {})
    config.denoiser_training.backbone = str(tmp_path)
    frozen = unboxed(build.branch_task(config, task).frozen)
    jax.tree.map(np.testing.assert_array_equal, frozen, pretrained)


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiments_are_consistent(path):
    config = common.load_config(str(path))
    described = common.describe_config(config)
    for name, value in config.tiny_overrides:
        old = functools.reduce(getattr, name.split("."), config)
        assert type(old) is type(value), name
        assert any(line.startswith(f"{name} = ") for line in described)
    tiny = common.load_config(str(path))
    for name, value in tiny.tiny_overrides:
        common._set_dotted(tiny, name, value)
    for each in (config, tiny):
        stride = build.vae(each).spatial_stride
        chunks, rest = divmod(each.record.frames - 1, each.chunk_frames - 1)
        assert chunks >= 2 and rest == 0
        conditioning.latents_of_frames(each.chunk_frames)
        height, width = build.picture_size(each)
        assert height % (stride * each.denoiser.patch[1]) == 0
        assert width % (stride * each.denoiser.patch[2]) == 0
        # The loader and the mesh share out batches.
        for training in (each.vae_training, each.geometry_training, each.denoiser_training):
            assert training.batch_size % each.host_devices == 0
        # A bank holds at least what one clip writes.
        cells = (height // stride) * (width // stride)
        assert each.memory.capacity >= cells * conditioning.latents_of_frames(each.record.frames)
        for world in each.worlds:
            sources.source_class(world)


# -- building and loading models -----------------------------------------------------------------


def zeros_of(module, *inputs):
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs))["params"]
    return jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), shapes)


@pytest.fixture
def trained(tiny_config, tmp_path):
    """A work directory as training leaves it, with weights of zero."""
    layout = Layout(tmp_path)
    vae = build.vae(tiny_config)
    side = tiny_config.record.size // vae.spatial_stride
    encoder = dataclasses.replace(
        tiny_world.encoder(),
        vae=vae,
        params=zeros_of(vae, jnp.zeros((1, 5, 16, 16, 3))),
        stats=build_stats(vae.latent_channels),
        spread=(1.0,) * vae.latent_channels,
    )
    encoder.save(layout.model("encoder"))
    head = build.geometry_head(tiny_config)
    latents = jnp.zeros((1, 2, side, side, vae.latent_channels))
    fields = build.module_fields(head)
    export(
        layout.model("geometry"),
        zeros_of(head, latents, jnp.zeros((1, 2), bool)),
        {"kind": "geometry_head", "head": fields},
    )
    for kind in ("latent", "none"):
        task = build.denoiser_task(tiny_config, kind, encoder.spread)
        params = jax.eval_shape(task.init, jax.random.key(0))
        export(
            layout.model(f"denoiser_{kind}"),
            jax.tree.map(lambda leaf: jnp.zeros(leaf.shape), params),
            build.denoiser_architecture(tiny_config, task),
        )
    return layout


def build_stats(channels):
    stats = tiny_world.encoder().stats
    return stats.replace(mean=jnp.zeros(channels), std=jnp.ones(channels))


def test_models_are_rebuilt_from_their_own_files(tiny_config, trained):
    model = build.world_model(trained, "latent", tiny_config.sampling)
    assert model.encoder.vae == build.vae(tiny_config)
    assert model.head == build.geometry_head(tiny_config)
    assert model.denoiser == build.denoiser(tiny_config, "latent", model.encoder.spread)
    assert model.size == (32, 32) and model.chunk_frames == 17 and model.sky_depth == 200
    assert model.grid == (4, 4)
    assert dict(model.readout) == {"reads": 4, "fine": 2, "prefer": "nearest"}
    assert (model.steps, model.method) == (2, "euler")
    plain = build.world_model(trained, "none", tiny_config.sampling)
    assert plain.denoiser.memory_channels == 0 and plain.denoiser.branch_layers == ()


def test_memory_context_channels_by_kind(tiny_config):
    channels = tiny_config.vae.latent_channels
    assert build.memory_channels(tiny_config, "latent") == 4 * 2 * 2 * (channels + 3)
    assert build.memory_channels(tiny_config, "rgb") == channels + 4
    assert build.memory_channels(tiny_config, "none") == 0


def test_models_of_another_kind_or_encoder_are_refused(tiny_config, trained):
    with pytest.raises(FileNotFoundError, match="denoiser_rgb"):
        build.world_model(trained, "rgb", tiny_config.sampling)
    trained.model("denoiser_latent").rename(trained.model("denoiser_rgb"))
    with pytest.raises(ValueError, match=r"another architecture; field memory: found 'latent'"):
        build.world_model(trained, "rgb", tiny_config.sampling)
    # An encoder with other channels under the same denoiser.
    other = tiny_config.copy_and_resolve_references()
    other.vae.latent_channels = 12
    vae = build.vae(other)
    dataclasses.replace(
        tiny_world.encoder(),
        vae=vae,
        params=zeros_of(vae, jnp.zeros((1, 5, 16, 16, 3))),
        stats=build_stats(12),
        spread=(1.0,) * 12,
    ).save(trained.model("encoder"))
    with pytest.raises(ValueError, match=r"denoiser_none: trained on 8 latent channels.* has 12"):
        build.world_model(trained, "none", tiny_config.sampling)


def test_an_autoencoder_of_another_stride_is_refused(tiny_config):
    config = tiny_config.copy_and_resolve_references()
    config.vae.temporal_downsample = (True, False)
    with pytest.raises(ValueError, match=r"merges 2 frames into a latent, expected 4"):
        build.vae(config)


# -- record --------------------------------------------------------------------------------------


def recording_config(tiny_config, **worlds):
    config = tiny_config.copy_and_resolve_references()
    config.update({"worlds": tuple(worlds)})
    config.record.update({"size": 8, "frames": 10, "eval_clips": 1})
    return config


class Absent(ProceduralSource):
    @staticmethod
    def available():
        return False, "no GPU driver"


def test_a_world_that_cannot_be_rendered_is_left_out_and_said(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setitem(sources.SOURCES, "absent", f"{__name__}:Absent")
    config = recording_config(tiny_config, absent=1, procedural=1)
    layout = Layout(tmp_path)
    console = Console(record=True, quiet=False, width=200, file=io.StringIO())
    assert record.run(config, layout, console) == ("procedural",)
    assert "absent is left out: no GPU driver" in console.export_text()
    skipped = json.loads((tmp_path / "worlds" / "skipped.json").read_text())
    assert skipped == {"absent": "no GPU driver"}
    assert layout.recorded(("absent", "procedural")) == ("procedural",)
    meta = json.loads((layout.worlds("procedural") / "dataset.json").read_text())
    assert "train" in json.dumps(meta) and "eval" in json.dumps(meta)
    with pytest.raises(ValueError, match="no recorded clips of absent; run `mirage record` first"):
        layout.recorded(("absent",))
    monkeypatch.setattr(recording, "record", pytest.fail)
    with pytest.raises(common.UserError, match=r"no world can be rendered .*absent: no GPU driver"):
        record.run(recording_config(tiny_config, absent=1), layout, QUIET)


def test_an_unknown_world_is_told_the_nearest(call):
    assert_refused(call("record", "--config.worlds=('procedual',)"), "'procedual'", "'procedural'")


# -- train, evaluate, quickstart -----------------------------------------------------------------


def test_stages_out_of_order_say_what_is_missing(call, tmp_path):
    recorded_first = "run `mirage record` first"
    for stage in ("encoder", "geometry", "denoiser"):
        outcome = call("train", f"--stage={stage}", "--config.tiny=true")
        assert outcome[0] == 2 and "Traceback" not in outcome[2]
    assert_refused(call("train", "--config.tiny=true"), recorded_first)
    assert_refused(call("train", "--stage=cache", "--config.tiny=true"), "encoder")
    assert_refused(call("evaluate", "--config.tiny=true"), "encoder")


@pytest.mark.parametrize("compare", [False, True])
def test_quickstart_runs_every_stage_in_order_and_adds_up_the_time(
    compare, call, monkeypatch, tmp_path
):
    ran = []
    monkeypatch.setattr(record, "run", lambda *_: ran.append("record"))
    monkeypatch.setattr(
        train, "run", lambda c, l, s, stage, memory="latent": ran.append((stage, memory))
    )
    monkeypatch.setattr(evaluate, "run", lambda *_: ran.append("evaluate"))
    seconds = tmp_path / "run" / "seconds.json"
    seconds.parent.mkdir()
    seconds.write_text(json.dumps({"geometry": 100.0, "encoder": 7.0}))
    code, _, _ = call("quickstart", *(["--compare"] if compare else []))
    stages = [("encoder", "latent"), ("cache", "latent"), ("geometry", "latent")]
    others = [("denoiser", "none"), ("cache", "rgb"), ("denoiser", "rgb")]
    expected = ["record", *stages, ("denoiser", "latent"), *(others if compare else []), "evaluate"]
    assert code == 0 and ran == expected
    took = json.loads(seconds.read_text())
    assert 100 <= took["geometry"] < 110 and 7 <= took["encoder"] < 17
    assert len(took) == len(expected)


# -- bench ---------------------------------------------------------------------------------------


def test_bench_prints_and_writes_its_numbers(call, monkeypatch, tmp_path):
    small = functools.partial(
        efficiency.measure,
        chunks=(1,),
        repeats=1,
        read_benchmark={"elements": 700, "channels": 2, "grid": (6, 8), "repeats": 1},
    )
    monkeypatch.setattr(efficiency, "measure", small)
    code, out, _ = call("bench", "--config.tiny=true")
    assert code == 0
    found = json.loads((tmp_path / "run" / "bench_memory.json").read_text())
    for race in found["read_against_sort"].values():
        assert f"{race['ratio']:.1f}x" in out and f"{race['read_ms']:.2f}" in out
    assert (
        "no trained encoder" in out and f"{found['after_chunks']['1']['rgb']['elements']:,}" in out
    )


def test_bench_knows_one_subject(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["mirage bench", "networks"])
    with pytest.raises(SystemExit) as leave:
        bench.cli()
    assert leave.value.code == 2
    assert "no subject 'networks', expected 'memory'" in capsys.readouterr().err


# -- generate ------------------------------------------------------------------------------------


def test_generate_wants_one_thing_to_start_from(call):
    assert_refused(call("generate"), "either --image=PICTURE or --world=SAVED_WORLD")
    assert_refused(call("generate", "--image=a.png", "--world=a.world"), "either --image")
    assert_refused(call("generate", "--image=a.png"), "encoder", "export")


def test_the_middle_square_of_a_picture_is_used(tmp_path):
    picture = np.zeros((8, 20, 3), np.uint8)
    picture[:, 6:10] = [255, 0, 0]
    picture[:, 10:14] = [0, 0, 255]
    Image.fromarray(picture).save(tmp_path / "wide.png")
    found = generate.read_picture(tmp_path / "wide.png", (4, 4))
    np.testing.assert_array_equal(found, np.tile([[255, 0, 0]] * 2 + [[0, 0, 255]] * 2, (4, 1, 1)))
    Image.fromarray(picture.transpose(1, 0, 2)).save(tmp_path / "tall.png")
    tall = generate.read_picture(tmp_path / "tall.png", (4, 4))
    np.testing.assert_array_equal(tall, found.transpose(1, 0, 2))


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_pictures_of_every_mode_become_rgb(mode, tmp_path):
    grey = Image.new("RGB", (6, 6), (40, 40, 40))
    (grey.quantize(2) if mode == "P" else grey.convert(mode)).save(tmp_path / "a.png")
    found = generate.read_picture(tmp_path / "a.png", (2, 2))
    assert found.dtype == np.uint8 and (found == 40).all() and found.shape == (2, 2, 3)


def test_files_that_are_no_picture_are_named(tmp_path):
    path = tmp_path / "notes.png"
    path.write_text("not a picture")
    with pytest.raises(ValueError, match=re.escape(f"--image {path}: not a picture")):
        generate.read_picture(path, (4, 4))
    whole = tmp_path / "whole.png"
    Image.effect_noise((64, 64), 50).save(whole)
    path.write_bytes(whole.read_bytes()[:500])
    with pytest.raises((ValueError, OSError)):
        generate.read_picture(path, (4, 4))
    with pytest.raises(OSError, match=r"absent\.png"):
        generate.read_picture(tmp_path / "absent.png", (4, 4))


START = trajectories.make("orbit_left", 2, angle=40, distance=2)[-1]


def path_of(trajectory, frames=0):
    return generate.camera_path(
        trajectory, frames=frames, chunk_frames=17, start=START, angle=60.0, distance=1.0
    )


def test_named_paths_begin_where_the_world_is():
    assert len(path_of("look_away")) == 33  # two chunks
    expected = trajectories.make("push_in", 17, angle=60, distance=1, start=START)
    np.testing.assert_array_equal(path_of("push_in", 17), expected)
    with pytest.raises(ValueError, match=r"'lookaway'.*did you mean 'look_away'"):
        path_of("lookaway")


def test_paths_of_files_are_moved_to_where_the_world_is(tmp_path):
    poses = trajectories.make(
        "look_and_walk", 17, start=trajectories.make("tilt_up", 2, angle=20)[-1]
    )
    trajectories.save(tmp_path / "walk.json", poses)
    found = path_of(str(tmp_path / "walk.json"))
    np.testing.assert_allclose(found[0], START, atol=1e-12)
    for a, b in zip(found, poses, strict=True):
        np.testing.assert_allclose(
            np.linalg.inv(found[0]) @ a, np.linalg.inv(poses[0]) @ b, atol=1e-12
        )
    with pytest.raises(OSError, match=r"absent\.npz"):
        path_of(str(tmp_path / "absent.npz"))


def test_a_wrong_field_of_the_default_config_is_no_traceback(tmp_path):
    # The default experiment is found from the folder of the checkout, as a newcomer would be in.
    command = [sys.executable, "-m", "mirage_jax.cli.main", "train", "--config.denoiser.widht=3"]
    root = Path(__file__).parents[2]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "widht" in done.stderr and "width" in done.stderr
    assert "Traceback" not in done.stderr
