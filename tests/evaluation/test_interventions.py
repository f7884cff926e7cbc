"""Edits of bodies, scored on memories that are known to obey, and not to."""

import jax.numpy as jnp
import numpy as np
import pytest

from data_pipelines.due_again import history_frames
from data_pipelines.sources.counterfactual import replay
from data_pipelines.sources.procedural import ProceduralSource
from helpers import points, tiny_world
from mirage_jax import memory
from mirage_jax.evaluation.permanence import interventions, rollouts, tracks, views
from mirage_jax.evaluation.permanence.interventions import KINDS, Told
from mirage_jax.evaluation.permanence.props import PropCase
from mirage_jax.evaluation.permanence.views import ViewOptions
from mirage_jax.memory import movers
from mirage_jax.memory.movers import MoverOptions
from mirage_jax.memory.movers.state import with_rows
from mirage_jax.world import World, WorldModel

SOURCE = ProceduralSource(size=32, frames=17, bodies=2, skip=6, eval_worlds=2)
WORLD = "procedural/eval-000"
OPTIONS = ViewOptions(pixels=20, known_pixels=10)
UP = np.array([0.0, 0.0, 1.0])
FREE_SLOTS = 2


@pytest.fixture(scope="module")
def clips():
    """One, in which a body is due."""
    with SOURCE.open_stage(WORLD) as stage:
        for clip in SOURCE.clips(WORLD, 12, seed=5):
            if views.judged_views(clip, stage.ground, OPTIONS):
                return [clip]
    raise AssertionError("no body is due in any clip")


def perfect(clip, *, obeys=True, knows=True):
    """A memory that has every body where it is, and draws the clip by the simulator itself."""
    ids, given = clip.bodies.ids.tolist(), history_frames(clip)
    count = len(ids) + FREE_SLOTS
    table = movers.create(1, UP, MoverOptions(slots=count, views=1, view_cells=1), floor=0.0)

    def states(frame):
        with replay(clip) as scene:
            found = [scene.state(frame, body)[:2] for body in ids]
        return np.array([*found, *[(0.0, 0.0)] * FREE_SLOTS])

    places = np.zeros((count, 3), np.float32)
    places[:, :2] = states(given - 1)
    if not knows:
        places += 5.0
    values = {"position": places, "velocity": 1.0, "id": np.arange(count)}
    table = with_rows(table, jnp.arange(count) < len(ids), values | {"status": movers.CONFIRMED})

    def render(scene, frame, edited, thing):
        moved, without, props = {}, [], scene.stage.props
        same = (props == (np.nan if thing is None else thing.corners)).all((1, 2))
        things = np.flatnonzero(same).tolist()
        for slot, body in enumerate(ids):
            if int(edited.status[slot]) == movers.FREE:
                without.append(body)
                continue
            place = np.asarray(edited.position[slot])
            same = np.flatnonzero((places[: len(ids)] == place).all(-1))
            if len(same):  # it goes on as whoever was there
                moved[body] = scene.state(frame, ids[int(same[0])])
            else:
                moved[body] = (*place[:2].tolist(), 0.0)
        return scene.render(frame, moved=moved, without=without, without_props=things).picture

    def show(edited, thing):
        edited, thing = (edited, thing) if obeys else (table, None)
        with replay(clip) as scene:
            video = [render(scene, frame, edited, thing) for frame in range(given, clip.frames)]
        return {"drawn": np.stack(video)}

    return Told(table, states, show)


def summary(clips, **options):
    begin = lambda clip: perfect(clip, **options)  # noqa: E731
    return interventions.score_clips(clips, begin, OPTIONS).summarise()


def test_a_memory_that_obeys_does_so_in_every_case(clips):
    found = summary(clips)
    assert found["clips"] == len(clips) == 1 and found["untracked"] == 0
    for kind in KINDS:
        entry = found["methods"]["drawn"][kind]
        assert entry["obeyed"]["value"] == 1.0 and entry["obeyed"]["views"] >= 1, kind
        if kind != "moved":  # whose heading in the new place is not told
            assert entry["rest"] == pytest.approx(0.0, abs=1e-6), kind


