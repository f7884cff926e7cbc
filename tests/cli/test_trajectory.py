"""mirage trajectory: what it says, writes and refuses."""

import sys
from html.parser import HTMLParser

import numpy as np
import pytest
from absl.testing import flagsaver
from PIL import Image

from helpers.command_line import assert_refused
from mirage_jax import trajectories
from mirage_jax.cli import trajectory
from mirage_jax.cli.helpers.convention_check import compare, verdict
from mirage_jax.io import camera_files
from mirage_jax.io.camera_files import CameraRecord
from mirage_jax.io.camera_files.conventions import in_convention

PATH = trajectories.steps("forward:1m,turn_right:40", 9)


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)

    def call(*words):
        monkeypatch.setattr(sys, "argv", ["mirage trajectory", *words])
        with flagsaver.flagsaver(), pytest.raises(SystemExit) as leave:
            trajectory.cli()
        out, err = capsys.readouterr()
        return leave.value.code or 0, out, err

    return call


def test_convert_says_what_it_saw_and_what_it_left_out(run, tmp_path):
    record = CameraRecord(PATH, names=tuple(f"{i}.png" for i in range(9)))
    camera_files.write("transforms.json", record, "transforms")
    code, out, _ = run("convert", "transforms.json", "out/poses.txt", "--scale=2")
    assert code == 0
    for said in ("direction: c2w", "axes: opengl", "tum", "left out: names"):
        assert said in out, out
    again = camera_files.read("out/poses.txt")
    assert again.format == "tum"
    np.testing.assert_allclose(again.cam2world[:, :3, 3], 2 * PATH[:, :3, 3], atol=1e-12)
    assert_refused(run("convert", "transforms.json", "out/poses.txt"), "--overwrite")


def test_convert_gives_a_lens_and_a_new_origin(run):
    moved = trajectories.make("orbit_left", 2)[-1] @ PATH
    camera_files.write("a.txt", CameraRecord(moved))
    code, *_ = run(
        "convert", "a.txt", "m", "--to_format=colmap_bin", "--field_of_view=90", "--size=480,640",
        "--from_origin",
    )  # fmt: skip
    assert code == 0
    again = camera_files.read("m")
    np.testing.assert_allclose(again.cam2world, PATH, atol=1e-9)
    np.testing.assert_allclose(again.intrinsics[0], [240, 240, 320, 240], rtol=1e-6)


def test_values_may_follow_their_flags(run):
    np.save("poses.npy", PATH)
    one = run("check", "poses.npy", "--direction=c2w", "--axes=opencv", "--units=m")
    other = run("check", "--direction", "c2w", "poses.npy", "--axes", "opencv", "--units", "m")
    assert one == other and one[0] == 0, one


def test_convert_replaces_nothing_beside_what_it_writes(run, tmp_path):
    lens = np.tile([50.0, 50, 32, 24], (9, 1))
    camera_files.write("a.npz", CameraRecord(PATH, lens, (48, 64)))
    for name in ("vipe", "spatialvid", "lingbot", "spatia"):
        kind = camera_files.FORMATS[name]
        (tmp_path / name).mkdir()
        (tmp_path / name / kind.beside).write_text("precious")
        poses = {"vipe": "pose.npz", "spatia": "w2c.txt"}.get(name, "poses.npy")
        outcome = run("convert", "a.npz", f"{name}/{poses}", f"--to_format={name}")
        assert_refused(outcome, kind.beside, "--overwrite")
        assert [p.name for p in (tmp_path / name).iterdir()] == [kind.beside]
    assert run("convert", "a.npz", "m", "--to_format=colmap")[0] == 0
    outcome = run("convert", "a.npz", "m", "--to_format=colmap_bin", "--overwrite")
    assert_refused(outcome, "images.txt")


def test_plain_matrices_must_be_told(run):
    np.save("p.npy", in_convention(PATH, "w2c", "opengl"))
    assert_refused(run("check", "p.npy"), "p.npy", "--direction=c2w or --direction=w2c")
    assert_refused(run("check", "p.npy", "--direction=w2c"), "--axes=opencv or --axes=opengl")
    code, out, _ = run("check", "p.npy", "--direction=w2c", "--axes=opengl", "--length=9")
    assert code == 0 and "WRONG" not in out and "as told" in out
    code, out, _ = run("check", "p.npy", "--direction=w2c", "--axes=opengl", "--length=81")
    assert code == 1 and "WRONG  frames: 9, expected 81" in out


