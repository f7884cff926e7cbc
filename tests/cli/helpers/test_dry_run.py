"""mirage train --dry_run: for every experiment, with nothing recorded and nothing trained."""

import io
import re
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import flagsaver
from rich.console import Console

from helpers import paths, tiny_world
from mirage_jax.cli import train
from mirage_jax.cli.helpers import build, common, dry_run, programs, starts
from mirage_jax.io.text import TextEmbeddings, save_embeddings
from mirage_jax.io.workdir import Workdir
from mirage_jax.training.task import parameter_count

ROOT = paths.ROOT
EXPERIMENTS = sorted(p for p in (ROOT / "experiments").glob("*.py") if p.name != "__init__.py")


def tiny(path, **changes):
    config = common.load_config(str(path))
    for name, value in (*config.tiny_overrides, *changes.items()):
        common._set_dotted(config, name.replace("__", "."), value)
    return config


def shown(config, workdir, stages=train.STAGES, memory="latent"):
    console = Console(record=True, file=io.StringIO(), width=200)
    dry_run.run(config, Workdir(workdir), console, stages, memory=memory)
    return console.export_text()


class Untraced(tiny_world.stand_in(jax.stages.Traced)):
    """Stands for a step: tracing and compiling take most of the time, and one test does both."""

    jaxpr = jax.make_jaxpr(lambda x: x @ x)(jnp.ones((5, 5)))

    def lower(self):
        return self

    def compile(self):
        return self

    def memory_analysis(self):
        return None


@pytest.fixture
def described(tmp_path, monkeypatch, capsys):
    """What `mirage train --dry_run` prints with these arguments; leaves the batches in `.batches`.

    Nothing is traced or compiled.
    """
    monkeypatch.setattr(common, "prepare_jax", lambda *_, **__: None)

    def trace(advance, state, batch, *_):
        run.batches.append(batch)
        return Untraced()

    monkeypatch.setattr(programs.states, "trace_step", trace)

    def run(path, *arguments):
        argv = ["mirage train", f"--config={path}", f"--workdir={tmp_path / 'run'}", "--dry_run"]
        # Overrides of config fields are looked up in sys.argv.
        monkeypatch.setattr(sys, "argv", [*argv, *arguments])
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as leave:
            common.run(train.main, train.__name__)
        out, err = capsys.readouterr()
        assert not leave.value.code, err
        return out

    run.batches = []
    return run


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_is_described(path, described, tmp_path):
    config = tiny(path)
    text = described(path, "--config.tiny=true", "--config.seed=7")
    positions = [text.index(f"\n{stage}: ") for stage in train.STAGES]
    assert positions == sorted(positions)
    assert f"\nconfig {path}, tiny variant; seed = 7 (was 0), tiny = True (was False) by" in text
    assert f"data {config.worlds[0]}: train 0 clips recorded, 0 encoded" in text
    assert re.search(r"\n  blocks/\S+/kernel +\d+x\d+\S* +b?float\d+ +\S+ +[\d,]+\n", text)
    trained = bool(config.vae_training.steps)
    further = [stage for stage in train.stages(config) if stage not in train.STAGES]
    assert text.count("a step takes 250FLOP in matrix products\n") == 2 + trained + len(further)
    assert ("encoder: not trained, taken with its linear path alone" in text) != trained
    frozen = build.trained(config) != "all"
    assert ("parameters frozen" in text) == (frozen or bool(further))
    scratch = 1 + trained + (not frozen) + ("tiny_decoder" in further)
    assert text.count("\nstarts from scratch\n") == scratch
    teacher = tmp_path / "run" / "model" / "denoiser_latent"
    line = f"\nstarts as its teacher {teacher} (not there yet)\n"
    assert (line in text) == ("distill" in further)
    student = tmp_path / "run" / "model" / "denoiser_student"
    line = f"\nstarts as the student {student} (not there yet); its critic"
    assert (line in text) == ("match" in further)
    assert ("\nstarts from the pretrained denoiser random\n" in text) == frozen
    # It looks and does not touch.
    assert not list((tmp_path / "run").iterdir())


