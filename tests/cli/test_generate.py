"""What `mirage generate` leaves and says, over a rollout that is made up: nothing is compiled."""

import importlib

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors import SafetensorError

from helpers import command_line, paths, tiny_world
from helpers.tiny_world import CHANNELS, CHUNK, GRID, INTRINSICS, SIZE
from mirage_jax import memory
from mirage_jax import world as world_module
from mirage_jax.cli import generate
from mirage_jax.cli.helpers import build, common
from mirage_jax.io import video as video_io
from mirage_jax.world import Chunk, World, WorldModel, load_world, save_world

CONFIG = paths.EXPERIMENTS / "quickstart.py"
LOST_AT_START, LOST_PER_CHUNK = 2, 3
NOTHING_WRITTEN = memory.WriteReport(*[jnp.int32(0)] * 4)


def started(model, picture, camera, capacity, depth=None):
    bank = memory.create(capacity, CHANNELS).replace(dropped=jnp.int32(LOST_AT_START))
    latent = jnp.zeros((*GRID, CHANNELS))
    world = World(bank, latent, camera.cam2world, camera.intrinsics, jnp.int32(1))
    return world, NOTHING_WRITTEN


def walked(model, world, path, key, on_chunk):
    frames = len(path) - 1
    dropped = world.bank.dropped + LOST_PER_CHUNK
    world = world.replace(
        bank=world.bank.replace(dropped=dropped),
        cam2world=np.asarray(path[-1], np.float32),
        frames=world.frames + frames,
    )
    on_chunk(Chunk(0, np.full((frames, *SIZE, 3), 128, np.uint8), world, NOTHING_WRITTEN))
    return world


@pytest.fixture(scope="module")
def model():
    return tiny_world.world_model()


@pytest.fixture
def call(model, tmp_path, capsys, monkeypatch):
    """Runs the command on made-up chunks; returns (exit code, stdout on one line, stderr)."""
    monkeypatch.setattr(common, "prepare_jax", lambda *_, **__: None)
    monkeypatch.setattr(build, "world_model", lambda *_: model)
    monkeypatch.setattr(WorldModel, "start", started)
    monkeypatch.setattr(world_module, "rollout", walked)

    def run(*arguments):
        where = [f"--config={CONFIG}", f"--workdir={tmp_path / 'run'}"]
        ways = ["--trajectory=push_in", f"--frames={CHUNK}"]
        return command_line.run(generate, [*where, *ways, *arguments], monkeypatch, capsys)

    return run


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "photo.png"
    Image.new("RGB", (30, 20), (10, 20, 30)).save(path)
    return f"--image={path}"


@pytest.fixture
def pair(tmp_path):
    """A video and its world as an earlier call left them: names and bytes."""
    folder = tmp_path / "pair"
    folder.mkdir()
    (folder / "walk.mp4").write_bytes(b"an older video")
    bank = memory.create(7, CHANNELS).replace(dropped=jnp.int32(4))
    world = World(bank, np.zeros((*GRID, CHANNELS), np.float32), np.eye(4, dtype=np.float32),
                  INTRINSICS, np.int32(9))  # fmt: skip
    save_world(folder / "walk.world", world)
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_video_and_its_world_are_left_in_a_folder_that_is_made(call, picture, tmp_path):
    out = tmp_path / "new" / "folder" / "walk.mp4"
    assert call(picture, f"--out={out}")[0] == 0
    assert {path.name for path in out.parent.iterdir()} == {"walk.mp4", "walk.world"}
    assert len(video_io.read_video(out)[0]) == CHUNK - 1
    world = load_world(out.with_suffix(".world"))
    assert int(world.frames) == CHUNK
    np.testing.assert_allclose(world.cam2world[:3, 3], [0, 0, 1], atol=1e-6)  # one metre ahead


def test_what_the_first_picture_loses_counts_too(call, picture, tmp_path):
    code, out, _ = call(picture, f"--out={tmp_path / 'a.mp4'}", "--config.memory.capacity=7")
    assert code == 0 and f"{LOST_AT_START + LOST_PER_CHUNK} elements were not remembered" in out
    assert "raise --config.memory.capacity" in out


def test_a_continued_world_says_what_would_give_it_more_memory(call, pair, tmp_path):
    code, out, _ = call(f"--world={pair / 'walk.world'}", f"--out={tmp_path / 'b.mp4'}")
    assert code == 0 and f" {LOST_PER_CHUNK} elements were not remembered" in out
    assert "keeps its capacity, here 7" in out and "begin again from the picture" in out


def test_a_full_disk_leaves_the_pair_as_it_was(call, picture, pair, monkeypatch):
    def full(*_, **__):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    before = contents(pair)
    # The package's attribute of that name is the function.
    module = importlib.import_module("mirage_jax.weights")
    monkeypatch.setattr(module, "save_file", full)
    code, _, err = call(picture, f"--out={pair / 'walk.mp4'}")
    assert code == 2 and "No space left on device" in err and "Traceback" not in err
    assert contents(pair) == before


def test_a_video_that_cannot_be_finished_leaves_the_pair_as_it_was(
    call, picture, pair, monkeypatch
):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "walk.mp4")

    before = contents(pair)
    monkeypatch.setattr(video_io._Encoder, "close", full)
    code, _, err = call(picture, f"--out={pair / 'walk.mp4'}")
    assert code == 2 and "No space left on device" in err
    assert contents(pair) == before


def test_a_world_of_another_model_is_named(call, pair, tmp_path):
    world = load_world(pair / "walk.world")
    other = tmp_path / "other.world"
    save_world(other, world.replace(latent=jnp.zeros((1, 3, CHANNELS))))
    code, _, err = call(f"--world={other}", f"--out={tmp_path / 'c.mp4'}")
    assert code == 2 and f"{other}: found a last latent" in err and "Traceback" not in err
    assert not (tmp_path / "c.mp4").exists()