class Page(HTMLParser):
    """Tags, and addresses that they would fetch."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.fetched = [], []
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.fetched += [value for name, value in attrs if name in ("src", "href")]


def test_show_draws_the_path_and_a_page_that_fetches_nothing(run, tmp_path):
    names = ("</script><img src=x>", "DATA NOTES", *map(str, range(7)))
    np.savez("a.npz", cam2world=PATH, names=np.array(names))
    code, out, _ = run("show", "a.npz", "--picture=walk.png")
    assert code == 0 and "walk.html" in out
    image = np.asarray(Image.open("walk.png").convert("RGB")).astype(int)
    # The first camera is drawn blue and the last red, in both views.
    for colour in ((38, 70, 160), (214, 69, 38)):
        where = (np.abs(image - colour).max(-1) < 3).nonzero()[1]
        assert (where < image.shape[1] // 2).any() and (where > image.shape[1] // 2).any()
    page = Page((tmp_path / "walk.html").read_text())
    assert page.tags.count("script") == 1 and "canvas" in page.tags and "img" not in page.tags
    assert page.fetched == []


@pytest.mark.parametrize("named", ["look_away", "forward:1,back", "w*8 l*8"])
def test_show_takes_paths_by_name(run, tmp_path, named):
    assert run("show", named)[0] == 0
    assert (tmp_path / "trajectory.html").exists()


def test_what_cannot_be_done_is_said(run):
    assert_refused(run(), "show, convert, check")
    assert_refused(run("shwo", "a.txt"), "'shwo'")
    assert_refused(run("convert", "a.txt"), "convert: found 1 names")
    assert_refused(run("check", "none.txt"), "none.txt", "no such file")
    camera_files.write("a.txt", CameraRecord(PATH))
    assert_refused(run("check", "a.txt", "--pictures=p"), "--pictures and --depths together")
    assert_refused(run("show", "a.txt", "--picture=a.jpg"), "--picture", ".png")
    assert_refused(run("check", "a.txt", "--size=4"), "--size", "HEIGHT,WIDTH")
    assert_refused(run("check", "a.txt", "--field_of_view=60"), "--size")
    assert_refused(run("convert", "a.txt", "a.xyz"), "suffix '.xyz'")
    code, out, _ = run("--help")
    assert code == 0 and "--to_format" in out and "mirage trajectory show" in out


SIZE = (48, 64)
LENS = np.array([50.0, 50, 32, 24])


def textured_room(pose):
    """A picture and the depth of a box 8 m wide with a pattern on its walls, by casting rays."""
    v, u = np.mgrid[0 : SIZE[0], 0 : SIZE[1]] + 0.5
    rays = np.stack([(u - LENS[2]) / LENS[0], (v - LENS[3]) / LENS[1], np.ones_like(u)], -1)
    world = rays @ pose[:3, :3].T
    # Where each ray leaves the box: the first of the three walls ahead of it.
    depth = ((np.sign(world) * 4 - pose[:3, 3]) / np.where(world == 0, 1e-12, world)).min(-1)
    points = pose[:3, 3] + world * depth[..., None]
    waves = [np.sin(points @ np.array(k) + c) for k, c in (
        ([2.1, 0.7, 1.3], 0), ([0.3, 2.7, 1.9], 1), ([1.7, 1.1, 0.6], 2),
    )]  # fmt: skip
    return (127 + 120 * np.stack(waves, -1)).astype(np.uint8), depth.astype(np.float32)


@pytest.fixture
def footage(tmp_path):
    """A walk through the room, its pictures and depth in a folder."""
    poses = trajectories.steps("forward:0.8,right:0.8,turn_right:30,down:0.5", 8)
    for i, pose in enumerate(poses):
        picture, depth = textured_room(pose)
        Image.fromarray(picture).save(tmp_path / f"{i}.png")
        np.save(tmp_path / f"{i}.npy", depth)
    return poses


@pytest.mark.parametrize("direction", ["c2w", "w2c"])
@pytest.mark.parametrize("axes", ["opencv", "opengl"])
def test_pictures_decide_the_convention(run, tmp_path, footage, direction, axes):
    folder = tmp_path / "cameras"
    folder.mkdir()
    np.save(folder / "p.npy", in_convention(footage, direction, axes))
    flags = ("--intrinsics=50,50,32,24", "--size=48,64")
    pictures = (f"--pictures={tmp_path}", f"--depths={tmp_path}")
    code, out, _ = run("check", str(folder / "p.npy"), *flags, *pictures)
    assert code == 0 and f"the pictures fit {direction}, {axes}" in out, out
    other = "w2c" if direction == "c2w" else "c2w"
    outcome = run("check", str(folder / "p.npy"), *flags, *pictures, f"--direction={other}")
    assert_refused(outcome, "--direction", f"expected {direction}, which fits the pictures")


def test_what_pictures_cannot_decide_is_left_open(tmp_path, footage):
    """Where the camera stands still, every direction fits."""
    files = [[tmp_path / f"0.{suffix}"] * 4 for suffix in ("png", "npy")]
    record = CameraRecord(np.tile(np.eye(4), (4, 1, 1)), np.tile(LENS, (4, 1)), SIZE)
    assert verdict(compare(record, *files)) is None
