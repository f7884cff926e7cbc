"""The paper's variant of a frozen backbone with a trained branch: record, train, generate."""

import json

import numpy as np

from helpers import command_line, geometry_npz, paths
from mirage_jax.cli.helpers import common
from mirage_jax.io import video as video_io
from mirage_jax.io.text import TextEmbeddings, save_embeddings
from mirage_jax.world import load, load_world

SIZE, CHUNK = 16, 9
SMALLER = {
    "host_devices": 1,  # the process has its devices already
    "mesh.fsdp": 1,
    "record.size": SIZE,
    "vae_training.pixels": SIZE,
    "record.width": SIZE,
    "record.frames": 17,
    "chunk_frames": CHUNK,
    "vae.width_mults": "(1, 1, 1)",
    "vae.latent_channels": 4,
    "geometry.width": 8,
    "geometry.layers": 1,
    "geometry_training.steps": 2,
    "denoiser.width": 12,
    "denoiser.mlp_width": 24,
    "denoiser.patch": "(1, 1, 1)",
    "denoiser_training.steps": 2,
    "denoiser_training.batch_size": 2,
    "denoiser_training.preceding": 5,  # a chunk has no nine before its last
    "memory.capacity": 40,
}


def test_record_train_and_generate_as_the_paper_does(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(common, "prepare_jax", lambda *_, **__: None)
    config = [f"--config={paths.EXPERIMENTS / 'wan22_5b_memory.py'}:paper", "--config.tiny=true"]
    config += [f"--config.{name}={value}" for name, value in SMALLER.items()]

    def mirage(command, *arguments):
        given = [*config, f"--workdir={tmp_path / 'run'}", *arguments]
        return command_line.run(command, given, monkeypatch, capsys)

    for command in ("record", "train"):
        code, _, err = mirage(command)
        assert code == 0, err
    model = load(tmp_path / "run")
    assert model.conditioner.kind == "visibility" and model.denoiser.memory_channels == 4 + 1
    assert (model.context_frames.references, model.context_frames.preceding) == (4, 5)

    arrays = geometry_npz.arrays(size=(SIZE, SIZE), frames=2 * CHUNK - 1)
    np.savez(tmp_path / "geometry.npz", **arrays)
    tokens = np.random.default_rng(0).normal(size=(1, 3, model.denoiser.text_width))
    made = TextEmbeddings(("a room",), tokens.astype(np.float32), np.array([3], np.int32))
    save_embeddings(tmp_path / "prompts.safetensors", made)
    out = tmp_path / "walk.mp4"
    given = [f"--geometry={tmp_path / 'geometry.npz'}", f"--out={out}", "--preset=paper"]
    given += [
        "--with=steps=2,preceding=5",
        "--prompt=a room",
        f"--text={tmp_path / 'prompts.safetensors'}",
    ]
    code, _, err = mirage("generate", *given)
    assert code == 0, err

    video, _ = video_io.read_video(out)
    assert len(video) == 2 * CHUNK - 1
    told = json.loads(out.with_suffix(".json").read_text())
    assert told["preset"] == "paper" and told["later_depth"] == "geometry head"
    first, second = told["iterations"]
    assert first["num_preceding_latents"] == 0 and second["num_preceding_latents"] > 0
    world = load_world(out.with_suffix(".world"), model)
    assert int(world.frames) == len(video)
    np.testing.assert_allclose(world.cam2world, arrays["poses_c2w"][-1], atol=1e-6)
