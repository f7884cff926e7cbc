"""What `mirage generate` leaves and says, over a rollout that is made up: nothing is compiled."""

import importlib
import json

import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from safetensors import SafetensorError

from helpers import made_footage, tiny_world
from helpers.command_line import assert_refused
from helpers.made_footage import FPS, FRAMES, room
from helpers.tiny_world import CHANNELS, CHUNK, GRID, INTRINSICS, SIZE
from mirage_jax import memory, trajectories
from mirage_jax.cli.helpers import capture_start, rollout_files
from mirage_jax.io import camera_files
from mirage_jax.io import video as video_io
from mirage_jax.io.camera_files import CameraRecord
from mirage_jax.memory import movers
from mirage_jax.memory.movers import MoverOptions
from mirage_jax.origin import Origin
from mirage_jax.world import Chunk, World, WorldModel, load_world, loading, save_world
from mirage_jax.world.conditioners import Surfels
from mirage_jax.world.options import ContextFrameOptions, MemoryOptions
from mirage_jax.world.world_file import read_world_file

LOST_AT_START, LOST_PER_CHUNK = 2, 3
NOTHING_WRITTEN = memory.WriteReport(*[jnp.int32(0)] * 4)


def started(model, picture, camera, *, depth=None, insist=False):
    bank = memory.create(model.memory.capacity, CHANNELS)
    bank = bank.replace(dropped=jnp.int32(LOST_AT_START))
    latent = jnp.zeros((*GRID, CHANNELS))
    return World(bank, latent, camera.cam2world, camera.intrinsics, jnp.int32(1))


def walked(model, world, path, key, **options):
    frames = len(path) - 1
    dropped = world.bank.dropped + LOST_PER_CHUNK
    world = world.replace(
        bank=world.bank.replace(dropped=dropped),
        cam2world=np.asarray(world.origin.relative(path[-1]), np.float32),
        frames=world.frames + frames,
    )
    video = np.full((frames, *model.size, 3), 128, np.uint8)
    yield Chunk(0, video, world, NOTHING_WRITTEN)


@pytest.fixture
def model(monkeypatch):
    """The model that every work directory has, with its last options."""
    made = tiny_world.world_model(trained_beside=ContextFrameOptions())
    used = []
    monkeypatch.setattr(loading, "load", lambda *_, **__: made)
    monkeypatch.setattr(loading, "trained_sizes", lambda *_: ())

    def rolled(model, *arguments, **options):
        used.append(model)
        return walked(model, *arguments, **options)

    monkeypatch.setattr(WorldModel, "start", started)
    monkeypatch.setattr(rollout_files, "rollout", rolled)
    return used


@pytest.fixture
def generate(call, model):
    """Runs the command; returns (exit code, stdout on one line, stderr)."""

    def run(*arguments):
        ways = ["--trajectory=push_in", f"--frames={CHUNK}"]
        code, out, err = call("generate", *ways, *arguments)
        return code, " ".join(out.split()), err

    return run


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "photo.png"
    Image.new("RGB", (30, 20), (10, 20, 30)).save(path)
    return f"--image={path}"


@pytest.mark.parametrize("side", [0, 1])
def test_the_trained_shape_nearest_to_the_picture_is_generated(
    generate, model, tmp_path, monkeypatch, side
):
    sizes = ((32, 64), (64, 32))
    monkeypatch.setattr(loading, "trained_sizes", lambda *_: sizes)
    path = tmp_path / "photo.png"
    Image.new("RGB", ((50, 30), (30, 50))[side], (10, 20, 30)).save(path)
    out = f"--out={tmp_path / 'a.mp4'}"
    code, _, err = generate(f"--image={path}", out)
    assert code == 0 and model[-1].size == sizes[side], err
    other = sizes[1 - side]
    code, _, err = generate(f"--image={path}", out, f"--video_size={other[0]},{other[1]}")
    assert code == 0 and model[-1].size == other, err
    refused = generate(f"--image={path}", out, "--video_size=48,48")
    assert_refused(refused, "--video_size: found (48, 48), expected (32, 64) or (64, 32), which")


