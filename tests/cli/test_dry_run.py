"""mirage train --dry_run: for every experiment, with nothing recorded and nothing trained."""

import io
import re
from pathlib import Path

import jax
import jax.numpy as jnp
import pytest
import tiny_world
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


class Untraced(tiny_world.stand_in(jax.stages.Traced)):
    """Stands for a step: tracing and compiling take most of the time, and one test does both."""

    jaxpr = jax.make_jaxpr(lambda x: x @ x)(jnp.ones((5, 5)))

    def lower(self):
        return self

    def compile(self):
        return self

    def memory_analysis(self):
        return None


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_is_described(path, monkeypatch, tmp_path):
    monkeypatch.setattr(programs.states, "trace_step", lambda *_: Untraced())
    config = tiny(path)
    text = shown(config, tmp_path / "nowhere")
    positions = [text.index(f"\n{stage}: ") for stage in train.STAGES]
    assert positions == sorted(positions)
    assert f"data {config.worlds[0]}: train 0 clips recorded, 0 encoded" in text
    assert re.search(r"\n  blocks/\S+/kernel +\d+x\d+\S* +b?float\d+ +\S+ +[\d,]+\n", text)
    assert text.count("a step takes 250FLOP in matrix products\n") == 3
    assert ("parameters frozen" in text) == (build.trained(config) != "all")
    # It looks and does not touch.
    assert not (tmp_path / "nowhere").exists()


def test_what_is_printed_is_what_is_compiled(tmp_path):
    config = tiny(ROOT / "experiments" / "quickstart.py", geometry_training__accumulate=2)
    text = shown(config, tmp_path, ("geometry",))
    assert "mesh data=1 fsdp=1 context=1 tensor=1, rules 'full'" in text
    assert "geometry: 4 steps of 16 clips in 2 parts, adamw, cosine from 0.002" in text
    _, task, batch = dry_run._geometry(config, "latent")
    count = parameter_count(jax.eval_shape(lambda: task.init(jax.random.key(0))))
    assert f"{count:,} parameters trained, 100% repeated" in text
    assert re.search(r"\n  maps/kernel +(\d+x)+4 +float32 +repeated +[\d,]+\n", text)
    found = re.search(r"GiB on a device \(arguments (\S+), temporaries (\S+)\)", text)
    # Parameters, two moments, an average, and the batch but for the poses, which no loss here uses.
    used = {name: leaf for name, leaf in batch.items() if name != "cam2world"}
    expected = 4 * 4 * count + 4 * parameter_count(used)
    assert float(found[1]) * 2**30 == pytest.approx(expected, rel=0.02)
    config.geometry_training.batch_size = 5
    with pytest.raises(ValueError, match="geometry: found batch_size 5, expected a multiple of 2"):
        shown(config, tmp_path, ("geometry",))
