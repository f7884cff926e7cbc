"""The permanence protocol on rooms in which every answer is known."""

import dataclasses
import itertools

import numpy as np
import pytest

from data_pipelines import due_again
from data_pipelines.clip import validate
from data_pipelines.sources import bodies
from data_pipelines.sources.bodies import Walkers
from data_pipelines.sources.counterfactual import replay
from data_pipelines.sources.ground import Ground
from data_pipelines.sources.living import Scene, film
from data_pipelines.sources.paths import level_cam2world
from data_pipelines.sources.procedural import ProceduralSource
from mirage_jax.evaluation.permanence import baselines, pairs, protocol, scores, summary, views
from mirage_jax.evaluation.permanence.placements import CLOSE, place_body
from mirage_jax.evaluation.permanence.summary import Verdict
from mirage_jax.evaluation.permanence.views import BEHIND, LEFT, LOOKED_AWAY, ViewOptions

SOURCE = ProceduralSource(size=32, frames=17, bodies=2, skip=6, skip_spread=0)
WORLD = "procedural/eval-002"
OPTIONS = ViewOptions(pixels=20, known_pixels=15, each=1)
FRAMES, MIDDLE, SKIP = 17, 8, 12
NUMBERS = np.where(np.arange(FRAMES) > MIDDLE, np.arange(FRAMES) + SKIP, np.arange(FRAMES))


# -- scores of pictures --------------------------------------------------------------------------


def test_presence_of_renderings_and_mixtures():
    rng = np.random.default_rng(0)
    absent = rng.integers(60, 200, (8, 9, 3), np.uint8)
    there = np.stack([absent, absent, absent])
    there[0, 2:5, 2:5] = 240
    there[1, 4:7, 5:8] = 20
    np.testing.assert_allclose(scores.presence(there[0], there, absent)[0], 1.0)
    np.testing.assert_allclose(scores.presence(absent, there, absent)[:2], -1.0)
    assert scores.presence(absent, there, absent)[2] == -np.inf  # it differs in nothing
    half = ((there[0].astype(float) + absent) / 2).round().astype(np.uint8)
    assert abs(scores.presence(half, there, absent)[0]) < 0.05
    # What is the same in all renderings changes nothing, however wrong it is.
    spoilt = there[1].copy()
    spoilt[0] = 0
    np.testing.assert_allclose(scores.presence(spoilt, there, absent)[1], 1.0)
    assert scores.best_placement(spoilt, there) == 1
    assert scores.nearest_look(spoilt, there[::-1]) == 1
    only = np.zeros((8, 9), bool)
    only[2, 2] = True
    np.testing.assert_allclose(scores.presence(there[0], there, absent, only)[0], 1.0)


def test_order_of_occlusion_counts_pixels_that_can_be_told():
    absent = np.full((4, 6, 3), 50, np.uint8)
    alone = np.full((4, 6, 3), 220, np.uint8)
    alone[0] = 60  # hardly another colour than what is behind
    silhouette = np.zeros((4, 6), bool)
    silhouette[:, 1:5] = True
    in_front = silhouette & (np.arange(6) < 3)
    both = np.where(in_front[..., None], alone, absent)
    rest = alone, absent, both, silhouette, in_front
    assert scores.occlusion_order(both, *rest) == (12, 12)
    assert scores.occlusion_order(absent, *rest) == (6, 12)
    assert scores.occlusion_order(alone, *rest) == (6, 12)


# -- numbers -------------------------------------------------------------------------------------


def test_weighted_numbers_are_those_of_repeated_values():
    rng = np.random.default_rng(2)
    values, times = rng.normal(size=7), rng.integers(0, 4, (50, 7)).astype(float)
    repeated = [np.repeat(values, row.astype(int)) for row in times]
    for weighted, plain in (
        (summary.weighted_mean, np.mean),
        (summary.weighted_median, np.median),
    ):
        np.testing.assert_allclose(weighted(values, times), [plain(row) for row in repeated])