@pytest.fixture
def pair(tmp_path):
    """A video and its world as an earlier call left them: names and bytes."""
    folder = tmp_path / "pair"
    folder.mkdir()
    (folder / "walk.mp4").write_bytes(b"an older video")
    record = {"started_from": {}, "seed": 0, "iterations": []}
    (folder / "walk.json").write_text(json.dumps(record))
    bank = memory.create(7, CHANNELS).replace(dropped=jnp.int32(4))
    world = World(bank, np.zeros((*GRID, CHANNELS), np.float32), np.eye(4, dtype=np.float32),
                  INTRINSICS, np.int32(9))  # fmt: skip
    save_world(folder / "walk.world", world)
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_video_and_its_world_are_left_in_a_folder_that_is_made(generate, picture, tmp_path):
    out = tmp_path / "new" / "folder" / "walk.mp4"
    assert generate(picture, f"--out={out}")[0] == 0
    assert {path.name for path in out.parent.iterdir()} == {"walk.mp4", "walk.world", "walk.json"}
    assert len(video_io.read_video(out)[0]) == CHUNK - 1
    world = load_world(out.with_suffix(".world"))
    assert int(world.frames) == CHUNK
    np.testing.assert_allclose(world.cam2world[:3, 3], [0, 0, 1], atol=1e-6)  # one metre ahead


def test_what_the_first_picture_loses_counts_too(generate, picture, tmp_path):
    code, out, _ = generate(picture, f"--out={tmp_path / 'a.mp4'}", "--config.memory.capacity=7")
    assert code == 0 and f"{LOST_AT_START + LOST_PER_CHUNK} elements were not remembered" in out
    assert "raise --config.memory.capacity" in out


def test_a_continued_world_says_what_would_give_it_more_memory(generate, pair, tmp_path):
    code, out, _ = generate(f"--world={pair / 'walk.world'}", f"--out={tmp_path / 'b.mp4'}")
    assert code == 0 and f" {LOST_PER_CHUNK} elements were not remembered" in out
    assert "keeps its capacity, here 7" in out and "begin again from the picture" in out


def test_a_full_disk_leaves_the_pair_as_it_was(generate, picture, pair, monkeypatch):
    def full(*_, **__):
        raise SafetensorError("I/O error: No space left on device (os error 28)")

    before = contents(pair)
    # The package's attribute of that name is the function.
    module = importlib.import_module("mirage_jax.weights")
    monkeypatch.setattr(module, "save_file", full)
    code, _, err = generate(picture, f"--out={pair / 'walk.mp4'}")
    assert code == 2 and "No space left on device" in err and "Traceback" not in err
    assert contents(pair) == before


def test_a_video_that_cannot_be_finished_leaves_the_pair_as_it_was(
    generate, picture, pair, monkeypatch
):
    def full(*_, **__):
        raise OSError(28, "No space left on device", "walk.mp4")

    before = contents(pair)
    monkeypatch.setattr(video_io._Encoder, "close", full)
    code, _, err = generate(picture, f"--out={pair / 'walk.mp4'}")
    assert code == 2 and "No space left on device" in err
    assert contents(pair) == before


def test_a_world_of_another_model_is_named(generate, pair, tmp_path):
    world = load_world(pair / "walk.world")
    other = tmp_path / "other.world"
    save_world(other, world.replace(latent=jnp.zeros((1, 3, CHANNELS))))
    code, _, err = generate(f"--world={other}", f"--out={tmp_path / 'c.mp4'}")
    assert code == 2 and f"{other}: found a last latent" in err and "Traceback" not in err
    assert not (tmp_path / "c.mp4").exists()


# -- the record ----------------------------------------------------------------------------------


def test_the_record_says_what_was_done(generate, picture, pair, tmp_path):
    out = tmp_path / "a.mp4"
    assert generate(picture, f"--out={out}", "--seed=3", "--with=steps=7", "--fps=5")[0] == 0
    told = json.loads(out.with_suffix(".json").read_text())
    assert told["started_from"] == {"image": picture.removeprefix("--image=")}
    assert (told["seed"], told["preset"], told["trajectory"], told["fps"]) == (3, "", "push_in", 5)
    assert (told["height"], told["width"]) == SIZE
    assert told["config"]["sampler"]["steps"] == 7
    assert told["config"]["conditioner"] == "folded"
    (chunk,) = told["iterations"]
    assert (chunk["output_start"], chunk["output_end"]) == (0, CHUNK)
    assert generate(f"--world={pair / 'walk.world'}", f"--out={out}")[0] == 0
    told = json.loads(out.with_suffix(".json").read_text())
    assert told["started_from"] == {"world": str(pair / "walk.world")}


