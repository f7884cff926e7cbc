"""Bodies in memory beside the true ones, for memories that have them where one puts them."""

import dataclasses

import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.due_again import due_again, history_frames
from data_pipelines.sources.procedural import ProceduralSource
from helpers import tiny_world
from mirage_jax import memory
from mirage_jax.evaluation.permanence import rollouts, tracks
from mirage_jax.evaluation.permanence.tracks import Kept, score_clips
from mirage_jax.geometry import lift, resize_camera
from mirage_jax.memory import movers
from mirage_jax.memory.movers import MoverOptions
from mirage_jax.memory.movers.state import with_rows
from mirage_jax.world import World, WorldModel

GRID = (8, 8)
UP = np.array([0.0, 0.0, 1.0])


@pytest.fixture(scope="module")
def clip():
    """One in which a body is due that went away from where it was last seen."""
    source = ProceduralSource(size=32, frames=17, bodies=2, skip=6)
    for clip in source.clips("procedural/eval-000", 20, seed=5):
        places = clip.bodies.body2world[..., :2, 3]
        due = due_again(clip)
        if due and min(moved(places, one) for one in due) > 0.6:
            return clip
    raise AssertionError("no body is due in any clip")


def moved(places, one):
    return np.linalg.norm(places[one.frame, one.body] - places[one.last_seen, one.body])


def keeping(clip, extra=(), off=0.0, stored=False):
    """A memory that has every body `off` metres to the east of it, and others where one says."""
    last, places = history_frames(clip) - 1, clip.bodies.body2world[..., :2, 3]
    there = np.concatenate([places[last] + [off, 0.0], np.reshape(extra, (-1, 2))])
    table = movers.create(1, UP, MoverOptions(slots=len(there) + 1, views=1, view_cells=1))
    position = np.zeros((len(there) + 1, 3), np.float32)
    position[:-1, :2] = there
    values = {"position": position, "status": movers.CONFIRMED}
    table = with_rows(table, jnp.arange(len(there) + 1) < len(there), values)

    def at(frame):
        now = np.concatenate([places[frame] + [off, 0.0], np.reshape(extra, (-1, 2))])
        return np.concatenate([now, np.zeros((1, 2))])

    return Kept(table, at, np.full((last + 1, *GRID), stored))


def scores(clip, **kept):
    return score_clips([clip], lambda clip: keeping(clip, **kept)).summarise()


def test_a_memory_that_has_all_bodies_where_they_are(clip):
    found = scores(clip)
    assert found["tracked"]["value"] == 1.0 and found["tracked"]["views"] >= 1
    assert found["metres"]["value"] == found["state_error"]["value"] == 0.0
    assert found["nearer"]["value"] == 1.0 and found["frozen_metres"]["value"] > 0.6
    assert found["hallucinated"]["value"] == found["doubled"]["value"] == 0.0
    assert found["ghosts"]["value"] == 0.0 and found["ghosts"]["views"] >= 1
    straight = [view.straight for view in score_clips([clip], keeping).views]
    places, one = clip.bodies.body2world[..., :2, 3], due_again(clip)[0]
    seconds = clip.times[one.frame] - clip.times[one.last_seen]
    there = places[one.last_seen, one.body] + (
        seconds * clip.bodies.velocity[one.last_seen, one.body, :2]
    )
    expected = np.linalg.norm(there - places[one.frame, one.body])
    assert straight[0] == pytest.approx(expected)
    curve = [entry["tracked"]["views"] for entry in found["hidden"].values()]
    assert sum(curve) == found["tracked"]["views"]


def test_how_far_off_it_has_them(clip):
    found = scores(clip, off=0.3)
    assert found["metres"]["value"] == pytest.approx(0.3)
    views = score_clips([clip], lambda clip: keeping(clip, off=0.3)).views
    ratios = [0.3 / view.moved for view in views]
    assert found["state_error"]["value"] == pytest.approx(np.median(ratios))
    lost = scores(clip, off=tracks.NEAR + 9.0)
    assert lost["tracked"]["value"] == 0.0 and lost["metres"]["value"] is None


def test_bodies_that_are_none_and_bodies_twice_are_counted(clip):
    last = history_frames(clip) - 1
    true = clip.bodies.body2world[last, :, :2, 3]
    found = scores(clip, extra=[true[0] + [0.0, 0.4], true[0] + [50.0, 0.0], [99.0, 99.0]])
    assert found["doubled"]["value"] == 1.0 and found["hallucinated"]["value"] == 2.0
    assert found["tracked"]["value"] == 1.0 and found["metres"]["value"] == 0.0


def test_what_is_left_of_covered_cells_are_ghosts(clip):
    assert scores(clip, stored=True)["ghosts"]["value"] == 1.0
    covered = tracks.cells_covered(clip, GRID)
    given, side = history_frames(clip), clip.size[0] // GRID[0]
    for frame, row, column in np.ndindex(given, *GRID):
        cell = clip.mover_ids[
            frame, row * side : (row + 1) * side, column * side : (column + 1) * side
        ]
        assert covered[frame, row, column] == ((cell > 0).mean() >= tracks.COVERED)


def test_what_a_model_has_stored_is_told_by_cell_and_frame(clip):
    """A memory of three of the given frames, less one cell, whose elements lie in no order."""
    given, options = history_frames(clip), MoverOptions(slots=2, views=1, fps=clip.fps)
    stored = np.zeros((given, *GRID), bool)
    stored[[0, 2, 3]] = True
    stored[2, 5, 1] = False
    camera = resize_camera(rollouts.camera_of(clip, slice(0, given)), GRID)
    frames, rows, columns = np.nonzero(stored)[:]
    depth = np.random.default_rng(0).uniform(0.3, 40.0, stored.shape).astype(np.float32)
    order = np.random.default_rng(1).permutation(len(frames))
    xyz = np.asarray(lift(depth, camera))[frames, rows, columns][order]
    blank = memory.create(len(order) + 5, 1)
    bank = blank.replace(
        xyz=np.asarray(blank.xyz) * 0 + np.pad(xyz, ((0, 5), (0, 0))),
        frame=np.pad(frames[order], (0, 5)),
        valid=np.arange(len(order) + 5) < len(order),
    )

    class Model(tiny_world.stand_in(WorldModel)):
        grid, movers = GRID, options

        def start(self, pictures, camera, **maps):
            table = movers.create(1, UP, options)
            return World(bank, None, None, None, given, movers=table)

        def replace(self, movers):
            return self

    kept = tracks.kept_by(Model(), clip, told=True)
    np.testing.assert_array_equal(kept.stored, stored)
    assert kept.places(clip.frames - 1).shape == (2, 2)


def test_pairs_are_the_nearest_first():
    metres = np.array([[0.2, 0.5], [0.1, 0.4], [3.0, 3.0]])
    assert tracks.nearest_pairs(metres, 1.5) == {1: 0, 0: 1}
    assert tracks.nearest_pairs(np.zeros((0, 3)), 1.5) == {}
    assert tracks.nearest_pairs(np.zeros((2, 0)), 1.5) == {}


def test_who_is_no_longer_there_is_not_taken_for_anybody(clip):
    last, gone = history_frames(clip) - 1, clip.bodies.present.copy()
    gone[last, 0] = False
    without = dataclasses.replace(clip, bodies=dataclasses.replace(clip.bodies, present=gone))
    kept = keeping(clip).movers
    assert set(tracks.tracked(kept, clip)) == {0, 1}
    assert set(tracks.tracked(kept, without)) == {1}