def test_summaries_against_brute_force():
    rng = np.random.default_rng(1)
    verdicts = [
        Verdict(f"world-{n % 4}", int(rng.integers(4, 120)), views.KINDS[n % 3], bool(n % 3),
                bool(n % 2) if n % 3 else None, 0.1 * n if n % 3 else None,
                0.01 * n if n % 3 else None)
        for n in range(40)
    ]  # fmt: skip
    found = summary.summarise(verdicts)
    assert found["present"]["value"] == np.mean([v.present for v in verdicts])
    assert found["present"]["low"] < found["present"]["value"] < found["present"]["high"]
    there = [v for v in verdicts if v.present]
    assert found["who"] == found["who"] | {"value": np.mean([v.who for v in there]), "views": 26}
    assert found["state_error"]["value"] == np.median([v.state_error for v in there])
    assert found["order"] == {"value": None, "low": None, "high": None, "views": 0}
    for part in ("hidden", "kind"):
        assert sum(entry["present"]["views"] for entry in found[part].values()) == 40
    assert [summary.hidden_bin(n) for n in (4, 5, 6, 22, 23, 120)] == [4, 4, 8, 16, 32, 100]
    few = summary.interval([("a", 1.0), ("b", 0.0)], summary.weighted_mean)
    assert few["value"] == 0.5 and few["low"] is None
    same = summary.interval([(world, 2.0) for world in "abc"], summary.weighted_mean)
    assert (same["low"], same["high"]) == (2.0, 2.0)


# -- judged views --------------------------------------------------------------------------------


def made(walkers, positions, yaws, kinds=("box",), looks=("red plain",)):
    """A clip of one room, with the camera and the bodies as given; walkers start at frame 0."""
    with SOURCE.open_stage(WORLD) as stage:
        poses = level_cam2world(np.column_stack([positions, np.full(FRAMES, 1.1)]), yaws)
        walked = bodies.walk(
            stage.ground, walkers, bodies.radii(kinds), int(NUMBERS[-1]) + 1, 1 / SOURCE.fps
        )[NUMBERS]
        scene = Scene(poses, NUMBERS / SOURCE.fps, walked, kinds, looks, "watch")
        return film(
            stage, scene, SOURCE.intrinsics, world=WORLD, source="procedural", seed=0,
            fps=SOURCE.fps, name="made",
        )  # fmt: skip


def walker(x, y, heading, speed):
    return Walkers(np.array([[x, y]]), *(np.array([v]) for v in (heading, speed, 0.0)))


@pytest.mark.parametrize("kind", [BEHIND, LEFT, LOOKED_AWAY])
def test_the_kind_of_hiding_is_what_was_staged(kind):
    """From above, a body before a camera at the origin that looks along +x and may turn."""
    clip = made(walker(1.5, 2.0, 0.0, 0.0), np.tile([1.2, 2.0], (FRAMES, 1)), np.zeros(FRAMES))
    wall = np.array([[[2.0, 0.5], [2.2, 1.5]]] if kind == BEHIND else np.zeros((0, 2, 2)))
    turned = (np.arange(FRAMES) >= 4) & (np.arange(FRAMES) <= 12) & (kind == LOOKED_AWAY)
    yaws = np.where(turned, np.pi, 0.0)
    eyes = np.column_stack([np.zeros((FRAMES, 2)), np.full(FRAMES, 1.1)])
    speed = {BEHIND: 0.75, LEFT: 3.0, LOOKED_AWAY: 0.0}[kind]
    walked = bodies.walk(
        Ground(np.zeros((0, 2, 2)), np.zeros(0, bool)), walker(3.0, 0.0, np.pi / 2, speed),
        np.array([0.3]), int(NUMBERS[-1]) + 1, 0.1,
    )[NUMBERS]  # fmt: skip
    shown = np.zeros((FRAMES, 32, 32), np.int32)
    shown[:3, :10, :10] = shown[14:, :10, :10] = 1
    clip = dataclasses.replace(
        clip, cam2world=level_cam2world(eyes, yaws), times=NUMBERS / 10, fps=10.0,
        mover_ids=shown, bodies=bodies.to_bodies(walked, ("box",), ("red plain",), shown),
    )  # fmt: skip
    ground = Ground(wall, np.ones(len(wall), bool))
    (view,) = views.judged_views(clip, ground, OPTIONS)
    assert (view.frame, view.body, view.last_seen, view.pixels) == (14, 1, 2, 100)
    assert view.kind == kind and view.hidden == 12 + SKIP
    assert view.travelled == pytest.approx(speed * 2.4, abs=1e-6)
    assert view.displacement == pytest.approx(view.travelled, abs=1e-6)
    longer = dataclasses.replace(OPTIONS, hidden=25)
    assert [v.hidden for v in views.judged_views(clip, ground, longer)] == [25]
    assert views.judged_views(clip, ground, dataclasses.replace(OPTIONS, pixels=101)) == []
    assert views.judged_views(clip, ground, dataclasses.replace(OPTIONS, known_pixels=101)) == []