# -- flags ---------------------------------------------------------------------------------------


def test_one_thing_to_start_from_is_wanted(generate):
    ways = "give one of --image=PICTURE, --clip=FOLDER, --world=SAVED_WORLD and --geometry=NPZ"
    assert_refused(generate(), ways)
    assert_refused(generate("--image=a.png", "--world=a.world"), ways)
    assert_refused(generate("--image=a.png", "--geometry=a.npz"), ways)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--world=a", "--depth=b.png"], "--depth does not go with --world, only with --image"),
        (["--world=a", "--fov=60"], "--fov does not go with --world, only with --image"),
        (["--image=a", "--start_frame=1"], "--start_frame does not go with --image, only with --g"),
        (["--geometry=a", "--angle=3"], "does not go with --geometry, only with --image or --cli"),
        (["--image=a", "--fov=0"], "--fov: found 0.0, expected > 0 and < 180"),
        (["--image=a", "--fov=180"], "--fov: found 180.0"),
        (["--image=a", "--fov=-20"], "--fov: found -20.0"),
        (["--image=a", "--fov=nan"], "--fov: found nan"),
        (["--image=a", "--fov=inf"], "--fov: found inf"),
        (["--image=a", "--fps=0"], "--fps: found 0.0, expected > 0.01 and < 1000"),
        (["--image=a", "--fps=nan"], "--fps: found nan"),
        (["--image=a", "--max_depth=0"], "--max_depth: found 0.0, expected > 0"),
        (["--image=a", "--frames=-1"], "--frames: found -1, expected >= 0"),
        (["--image=a", "--seed=-1"], "--seed: found -1, expected >= 0 and <= 4294967295"),
        (["--image=a", "--seed=99999999999999999999"], "--seed: found 99999999999999999999, expec"),
        (["--image=a", "--seed=few"], "--seed: found 'few', expected a whole number"),
        (["--image=a", "--preset=old"], "--preset=old: value should be one of"),
        (["--image=a", "--cfg_scale=-1"], "--cfg_scale: found -1.0, expected >= 0"),
        (["--image=a", "--vae_tile=3"], "--vae_tile: found '3', expected ROWS,COLUMNS"),
        (["--image=a", "--vae_tile=0,3"], "--vae_tile: found (0, 3), expected ROWS,COLUMNS"),
        (["--image=a", "--video_size=3"], "--video_size: found '3', expected HEIGHT,WIDTH"),
    ],
)
def test_flags_are_checked_before_anything_is_read(generate, arguments, message):
    assert_refused(generate(*arguments), message)


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        (
            "--video_size=32,32",
            "--video_size: found (32, 32), expected (16, 24), which the weight",
        ),
        ("--chunk_frames=33", "--chunk_frames: found 33, expected 5, which the weights were train"),
        ("--with=steps=0", "preset: steps: found 0, expected >= 1"),
        ("--with=stps=1", "preset: found 'stps=1', expected NAME=VALUE of cells, choice, "),
        ("--with=cfg_scale=3", "preset: found 'cfg_scale=3', expected NAME=VALUE of"),
        ("--with=capacity=3", "preset: found 'capacity=3', expected NAME=VALUE of"),
        ("--with=vae_tile=3", "preset: vae_tile: found (3,), expected rows and columns"),
        ("--with=vae_tile=x", "preset: vae_tile: found 'x', expected whole numbers"),
        ("--with=conditioner=score", "conditioner: found weights trained with 'folded'"),
        ("--with=preceding=1", "preceding: found weights trained with 0, expected the preset to"),
        ("--prompt=a room", "--prompt: found one, but this denoiser was trained without text"),
        ("--negative_prompt=x", "--negative_prompt: found one, but this denoiser was trained"),
        ("--cfg_scale=2", "--cfg_scale: found one, but this denoiser was trained without text"),
        ("--memory_scale=few", "--memory_scale=few: could not convert string to float: 'few'"),
        (
            "--memory_scale=1,2",
            "--memory_scale=1,2: memory_scale: found (1.0, 2.0), expected 1 num",
        ),
        ("--memory_scale=nan", "memory_scale: found (nan,), expected a finite number"),
        ("--text=a.safetensors", "--text: found one, but this denoiser was trained without text"),
        ("--save_text=a", "--save_text: found one, but this denoiser was trained without text"),
        ("--depth_model=none.safetensors", "none.safetensors: no such file"),
        ("--depth=none.npy", "none.npy"),
        ("--frames=8", "--frames of push_in: found 8 poses, expected 1 + 4 n"),
        ("--trajectory=lookaway", "did you mean 'look_away'"),
        ("--angle=nan", "--angle: found nan, expected a finite number"),
        ("--config.memory.capacity=0", "config.memory.capacity: found 0, expected >= 1"),
        ("--config.sampling.steps=0", "config.sampling.steps: found 0, expected >= 1"),
    ],
)
def test_what_does_not_fit_is_one_line(generate, picture, tmp_path, monkeypatch, argument, message):
    out = tmp_path / "new" / "a.mp4"
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.safetensors").touch()
    found = generate(picture, f"--out={out}", argument)
    assert_refused(found, message)
    assert found[2].count("\n") == 1 + found[2].count("Try --help.")
    assert not out.parent.exists()


