"""Whether bodies are kept: as the command line says, or else as the weights do."""

import sys

import pytest
from absl import flags
from absl.testing import flagsaver

from helpers import paths, tiny_world
from mirage_jax.cli.helpers import build, model_flags
from mirage_jax.cli.helpers.common import load_config
from mirage_jax.io.workdir import Workdir
from mirage_jax.world.bodies import with_bodies
from mirage_jax.world.conditioners import Surfels

QUICKSTART = str(paths.EXPERIMENTS / "quickstart.py")
PLAIN = tiny_world.world_model(told=Surfels(tiny_world.CHANNELS, tiny_world.STRIDE))


@pytest.mark.parametrize("stored", [PLAIN, with_bodies(PLAIN)], ids=["without", "with"])
@pytest.mark.parametrize(
    ("words", "said"),
    [
        ((), None),
        (("--bodies",), True),
        (("--bodies=false",), False),
        (("--config.memory.bodies=true",), True),
        (("--config.memory.bodies=false",), False),
        (("--config.memory.bodies=false", "--bodies"), True),
        (("--config.memory.capacity=9",), None),
    ],
)
def test_the_command_line_goes_before_the_weights(monkeypatch, tmp_path, stored, words, said):
    monkeypatch.setattr(build, "world_model", lambda *_: stored)
    config, workdir = load_config(QUICKSTART), Workdir(tmp_path)
    line = ["mirage", f"--config={QUICKSTART}", *words]
    monkeypatch.setattr(sys, "argv", line)  # where fields of configs are looked for
    with flagsaver.flagsaver():
        flags.FLAGS(line)
        assert model_flags.bodies() is said
        model = model_flags.world_model(workdir, "latent", config)
        other = model_flags.world_model(workdir, "rgb", config)
    kept = stored.movers is not None if said is None else said
    assert (model.movers is not None) == model.conditioner.movers == kept
    assert other is stored  # what others are compared with is as it was trained
    assert model_flags.as_encoded(model, config).movers is None
    config.memory.movers = True
    assert model_flags.as_encoded(model, config) is model
