"""Clips that tell whether a thing was deleted: what they show, and what they take for known."""

import numpy as np
import pytest

from data_pipelines.due_again import history_frames
from data_pipelines.sources.procedural import ProceduralSource
from mirage_jax import geometry, memory
from mirage_jax.evaluation.permanence.props import ABOVE_FLOOR, prop_cases
from mirage_jax.evaluation.permanence.views import ViewOptions

SOURCE = ProceduralSource(size=48, frames=17, bodies=1, eval_worlds=1)
WORLD = "procedural/eval-000"
OPTIONS = ViewOptions(pixels=30, known_pixels=20, seen_pixels=5)


@pytest.fixture(scope="module")
def stage():
    with SOURCE.open_stage(WORLD) as opened:
        yield opened


@pytest.fixture(scope="module")
def cases(stage):
    (like,) = SOURCE.clips(WORLD, 1, seed=0)
    found = list(prop_cases(stage, like, OPTIONS))
    assert 1 < len(found) <= len(stage.props)
    return found


def number_of(stage, case):
    return int(np.flatnonzero((stage.props == case.corners).all((1, 2)))[0])


def test_the_thing_shows_goes_out_of_sight_and_comes_back(stage, cases):
    for case in cases:
        number, given = number_of(stage, case), history_frames(case.clip)
        assert case.clip.frames == SOURCE.frames and given <= case.frame < case.clip.frames
        differ = []
        for pose, picture in zip(case.clip.cam2world, case.clip.video, strict=True):
            without = stage.view(pose, without=(number,)).picture
            np.testing.assert_array_equal(stage.view(pose).picture, picture)
            differ.append(int((without != picture).any(-1).sum()))
        assert max(differ[:given]) >= OPTIONS.known_pixels
        assert differ[given - 1] < OPTIONS.seen_pixels
        assert differ[case.frame] >= OPTIONS.pixels
        assert case.known_behind.sum() >= OPTIONS.known_pixels


def test_what_counts_as_known_looks_as_a_given_frame_has_shown_it(stage, cases):
    """By the colours of the pictures, which the choice of pixels has not looked at."""
    for case in cases:
        clip, given = case.clip, history_frames(case.clip)
        camera = geometry.Camera(clip.intrinsics, clip.cam2world.astype(np.float32), clip.size)
        absent = stage.view(clip.cam2world[case.frame], without=(number_of(stage, case),))
        np.testing.assert_array_equal(absent.picture, case.absent)
        points = np.asarray(geometry.lift(absent.depth, camera[case.frame]))[case.known_behind]
        least = np.full(len(points), np.inf)
        for frame in range(given):
            uv, z = (np.asarray(part) for part in geometry.project(points, camera[frame]))
            inside = (z > 0) & (uv >= 0).all(-1) & (uv < clip.size[::-1]).all(-1)
            column, row = np.where(inside[:, None], uv, 0).astype(int).T
            gap = clip.video[frame][row, column].astype(int) - case.absent[case.known_behind]
            least = np.minimum(least, np.where(inside, np.abs(gap).mean(-1), np.inf))
        assert np.isfinite(least).all() and np.median(least) < 10


def test_what_shows_the_thing_is_told_from_what_does_not(stage, cases):
    """A memory of a token a pixel, whose values say whether the pixel shows the thing."""
    for case in cases:
        clip, given = case.clip, history_frames(case.clip)
        number, frames = number_of(stage, case), slice(0, given, 4)
        camera = geometry.Camera(clip.intrinsics, np.float32(clip.cam2world), clip.size)[frames]
        depth = [stage.view(pose, without=(number,)).depth for pose in clip.cam2world[frames]]
        thing = np.float32(clip.depth[frames] < np.array(depth))[..., None]
        bank = memory.create(thing.size, 1)
        bank, _ = memory.write(bank, thing, clip.depth[frames], camera)
        shows = np.asarray(bank.valid & (bank.tokens[:, 0] > 0))
        found, height = np.asarray(case.shown_in(bank)), np.asarray(bank.xyz[:, 2])
        assert shows.sum() > 20 and found[shows & (height > ABOVE_FLOOR)].all()
        others = np.asarray(bank.valid) & ~shows
        assert found[others].mean() < 0.1


def test_the_same_clips_are_made_again(stage, cases):
    (like,) = SOURCE.clips(WORLD, 1, seed=0)
    again = list(prop_cases(stage, like, OPTIONS))
    assert [case.frame for case in again] == [case.frame for case in cases]
    for one, other in zip(cases, again, strict=True):
        np.testing.assert_array_equal(one.clip.video, other.clip.video)


def test_nothing_is_found_where_too_little_shows(stage):
    (like,) = SOURCE.clips(WORLD, 1, seed=0)
    assert not list(prop_cases(stage, like, ViewOptions(pixels=48 * 48)))