def test_a_body_that_was_in_view_all_the_time_is_not_judged():
    still = walker(3.0, 0.0, 0.0, 0.0)
    clip = made(walker(1.5, 2.0, 0.0, 0.0), np.tile([1.2, 2.0], (FRAMES, 1)), np.zeros(FRAMES))
    shown = np.zeros((FRAMES, 32, 32), np.int32)
    shown[:, :10, :10] = 1
    tiled = Walkers(
        *(np.stack([getattr(still, f.name)] * FRAMES) for f in dataclasses.fields(still))
    )
    eyes = np.column_stack([np.zeros((FRAMES, 2)), np.full(FRAMES, 1.1)])
    clip = dataclasses.replace(
        clip, cam2world=level_cam2world(eyes, np.zeros(FRAMES)), mover_ids=shown,
        bodies=bodies.to_bodies(tiled, ("box",), ("red plain",), shown),
    )  # fmt: skip
    ground = Ground(np.zeros((0, 2, 2)), np.zeros(0, bool))
    assert views.judged_views(clip, ground, OPTIONS) == []
    with pytest.raises(ValueError, match="bodies: found none, expected their states"):
        views.judged_views(dataclasses.replace(clip, bodies=None), ground, OPTIONS)


def test_a_body_is_placed_around_where_it_is_asked_for():
    clip = made(walker(3.5, 2.0, 0.0, 0.0), np.tile([1.2, 2.0], (FRAMES, 1)), np.zeros(FRAMES))
    view = views.JudgedView(14, 1, 2, 12, LEFT, 0.0, 0.0, 100)
    asked = np.array([2.6, 2.2])
    with replay(clip) as scene:
        plain, more = (place_body(scene, view, near) for near in (None, asked))
        assert more.states[: len(plain.states)] == plain.states
        added = np.array(more.states[len(plain.states) :])[:, :2]
        gaps = np.linalg.norm(added - asked, axis=-1)
        assert len(added) >= 5 and gaps.min() == 0 and gaps.max() <= CLOSE + 1e-9
        number = len(plain.states) + int(gaps.argmin())
        shown = scene.render(14, moved={1: (2.6, 2.2, more.states[0][2])})
        np.testing.assert_array_equal(more.there[number], shown.picture)


# -- the whole protocol --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def clips():
    found = []
    with SOURCE.open_stage(WORLD) as stage:
        for clip in itertools.islice(SOURCE.clips(WORLD, 12, seed=5), 12):
            if views.judged_views(clip, stage.ground, OPTIONS):
                found.append(clip)
            if len(found) == 3:
                break
    return found


@pytest.fixture(scope="module")
def outcome(clips):
    return protocol.score_clips(((clip, {}) for clip in clips), OPTIONS, again=lambda _: {})


def test_known_answers_get_known_scores(outcome):
    assert outcome.views >= 3 and outcome.clips == 3
    verdicts = outcome.verdicts
    for verdict in verdicts["oracle_state"]:
        assert verdict.present and verdict.who and verdict.metres == 0.0
        assert verdict.order is None or verdict.order[0] == verdict.order[1]
    assert not any(verdict.present for verdict in verdicts["nothing_remembered"])
    errors = [v.state_error for v in verdicts["frozen_at_last_sight"] if v.state_error is not None]
    np.testing.assert_allclose(errors, 1.0, atol=0.25)
    for method in ("oracle_state", "nothing_remembered"):
        for kind in (outcome.ghosts, outcome.hallucinated):
            assert not any(place.shown for place in kind.get(method, []))
    assert len(outcome.hallucinated["oracle_state"]) > 0
    assert outcome.pairs["oracle_state"] and all(p.shown for p in outcome.pairs["oracle_state"])
    assert not any(pair.shown for pair in outcome.pairs["nothing_remembered"])
    assert set(outcome.summarise()["methods"]) == set(baselines.BASELINES)


