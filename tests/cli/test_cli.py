"""Commands as a person meets them: one line and exit code 2 for everything that can be mended."""

import dataclasses
import functools
import io
import json
import logging
import re
import shutil
import subprocess
import sys
import types

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl import flags
from absl.testing import flagsaver
from flax import linen as nn
from flax.traverse_util import flatten_dict
from PIL import Image
from rich.console import Console

from data_pipelines import recording, sources
from data_pipelines.sources.procedural import ProceduralSource
from helpers import paths, tiny_world
from mirage_jax import trajectories
from mirage_jax.cli import bench, convert, evaluate, generate, main, quickstart, record, train
from mirage_jax.cli import compile as compile_command
from mirage_jax.cli.helpers import build, common
from mirage_jax.evaluation import efficiency
from mirage_jax.io.text import TextEmbeddings, save_embeddings
from mirage_jax.io.workdir import Workdir
from mirage_jax.parallel import unboxed
from mirage_jax.training import latent_cache, latent_encoding
from mirage_jax.training.branch_task import ADDED
from mirage_jax.training.denoiser_task import MEMORY_KINDS
from mirage_jax.training.geometry_task import GeometryTask
from mirage_jax.weights import as_fields, export, fingerprint, load_export
from mirage_jax.world import conditioners as conditioning
from mirage_jax.world.latent_encoder import LatentEncoder

ROOT = paths.ROOT
EXPERIMENTS = sorted(p for p in (ROOT / "experiments").glob("*.py") if p.name != "__init__.py")
CONFIG = f"--config={ROOT / 'experiments' / 'quickstart.py'}"
COMMANDS = {
    "quickstart": quickstart,
    "record": record,
    "train": train,
    "generate": generate,
    "evaluate": evaluate,
    "bench": bench,
    "convert": convert,
    "compile": compile_command,
}
QUIET = Console(quiet=True)


@pytest.fixture
def call(tmp_path, capsys, monkeypatch):
    """Runs a command line in this process; returns (exit code, stdout, stderr)."""
    monkeypatch.setattr(common, "prepare_jax", lambda *_, **__: None)

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


@pytest.mark.parametrize("command", [name for name in COMMANDS if name != "convert"])
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
    name, value = typed.removeprefix("--").split("=")
    assert_refused(call("train", typed), f"--{name}: found '{value}', expected", "such as")


def test_values_that_are_no_tuples_or_no_sections_are_refused(call):
    found = call("train", "--config.vae.width_mults=wide")
    assert_refused(found, "--config.vae.width_mults: found ('wide',), expected tuple such as (1, 2")
    found = call("train", "--config.record=3")
    assert_refused(found, "--config.record: found '3', expected one of its fields")
    assert_refused(call("train", "--config.name.x=3"), "--config.name.x: no such field")


def test_a_field_that_is_not_there_is_named_whole(call):
    assert_refused(call("train", "--config.nokey=3"), "--config.nokey: no such field")
    outcome = call("train", "--config.record.framse=3")
    assert_refused(outcome, "--config.record.framse", "did you mean --config.record.frames?")
    assert_refused(call("train", "--noconfig.tinny"), "did you mean --config.tiny?")


def test_fields_may_be_named_before_the_config(call, monkeypatch):
    seen = []
    monkeypatch.setattr(evaluate, "run", lambda config, *_: seen.append(config.seed))
    other = str(ROOT / "experiments" / "worlds_128.py")
    assert call("evaluate", "--config.seed=7", "--config", other)[0] == 0
    assert call("evaluate", "--config.seed=8", f"--config={other}")[0] == 0
    assert seen == [7, 8]


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("syntax.py", b"def get_config(:\n", "SyntaxError: invalid syntax (syntax.py, line 1)"),
        ("notes.png", b"\x89PNG\r\n\x1a\n\x00\xff", "not a usable experiment"),
        ("empty.py", b"", "AttributeError: module 'mirage_experiment' has no attribute 'get_conf"),
        ("wrong.py", b"def get_config():\n  return 1 / 0\n", "ZeroDivisionError: division by z"),
        ("other.py", b"def get_config():\n  return {}\n", "get_config gave <class 'dict'>, expec"),
    ],
)
def test_a_config_file_that_is_none_is_named(name, content, reason, call, tmp_path):
    path = tmp_path / name
    path.write_bytes(content)
    for arguments in ((), ("--help",)):
        assert_refused(call("train", f"--config={path}", *arguments), str(path), reason)