def test_options_come_from_the_config_and_then_from_the_flags(generate, picture, model, tmp_path):
    out = f"--out={tmp_path / 'a.mp4'}"
    config = ["--config.sampling.steps=3", "--config.memory.capacity=77"]
    assert generate(picture, out, *config)[0] == 0
    assert generate(picture, out, *config, "--with=steps=5,reencode=true", "--vae_tile=1,2")[0] == 0
    first, second = model
    assert (first.sampler.steps, first.memory.capacity, first.memory.reencode) == (3, 77, False)
    assert (second.sampler.steps, second.memory.capacity, second.memory.reencode) == (5, 77, True)
    assert first.encoder.tile == () and second.encoder.tile == (1, 2)


# -- names of what is written --------------------------------------------------------------------


@pytest.mark.parametrize("name", ["a.world", "a.json", "a", "a.avi"])
def test_the_video_is_an_mp4(generate, name):
    assert_refused(generate("--image=a.png", f"--out={name}"), f"--out {name}: found ", ".mp4")


def test_a_folder_of_that_name_or_no_folder_above_it_is_said(generate, tmp_path):
    (tmp_path / "there.mp4").mkdir()
    (tmp_path / "file").touch()
    found = generate("--image=a.png", f"--out={tmp_path / 'there.mp4'}")
    assert_refused(found, "that is a folder, expected a video's name")
    found = generate("--image=a.png", f"--out={tmp_path / 'file' / 'more' / 'a.mp4'}")
    assert_refused(found, f"{tmp_path / 'file'} is no folder")


def test_nothing_that_is_read_is_written_over(generate, picture, tmp_path):
    trajectories.save(tmp_path / "walk.json", trajectories.make("hold", CHUNK))
    before = (tmp_path / "walk.json").read_bytes()
    for folder in (tmp_path, tmp_path / "run" / ".."):
        found = generate(
            picture, f"--trajectory={tmp_path / 'walk.json'}", f"--out={folder / 'walk.mp4'}"
        )
        assert_refused(found, "walk.json, which --trajectory reads", "expected another name")
    assert (tmp_path / "walk.json").read_bytes() == before


def test_other_files_of_the_folder_are_left_alone(generate, picture, pair):
    before = contents(pair)
    assert generate(picture, f"--out={pair / 'other.mp4'}")[0] == 0
    after = contents(pair)
    assert {name: after[name] for name in before} == before
    assert after.keys() - before.keys() == {"other.mp4", "other.world", "other.json"}


def test_a_record_that_cannot_be_written_leaves_the_pair_as_it_was(
    generate, picture, pair, monkeypatch
):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    before = contents(pair)
    monkeypatch.setattr(type(pair), "write_text", full)
    code, _, err = generate(picture, f"--out={pair / 'walk.mp4'}")
    assert code == 2 and "No space left on device" in err and "walk.json" in err
    assert contents(pair) == before


def test_a_work_directory_without_weights_says_how_to_make_them(call, picture, tmp_path):
    out = f"--out={tmp_path / 'a.mp4'}"
    assert_refused(
        call("generate", picture, out),
        f"{tmp_path / 'run'}: found no trained model; expected a work directory (run `make quick",
    )


def test_the_memory_branch_has_the_strength_asked_for(generate, picture, model, tmp_path):
    out = f"--out={tmp_path / 'a.mp4'}"
    assert generate(picture, out, "--memory_scale=0.5")[0] == 0
    assert model[-1].sampler.memory_scale == (0.5,)
    record = json.loads((tmp_path / "a.json").read_text())
    assert record["config"]["sampler"]["memory_scale"] == [0.5]


