"""Values and files that no command can work with: refused by name before anything runs."""

import json
import re

import pytest
from absl import flags

from data_pipelines import recording
from helpers.command_line import assert_refused
from helpers.paths import EXPERIMENTS
from mirage_jax.cli import evaluate, record, train
from mirage_jax.cli.helpers import common, config_sections, timing
from mirage_jax.evaluation import network_costs
from mirage_jax.world import loading

OF_EXPERIMENTS = (
    "record",
    "encode",
    "train",
    "generate",
    "evaluate",
    "bench",
    "compile",
    "quickstart",
)


@pytest.mark.parametrize(
    ("field", "words"),
    [
        # Lengths and sizes.
        ("record.frames=32", "found 32, expected 1 + 16 n and at least 33, for example 33"),
        ("record.frames=17", "found 17, expected 1 + 16 n and at least 33"),
        ("record.size=30", "found 30, expected a multiple of 16"),
        ("record.size=1", "found 1, expected a multiple of 16"),
        ("record.size=0", "found 0, expected >= 1"),
        ("record.width=72", "found 72, expected a multiple of 16"),
        ("chunk_frames=18", "found 18, expected 1 + 4 n"),
        ("chunk_frames=1", "found 1, expected >= 5"),
        ("vae_training.pixels=128", "found 128, expected a multiple of 8 up to 64"),
        ("vae_training.pixels=20", "found 20, expected a multiple of 8 up to 64"),
        ("denoiser_training.preceding=33", "found 33, expected 0 or 1 + 4 n up to 16"),
        ("denoiser_training.preceding=8", "found 8, expected 0 or 1 + 4 n up to 16"),
        ("loading.window=17", "found 17, expected 0 with latents='cached'"),
        ("loading.fps=5.0", "found 5.0, expected 0 with latents='cached'"),
        ("loading.latents=film", "found 'film', expected 'cached' or 'video'"),
        # Counts.
        ("loading.weights=(1,2)", "found 2, expected one for each of the 3 worlds"),
        ("loading.weights=(1,0)", "found (1, 0), expected > 0"),
        ("loading.skip_share=1.0", "found 1.0, expected >= 0 and < 1"),
        ("record.train_clips.labmaze=0", "found 0, expected a number >= 1"),
        ("record.eval_clips=0", "found 0, expected >= 1"),
        ("record.workers=-1", "found -1, expected >= 0"),
        ("record.shard_clips=0", "found 0, expected >= 1"),
        ("record.gamma=nan", "found nan, expected a finite number"),
        ("worlds=()", "found none, expected one at least"),
        ("denoiser_training.batch_size=0", "found 0, expected >= 1"),
        ("vae_training.batch_size=0", "found 0, expected >= 1"),
        ("geometry_training.accumulate=0", "found 0, expected >= 1"),
        ("host_devices=0", "found 0, expected >= 1"),
        ("seed=99999999999999999999", "found 99999999999999999999, expected >= 0 and <= 42949"),
        ("seed=-1", "found -1, expected >= 0"),
        ("record.seed=99999999999999999999", "found 99999999999999999999, expected >= 0"),
        # What would reach the maths.
        ("denoiser_training.clip_norm=-1.0", "found -1.0, expected >= 0"),
        ("denoiser_training.ema_decay=1.5", "found 1.5, expected >= 0 and < 1"),
        ("denoiser_training.drop_memory=1.5", "found 1.5, expected >= 0 and <= 1"),
        ("denoiser_training.learning_rate=nan", "found nan, expected a finite number"),
        ("denoiser_training.shift=inf", "found inf, expected a finite number"),
        ("sampling.shift=inf", "found inf, expected a finite number"),
        ("sampling.steps=0", "found 0, expected >= 1"),
        ("sampling.method=heum", "found 'heum', expected 'euler' or"),
        ("sky_depth=nan", "found nan, expected a finite number"),
        ("denoiser_training.pose_noise=-0.1", "found -0.1, expected >= 0"),
        ("guard.spike=nan", "found nan, expected a finite number"),
        # Modules.
        ("vae.latent_channels=0", "found 0, expected >= 1"),
        ("vae.width_mults=(1,2)", "config.vae.temporal_downsample: found 2 entries, expected 1"),
        ("geometry.layers=-1", "found -1, expected >= 0"),
        ("denoiser.heads=5", "found 5, expected a divisor of width 192"),
        ("denoiser.patch=(2,2,2)", "found 2 latents in a token, expected a divisor of the 5"),
        ("denoiser.branch_layers=(9,)", "found (9,), expected increasing numbers in 0..5"),
        ("denoiser.attention_backend=flash", "found 'flash', expected one of auto, xla"),
        ("memory.conditioner=sight", "found 'sight', expected 'folded' or"),
        ("memory.conditioner=rgb", "found 'rgb', expected 'folded' or 'surfels' or 'visibility'"),
        ("vae.linear_path=False", "config.memory.conditioner: found 'surfels' with vae.linear"),
        ("memory.footprint=2", "found 2, expected an odd number"),
        ("memory.reads=3", "found 3, expected 1 or 2 or 4"),
        ("mesh.data=0", "found 0, expected >= 1 or -1"),
        ("mesh.fsdp=-1", "config.mesh.fsdp: found a second -1, expected one at most"),
        ("rules=most", "found 'most', expected 'data' or 'fsdp'"),
        ("loader_workers=-1", "found -1, expected >= 0"),
        ("evaluation.fps=inf", "found inf, expected a finite number"),
        ("evaluation.videos=0", "found 0, expected >= 1"),
        ("compile.text_tokens=0", "found 0, expected >= 1"),
    ],
)
def test_a_field_out_of_range_is_refused_before_training(call, tmp_path, field, words):
    name = words.split(":")[0] if words.startswith("config.") else f"config.{field.split('=')[0]}"
    assert_refused(call("train", f"--config.{field}"), f"{name}: ", words)
    assert not list((tmp_path / "run").iterdir())