def test_help_shows_the_fields_of_the_config_that_is_given(call, tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(
        "from ml_collections import ConfigDict\n\n\n"
        "def get_config():\n    return ConfigDict({'own': {'field': 12}})\n"
    )
    for arguments in ([f"--config={path}"], ["--config", str(path)]):
        code, out, _ = call("train", "--help", *arguments)
        assert code == 0 and f"Fields of {path}" in out and "own.field = 12" in out
    assert_refused(call("train", "--help", "--config=nowhere.py"), "no file 'nowhere.py'")


@pytest.mark.parametrize("arguments", [["--help"], []])
def test_the_default_config_is_found_from_any_folder(arguments, capsys, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mirage evaluate", *arguments])
    monkeypatch.setattr(common, "prepare_jax", lambda *_, **__: None)
    monkeypatch.setattr(evaluate, "run", lambda config, workdir, console: print(config.name))
    with flagsaver.flagsaver(), pytest.raises(SystemExit) as leave:
        common.run(evaluate.main, evaluate.__name__)
    assert not leave.value.code and "quickstart" in capsys.readouterr().out


def test_what_libraries_tell_is_shown_with_debug_only(call, monkeypatch):
    shown = []

    def looks_for_backends(*_):
        shown.append(logging.getLogger("jax._src.xla_bridge").isEnabledFor(logging.INFO))

    monkeypatch.setattr(evaluate, "run", looks_for_backends)
    call("evaluate", "--debug")
    call("evaluate")
    assert shown == [True, False]


def test_other_mistakes_in_the_flags(call):
    assert_refused(call("train", "--stage=denoising"), "denoising", "denoiser")
    assert_refused(call("train", "everything"), "unexpected argument 'everything'", "--name=value")
    assert_refused(call("train", "--config=nowhere.py"), "nowhere.py")


def test_debug_shows_the_traceback(tmp_path, monkeypatch):
    monkeypatch.setattr(common, "prepare_jax", lambda *_, **__: None)
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


# What arXiv 2606.09828 gives for training and sampling: one read-out per latent, as fine as the
# latents, of the elements that fall into a cell alone; histories as they are.
PAPER = {
    "denoiser_training.betas": (0.0, 0.999),
    "denoiser_training.drop_text": 0.2,
    "denoiser_training.drop_memory": 0.0,
    "denoiser_training.depth_noise": 0.0,
    "denoiser_training.pose_noise": 0.0,
    "denoiser_training.token_noise": 0.0,
    "denoiser.memory_hint": False,
    "memory.reads": 1,
    "memory.fine": 1,
    "memory.footprint": 1,
    "sampling.steps": 40,
}
BOTH_VARIANTS = {
    "denoiser.branch_layers": (0, 4, 8, 12, 16, 20, 24, 28),
    "denoiser.memory_prior": False,
    "denoiser_training.batch_size": 64,
    "denoiser_training.schedule": "cosine",
    "denoiser_training.weight_decay": 1e-3,
    "denoiser_training.shift": 5.0,
    "sampling.method": "unipc",
    "sampling.shift": 5.0,
}
STAGES = {
    "wan22_5b_memory": {
        "denoiser_training.trained": "branch",
        "denoiser_training.learning_rate": 1e-5,
    },
    "wan22_5b_joint": {
        "denoiser_training.trained": "branch_lora",
        "denoiser_training.learning_rate": 1e-4,
        "lora.rank": 64,
        "lora.alpha": 64.0,
        "lora.targets": ("self_attn/q", "self_attn/k", "self_attn/v", "self_attn/o"),
    },
}


@pytest.mark.parametrize("stage", STAGES)
def test_the_variants_of_the_recipe_differ_in_what_the_paper_says(stage):
    file = ROOT / "experiments" / f"{stage}.py"
    default, ours, paper = (
        flatten_dict(common.load_config(f"{file}{variant}").to_dict(), sep=".")
        for variant in ("", ":ours", ":paper")
    )
    assert default == ours and ours.keys() == paper.keys()
    dropout = {"lora.dropout": 0.05} if "lora.rank" in paper else {}
    changed = {name: value for name, value in paper.items() if value != ours[name]}
    assert changed == PAPER | dropout
    for config in (ours, paper):
        for name, value in (BOTH_VARIANTS | STAGES[stage]).items():
            assert config[name] == value, name
    with pytest.raises(common.UserError, match=r"variant: found 'mine', expected one of ours, pap"):
        common.load_config(f"{file}:mine")


@pytest.mark.parametrize("variant", ["ours", "paper"])
@pytest.mark.parametrize("stage", STAGES)
def test_the_tiny_variants_make_a_task(stage, variant):
    config = common.load_config(f"{ROOT / 'experiments' / stage}.py:{variant}")
    for name, value in config.tiny_overrides:
        common._set_dotted(config, name, value)
    task = build.denoiser_task(config, "latent", ())
    assert task.denoiser.branch_layers == (0,)
    assert task.denoiser.memory_hint == (variant == "ours")
    assert task.readout.reads == config.memory.reads == (1 if variant == "paper" else 4)


@pytest.fixture
def tiny_branch():
    """The tiny variant of the config that trains a branch."""
    config = common.load_config(str(ROOT / "experiments" / "wan22_5b_memory.py"))
    for name, value in config.tiny_overrides:
        common._set_dotted(config, name, value)
    return config


def test_a_frozen_backbone_is_read_from_an_export(tiny_branch, tmp_path):
    config = tiny_branch
    task = build.denoiser_task(config, "latent", ())
    config.denoiser_training.pretrained = ""
    with pytest.raises(common.UserError, match=r"denoiser_training\.pretrained: found none"):
        build.pretrained(config, task)
    shapes = jax.eval_shape(lambda: nn.unbox(task.init(jax.random.key(0))))
    pretrained = {
        name: jax.tree.map(lambda leaf: np.full(leaf.shape, 2.5, np.float32), part)
        for name, part in shapes.items()
        if name not in ADDED
    }
    export(tmp_path, pretrained, {})
    config.denoiser_training.pretrained = str(tmp_path)
    frozen = unboxed(build.branch_task(config, task, build.pretrained(config, task)).frozen)
    jax.tree.map(np.testing.assert_array_equal, frozen, pretrained)


def test_what_is_trained_is_checked(tiny_branch):
    tiny_branch.denoiser_training.trained = "brunch"
    with pytest.raises(common.UserError, match="found 'brunch', expected one of all, branch, bra"):
        build.trained(tiny_branch)


def test_every_world_gets_the_text_of_its_prompt(tiny_branch, tmp_path):
    config = tiny_branch
    assert build.texts(config) == {}
    prompts = tuple(config.text.prompts.values())
    tokens = np.random.default_rng(0).normal(size=(len(prompts), 3, 24)).astype(np.float32)
    save_embeddings(tmp_path / "text", TextEmbeddings(prompts, tokens, np.full(3, 3, np.int32)))
    config.text.embeddings = str(tmp_path / "text")
    config.worlds = ("procedural", "labmaze")
    found = build.texts(config)
    assert tuple(found) == config.worlds
    for world in config.worlds:
        expected = tokens[prompts.index(config.text.prompts[world])]
        np.testing.assert_array_equal(found[world], expected)
    config.worlds = ("elsewhere",)
    with pytest.raises(common.UserError, match=r"text\.prompts: found none for 'elsewhere'"):
        build.texts(config)


def test_a_pretrained_encoder_must_have_the_latents_of_the_config(tiny_branch, tmp_path):
    made = dataclasses.replace(tiny_world.encoder(), spread=(1.0,) * tiny_world.CHANNELS)
    made.save(tmp_path)
    tiny_branch.vae.latent_channels = 5
    with pytest.raises(ValueError, match="latent_channels: found 4, expected 5"):
        build.check_encoder(tiny_branch, tmp_path)
    tiny_branch.vae.latent_channels = 4
    build.check_encoder(tiny_branch, tmp_path)


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


@pytest.mark.parametrize("tiny", [True, False], ids=["tiny", "real"])
@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_experiments_can_be_built_and_trained(path, tiny):
    """Every network is initialised and every loss traced, by shape alone."""
    config = common.load_config(str(path))
    for name, value in config.tiny_overrides if tiny else ():
        common._set_dotted(config, name, value)
    vae = build.vae(config)
    channels = vae.latent_channels
    whole = build.trained(config) == "all"
    kinds = MEMORY_KINDS if whole else ("latent",)  # baselines are not fine-tuned
    tasks = [build.denoiser_task(config, kind, (1.0,) * channels) for kind in kinds]
    size, chunks, latents = tasks[0].size, tasks[0].chunks, tasks[0].chunk_latents
    grid = tuple(side // vae.spatial_stride for side in size)
    tasks.append(GeometryTask(build.geometry_head(config), (*grid, channels), config.sky_depth))
    keyframes = conditioning.latents_of_frames(config.record.frames)
    batch = {
        "chunks": abstract(2, chunks, latents, *grid, channels),
        "tokens": abstract(2, keyframes, *grid, channels),
        "depth": abstract(2, keyframes, *grid),
        "static": abstract(2, keyframes, *grid),
        "intrinsics": abstract(2, 4),
        "cam2world": abstract(2, config.record.frames, 4, 4),
        "rgb_chunks": abstract(2, 3, latents, *grid, channels),
        "rgb_hits": abstract(2, 3, latents, *grid, 4),
        "preceding": abstract(2, tasks[0].frames.preceding_latents, *grid, channels),
    }
    key = jax.eval_shape(lambda: jax.random.key(0))
    assert jax.eval_shape(vae.init, key, abstract(1, config.chunk_frames, *size, 3))["params"]
    if not whole:
        tasks.append(build.branch_task(config, tasks[0]))
    for task in tasks:
        params = unboxed(jax.eval_shape(task.init, key))
        frozen = {} if task.frozen is None else {"frozen": unboxed(task.frozen)}
        step = jax.grad(functools.partial(task.loss, train=True), has_aux=True)
        gradients, _ = jax.eval_shape(step, params, batch, key, **frozen)
        assert jax.tree.map(np.shape, gradients) == jax.tree.map(np.shape, params)


def abstract(*shape):
    return jax.ShapeDtypeStruct(shape, jnp.float32)


# -- building and loading models -----------------------------------------------------------------


def zeros_of(module, *inputs):
    shapes = jax.eval_shape(lambda: module.init(jax.random.key(0), *inputs))["params"]
    return jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), shapes)


@pytest.fixture
def trained(exports, tmp_path):
    """A work directory as training leaves it, with weights of zero."""
    shutil.copytree(exports, tmp_path / "model")
    return Workdir(tmp_path)


@pytest.fixture(scope="module")
def exports(tiny_config, tmp_path_factory):
    workdir = Workdir(tmp_path_factory.mktemp("trained"))
    vae = build.vae(tiny_config)
    side = tiny_config.record.size // vae.spatial_stride
    encoder = dataclasses.replace(
        tiny_world.encoder(),
        vae=vae,
        params=zeros_of(vae, jnp.zeros((1, 5, 16, 16, 3))),
        stats=build_stats(vae.latent_channels),
        spread=(1.0,) * vae.latent_channels,
    )
    encoder.save(workdir.model("encoder"))
    head = build.geometry_head(tiny_config)
    latents = jnp.zeros((1, 2, side, side, vae.latent_channels))
    fields = build.module_fields(head)
    export(
        workdir.model("geometry"),
        zeros_of(head, latents, jnp.zeros((1, 2), bool)),
        {"kind": "geometry_head", "head": fields},
    )
    for kind in ("latent", "none"):
        task = build.denoiser_task(tiny_config, kind, encoder.spread)
        params = jax.eval_shape(task.init, jax.random.key(0))
        export(
            workdir.model(f"denoiser_{kind}"),
            jax.tree.map(lambda leaf: np.zeros(leaf.shape, np.float32), params),
            build.denoiser_architecture(tiny_config, task),
        )
    return workdir.root / "model"


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
    assert dict(model.readout) == {
        "reads": 4,
        "fine": 2,
        "prefer": "nearest",
        "footprint": 3,
    }
    assert (model.steps, model.method) == (2, "euler")
    plain = build.world_model(trained, "none", tiny_config.sampling)
    assert plain.denoiser.memory_channels == 0 and plain.denoiser.branch_layers == ()


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, "bfloat16"])
def test_a_model_is_evaluated_in_the_precision_it_was_trained_in(dtype, tmp_path):
    module = tiny_world.denoiser(0, dtype=dtype)
    again = type(module)(**as_fields(json.loads(json.dumps(build.module_fields(module)))))
    plain = tiny_world.denoiser(0, dtype=jnp.dtype(dtype).type)
    assert again == plain and hash(again) == hash(plain)
    inputs = jnp.zeros((1, 2, 2, 3, tiny_world.CHANNELS)), jnp.zeros((1, 2))

    def program(denoiser):
        params = jax.eval_shape(denoiser.init, jax.random.key(0), *inputs)
        return str(jax.make_jaxpr(denoiser.apply)(params, *inputs))

    assert program(again) == program(module)
    assert ("bf16" in program(again)) == (jnp.dtype(dtype) == jnp.bfloat16)
    encoder = tiny_world.encoder()
    encoder = encoder.replace(vae=encoder.vae.clone(dtype=dtype))
    encoder.save(tmp_path)
    assert jnp.dtype(LatentEncoder.load(tmp_path).vae.dtype) == jnp.dtype(dtype)
    with pytest.raises(ValueError, match="dtype: found 'bfloat17', expected a name such as"):
        as_fields({"dtype": "bfloat17"})