def test_fields_that_nothing_goes_by_are_said(generate, picture, pair, monkeypatch):
    out = f"--out={pair / 'new.mp4'}"
    _, said, _ = generate(picture, out, "--config.sampling.steps=3", "--config.sky_depth=9.0")
    assert "not used here: --config.sampling.steps " in said + " "  # weights that say nothing
    flags = importlib.import_module("mirage_jax.cli.helpers.entry_flags")
    monkeypatch.setattr(flags, "stored_fields", lambda *_: {"chunk_frames": CHUNK})
    code, said, _ = generate(picture, out, "--config.seed=3", "--config.sampling.steps=3")
    assert code == 0 and "not used here: --config.seed " in said + " "
    assert "sampling" not in said
    code, said, _ = generate(picture, out, "--config.memory.capacity=9")
    assert code == 0 and "not used here" not in said
    world = f"--world={pair / 'walk.world'}"
    _, said, _ = generate(world, f"--out={pair / 'more.mp4'}", "--config.memory.capacity=9")
    assert "not used here: --config.memory.capacity" in said


def test_a_world_goes_on_at_its_own_pace_in_its_own_coordinates(generate, pair):
    world = load_world(pair / "walk.world")
    far = Origin((448_262.0, 5_411_933.0, 35.0), 1.7e9, frame_seconds=1 / 25)
    save_world(pair / "walk.world", world.replace(origin=far))
    out = pair / "on.mp4"
    assert generate(f"--world={pair / 'walk.world'}", f"--out={out}", "--distance=1")[0] == 0
    assert json.loads(out.with_suffix(".json").read_text())["fps"] == pytest.approx(25)
    file = read_world_file(out.with_suffix(".world"))
    assert file.origin == far
    assert generate(f"--world={pair / 'walk.world'}", f"--out={out}", "--fps=5")[0] == 0
    assert load_world(out.with_suffix(".world")).origin.frame_seconds is None


def test_a_new_world_says_how_far_its_frames_are_apart(generate, picture, pair):
    assert generate(picture, f"--out={pair / 'new.mp4'}", "--fps=8")[0] == 0
    assert load_world(pair / "new.world").origin == Origin(frame_seconds=1 / 8)


# -- from a posed clip ---------------------------------------------------------------------------


@pytest.fixture
def seen(monkeypatch):
    """What a capture hands over to be remembered."""
    found = []

    def remembered(model, pictures, camera, *, depth, static, capacity, insist):
        found.append((pictures, camera, depth, static, capacity))
        world = started(model.replace(memory=MemoryOptions(capacity=capacity)), None, camera[-1])
        return world.replace(frames=jnp.int32(len(pictures)))

    monkeypatch.setattr(capture_start, "start_from_capture", remembered)
    return found


def test_all_pictures_of_a_clip_are_remembered_and_the_walk_begins_at_the_last(
    generate, seen, tmp_path
):
    root = tmp_path / "scans"
    made_footage.tum_rgbd(root, room())
    out = tmp_path / "a.mp4"
    code, text, err = generate(f"--clip={root}", f"--out={out}")
    assert code == 0, err
    [(pictures, camera, depth, static, capacity)] = seen
    assert pictures.shape == (FRAMES, *SIZE, 3) and depth.shape == (FRAMES, *SIZE)
    assert static is None and capacity >= FRAMES * GRID[0] * GRID[1]
    assert f"{FRAMES} pictures of rgbd_dataset_room are in memory" in text
    file = read_world_file(out.with_suffix(".world"), tiny_world.world_model())
    path = file.camera_path
    assert len(path.times) == FRAMES + CHUNK - 1 == int(file.world.frames)
    np.testing.assert_allclose(path.cam2world[:FRAMES], camera.cam2world, atol=1e-5)
    steps = np.linalg.norm(path.cam2world[FRAMES:, :3, 3] - camera.cam2world[-1, :3, 3], axis=1)
    np.testing.assert_allclose(steps[-1], 1.0, atol=1e-5)  # pushed in by a metre
    np.testing.assert_allclose(np.diff(path.times), 1 / FPS, atol=1e-5)
    assert file.origin.frame_seconds == pytest.approx(1 / FPS, rel=1e-4)