@pytest.mark.parametrize("field", ["lora.alpha=nan", "lora.alpha=0.0", "lora.rank=0"])
def test_an_adapter_that_cannot_be_is_refused(call, field):
    experiment = common.DEFAULT_CONFIG.replace("quickstart", "wan22_5b_joint")
    found = call("train", f"--config={experiment}", "--config.tiny=true", f"--config.{field}")
    assert_refused(found, f"config.{field.split('=')[0]}: found")


@pytest.mark.parametrize("command", OF_EXPERIMENTS)
def test_every_command_checks_the_whole_config_first(call, tmp_path, command):
    field = "sampling.shift" if command == "record" else "record.gamma"  # of another's section
    assert_refused(call(command, f"--config.{field}=-1.0"), f"config.{field}: found -1.0")
    assert not list((tmp_path / "run").glob("*"))


@pytest.mark.parametrize("flag", ["--fps=inf", "--cfg_scale=nan", "--angle=inf", "--max_depth=nan"])
def test_a_flag_that_is_not_finite_is_refused_by_name(call, flag):
    name, value = flag.split("=")
    found = call("generate", "--image=a.png", flag)
    assert_refused(found, f"{name}: found {value}, expected a finite number")


def test_help_says_what_flags_and_fields_mean_and_may_be(call):
    _, out, _ = call("generate", "--help")
    assert "the clip or the world. (> 0.01 and < 1000) (default: 10.0)" in out
    assert "record.frames = 33  # Of a clip, 1 + n (chunk_frames - 1), n at least 2. (>= 1)" in out
    lines = out.split("overridden as --config.NAME=VALUE:")[1].strip().splitlines()
    bare = {line.split(" = ")[0].strip() for line in lines if "  # " not in line}
    assert {name for name in bare if "train_clips" not in name} == set()


# -- files that are there already ------------------------------------------------------------------


@pytest.mark.parametrize("command", OF_EXPERIMENTS)
def test_a_work_directory_that_cannot_be_is_refused(call, tmp_path, command):
    (tmp_path / "file").write_text("theirs")
    found = call(command, f"--workdir={tmp_path / 'file' / 'run'}")
    assert_refused(found, f"--workdir {tmp_path / 'file' / 'run'}: {tmp_path / 'file'} is no folde")
    assert_refused(call(command, f"--workdir={tmp_path / 'file'}"), "file is no folder")


