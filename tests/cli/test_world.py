"""`mirage world` on a small world: a wall, and a pillar before it."""

import json
import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from absl.testing import flagsaver

from helpers import read_models, tiny_world
from helpers.tiny_world import CHANNELS, GRID, INTRINSICS, SIZE
from mirage_jax import memory, trajectories
from mirage_jax.cli import world as command
from mirage_jax.geometry import Camera
from mirage_jax.memory import regions
from mirage_jax.world import World
from mirage_jax.world.world_file import CameraPath, WorldFile, read_world_file, write_world_file

FRAMES = 9
PILLAR = "--region=box:-9,-9,1.5,9,9,2.5"


def made(seed=0):
    """A world of nine frames, in which the first cells of the last lie two metres away."""
    path = trajectories.make("move_right", FRAMES, distance=1)
    rng = np.random.default_rng(seed)
    bank = memory.create(40, CHANNELS)
    tokens = jnp.asarray(rng.uniform(-0.9, 0.9, (3, *GRID, CHANNELS)), jnp.float32)
    depth = np.full((3, *GRID), 4, np.float32)
    depth[-1, 0] = 2
    lens = np.tile(INTRINSICS, (3, 1))
    camera = Camera(lens, path[[0, 4, 8]].astype(np.float32), SIZE)
    bank, _ = jax.jit(memory.write)(bank, tokens, depth, camera, times=np.array([0, 4, 8]))
    pose = jnp.asarray(path[-1], jnp.float32)
    world = World(bank, tokens[-1], pose, jnp.asarray(INTRINSICS), jnp.int32(FRAMES))
    times = np.arange(FRAMES) / 8
    return WorldFile(
        world, camera_path=CameraPath(path, np.tile(INTRINSICS, (FRAMES, 1)), times, SIZE)
    )


@pytest.fixture(scope="module")
def file():
    return made()


@pytest.fixture
def saved(file, tmp_path):
    write_world_file(tmp_path / "a.world", file)
    return tmp_path / "a.world"


@pytest.fixture
def call(monkeypatch, capsys):
    """Runs `mirage world ...`; (exit code, stdout, stderr)."""

    def run(*words):
        monkeypatch.setattr(sys, "argv", ["mirage world", *map(str, words)])
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as leave:
            command.cli()
        out, err = capsys.readouterr()
        return leave.value.code or 0, out, err

    return run


def elements(path):
    bank = read_world_file(path).world.bank
    return np.asarray(bank.xyz)[np.asarray(bank.valid)]


def test_info_prints_numbers(call, saved):
    code, out, _ = call("info", saved)
    assert code == 0
    for text in ("elements", "18", "camera path", "length, m", "1.0"):
        assert text in out


def test_show_writes_a_page(call, saved, tmp_path):
    code, _, err = call("show", saved, tmp_path / "a.html", "--up=-y", "--slab=1")
    assert code == 0, err
    assert "1 m thick" in (tmp_path / "a.html").read_text()


@pytest.mark.parametrize("name", ["a.ply", "a.glb", "transforms.json", "model"])
def test_exports_have_the_elements_and_the_cameras(call, saved, tmp_path, name):
    code, out, err = call("export", saved, tmp_path / name)
    assert code == 0 and "18 points" in out, err
    xyz, path = elements(saved), made().camera_path
    if name == "a.ply":
        found = read_models.ply(tmp_path / name)
        np.testing.assert_array_equal(np.stack([found[n] for n in "xyz"], 1), xyz)
        np.testing.assert_array_equal(found["time"], np.repeat([0, 4, 8], 6))
    elif name == "a.glb":
        scene, values = read_models.glb(tmp_path / name)
        np.testing.assert_array_equal(values(0), xyz * np.float32([1, -1, -1]))
        assert scene["accessors"][2]["count"] == 3
    elif name == "model":
        _, images, points, _ = read_models.colmap(tmp_path / name)
        np.testing.assert_array_equal(np.float32(points), xyz)
        assert list(images) == [f"frame_{n:05d}.png" for n in (0, 4, 8)]
        for number, (pose, _) in zip((0, 4, 8), images.values(), strict=True):
            np.testing.assert_allclose(pose, path.cam2world[number], atol=1e-12)
    else:
        scene = json.loads((tmp_path / name).read_text())
        assert len(scene["frames"]) == 3
        assert len(read_models.ply(tmp_path / scene["ply_file_path"])["x"]) == 18
    assert call("export", saved, tmp_path / name)[0] == 0  # our own are replaced