def test_some_pictures_of_a_clip_and_its_scale_can_be_chosen(generate, seen, tmp_path):
    root = tmp_path / "scans"
    made_footage.colmap(root, room())
    out = f"--out={tmp_path / 'a.mp4'}"
    code, text, _ = generate(f"--clip={root}", "--clip_pictures=3", out)
    assert code == 0 and "a scale of their own" in text
    ways = ("--clip_pictures=3", "--clip_scale=2", "--config.memory.capacity=9")
    told = generate(f"--clip={root}", *ways, out)
    assert told[0] == 0 and "a scale of their own" not in told[1]
    (_, one, none, _, _), (_, two, _, _, capacity) = seen
    assert none is None and capacity == 9
    expected = room().cam2world[[0, 6, 11]]
    np.testing.assert_allclose(one.cam2world, expected, atol=1e-6)
    np.testing.assert_allclose(two.cam2world[:, :3, 3], 2 * expected[:, :3, 3], atol=1e-6)


def test_a_clip_that_is_several_or_none_is_refused(generate, seen, tmp_path):
    root = tmp_path / "scans"
    for name in ("a", "b"):
        made_footage.tum_rgbd(root / name, room())
    out = f"--out={tmp_path / 'a.mp4'}"
    names = "a/rgbd_dataset_room, b/rgbd_dataset_room"
    found = generate(f"--clip={root}", out)
    assert_refused(found, f"scans: found 2 scenes, expected one of {names}")
    assert generate(f"--clip={root}", "--clip_scene=b/rgbd_dataset_room", out)[0] == 0
    found = generate(f"--clip={root}", "--clip_scene=c", out)
    assert_refused(found, f"found 'c', expected one of {names}")
    assert_refused(generate(f"--clip={root}", "--fov=60", out), "--fov does not go with --clip")
    assert_refused(generate(f"--clip={tmp_path / 'none'}", out), "none: no such")


def test_times_of_a_path_are_those_of_its_frames(generate, picture, pair, monkeypatch):
    told = Surfels(tiny_world.CHANNELS, tiny_world.STRIDE, movers=True)
    keeping = tiny_world.world_model(told=told, trained_beside=ContextFrameOptions())
    keeping = keeping.replace(movers=MoverOptions(fps=4.0))

    def started_with_bodies(model, *arguments, **options):
        table = movers.create(tiny_world.CHANNELS, np.float32([0, -1, 0]), model.movers)
        return started(model, *arguments, **options).replace(movers=table)

    times = 1.7e9 + np.array([0.0, 0.1, 0.2, 0.3, 0.7])
    record = CameraRecord(trajectories.make("push_in", CHUNK), timestamps=times)
    path, out = pair / "path.json", pair / "timed.mp4"
    camera_files.write(path, record)
    ways = f"--trajectory={path}", f"--out={out}"
    code, said, _ = generate(picture, *ways)
    assert code == 0 and f"{path}: its times give 5.714 frames per second; frames lie 0.1" in said
    assert json.loads(out.with_suffix(".json").read_text())["fps"] == pytest.approx(4 / 0.7)
    file = read_world_file(out.with_suffix(".world"))
    np.testing.assert_allclose(file.camera_path.times, times - times[0], atol=1e-6)
    assert file.origin == Origin(time=1.7e9, frame_seconds=None)
    # Bodies move by the second: what a frame of theirs takes is known whatever the path's are.
    monkeypatch.setattr(loading, "load", lambda *_, **__: keeping)
    monkeypatch.setattr(WorldModel, "start", started_with_bodies)
    code, _, err = generate(picture, *ways)
    assert code == 0, err
    assert load_world(out.with_suffix(".world"), keeping).movers is not None
    assert read_world_file(out.with_suffix(".world")).origin.frame_seconds == 1 / 4


def test_a_rate_that_is_told_goes_before_times(generate, picture, pair):
    times = 1.7e9 + np.array([0.0, 0.1, 0.2, 0.3, 0.7])
    path, out = pair / "path.json", pair / "timed.mp4"
    camera_files.write(path, CameraRecord(trajectories.make("push_in", CHUNK), timestamps=times))
    ways = f"--trajectory={path}", f"--out={out}"
    code, said, _ = generate(picture, *ways, "--fps=8")
    assert code == 0 and "are not used: --fps=8" in said
    assert load_world(out.with_suffix(".world")).origin == Origin(frame_seconds=1 / 8)