@pytest.mark.parametrize(
    ("command", "name"),
    [
        ("evaluate", "results.json"),
        ("evaluate", "report.html"),
        ("evaluate", "returns_labmaze_1.png"),
        ("evaluate", "seconds.json"),
        ("quickstart", "report.html"),
        ("quickstart", "seconds.json"),
        ("bench", "bench_memory.json"),
        ("record", "worlds/skipped.json"),
        ("record", "worlds/procedural/train-00000-of-00001.array_record"),
        ("record", "worlds/procedural/eval-00000-of-00007.array_record"),
        ("record", "worlds/procedural/eval.png"),
        ("record", "worlds/procedural/dataset.json"),
        ("record", "worlds/procedural"),
        ("train", "model/encoder/model.safetensors"),
        ("train", "model/denoiser_latent/architecture.json"),
        ("train", "training/geometry"),
        ("quickstart", "model/geometry/model.safetensors"),
    ],
)
def test_a_file_of_another_program_stays_as_it_was(call, tmp_path, monkeypatch, command, name):
    path = tmp_path / "run" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(b'{"name": ["theirs"]}')
    for module, attribute in ((recording, "record"), (evaluate, "_measure"), (train, "_encoder")):
        monkeypatch.setattr(module, attribute, pytest.fail)
    code, _, err = call(command, "--config.tiny=true")
    assert_refused((code, "", err), str(path))
    assert path.read_bytes() == b'{"name": ["theirs"]}'
    files = [found for found in (tmp_path / "run").rglob("*") if found.is_file()]
    assert files == [path]


def test_our_own_files_may_be_replaced(tmp_path):
    (tmp_path / "seconds.json").write_text(json.dumps({"record": 3.5}))
    (tmp_path / "results.json").write_text(json.dumps({"must": [], "missing": [], "worlds": {}}))
    evaluate.check_outputs(timing.Workdir(tmp_path))
    (tmp_path / "skipped.json").write_text(json.dumps({"freedoom": "no engine"}))
    assert record._SKIPPED.is_ours(tmp_path / "skipped.json")


def test_timings_of_networks_replace_no_other_file(capsys, monkeypatch, tmp_path):
    from absl.testing import flagsaver
    from rich.console import Console

    from mirage_jax.cli.helpers import bench_networks

    monkeypatch.setattr(network_costs, "measure", pytest.fail)
    package, folder = tmp_path / "package.json", tmp_path / "folder.json"
    package.write_text('{"name": "theirs"}')
    folder.mkdir()
    flags.FLAGS.mark_as_parsed()
    for path, words in ((package, "is no file of timings"), (folder, "that is a folder")):
        with flagsaver.flagsaver(json=str(path)), pytest.raises(ValueError, match=words):
            bench_networks.run("vae", Console(quiet=True))
    assert package.read_text() == '{"name": "theirs"}'


# -- inputs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(33, 16, 32), (17, 32, 32), (49, 32, 32)])
def test_recordings_of_another_size_or_length_are_refused(call, tmp_path, monkeypatch, shape):
    folder = tmp_path / "run" / "worlds" / "procedural"
    folder.mkdir(parents=True)
    split = dict(zip(("frames", "height", "width"), shape, strict=True))
    (folder / "dataset.json").write_text(json.dumps({"splits": {"train": split, "eval": split}}))
    monkeypatch.setattr(train, "_encoder", pytest.fail)
    frames, height, width = shape
    words = f"{folder}: found train clips of {frames} frames of {height} x {width} pixels, expected"
    for command in ("train", "evaluate"):
        found = call(command, "--config.tiny=true")
        assert_refused(found, words, "33 frames of 32 x 32 pixels as config.record says")


@pytest.mark.parametrize(
    ("field", "words"),
    [
        ("text.embeddings=a.safetensors", "text.prompts: found none for 'procedural', expected"),
        ("geometry_training.init_from=none", "config.geometry_training.init_from: none: no such"),
        ("denoiser_training.trained=branch", "denoiser_training.pretrained: found none, expected"),
        ("vae_training.pretrained=true", "model/encoder: no model.safetensors there"),
        ("denoiser_training.batch_size=3", "batch_size: found 3, expected a multiple of 2"),
    ],
)
def test_what_the_last_stage_needs_is_looked_for_before_the_first(call, monkeypatch, field, words):
    monkeypatch.setattr(recording, "record", pytest.fail)
    tiny = ("--config.tiny=true", "--config.denoiser_training.accumulate=2")
    for command in ("train", "quickstart"):
        found = call(command, *tiny, f"--config.{field}")
        assert_refused(found, words)


