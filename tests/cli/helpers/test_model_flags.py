"""What runs, the teacher or its student, and whether bodies are kept: as the command line says."""

import dataclasses
import sys

import pytest
from absl import flags
from absl.testing import flagsaver

from helpers import paths, tiny_world
from mirage_jax.cli.helpers import build, model_flags
from mirage_jax.cli.helpers.common import UserError, load_config
from mirage_jax.io.workdir import Workdir
from mirage_jax.memory.movers import MoverOptions
from mirage_jax.world.bodies import with_bodies
from mirage_jax.world.conditioners import Surfels
from mirage_jax.world.options import SamplerOptions

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


@pytest.mark.parametrize(
    ("words", "persistence"),
    [((), 3.0), (("--config.movers.persistence=2",), 2.0)],
)
def test_the_config_says_how_bodies_are_kept(monkeypatch, tmp_path, words, persistence):
    monkeypatch.setattr(build, "world_model", lambda *_: PLAIN)
    config, workdir = load_config(QUICKSTART), Workdir(tmp_path)
    assert build.mover_options(config) == MoverOptions()
    config.movers.persistence = 3.0
    line = ["mirage", f"--config={QUICKSTART}", "--bodies", *words]
    monkeypatch.setattr(sys, "argv", line)
    with flagsaver.flagsaver():
        flags.FLAGS(line)
        made = model_flags.applied(PLAIN, workdir).movers
        told = model_flags.world_model(workdir, "latent", config).movers
    assert told == MoverOptions(persistence=persistence)
    assert made == (MoverOptions() if not words else told)


def test_numbers_of_bodies_go_with_bodies_alone(monkeypatch, tmp_path):
    line = ["mirage", f"--config={QUICKSTART}", "--config.movers.slots=2"]
    monkeypatch.setattr(sys, "argv", line)
    with flagsaver.flagsaver():
        flags.FLAGS(line)
        with pytest.raises(ValueError, match=r"movers.slots: found it .*\(--bodies\)"):
            model_flags.applied(PLAIN, Workdir(tmp_path))


@pytest.mark.parametrize("name", ["latent", "student", "rgb"])
def test_the_student_takes_the_place_of_its_teacher(monkeypatch, tmp_path, name):
    config, workdir, asked = load_config(QUICKSTART), Workdir(tmp_path), []
    monkeypatch.setattr(build, "world_model", lambda _, memory, __: asked.append(memory) or PLAIN)
    line = ["mirage", f"--config={QUICKSTART}", f"--denoiser={name}"]
    monkeypatch.setattr(sys, "argv", line)
    with flagsaver.flagsaver():
        flags.FLAGS(line)
        if name == "rgb":  # which is scored beside it where it is trained
            with pytest.raises(UserError, match="found 'rgb', expected latent or student"):
                model_flags.world_model(workdir, "latent", config)
            return
        for memory in ("latent", "none"):
            model_flags.world_model(workdir, memory, config)
    assert asked == [name, "none"]


def test_a_student_says_itself_how_it_is_sampled(monkeypatch, tmp_path):
    config, workdir = load_config(QUICKSTART), Workdir(tmp_path)
    own = SamplerOptions(steps=3, method="consistency")
    stored = PLAIN.replace(conditioner=build.conditioner(config), sampler=own)
    monkeypatch.setattr(build.loading, "load", lambda path, *, memory: stored)
    for part in ("encoder", "geometry", "denoiser_latent", "denoiser_student"):
        workdir.model(part).mkdir(parents=True)
    student = build.world_model(workdir, build.STUDENT, config)
    teacher = build.world_model(workdir, "latent", config)
    assert student.sampler == own and teacher.sampler == build.sampler(config) != own
    expected = dataclasses.replace(build.memory_options(config), sky_depth=PLAIN.memory.sky_depth)
    assert student.memory == teacher.memory == expected