def test_colours_are_decoded_where_there_are_weights(call, saved, tmp_path, monkeypatch):
    """This autoencoder shows the first three channels; hidden elements follow by the linear map."""
    model = tiny_world.world_model().replace(encoder=tiny_world.Plain())
    monkeypatch.setattr(command, "load", lambda path: model)
    code, out, err = call("export", saved, tmp_path / "a.ply", "--weights=somewhere")
    assert code == 0 and "of the elements as decoded" in out, err
    found = read_models.ply(tmp_path / "a.ply")
    colours = np.stack([found[n] for n in ("red", "green", "blue")], 1)
    tokens = np.asarray(read_world_file(saved).world.bank.tokens)[:18, :3]
    np.testing.assert_allclose(colours, (tokens + 1) * 127.5, atol=1)
    wide = model.replace(size=(32, 24))
    monkeypatch.setattr(command, "load", lambda path: wide)
    code, _, err = call("export", saved, tmp_path / "a.ply", "--weights=other")
    assert code == 2 and "--weights other: the world: found a last latent" in err


def test_an_edit_is_written_with_the_world_as_it_was(call, saved, tmp_path):
    code, out, err = call("edit", saved, tmp_path / "b.world", "--do=delete", PILLAR,
                          "--keep_as=before")  # fmt: skip
    assert code == 0 and "0 added, 3 removed, 0 changed" in out, err
    assert len(elements(tmp_path / "b.world")) == 15
    after = read_world_file(tmp_path / "b.world")
    assert after.provenance["edits"] == [{"edit": f"--do=delete {PILLAR} --keep_as=before"}]
    code, _, err = call("branch", tmp_path / "b.world", tmp_path / "c.world", "--switch=before")
    assert code == 0, err
    np.testing.assert_array_equal(elements(tmp_path / "c.world"), elements(saved))


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["--do=move", "--shift=1,2,0.5"], lambda xyz: xyz + np.array([1, 2, 0.5])),
        (["--do=move", "--turn=90"], lambda xyz: xyz[:, [2, 1, 0]] * [-1, 1, 1] + [2, 0, 2]),
    ],
)
def test_what_is_moved_is_there(call, saved, tmp_path, words, place):
    """Seen from above a quarter turn takes z to -x and x to z; the box's middle is (0, 0, 2)."""
    code, _, err = call("edit", saved, tmp_path / "b.world", PILLAR, *words)
    assert code == 0, err
    before, after = elements(saved), elements(tmp_path / "b.world")
    near = before[:, 2] < 2.5
    np.testing.assert_allclose(after[near], place(before[near]), atol=1e-6)
    np.testing.assert_array_equal(after[~near], before[~near])


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--do=pin", PILLAR], lambda bank: int(bank.pinned.sum()) == 3),
        (["--do=duplicate", PILLAR, "--shift=0,3,0"], lambda bank: int(bank.valid.sum()) == 21),
        (["--do=swap", PILLAR, "--other_region=box:-9,-9,3.5,9,9,4.5"],
         lambda bank: int((bank.xyz[:18, 2] < 3).sum()) == 15),
        (["--do=compact"], lambda bank: int(bank.count) == 18),
    ],
)  # fmt: skip
def test_other_edits_do_what_they_say(call, saved, tmp_path, words, expected):
    code, _, err = call("edit", saved, tmp_path / "b.world", *words)
    assert code == 0, err
    assert expected(read_world_file(tmp_path / "b.world").world.bank)


@pytest.mark.parametrize("words", [["--do=delete"], ["--do=move", "--shift=0,3,0"]])
def test_what_shows_the_edges_of_a_thing_goes_with_it(call, saved, tmp_path, words):
    bank, places = read_world_file(saved).world.bank, elements(saved)
    pillar = places[places[:, 2] < 2.5]
    region = regions.Box(pillar.min(0), pillar.max(0))
    box = "box:" + ",".join(map(repr, np.concatenate([region.low, region.high]).tolist()))
    for flag in ("--noedges", "--edges"):
        to = tmp_path / f"{flag}.world"
        code, _, err = call("edit", saved, to, f"--region={box}", flag, *words)
        assert code == 0, err
    past = np.asarray(regions.showing(bank, region) & ~regions.select(bank, region))
    gone = set(map(tuple, np.asarray(bank.xyz)[past].tolist()))
    kept = [set(map(tuple, elements(tmp_path / f"{flag}.world").tolist()))
            for flag in ("--noedges", "--edges")]  # fmt: skip
    assert 0 < len(gone) < len(places) - len(pillar) and kept[1] == kept[0] - gone