def test_an_encoder_that_was_converted_is_not_trained_over(call, trained):
    path = trained.model("encoder")
    weights = (path / "model.safetensors").read_bytes()
    (path / "model.safetensors").write_bytes(_without_spread(weights))
    found = call("train", f"--workdir={trained.root}", "--config.tiny=true")
    assert_refused(found, f"{path}: found an encoder that was converted", "pretrained=true")


def _without_spread(data):
    """The same weights, with the architecture that `mirage convert` gives an encoder."""
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    made = header["__metadata__"]
    made["architecture"] = json.dumps({**json.loads(made["architecture"]), "spread": []})
    text = json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data[8 + length :]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--frames=10"], "--frames of look_away: found 10 poses, expected 1 + 16 n"),
        (["--trajectory=lookaway"], "did you mean 'look_away'"),
        (["--trajectory=none.npz"], "--trajectory: none.npz: no such file"),
        (["--depth=none.npy"], "--depth: none.npy: no such file"),
        (["--depth_model=none.safetensors"], "--depth_model: none.safetensors: no such file"),
        (["--text=none.safetensors"], "--text: none.safetensors: no such file"),
        (["--tokenizer=none.json"], "--tokenizer: none.json: no such file"),
        (["--text_encoder=none"], "--text_encoder: none: no such file"),
        (["--image=none.png"], "--image: none.png: no such file"),
        (["--image=bad.png"], "bad.png: not a picture"),
        (["--with=steps=0"], "preset: steps: found 0, expected >= 1"),
        (["--save_text=theirs"], "theirs is there already and is no file of text embeddings"),
        (["--save_text=photo.png"], "found photo.png, which --image reads"),
        (["--out=theirs.mp4"], "theirs.mp4 is there already and is no video that mirage_jax wrot"),
        (["--out=other.mp4"], "other.json is there already and is no record of a rollout"),
        (["--out=third.mp4"], "third.world is there already and is no saved world"),
    ],
)
def test_generate_looks_at_everything_before_it_reads_weights(
    call, trained, monkeypatch, arguments, words
):
    from PIL import Image

    monkeypatch.chdir(trained.root)
    monkeypatch.setattr(loading, "load", pytest.fail)
    Image.new("RGB", (8, 8)).save("photo.png")
    theirs = ["bad.png", "theirs", "theirs.mp4", "other.json", "third.world"]
    for name in theirs:
        (trained.root / name).write_text("theirs")
    tiny = [f"--workdir={trained.root}", "--config.tiny=true", "--image=photo.png"]
    assert_refused(call("generate", *tiny, *arguments), words)
    assert {(trained.root / name).read_text() for name in theirs} == {"theirs"}


# -- the home directory ----------------------------------------------------------------------------


def test_the_home_directory_is_found_in_flags_and_fields(call, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    seen = []
    monkeypatch.setattr(evaluate, "run", lambda config, workdir, _: seen.append((config, workdir)))
    says = config_sections.field_meanings()
    a_file = re.compile(r"(File|Folder|Run or export|Export|Depth Anything)\b")
    named = {name for name, text in says.items() if a_file.match(text)}
    assert len(named) == 14
    for path in EXPERIMENTS.glob("*.py"):
        (tmp_path / path.name).write_text(path.read_text())
    for experiment in ("distill", "footage"):
        known = set(common._fields(common.load_config(f"{tmp_path}/{experiment}.py")))
        names = sorted(named & known)
        fields = [f"--config.{name}=~/a/b" for name in names]
        found = call("evaluate", f"--config=~/{experiment}.py", "--workdir=~/there", *fields)
        assert found[0] == 0, found[2]
        config, workdir = seen.pop()
        assert workdir.root == tmp_path / "there"
        for name in names:
            section, field = name.split(".")
            assert config[section][field] == str(tmp_path / "a/b"), name
        named -= known
    assert not named
