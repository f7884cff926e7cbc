"""A walker over a real session, of the smallest model there is."""

import io
import json
import struct

import jax
import numpy as np
import pytest
from PIL import Image

from helpers import drawn_session, tiny_world
from mirage_jax.explore import protocol
from mirage_jax.explore.pictures import encoded
from mirage_jax.explore.starts import Start, Starts
from mirage_jax.explore.walker import Walker
from mirage_jax.geometry import Camera
from mirage_jax.world.session import Session, SessionOptions
from mirage_jax.world.world_file import read_world_file

PICTURE = np.random.default_rng(0).integers(0, 256, (*tiny_world.SIZE, 3), np.uint8)
WALK = protocol.Controls(seq=3, forward=1, yaw=1)


def read(data):
    """Header and pictures of a binary message."""
    (length,) = struct.unpack_from("<I", data)
    header, start, pictures = json.loads(data[4 : 4 + length]), 4 + length, []
    for size in header["sizes"]:
        with Image.open(io.BytesIO(data[start : start + size])) as image:
            pictures.append(np.asarray(image))
        start += size
    return header, pictures


@pytest.fixture(scope="module")
def starts():
    model = tiny_world.world_model()
    camera = Camera(tiny_world.INTRINSICS, np.eye(4, dtype=np.float32), tiny_world.SIZE)
    options = SessionOptions(walls=False)

    def begin():
        return Session(model, PICTURE, options=options, camera=camera)

    return Starts(model, options, (Start("a picture", begin),))


@pytest.fixture
def walker(starts):
    return Walker(1, starts.begin(0))


def state(walker):
    """All that the world holds, as arrays."""
    return jax.tree.map(np.asarray, walker.session.world)


def assert_same(one, other):
    jax.tree.map(np.testing.assert_array_equal, one, other)


def test_a_step_sends_the_frames_that_the_session_makes(starts, walker):
    header, pictures = read(walker.step(WALK, 0.5, 7))
    other = starts.begin(0)
    step = other.step(("w", "right"))
    assert (header["frame"], header["seq"]) == (7, 3)
    np.testing.assert_allclose(header["pose"], step.poses[-1], atol=1e-5)
    assert [picture.shape for picture in pictures] == [(*tiny_world.SIZE, 3)] * 4
    assert np.abs(np.float64(pictures) - step.video).mean() < 16  # JPEGs of noise
    assert header["ledger"]["input"] >= 500
    assert {"read", "denoise", "decode", "geometry_write", "encode"} <= {*header["ledger"]}
    assert "total" not in header["ledger"]
    assert header["report"]["written"] == step.report["written"]
    assert walker.film.end == walker.state()["frames"] == 5


def test_undo_gives_the_world_and_the_film_of_before(walker):
    before, picture = state(walker), walker.picture
    walker.step(WALK, 0.0, 1)
    after = state(walker)
    walker.mark()
    walker.undo(1)
    assert_same(state(walker), before)
    assert (walker.picture, walker.film.pictures) == (picture, [picture])
    walker.redo(1)
    assert_same(state(walker), after)
    walker.undo(1)
    walker.go(0)
    assert_same(state(walker), after)
    assert walker.film.end == 5
    with pytest.raises(ValueError, match="branch"):
        walker.go(1)


def test_undo_shows_what_the_session_shows_where_the_film_has_another_picture():
    walker = Walker(1, drawn_session.Session())
    walker.step(WALK, 0.0, 1)
    walker.set_memory(False)  # changes what a drawn session shows, as an edit may of a real one
    walker.undo(1)
    assert walker.picture == encoded(walker.session.picture) != walker.film.pictures[-1]


def test_a_saved_world_is_the_same_in_every_bit(starts, walker, tmp_path):
    walker.step(WALK, 0.0, 1)
    walker.mark()
    assert walker.changes > walker.saved
    walker.save(tmp_path / "a.world")
    assert walker.changes == walker.saved
    again = Walker(2, starts.load(tmp_path / "a.world"))
    assert_same(state(again), state(walker))
    assert [branch["name"] for branch in again.branch_list()] == ["branch 1"]
    np.testing.assert_allclose(again.session.pose, walker.session.pose)
    file = read_world_file(tmp_path / "a.world")
    np.testing.assert_allclose(file.camera_path.cam2world, walker.session.path)
    walker.mark()
    assert walker.changes > walker.saved


def test_the_view_shows_what_is_held(walker):
    header, (plan, shown) = read(walker.view())
    elements = walker.session.statistics()["elements"]
    assert header["elements"] == elements > 0
    assert header["camera"] == [0, 0]
    assert header["ahead"] == [0, 1]
    assert shown.shape == (*tiny_world.SIZE, 3)
    # Every element that is not above the camera is in a bin that is not transparent.
    found = walker.session.plan()
    xyz = found.xyz[found.xyz[:, 1] > -0.5]
    column = np.floor((xyz[:, 0] - header["left"]) / header["pixel"]).astype(int)
    row = np.floor((header["top"] - xyz[:, 2]) / header["pixel"]).astype(int)
    inside = (row >= 0) & (row < plan.shape[0]) & (column >= 0) & (column < plan.shape[1])
    assert inside.any()
    assert (plan[row[inside], column[inside], 3] == 255).all()
    assert (plan[..., 3] > 0).sum() <= len(xyz)


@pytest.mark.parametrize("operation", ["delete", "move", "swap"])
def test_edits_take_the_square_of_the_plan(walker, operation):
    before = walker.session.plan().xyz
    x, z = before[0, [0, 2]]
    wanted = protocol.Edit(operation, float(x), float(z), 0.5, float(x) + 30.0, float(z) + 10.0)
    chosen = (np.abs(before[:, [0, 2]] - [x, z]) <= 0.5).all(1)
    assert chosen.any()
    said = walker.edit(wanted)
    after = walker.session.plan().xyz
    if operation == "delete":
        expected = before[~chosen]
        assert said == f"{chosen.sum()} elements removed"
    else:
        expected = before + np.where(chosen[:, None], [30, 0, 10], 0)
    assert len(after) == len(expected)
    order = [np.lexsort(np.round(points, 3).T) for points in (after, expected)]
    np.testing.assert_allclose(after[order[0]], expected[order[1]], atol=1e-4)
    walker.undo(1)
    np.testing.assert_array_equal(walker.session.plan().xyz, before)


def test_walkers_of_one_memory_read_what_the_other_wrote(walker):
    other = Walker(2, walker.session.share())
    held = walker.state()["elements"]
    other.step(WALK, 0.0, 1)
    assert walker.state()["elements"] == other.state()["elements"] > held
    with pytest.raises(ValueError, match="walk in this memory"):
        other.undo(1)


def test_what_is_emptied_is_not_read(starts, walker):
    other = Walker(2, starts.begin(0))
    other.set_memory(False)
    frames = [read(each.step(WALK, 0.0, 1))[1] for each in (walker, other)]
    assert not np.array_equal(*frames)
    assert not other.state()["memory_on"]