def test_memory_context_channels_by_kind(tiny_config):
    channels = tiny_config.vae.latent_channels
    # Four reads of 2 x 2 cells; tokens of hits and of holes, three numbers and what was filled.
    assert build.memory_channels(tiny_config, "latent") == 4 * 2 * 2 * (2 * channels + 4)
    open_holes = tiny_config.copy_and_resolve_references()
    open_holes.memory.footprint = 1
    assert build.memory_channels(open_holes, "latent") == 4 * 2 * 2 * (channels + 3)
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


def reexport(path, change):
    """Writes an export again with another architecture over the same tensors."""
    params, architecture = load_export(path)
    change(architecture)
    export(path, params, architecture)


@pytest.mark.parametrize(
    ("part", "change", "message"),
    [
        ("encoder", lambda a: a["vae"].update(depth=3), "field vae.depth: found 3, but a VideoVAE"),
        ("encoder", lambda a: a.pop("spread"), "field spread: found None, expected list"),
        ("geometry", lambda a: a["head"].update(width=8), "another architecture; tensor 'conv_"),
        ("denoiser_latent", lambda a: a["denoiser"].update(depth=3), "another architecture; tens"),
        ("denoiser_latent", lambda a: a["denoiser"].update(later=1), "field denoiser.later: found"),
        ("denoiser_latent", lambda a: a["denoiser"].update(heads=0), "field denoiser: found what"),
        ("denoiser_latent", lambda a: a["readout"].update(fast=1), "field readout.fast: found 1"),
        ("denoiser_latent", lambda a: a.pop("size"), "field size: found None, expected int"),
    ],
)
def test_an_export_that_describes_another_model_is_refused(
    part, change, message, tiny_config, trained
):
    reexport(trained.model(part), change)
    with pytest.raises(ValueError, match=re.escape(f"{trained.model(part)}: {message}")):
        build.world_model(trained, "latent", tiny_config.sampling)


