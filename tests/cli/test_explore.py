"""What `mirage explore` refuses before it serves anything, and what it makes of its flags."""

import socket

import numpy as np
import pytest
from PIL import Image

from data_pipelines.sources.footage.source import FootageSource
from helpers import command_line, made_footage, tiny_world
from helpers.command_line import assert_refused
from mirage_jax.cli.helpers import common, explore_starts
from mirage_jax.cli.helpers.explore_starts import Entries
from mirage_jax.memory.movers import MoverOptions
from mirage_jax.world import shipped
from mirage_jax.world.bodies import with_bodies
from mirage_jax.world.conditioners import Surfels
from mirage_jax.world.session import SessionOptions


@pytest.fixture
def explore(monkeypatch, capsys, tmp_path):
    def run(*arguments):
        given = [f"--saved={tmp_path / 'saved'}", *arguments]
        return command_line.run("explore", given, monkeypatch, capsys)

    return run


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--image=a.png", "--world=b.world"], "found --image and --world, expected one of them"),
        (["--image=not_there.png"], "--image: not_there.png: no such file"),
        (["--clip=not_there"], "--clip: not_there: no such file"),
        (["--port=70000"], "--port: found 70000"),
        (["--pace=0"], "--pace: found 0.0, expected >= 1"),
        (["--host="], "--host: found ''"),
        (["--host=no.such.host.invalid"], "--host: found 'no.such.host.invalid'"),
        (["--image=setup.cfg"], "setup.cfg: not a picture"),
        (["--image=tests"], "tests"),
        (["--world=setup.cfg"], "--world: setup.cfg: not a saved world"),
        (["--world=tests"], "--world: tests: not a saved world"),
        (["--clip=setup.cfg"], "setup.cfg"),
        (["--clip=docs"], "docs: found"),
        (["--memory_budget=0"], "--memory_budget"),
        (["--walkers=0"], "--walkers"),
        (["--mesh=data=1"], "--mesh: found 'data=1', expected AXIS=SIZE,... of fsdp, context"),
        (["--mesh=context=1,context=1"], "--mesh: found 'context=1', expected AXIS=SIZE"),
        (["--mesh=context=two"], "--mesh: found 'context=two', expected AXIS=SIZE"),
        (["--mesh=context=97"], "--mesh: mesh: data=1 fsdp=1 context=97 tensor=1 needs 97"),
        (["--saved=setup.cfg"], "--saved setup.cfg"),
        (["--cfg_scale=21"], "--cfg_scale: found 21, expected at most 20"),
        (["--decoder=best"], "--decoder=best: value should be one of"),
        (["--denoiser=none"], "--denoiser: found 'none', expected latent or student"),
        (["photo.png"], "unexpected argument 'photo.png'"),
    ],
)
def test_what_cannot_be_is_refused(explore, arguments, said, monkeypatch):
    monkeypatch.chdir(command_line.paths.ROOT)
    monkeypatch.setattr(explore_starts, "make_starts", pytest.fail)
    monkeypatch.setattr("mirage_jax.cli.explore._prepare_jax", lambda saved: None)
    assert_refused(explore(*arguments), said)


def test_a_port_that_is_taken_is_said(explore, monkeypatch):
    monkeypatch.setattr("mirage_jax.cli.explore._prepare_jax", lambda saved: None)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_refused(explore(f"--port={port}"), f"--port {port}: found another program there")


@pytest.fixture(scope="module")
def model():
    return tiny_world.world_model()


def begun(model, monkeypatch, adapts=False, rgb=None, told=None, **entries):
    """The starts of these flags, nothing of them compiled."""
    name = entries.get("denoiser", "latent")
    said, models = [], {name: model, **({"rgb": rgb} if rgb else {})}

    def load(path, *, memory, decoder, bodies):
        assert decoder == entries.get("decoder", "auto")
        assert bodies == (entries.get("bodies") if memory == name else False)
        return models[memory]

    monkeypatch.setattr(explore_starts.loading, "load", load)
    monkeypatch.setattr(explore_starts.loading, "stored_memories", lambda path: tuple(models))
    monkeypatch.setattr("mirage_jax.world.session.Session.warm_up", lambda self, progress: None)
    starts = explore_starts.make_starts(
        Entries(**{"workdir": "demo", "fov": 90.0, **entries}),
        SessionOptions(),
        lambda text, share: said.append((text, share)),
        adapts=adapts,
    )
    assert [share for _, share in said] == sorted(share for _, share in said)
    if told is not None:
        told.extend(text for text, _ in said)
    return starts


