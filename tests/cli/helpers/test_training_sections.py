"""Training sections of every experiment: all fields known, and refused by name if out of range."""

import pytest
from rich.console import Console

from helpers import paths
from mirage_jax.cli import train
from mirage_jax.cli.helpers import common, training_sections
from mirage_jax.io.workdir import Workdir

EXPERIMENTS = sorted(
    p for p in (paths.ROOT / "experiments").glob("*.py") if p.name != "__init__.py"
)


def load(path, tiny=False):
    config = common.load_config(str(path))
    for name, value in config.tiny_overrides if tiny else ():
        common._set_dotted(config, name, value)
    return config


@pytest.mark.parametrize("tiny", [True, False], ids=["tiny", "real"])
@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda path: path.stem)
def test_every_experiment_is_in_range_and_leaves_nothing_to_defaults(path, tiny):
    config = load(path, tiny)
    training_sections.check(config)
    for stage in training_sections.stages(config):
        section = training_sections.OF_STAGE[stage](config)
        name = "vae_training" if stage == "encoder" else f"{stage}_training"
        assert vars(section) == config[name].to_dict()


def test_settings_of_the_loop_come_from_the_section_and_from_all():
    config = load(EXPERIMENTS[0])
    config.save_every, config.profile_steps, config.guard.spike = 7, (3, 4), 5.0
    config.geometry_training.accumulate = 2
    found = training_sections.loop(config, training_sections.geometry(config))
    assert (found.save_every, found.profile_steps, found.guard.spike) == (7, (3, 4), 5.0)
    assert (found.accumulate, found.steps) == (2, config.geometry_training.steps)
    assert found.ema_decay == config.geometry_training.ema_decay


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("denoiser_training.learning_rate", -1.0, "found -1.0, expected > 0"),
        ("denoiser_training.trained", "brunch", "found 'brunch', expected 'all' or 'branch' or"),
        ("denoiser_training.betas", (0.9, 1.0), r"found \(0.9, 1.0\), expected >= 0 and < 1"),
        ("geometry_training.steps", 0, "found 0, expected >= 1"),
        ("vae_training.kl_weight", -1e-4, "found -0.0001, expected >= 0"),
        ("vae_training.optimizer", "adam", "found 'adam', expected 'adamw' or"),
        ("loader_workers", -1, "found -1, expected >= 0"),
        ("log_every", 0, "found 0, expected >= 1"),
        ("profile_steps", (5, 2), r"found \(5, 2\), expected 1 <= first <= last"),
        ("guard.patience", 0, "found 0, expected >= 1"),
        ("guard.spike", 0.5, "found 0.5, expected 0 or more than 1"),
    ],
)
def test_a_value_out_of_range_is_refused_by_name_before_anything_runs(
    name, value, message, tmp_path
):
    config = load(paths.ROOT / "experiments" / "quickstart.py")
    common._set_dotted(config, name, value)
    with pytest.raises(ValueError, match=f"^config.{name}: {message}"):
        train.run(config, Workdir(tmp_path), Console(quiet=True), "all")
    assert not list(tmp_path.iterdir())


def test_a_pretrained_model_and_parameters_of_another_run_exclude_each_other():
    config = load(paths.ROOT / "experiments" / "wan22_5b_memory.py")
    config.denoiser_training.init_from = "runs/other"
    message = "config.denoiser_training.init_from: found 'runs/other', expected none beside trained"
    with pytest.raises(ValueError, match=message):
        training_sections.check(config)


def test_a_field_that_no_section_has_is_refused():
    config = load(paths.ROOT / "experiments" / "quickstart.py")
    config.denoiser_training.learning_rat = 1.0
    with pytest.raises(
        ValueError, match=r"config\.denoiser_training\.learning_rat: found 1.0, exp"
    ):
        training_sections.check(config)