def test_a_head_trained_on_other_latents_is_refused(tiny_config, trained):
    head = build.geometry_head(tiny_config)
    latents = jnp.zeros((1, 2, 4, 4, 12))
    params = zeros_of(head, latents, jnp.zeros((1, 2), bool))
    architecture = {"kind": "geometry_head", "head": build.module_fields(head)}
    export(trained.model("geometry"), params, architecture)
    with pytest.raises(ValueError, match=r"geometry: .*tensor.*the encoder has 8 latent channels"):
        build.world_model(trained, "latent", tiny_config.sampling)


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
    workdir = Workdir(tmp_path)
    console = Console(record=True, quiet=False, width=200, file=io.StringIO())
    assert record.run(config, workdir, console) == ("procedural",)
    assert "absent is left out: no GPU driver" in console.export_text()
    skipped = json.loads((tmp_path / "worlds" / "skipped.json").read_text())
    assert skipped == {"absent": "no GPU driver"}
    assert workdir.recorded(("absent", "procedural")) == ("procedural",)
    meta = json.loads((workdir.worlds("procedural") / "dataset.json").read_text())
    assert "train" in json.dumps(meta) and "eval" in json.dumps(meta)
    with pytest.raises(ValueError, match="no recorded clips of absent; run `mirage record` first"):
        workdir.recorded(("absent",))
    monkeypatch.setattr(recording, "record", pytest.fail)
    with pytest.raises(common.UserError, match=r"no world can be rendered .*absent: no GPU driver"):
        record.run(recording_config(tiny_config, absent=1), workdir, QUIET)


