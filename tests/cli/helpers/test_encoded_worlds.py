"""What the stage `cache` encodes is what the stages after it read, whatever the memory."""

import json

import pytest
from rich.console import Console

from helpers import paths
from mirage_jax.cli.helpers import encoding, training_data
from mirage_jax.cli.helpers.common import load_config
from mirage_jax.io.workdir import Workdir
from mirage_jax.parallel import make_mesh

WORLDS = ("procedural", "procedural_bodies")


@pytest.fixture
def workdir(tmp_path):
    found = Workdir(tmp_path)
    for world in WORLDS:
        found.worlds(world).mkdir(parents=True)
        splits = {"train": {}, "eval": {}}
        (found.worlds(world) / "dataset.json").write_text(json.dumps({"splits": splits}))
    return found


@pytest.fixture
def encoded(workdir, monkeypatch):
    """Caches that were written."""
    made = set()
    monkeypatch.setattr(encoding.LatentEncoder, "load", lambda _: None)
    monkeypatch.setattr(encoding, "fingerprint", lambda _: "")
    monkeypatch.setattr(encoding, "_check_skipped", lambda *_: None)
    monkeypatch.setattr(
        encoding, "refresh_cache", lambda _, __, ___, ____, path, *_____, **______: made.add(path)
    )
    return made


@pytest.fixture
def read(monkeypatch):
    """Caches that were opened."""
    opened = set()

    def source(files):
        opened.update(files)
        return _Source()

    monkeypatch.setattr(training_data, "LatentSource", source)
    monkeypatch.setattr(training_data, "of_worlds", lambda worlds, make: _Sources(worlds, make))
    return opened


class _Source:
    def __len__(self):
        return 2


class _Sources:
    def __init__(self, worlds, make):
        self.lengths = tuple(len(make(world)) for world in worlds)


@pytest.mark.parametrize("memory", ["latent", "none", "rgb"])
@pytest.mark.parametrize("movers", [False, True])
def test_every_cache_that_is_read_was_encoded(workdir, encoded, read, memory, movers):
    config = load_config(str(paths.EXPERIMENTS / "quickstart.py"))
    config.worlds, config.memory.movers = WORLDS, movers
    encoding.encode_recordings(config, workdir, Console(quiet=True), memory)
    training_data.training_data(config, workdir, memory, make_mesh(), stage="denoiser")
    of_denoiser = set(read)
    if memory != "rgb":  # the head is trained on latents
        training_data.training_data(config, workdir, "latent", make_mesh(), stage="geometry")
    assert read == encoded
    bodies = {workdir.latents("procedural_bodies", split) for split in ("train", "eval")}
    assert bodies <= encoded if memory != "rgb" else not bodies & encoded
    assert (bodies <= of_denoiser) == (memory == "latent" and movers)
