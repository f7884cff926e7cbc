"""mirage train --dry_run: for every experiment, with nothing recorded and nothing trained."""

import functools
import io
import re
from pathlib import Path

import jax
import pytest
from rich.console import Console

from mirage_jax.cli import build, common, dry_run, programs, train
from mirage_jax.layout import Layout
from mirage_jax.training.task import parameter_count

ROOT = Path(__file__).parents[2]
EXPERIMENTS = sorted(p for p in (ROOT / "experiments").glob("*.py") if p.name != "__init__.py")


def tiny(path, **changes):
    config = common.load_config(str(path))
    for name, value in (*config.tiny_overrides, *changes.items()):
        common._set_dotted(config, name.replace("__", "."), value)
    return config


def shown(config, workdir, stages=train.STAGES, memory="latent"):
    console = Console(record=True, file=io.StringIO(), width=200)
    dry_run.run(config, Layout(workdir), console, stages, memory=memory)
    return console.export_text()


class Uncompiled:
    """Lowering and compiling take most of the time, and one test does both."""

    def compile(self):
        return self

    def memory_analysis(self):
        return None


@pytest.fixture
def uncompiled(monkeypatch):
    monkeypatch.setattr(jax.stages.Traced, "lower", lambda self: Uncompiled())


def test_every_stage_is_described_in_order(uncompiled, tmp_path):
    config = tiny(ROOT / "experiments" / "quickstart.py")
    text = shown(config, tmp_path / "nowhere")
    positions = [text.index(f"\n{stage}: ") for stage in train.STAGES]
    assert positions == sorted(positions)
    assert text.count("FLOP in matrix products") == 3 and "frozen" not in text
    assert f"data {config.worlds[0]}: train 0 clips recorded, 0 encoded" in text
    # It looks and does not touch.
    assert not (tmp_path / "nowhere").exists()


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_the_denoiser_of_every_experiment_is_described(path, uncompiled, tmp_path):
    config = tiny(path)
    text = shown(config, tmp_path, ("denoiser",))
    assert re.search(r"\n  blocks/\S+/kernel +\d+x\d+\S* +float32 +\S+ +[\d,]+\n", text)
    assert re.search(r"FLOP in matrix products\n", text)
    assert ("parameters frozen" in text) == (build.trained(config) != "all")


def test_a_comparison_is_described_too(uncompiled, tmp_path):
    text = shown(tiny(ROOT / "experiments" / "quickstart.py"), tmp_path, ("denoiser",), "rgb")
    assert "denoiser: 4 steps of 4 clips in 1 parts" in text


@pytest.fixture
def fast_compilation():
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


def test_what_is_printed_is_what_is_compiled(fast_compilation, tmp_path):
    config = tiny(ROOT / "experiments" / "quickstart.py", denoiser_training__accumulate=2)
    text = shown(config, tmp_path, ("denoiser",))
    assert "mesh data=1 fsdp=1 context=1 tensor=1, rules 'full'" in text
    assert "denoiser: 4 steps of 4 clips in 2 parts, adamw, cosine from 0.0015" in text
    task = programs.denoiser_task(config, "latent")
    count = parameter_count(jax.eval_shape(functools.partial(task.init, jax.random.key(0))))
    assert f"{count:,} parameters trained" in text
    row = re.search(r"blocks/block/mlp_in/kernel +2x48x96 +float32 +(\S+) +([\d,]+)\n", text)
    assert row.groups() == ("repeated", f"{2 * 48 * 96 * 4:,}")
    found = re.search(r"GiB on a device \(arguments (\S+), temporaries (\S+)\)", text)
    # Parameters, two moments, an average, and a small batch.
    assert 1 < float(found[1]) * 2**30 / (4 * 4 * count) < 1.2
    config.denoiser_training.batch_size = 5
    with pytest.raises(ValueError, match="denoiser: found batch_size 5, expected a multiple of 2"):
        shown(config, tmp_path, ("denoiser",))