def test_freedoom_without_its_engine_is_left_out_and_said(tiny_config, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "vizdoom", None)  # what `import` makes of a missing package
    console = Console(record=True, width=200, file=io.StringIO())
    config = recording_config(tiny_config, freedoom=1, procedural=1)
    assert record.run(config, Workdir(tmp_path), console) == ("procedural",)
    assert "freedoom is left out: vizdoom cannot be imported" in console.export_text()


def test_a_recording_that_fails_is_one_line(call, monkeypatch):
    def fails(*_, **__):
        raise recording.RecordingError("the engine is gone")

    monkeypatch.setattr(recording, "record", fails)
    assert_refused(call("record", "--config.tiny=true"), "the engine is gone")


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
    assert_refused(call("evaluate", "--config.tiny=true"), recorded_first)


def test_clips_cached_by_another_encoder_are_not_scored(tiny_config, trained, monkeypatch):
    loaded = types.SimpleNamespace(chunk_frames=17, sky_depth=200, preceding=0)
    monkeypatch.setattr(build, "world_model", lambda workdir, kind, sampling: loaded)
    trained.model("denoiser_rgb").mkdir()

    def cached(*, rgb, encoder=None):
        path = trained.latents("procedural", "eval", rgb=rgb)
        path.parent.mkdir(exist_ok=True)
        path.touch()
        own = fingerprint(trained.model("encoder"))
        made = latent_encoding.CacheSettings(chunk_frames=17, sky_depth=200.0, rgb=rgb)
        clips = trained.worlds("procedural")
        key = latent_encoding.cache_key(encoder or own, clips, "eval", made)
        latent_cache.write_key(path, key)

    def models():
        found, missing = evaluate._models(tiny_config, trained, ("procedural",))
        return set(found), {entry["control"]: entry["reason"] for entry in missing}

    with pytest.raises(ValueError, match="there is none yet; run `mirage train --stage=cache`"):
        models()
    cached(rgb=False)
    cached(rgb=True, encoder="another")
    found, missing = models()
    assert found == {"latent", "none"} and set(missing) == {"rgb_memory"}
    assert "made with another encoder: run `make compare`" in missing["rgb_memory"]
    cached(rgb=True)
    assert models() == ({"latent", "none", "rgb"}, {})
    cached(rgb=False, encoder="another")
    shutil.rmtree(trained.model("denoiser_rgb"))
    with pytest.raises(ValueError, match="made with another encoder; run `mirage train"):
        models()


