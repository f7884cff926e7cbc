"""What the command line may not change of weights that are there."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.command_line import assert_refused
from mirage_jax.cli import evaluate
from mirage_jax.cli.helpers import history_heads, input_check
from mirage_jax.cli.helpers.stored_fields import check_overrides, stored_fields
from mirage_jax.io.exports import WEIGHTS
from mirage_jax.io.workdir import Workdir
from mirage_jax.training import checkpoints


def test_what_weights_were_made_with_has_the_names_of_the_config(trained, tiny_config):
    stored = stored_fields(trained, "latent")
    assert stored["chunk_frames"] == tiny_config.chunk_frames
    size = tiny_config.record.size
    assert stored["record.size"] == stored["record.width"] == size
    for width in (0, size):  # 0 is as the height
        assert check_overrides(trained, "latent", {"record.width": width}, ()) == []
    with pytest.raises(ValueError, match=r"--config\.record\.width: found 24, expected"):
        check_overrides(trained, "latent", {"record.width": 24}, ())
    for section in ("denoiser", "vae", "geometry"):
        for name, value in tiny_config[section].items():
            found = stored[f"{section}.{name}"]
            assert found == (list(value) if isinstance(value, tuple) else value), name
    assert stored["memory.conditioner"] == tiny_config.memory.conditioner
    assert stored["memory.reads"] == tiny_config.memory.reads
    assert stored_fields(Workdir(trained.root / "nowhere"), "latent") == {}


def test_fields_that_nothing_goes_by_are_given_back(trained, tiny_config):
    named = {
        "denoiser.width": tiny_config.denoiser.width,
        "vae.width_mults": tiny_config.vae.width_mults,
        "sampling.steps": 9,
        "memory.capacity": 7,
        "seed": 3,
    }
    assert check_overrides(trained, "latent", named, ("sampling.",)) == ["memory.capacity", "seed"]
    with pytest.raises(ValueError, match=r"--config\.memory\.reads: found 64, expected"):
        check_overrides(trained, "latent", {"memory.reads": 64}, ())


@pytest.mark.parametrize("command", ["generate", "evaluate"])
@pytest.mark.parametrize("field", ["denoiser.depth=7", "vae.base_width=48", "chunk_frames=9"])
def test_commands_refuse_another_architecture(call, trained, monkeypatch, command, field):
    from PIL import Image

    monkeypatch.setattr(evaluate, "run", pytest.fail)
    monkeypatch.chdir(trained.root)
    Image.new("RGB", (8, 8)).save("photo.png")
    entry = ["--image=photo.png"] if command == "generate" else []
    tiny = [f"--workdir={trained.root}", "--config.tiny=true", *entry]
    name, value = field.split("=")
    outcome = call(command, *tiny, f"--config.{field}")
    assert_refused(outcome, f"--config.{name}: found {value}, expected", "the weights in")


def test_another_conditioner_in_one_work_directory_is_refused_at_once(
    tiny_config, tmp_path, monkeypatch
):
    before = {"memory": {"conditioner": "score"}}
    monkeypatch.setattr(checkpoints, "saved_steps", lambda _: [4])
    monkeypatch.setattr(checkpoints, "read_meta", lambda _: {"config": before})
    with pytest.raises(ValueError, match=r"config\.memory\.conditioner: .*expected 'score'"):
        input_check._check_conditioner(tiny_config, tmp_path)
    before["memory"] = {"conditioner": tiny_config.memory.conditioner, "reads": 64}
    with pytest.raises(ValueError, match=r"config\.memory\.reads: .*expected 64, which the check"):
        input_check._check_conditioner(tiny_config, tmp_path)
    before["memory"]["reads"] = tiny_config.memory.reads
    input_check._check_conditioner(tiny_config, tmp_path)

    def damaged(_):
        raise checkpoints.DamagedCheckpoint("meta: the CRC does not match")

    monkeypatch.setattr(checkpoints, "read_meta", damaged)
    input_check._check_conditioner(tiny_config, tmp_path)


def test_histories_that_a_head_sees_need_one_before_the_denoiser(tiny_config, tmp_path):
    workdir = Workdir(tmp_path)
    encoder = workdir.model("encoder")
    encoder.mkdir(parents=True)
    (encoder / WEIGHTS).touch()
    predicted = tiny_config.copy_and_resolve_references()
    predicted.denoiser_training.predicted_histories = 0.5
    missing = r"geometry: no model.safetensors there; expected .*predicted_histories is 0.5"
    with pytest.raises(FileNotFoundError, match=missing):
        input_check.check_training(predicted, workdir, ["denoiser"], "latent")
    for stages, memory in ((["geometry", "denoiser"], "latent"), (["denoiser"], "rgb")):
        input_check.check_training(predicted, workdir, stages, memory)
    input_check.check_training(tiny_config, workdir, ["denoiser"], "latent")


def test_a_head_to_trace_programs_with_is_like_a_trained_one(trained, tiny_config):
    found = history_heads.untrained(tiny_config)
    expected = history_heads.trained(tiny_config, trained, tiny_config.vae.latent_channels)
    shapes = [jax.tree.map(jnp.shape, one.params) for one in (found, expected)]
    assert shapes[0] == shapes[1] and found.head == expected.head
    # JAX can make no array where programs are compiled for devices that are not there.
    assert all(type(leaf) is np.ndarray for leaf in jax.tree.leaves(found.params))
    assert found.sky_depth == expected.sky_depth == tiny_config.sky_depth