def test_one_that_does_not_never_does(clips):
    found = summary(clips, obeys=False)
    entries = found["methods"]["drawn"]
    assert [entries[kind]["obeyed"]["value"] for kind in KINDS] == [0.0] * len(KINDS)


def test_bodies_that_the_memory_has_elsewhere_are_not_judged(clips):
    found = summary(clips, knows=False)
    assert found["untracked"] >= 1
    assert found["methods"]["drawn"]["deleted"]["obeyed"]["views"] == 0


def test_tracked_bodies_are_nearest_pairs(clips):
    told = perfect(clips[0])
    ids = clips[0].bodies.ids.tolist()
    assert tracks.tracked(told.movers, clips[0]) == {n: n for n in range(len(ids))}
    # A false body beside the first, farther from it than its own slot.
    beside = told.movers.position[0] + jnp.array([0.4, 0.0, 0.0])
    more = with_rows(
        told.movers,
        jnp.arange(len(ids) + FREE_SLOTS) == len(ids),
        {"position": beside, "status": movers.CONFIRMED},
    )
    assert tracks.tracked(more, clips[0])[0] == 0


def test_a_model_has_bodies_where_they_went_while_frames_were_left_out(clips):
    """Straight on, by the clip's own times and rate, from the last given frame."""
    clip = clips[0]
    given = history_frames(clip)
    options = MoverOptions(slots=2, views=1, fps=clip.fps / 2, persistence=1e6)
    seconds = np.asarray(clip.times) - clip.times[0]
    velocity = np.array([[0.5, -0.2, 0.0], [0.0, 0.0, 0.0]], np.float32)
    table = with_rows(
        movers.create(1, UP, options),
        jnp.array([True, False]),
        {"position": 1.0, "velocity": velocity, "id": 0, "status": movers.CONFIRMED},
    ).replace(time=jnp.float32(seconds[given - 1]))

    class Model(tiny_world.stand_in(WorldModel)):
        size, chunk_frames, movers = clip.size, clip.frames - given + 1, options

        def start(self, pictures, camera, **maps):
            return World(memory.create(1, 1), None, None, None, given, movers=table)

        def replace(self, movers):
            self.movers = movers
            return self

    told = interventions.told_by(Model(), clip, seed=0)
    assert told.movers is table
    for frame in (given, clip.frames - 1):
        gone = seconds[frame] - seconds[given - 1]
        assert gone > (frame - given + 1) / clip.fps  # some were left out
        np.testing.assert_allclose(told.places(frame)[0], 1 + velocity[0, :2] * gone, atol=1e-3)


def test_a_model_shows_what_its_memory_is_without_a_thing(clips, monkeypatch):
    clip, options = clips[0], MoverOptions(slots=2, views=1)
    bank = points.bank([(0, 0, 1), (1, 0, 2), (2, 0, 3)])
    table = movers.create(1, UP, options)

    class Model(tiny_world.stand_in(WorldModel)):
        movers = options

        def start(self, pictures, camera, **maps):
            return World(bank, None, None, None, history_frames(clip), movers=table)

        def replace(self, movers):
            return self

    class Thing(tiny_world.stand_in(PropCase)):
        def shown_in(self, found):
            return found.valid & (found.xyz[:, 0] == 1)

    monkeypatch.setattr(rollouts, "second_half", lambda _, world, *__, **___: {"world": world.bank})
    told = interventions.told_by(Model(), clip, seed=0)
    whole, less = (told.show(table, thing)["world"] for thing in (None, Thing()))
    assert whole is bank
    left = np.asarray(less.xyz)[np.asarray(less.valid)]
    np.testing.assert_array_equal(left[:, 0], [0, 2])


def test_a_model_that_keeps_no_bodies_is_refused(clips):
    class Model(tiny_world.stand_in(WorldModel)):
        movers = None

    with pytest.raises(ValueError, match="expected --bodies or weights that say so"):
        interventions.told_by(Model(), clips[0], seed=0)