@pytest.mark.parametrize("compare", [False, True])
def test_quickstart_runs_every_stage_in_order_and_adds_up_the_time(
    compare, call, monkeypatch, tmp_path
):
    ran, workdir = [], Workdir(tmp_path / "run")

    def trains(config, workdir, console, stage, *, memory="latent"):
        ran.append((stage, memory))
        folder = train.outputs(workdir, stage, memory)[0]
        folder.mkdir(parents=True, exist_ok=True)
        # Everything but the geometry head was finished by an earlier call.
        if (stage, memory) == ("geometry", "latent"):
            (folder / "checkpoint").write_text("new")

    monkeypatch.setattr(record, "run", lambda *_: ran.append("record"))
    monkeypatch.setattr(train, "run", trains)
    monkeypatch.setattr(evaluate, "run", lambda *_: ran.append("evaluate"))
    workdir.root.mkdir()
    workdir.seconds.write_text(json.dumps({"geometry": 100.0, "encoder": 7.0}))
    code, _, _ = call("quickstart", *(["--compare"] if compare else []))
    stages = [("encoder", "latent"), ("cache", "latent"), ("geometry", "latent")]
    others = [("denoiser", "none"), ("cache", "rgb"), ("denoiser", "rgb")]
    expected = ["record", *stages, ("denoiser", "latent"), *(others if compare else []), "evaluate"]
    assert code == 0 and ran == expected
    took = json.loads(workdir.seconds.read_text())
    assert set(took) == {"geometry", "encoder"}
    assert 100 <= took["geometry"] < 110 and took["encoder"] == 7