def test_a_pretrained_model_at_its_own_size(described, tmp_path):
    path = ROOT / "experiments" / "wan22_5b_memory.py"
    text = described(path, "--config.mesh.fsdp=1")
    encoder = tmp_path / "run" / "model" / "encoder"
    assert f"\nencoder: not trained, read from {encoder} (not there yet)\n" in text
    assert "starts from the pretrained denoiser exports/wan (not there yet)\n" in text
    assert 'trains without text (text.embeddings = "")\n' in text
    assert "mesh.fsdp = 1 (was -1) by the command line\n" in text
    denoiser = described.batches[-1]
    assert "text" not in denoiser and denoiser["chunks"].shape == (64, 2, 9, 44, 80, 48)
    encoder.mkdir(parents=True)
    text = described(path, "--stage=encoder")
    assert f"read from {encoder}\n" in text and "; no field by the command line\n" in text


def test_text_is_of_the_length_of_the_embeddings(tmp_path):
    file = tmp_path / "text.safetensors"
    config = tiny(ROOT / "experiments" / "wan22_5b_memory.py", text__embeddings=str(file))
    assert starts.text(config) == (None, f"text embeddings from {file} (not there yet)")
    prompts = tuple(config.text.prompts.values())
    tokens = np.ones((len(prompts), 5, 24), np.float32)
    save_embeddings(file, TextEmbeddings(prompts, tokens, np.full(len(prompts), 5, np.int32)))
    line = f"text embeddings from {file}: 5 tokens for each of 1 worlds"
    assert starts.text(config) == (5, line)
    assert dry_run._denoiser(config, "latent")[2]["text"].shape == (4, 5, 24)


def test_where_a_stage_goes_on_from(tmp_path):
    config = tiny(ROOT / "experiments" / "wan22_5b_memory.py")
    workdir = Workdir(tmp_path)

    def start(stage, memory="latent"):
        return starts.start(config, workdir, stage, memory, 20)

    assert start("geometry") == "starts from scratch"
    config.geometry_training.init_from = "runs/other"
    expected = "starts from the tensors of the same name in runs/other (not there yet)"
    assert start("geometry") == expected
    for name, step in (("geometry", 5), ("geometry", 20), ("denoiser_latent", 10)):
        (workdir.stage(name) / "checkpoints" / str(step)).mkdir(parents=True)
    folder = workdir.stage("geometry") / "checkpoints"
    assert start("geometry") == f"nothing to train, has step 20 in {folder}"
    folder = workdir.stage("denoiser_latent") / "checkpoints"
    expected = f"goes on from step 10 in {folder}; frozen weights of random"
    assert start("denoiser") == expected
    assert start("denoiser", "none") == "starts from the pretrained denoiser random"
    aside = workdir.stage("denoiser_none") / "damaged_checkpoints"
    (aside / "10-20260101-000000").mkdir(parents=True)
    expected = f"does not start: only {aside} is left (config.start_over)"
    assert start("denoiser", "none") == expected
    config.start_over = True
    assert start("denoiser", "none") == "starts from the pretrained denoiser random"


def test_what_is_printed_is_what_is_compiled(tmp_path):
    config = tiny(ROOT / "experiments" / "quickstart.py", geometry_training__accumulate=2)
    text = shown(config, tmp_path, ("geometry",))
    assert "mesh data=1 fsdp=1 context=1 tensor=1, rules 'full'" in text
    assert "geometry: 4 steps of 4 clips in 2 parts, adamw, cosine from 0.003" in text
    _, task, batch = dry_run._geometry(config, "latent")
    count = parameter_count(jax.eval_shape(lambda: task.init(jax.random.key(0))))
    assert f"{count:,} parameters trained, 100% of their bytes on every device" in text
    assert re.search(r"\n  maps/kernel +(\d+x)+4 +float32 +repeated +[\d,]+\n", text)
    found = re.search(r"GiB on a device \(arguments (\S+), temporaries (\S+)\)", text)
    # Parameters, two moments, an average, and the batch but for the poses, which no loss here uses.
    used = {name: leaf for name, leaf in batch.items() if name != "cam2world"}
    expected = 4 * 4 * count + 4 * parameter_count(used)
    assert float(found[1]) * 2**30 == pytest.approx(expected, rel=0.02)
    config.geometry_training.batch_size = 5
    with pytest.raises(ValueError, match="geometry: found batch_size 5, expected a multiple of 2"):
        shown(config, tmp_path, ("geometry",))
