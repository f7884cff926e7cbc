"""Students of a config: what they start from, and what they cannot be matched with."""

import pytest

from helpers import command_line
from mirage_jax.cli.helpers import common, config_check, quick_models
from mirage_jax.io.workdir import Workdir


def config_with(fields=()):
    config = command_line.tiny_config("distill.py")
    for name, value in dict(fields).items():
        common._set_dotted(config, name, value)
    return config


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"loading.latents": "video", "loading.window": 9},
            r"config.loading.window: found 9 with match_training.rollouts 1.0, expected none",
        ),
        ({"memory.movers": True}, r"config.memory.movers: found True with match_training.rollouts"),
        (
            {"record.frames": 17, "denoiser_training.preceding": 9},
            r"config.denoiser_training.preceding: found 9 .*expected 4 at most, or rollouts 0",
        ),
    ],
)
def test_clips_without_a_chunk_to_generate_are_refused(fields, message):
    config = config_with({"chunk_frames": 5, **fields})
    with pytest.raises(ValueError, match=message):
        quick_models.check_matching(config)
    config.match_training.rollouts = 0.0
    quick_models.check_matching(config)


def test_the_config_is_checked_with_the_others():
    config = config_with({"match_training.critic_steps": 0})
    with pytest.raises(ValueError, match=r"config.match_training.*critic_steps: found 0"):
        config_check.check(config)
    config = config_with({"loading.latents": "video", "loading.window": 33})
    with pytest.raises(ValueError, match=r"config.loading.window: found 33 with match_training"):
        config_check.check(config)


def test_what_a_student_is_matched_from(tmp_path):
    config, workdir = config_with(), Workdir(tmp_path)
    assert quick_models.named_student(config, workdir) == tmp_path / "model" / "denoiser_student"
    config.match_training.student = "teacher"
    assert quick_models.named_student(config, workdir) is None
    config.match_training.student = "exports/one"
    assert str(quick_models.named_student(config, workdir)) == "exports/one"
    config.denoiser_training.trained = "branch_lora"
    with pytest.raises(ValueError, match=r"student: found 'exports/one' with .*'branch_lora'"):
        quick_models.named_student(config, workdir)
    config.match_training.student = ""
    assert quick_models.named_student(config, workdir) is None