def test_worlds_are_merged_at_a_given_pose(call, saved, tmp_path):
    pose = np.eye(4)
    pose[:3, 3] = 0, 0, 10
    trajectories.save(tmp_path / "pose.npy", pose[None])
    code, out, err = call(
        "merge", saved, saved, tmp_path / "b.world", f"--pose={tmp_path / 'pose.npy'}"
    )
    assert code == 0 and "18 elements added" in out, err
    merged, one = elements(tmp_path / "b.world"), elements(saved)
    np.testing.assert_array_equal(merged, np.concatenate([one, one + np.float32([0, 0, 10])]))
    code, _, err = call("merge", saved, saved, tmp_path / "c.world")
    assert code == 2 and "found 18 elements, expected at least 50" in err


def test_branches_are_added_listed_and_removed_in_place(call, saved):
    assert call("branch", saved)[1].strip() == "none"
    assert call("branch", saved, saved, "--add=one")[0] == 0
    code, out, _ = call("branch", saved, saved, "--add=two", "--parent=one")
    assert code == 0 and "two: branch at frame 8, of one" in out
    assert call("branch", saved, saved, "--remove=one")[0] == 0
    assert "two: branch at frame 8" in call("branch", saved)[1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["look", "{a}"], "no subject 'look', expected one of info, show"),
        (["info"], "world info: found 0 files, expected WORLD"),
        (["edit", "{a}", "{b}"], "give --do=delete|move"),
        (["edit", "{a}", "{b}", "--do=delete"], "--region: found '' with --do=delete"),
        (["edit", "{a}", "{b}", "--do=delete", "--region=cone:1"], "expected box:x,y,z"),
        (["edit", "{a}", "{b}", "--do=delete", "--region=box:1,2"], "--region: found '1,2'"),
        (["edit", "{a}", "{b}", "--do=delete", "--region=sphere:0,0,0,-1"], "sizes above 0"),
        (["edit", "{a}", "{b}", "--do=delete", "--region=box:1,1,1,0,2,2"], "least corner first"),
        (["edit", "{a}", "{b}", "--do=swap", PILLAR], "--other_region: goes with --do=swap"),
        (["edit", "{a}", "{b}", "--do=pin", PILLAR, "--edges"], "--edges: found --do=pin"),
        (["edit", "{a}", "{b}", "--do=move", PILLAR], "--shift and --turn go with"),
        (["edit", "{a}", "{b}", "--do=pin", PILLAR, "--turn=5"], "--shift and --turn go with"),
        (["edit", "{a}", "{b}", "--do=move", PILLAR, "--shift=1e30,0,0"], "edit: found a position"),
        (["edit", "{a}", "{b}", "--do=duplicate", PILLAR, "--shift=70000,0,0"], "70,00"),
        (["edit", "{a}", "{a}", "--do=compact"], "expected another name"),
        (["merge", "{a}", "{a}", "{a}"], "which merge (WORLD) reads"),
        (["export", "{a}", "{a}.glb", "--picture_size=0,16"], "--picture_size: found '0,16'"),
        (["export", "{a}", "{a}.glb", "--picture_size=8.5,16"], "--picture_size: found '8.5,16'"),
        (["export", "{a}", "{b}"], "found '.world', expected .ply, .glb"),
        (["show", "{a}", "{b}"], "found '.world', expected .html"),
        (["branch", "{a}", "{b}"], "expected a file alone, or one more"),
        (
            ["branch", "{a}", "{b}", "--switch=x"],
            "expected one of those there are: none",
        ),
    ],
)
def test_what_makes_no_sense_is_refused_by_name(call, saved, tmp_path, words, message):
    names = {"a": saved, "b": tmp_path / "b.world"}
    code, _, err = call(*(word.format(**names) for word in words))
    assert code == 2 and message in err
    assert not names["b"].exists()


def test_help_has_every_flag(call):
    code, out, _ = call("edit", "--help")
    assert code == 0
    for flag in ("do", "region", "other_region", "shift", "turn", "pose", "add", "weights"):
        assert f"--{flag}: " in out


def test_without_a_camera_path_the_size_of_the_pictures_is_asked_for(call, file, tmp_path):
    bare = tmp_path / "bare.world"
    write_world_file(bare, WorldFile(file.world))
    code, _, err = call("export", bare, tmp_path / "a.glb")
    assert code == 2 and "expected --picture_size=HEIGHT,WIDTH" in err
    assert call("export", bare, tmp_path / "a.ply")[0] == 0  # which has no cameras
    code, out, err = call("export", bare, tmp_path / "model", "--picture_size=16,24")
    assert code == 0 and "18 points, 1 cameras" in out, err
    _, images, *_ = read_models.colmap(tmp_path / "model")
    np.testing.assert_allclose(images["frame_00008.png"][0], file.world.cam2world, atol=1e-6)