def test_every_stage_fills_folders_of_its_own(tmp_path):
    workdir = Workdir(tmp_path)
    every = [("encoder", "latent"), ("geometry", "latent")]
    every += [(stage, kind) for stage in ("cache", "denoiser") for kind in ("latent", "rgb")]
    folders = [folder for one in every for folder in train.outputs(workdir, *one)]
    assert len(set(folders)) == len(folders) == 10
    assert workdir.latents("labmaze", "eval", rgb=True).parent in train.outputs(
        workdir, "cache", "rgb"
    )


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
    # Five latents of four reads each, twice as fine as the 4x4 latents.
    assert (found["poses_per_chunk"], found["read_grid"]) == (20, [8, 8])
    assert found["pictures_per_chunk"] == 17 and found["frames_written_per_chunk"] == 4


# -- generate ------------------------------------------------------------------------------------


def test_generate_wants_one_thing_to_start_from(call):
    assert_refused(call("generate"), "either --image=PICTURE or --world=SAVED_WORLD")
    assert_refused(call("generate", "--image=a.png", "--world=a.world"), "either --image")
    assert_refused(call("generate", "--image=a.png"), "encoder: not trained yet; run `make quicks")


def test_the_middle_square_of_a_picture_is_used(tmp_path):
    picture = np.zeros((8, 20, 3), np.uint8)
    picture[:, 6:10] = [255, 0, 0]
    picture[:, 10:14] = [0, 0, 255]
    Image.fromarray(picture).save(tmp_path / "wide.png")
    found, camera = generate.read_picture(tmp_path / "wide.png", (4, 4), 60.0)
    np.testing.assert_array_equal(found, np.tile([[255, 0, 0]] * 2 + [[0, 0, 255]] * 2, (4, 1, 1)))
    # Half of the square is seen under half of the angle.
    assert camera.size == (4, 4) and (camera.cam2world == np.eye(4)).all()
    focal = 2 / np.tan(np.deg2rad(30))
    np.testing.assert_allclose(camera.intrinsics, [focal, focal, 2, 2], rtol=1e-6)
    Image.fromarray(picture.transpose(1, 0, 2)).save(tmp_path / "tall.png")
    tall, _ = generate.read_picture(tmp_path / "tall.png", (4, 4))
    np.testing.assert_array_equal(tall, found.transpose(1, 0, 2))


