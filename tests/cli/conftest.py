"""Commands in this process, each with a work directory of its own."""

import dataclasses
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import command_line, paths, tiny_world
from mirage_jax.cli.helpers import build, common
from mirage_jax.io.workdir import Workdir
from mirage_jax.nn.video_vae import LatentStats
from mirage_jax.weights import export, module_fields


@pytest.fixture
def call(tmp_path, capsys, monkeypatch):
    """Runs `mirage COMMAND ...`; returns (exit code, stdout, stderr)."""
    monkeypatch.setattr(common, "prepare_jax", lambda *_, **__: None)
    where = [f"--config={paths.EXPERIMENTS / 'quickstart.py'}", f"--workdir={tmp_path / 'run'}"]

    def run(command, *arguments):
        return command_line.run(command, [*where, *arguments], monkeypatch, capsys)

    return run


@pytest.fixture(scope="module")
def tiny_config():
    return command_line.tiny_config("quickstart.py")


@pytest.fixture
def trained(exports, tmp_path):
    """A work directory as training leaves it, with weights of no meaning."""
    shutil.copytree(exports, tmp_path / "model")
    return Workdir(tmp_path)


@pytest.fixture(scope="module")
def exports(tiny_config, tmp_path_factory):
    workdir = Workdir(tmp_path_factory.mktemp("trained"))
    vae = build.vae(tiny_config)
    channels = vae.latent_channels
    encoder = dataclasses.replace(
        tiny_world.encoder(),
        vae=vae,
        params=tiny_world.random_params(vae, 0, jnp.zeros((1, 5, 16, 16, 3))),
        stats=LatentStats(np.zeros(channels, np.float32), np.ones(channels, np.float32)),
        spread=(1.0,) * channels,
    )
    encoder.save(workdir.model("encoder"))
    head = build.geometry_head(tiny_config)
    side = tiny_config.record.size // vae.spatial_stride
    latents = jnp.zeros((1, 2, side, side, channels))
    export(
        workdir.model("geometry"),
        tiny_world.random_params(head, 0, latents, jnp.zeros((1, 2), bool)),
        {"kind": "geometry_head", "head": module_fields(head)},
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