def test_pictures_of_every_place_and_look_are_recognised(clips):
    clip = clips[0]
    with replay(clip) as scene:
        view = views.judged_views(clip, scene.stage.ground, OPTIONS)[0]
        placements = place_body(scene, view)
        assert len(placements.states) >= 4
        for place in range(len(placements.states)):
            verdict = protocol.judge(placements.there[place], placements)
            assert verdict.present and verdict.who
            assert verdict.metres == pytest.approx(placements.errors[place])
        for look in placements.looks(0)[1:]:
            verdict = protocol.judge(look, placements)
            assert not verdict.present or not verdict.who
        ghost = placements.there[int(placements.errors.argmax())]
        absent = placements.absent.picture
        pixels = int((ghost != absent).any(-1).sum())
        if placements.errors.max() > 1.0 and pixels >= 20:
            assert protocol._shows(ghost, placements, ghost, 20) in (True, None)
        assert protocol._shows(absent, placements, ghost, 20) in (False, None)


def test_views_whose_reconstruction_fails_are_excluded_and_counted(clips, outcome):
    def videos(clip, spoilt):
        video = clip.video[due_again.history_frames(clip) :].copy()
        if spoilt:
            video[:] = 128
        return {"reconstruction": video, "grey": np.full_like(video, 128)}

    found = protocol.score_clips(
        ((clip, videos(clip, number == 0)) for number, clip in enumerate(clips)),
        OPTIONS,
        baselines=False,
    )
    assert sum(found.excluded.values()) + found.views == outcome.views
    assert sum(found.excluded.values()) >= 1
    assert all(verdict.present for verdict in found.verdicts["reconstruction"])
    share = found.summarise()["excluded"]["share"]
    assert share == sum(found.excluded.values()) / outcome.views
    short = {"short": clips[0].video[:3]}
    with pytest.raises(ValueError, match=r"short: found frames .*, expected \(8, 32, 32, 3\)"):
        protocol.score_clips([(clips[0], short)], OPTIONS)


def test_measured_motion_is_the_true_one():
    positions = np.tile([1.0, 2.0], (FRAMES, 1))
    clip = made(walker(3.4, 1.6, np.pi / 2, 0.5), positions, np.zeros(FRAMES), ("cylinder",))
    counts = due_again.pixel_counts(clip)[:9, 0]
    assert counts.min() > 15, "the body is in view of the first half"
    view = views.JudgedView(16, 1, 8, 20, LEFT, 1.0, 1.0, 30)
    place, velocity = baselines.measured_motion(clip, view)
    np.testing.assert_allclose(place, clip.bodies.body2world[8, 0, :2, 3], atol=0.15)
    np.testing.assert_allclose(velocity, [0.0, 0.5], atol=0.15)


@pytest.mark.parametrize("turn", [0.0, 0.4])
def test_who_goes_straight_is_where_its_true_velocity_has_it(turn):
    start = dataclasses.replace(walker(3.0, 1.6, np.pi / 2, 0.3), turn_rates=np.array([turn]))
    clip = made(start, np.tile([1.0, 2.0], (FRAMES, 1)), np.zeros(FRAMES))
    view = views.JudgedView(16, 1, 8, int(NUMBERS[16] - NUMBERS[8]), LEFT, 1.0, 1.0, 30)
    with replay(clip) as scene:
        drawn = baselines.true_velocity_and_walls(scene, view)
        assert (drawn != clip.video[16]).any() == (turn != 0)
        assert (scene.render(16, without=[1]).picture != clip.video[16]).any()  # it is in view


def test_counterfactual_pairs_share_the_last_sight_and_nothing_else(clips):
    found = []
    for clip in clips:
        with replay(clip) as scene:
            for view in views.judged_views(clip, scene.stage.ground, dataclasses.replace(OPTIONS)):
                other = pairs.other_way(scene, view, 10)
                if other is not None:
                    found.append((clip, view, other))
    clip, view, other = found[0]
    index = clip.bodies.ids.tolist().index(view.body)
    gap = np.linalg.norm((clip.bodies.body2world - other.bodies.body2world)[:, :, :2, 3], axis=-1)
    assert gap[view.last_seen, index] < 1e-9 and gap[view.frame, index] >= pairs.APART
    assert (np.delete(gap, index, axis=1) == 0).all() and (gap[0, index] > 0.01)
    validate(other)
    with replay(other) as moved:
        numbers = np.rint((other.times - other.times[0]) * other.fps).astype(int)
        walked = moved.walk_on(0, view.body, int(numbers[-1]) + 1)[numbers]
        stored = other.bodies.body2world[:, index, :2, 3]
        np.testing.assert_allclose(walked[:, :2], stored, atol=1e-4)
    one, two = clip.video[view.frame], other.video[view.frame]
    assert pairs.told_apart(one, two, one, two)
    assert not pairs.told_apart(one, one, one, two) and not pairs.told_apart(two, one, one, two)