def test_a_photo_is_turned_the_way_its_camera_was_held(tmp_path):
    upright = np.zeros((8, 8, 3), np.uint8)
    upright[:4] = 255  # bright above
    exif = Image.Exif()
    exif[0x0112] = 6  # the sensor lay on its left side: turn by 90 degrees clockwise to see it
    lying = Image.fromarray(np.rot90(upright))
    lying.save(tmp_path / "photo.png", exif=exif)
    found, _ = generate.read_picture(tmp_path / "photo.png", (8, 8))
    np.testing.assert_array_equal(found, upright)


@pytest.mark.parametrize("mode", ["L", "RGBA", "P"])
def test_pictures_of_every_mode_become_rgb(mode, tmp_path):
    grey = Image.new("RGB", (6, 6), (40, 40, 40))
    (grey.quantize(2) if mode == "P" else grey.convert(mode)).save(tmp_path / "a.png")
    found, _ = generate.read_picture(tmp_path / "a.png", (2, 2))
    assert found.dtype == np.uint8 and (found == 40).all() and found.shape == (2, 2, 3)


def test_files_that_are_no_picture_are_named(tmp_path, monkeypatch):
    path = tmp_path / "notes.png"
    path.write_text("not a picture")
    with pytest.raises(ValueError, match=re.escape(f"--image {path}: not a picture")):
        generate.read_picture(path, (4, 4))
    whole = tmp_path / "whole.png"
    Image.effect_noise((64, 64), 50).save(whole)
    path.write_bytes(whole.read_bytes()[:500])
    with pytest.raises(ValueError, match=re.escape(f"--image {path}: damaged")):
        generate.read_picture(path, (4, 4))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 1000)
    with pytest.raises(ValueError, match=re.escape(f"--image {whole}: too large")):
        generate.read_picture(whole, (4, 4))
    with pytest.raises(OSError, match=r"absent\.png"):
        generate.read_picture(tmp_path / "absent.png", (4, 4))


@pytest.mark.parametrize("degrees", ["0", "180", "-20", "nan", "inf"])
def test_angles_that_no_lens_has_are_refused(degrees, call):
    outcome = call("generate", "--image=a.png", f"--fov={degrees}")
    assert_refused(outcome, "--fov: found", "expected degrees between 0 and 180")


def test_a_video_cannot_have_the_name_of_its_world(call):
    assert_refused(call("generate", "--image=a.png", "--out=a.world"), "--out a.world", ".mp4")


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
    with pytest.raises(ValueError, match=r"walk\.json: found 17 poses, expected 33"):
        path_of(str(tmp_path / "walk.json"), 33)
    for count in (0, 18):
        np.save(tmp_path / "some.npy", np.tile(np.eye(4), (count, 1, 1)))
        with pytest.raises(ValueError, match=rf"some\.npy: found {count} poses, expected"):
            path_of(str(tmp_path / "some.npy"))
    with pytest.raises(
        ValueError, match=r"--frames of push_in: found 18 poses, expected 1 \+ 16 n"
    ):
        path_of("push_in", 18)


def test_a_wrong_field_of_the_default_config_is_no_traceback(tmp_path):
    # The default experiment is found from the folder of the checkout, as a newcomer would be in.
    command = [sys.executable, "-m", "mirage_jax.cli.main", "train", "--config.denoiser.widht=3"]
    root = paths.ROOT
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "widht" in done.stderr and "width" in done.stderr
    assert "Traceback" not in done.stderr