def test_a_picture_is_cut_to_the_size_of_the_model(model, monkeypatch, tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (32, 48, 3), np.uint8)
    Image.fromarray(picture).save(tmp_path / "photo.png")
    starts = begun(model, monkeypatch, image=str(tmp_path / "photo.png"))
    assert [start.name for start in starts.starts] == ["photo"]
    session = starts.begin(0)
    expected = picture.reshape(16, 2, 24, 2, 3).mean((1, 3))
    assert np.abs(session.picture - expected).max() <= 1
    with pytest.raises(ValueError, match="start: found 1"):
        starts.begin(1)


def test_what_ships_begins_in_every_picture(model, monkeypatch):
    starts = begun(model, monkeypatch, denoiser="student", decoder="linear", bodies=True)
    assert [start.name for start in starts.starts] == [*shipped.start_pictures()]
    last = starts.begin(len(starts.starts) - 1)
    assert last.picture.shape == (*model.size, 3)
    first = starts.begin(0)
    assert not np.array_equal(first.picture, last.picture)


def test_bodies_of_a_walk_are_kept_as_the_flags_say(model, monkeypatch):
    told = Surfels(tiny_world.CHANNELS, tiny_world.STRIDE)
    keeping = with_bodies(tiny_world.world_model(told=told))
    starts = begun(keeping, monkeypatch, bodies=True, body_fields={"slots": 3})
    assert starts.begin(0).model.movers == MoverOptions(slots=3)
    with pytest.raises(ValueError, match=r"movers.slots: found it .* \(--bodies\)"):
        begun(model, monkeypatch, body_fields={"slots": 3})


def test_no_two_entries_at_a_time(tmp_path):
    with pytest.raises(common.UserError, match="--world and --clip"):
        Entries("demo", 90.0, world=str(tmp_path), clip=str(tmp_path))


def test_a_clip_of_several_scenes_is_named_and_read_as_the_config_says(explore, tmp_path):
    made_footage.wide_and_tall(tmp_path / "walks", made_footage.room())
    clip = f"--clip={tmp_path / 'walks'}"
    assert_refused(explore(clip), "--clip_scene:", "found 2 scenes, expected one of tall")
    assert_refused(explore(clip, "--clip_scene=round"), "found 'round', expected one of tall")
    wrong = "--config.data.format=seven_scenes"
    assert_refused(explore(clip, wrong), "found no seven_scenes footage")
    said = "--config.data.fps: found it, expected one of data.format, data.missing"
    assert_refused(explore(clip, "--config.data.fps=3"), said)
    said = "--config.data.lens: found it, expected no field of the data without --clip"
    assert_refused(explore("--config.data.lens=1,1,1,1"), said)


def test_a_walk_has_the_trained_shape_nearest_to_its_clip(model, monkeypatch, tmp_path):
    made_footage.wide_and_tall(tmp_path, made_footage.room())
    sizes = (model.size, model.size[::-1])
    monkeypatch.setattr(explore_starts.loading, "trained_sizes", lambda path, memory: sizes)
    told = []
    tall = FootageSource(root=str(tmp_path)).scenes()[0]
    starts = begun(model, monkeypatch, told=told, clip=str(tmp_path), clip_scene=tall)
    assert starts.begin(0).picture.shape == (24, 16, 3) and tall.startswith("tall")
    assert "pictures of 24x16; the weights were trained on 16x24 too" in told


@pytest.mark.long
def test_a_memory_of_colours_is_made_ready_too_and_the_pace_begins_at_what_was_timed(
    model, monkeypatch
):
    rgb = tiny_world.world_model(told=tiny_world.conditioner("rgb"))
    monkeypatch.setattr(explore_starts, "chunk_seconds", lambda session: 0.25)
    starts = begun(model, monkeypatch, adapts=True, rgb=rgb)
    assert {name: one.conditioner.kind for name, one in starts.kinds.items()} == {
        "latent": "folded",
        "rgb": "rgb",
    }
    assert starts.adapts and starts.begin(0).options.fps == starts.options.fps == 11
    beside = model.replace(movers=MoverOptions())
    starts = begun(beside, monkeypatch, adapts=True)
    assert not starts.adapts and starts.options.fps == SessionOptions().fps and not starts.kinds
