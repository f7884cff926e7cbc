"""Walking bodies against what mirrors and small steps give."""

import numpy as np
import pytest

from data_pipelines.sources import bodies
from data_pipelines.sources.bodies import Walkers
from data_pipelines.sources.body_kinds import KINDS, LOOKS, look_alikes, part_colours
from data_pipelines.sources.ground import Ground

FAR = 50.0
ROOM = np.array([6.0, 4.0])


def room(*blocks):
    """A room between the origin and ROOM, with more blocks in it that hide nothing."""
    x, y = ROOM
    walls = [
        [[-FAR, -FAR], [0, FAR]],
        [[x, -FAR], [FAR, FAR]],
        [[-FAR, -FAR], [FAR, 0]],
        [[-FAR, y], [FAR, FAR]],
    ]
    hides = np.arange(4 + len(blocks)) < 4
    return Ground(np.array([*walls, *blocks], float), hides)


def one(x, y, heading, speed=1.0, rate=0.0):
    return Walkers(np.array([[x, y]]), *(np.array([v]) for v in (heading, speed, rate)))


def mirrored(value, size, radius):
    """Where a point that goes straight on lies in a corridor of mirrors."""
    period = 2 * (size - 2 * radius)
    phase = (value - radius) % period
    return radius + np.minimum(phase, period - phase)


@pytest.mark.parametrize("heading", [0.0, 0.4, 1.9, -2.6, np.pi / 2])
def test_straight_walks_bounce_as_in_mirrors(heading):
    radius, seconds = 0.3, 0.25
    walked = bodies.walk(
        room(), one(2.0, 1.5, heading, 1.7), np.array([radius]), steps=200, seconds=seconds
    )
    gone = 1.7 * seconds * np.arange(200)
    straight = np.array([2.0, 1.5]) + gone[:, None] * [np.cos(heading), np.sin(heading)]
    for axis in (0, 1):
        expected = mirrored(straight[:, axis], ROOM[axis], radius)
        np.testing.assert_allclose(walked.positions[:, 0, axis], expected, atol=1e-3)


def test_bodies_are_never_in_a_block_and_small_steps_agree():
    ground = room([[2.5, 1.5], [3.5, 2.5]])
    rng = np.random.default_rng(0)
    count = 40
    positions = rng.uniform(0.5, ROOM - 0.5, (count, 2))
    free = ground.is_free(positions, 0.3)
    start = Walkers(
        positions[free],
        rng.uniform(-3, 3, free.sum()),
        rng.uniform(0.0, 2.0, free.sum()),
        rng.choice([0.0, 0.6, -0.6], free.sum()),
    )
    radius = np.full(free.sum(), 0.3)
    walked = bodies.walk(ground, start, radius, steps=120, seconds=0.1)
    assert ground.is_free(walked.positions, 0.3 - 1e-9).all()
    assert free.sum() > 20 and not free.all()
    straight = start.turn_rates == 0
    fine = bodies.walk(ground, start, radius, steps=3 * 119 + 1, seconds=0.1 / 3)
    np.testing.assert_allclose(
        fine.positions[::3, straight][:60], walked.positions[:60, straight], atol=1e-3
    )


def test_a_turning_body_walks_a_circle_and_a_standing_one_stays():
    ground, radius = room(), np.array([0.2])
    walked = bodies.walk(ground, one(3.0, 1.5, 0.0, 0.5, 1.0), radius, 400, 2 * np.pi / 400)
    # Speed over turn rate is the radius; the centre lies to the left.
    gaps = np.linalg.norm(walked.positions[:, 0] - [3.0, 2.0], axis=-1)
    np.testing.assert_allclose(gaps, 0.5, atol=0.01)
    np.testing.assert_allclose(walked.positions[-1, 0], [3.0, 1.5], atol=0.02)
    stood = bodies.walk(ground, one(3.0, 1.5, 0.7, 0.0), radius, 5, 1.0)
    assert (stood.positions == [3.0, 1.5]).all()


def test_what_was_stored_walks_on_as_it_did():
    ground, kinds = room([[2.5, 1.5], [3.5, 2.5]]), ("box", "spheres")
    start = Walkers(
        np.array([[1.0, 1.0], [5.0, 3.0]]), np.array([0.3, 2.0]), np.array([1.2, 0.8]),
        np.array([0.0, 0.5]),
    )  # fmt: skip
    radius = bodies.radii(kinds)
    walked = bodies.walk(ground, start, radius, 60, 0.1)
    stored = bodies.to_bodies(walked, kinds, LOOKS[:2], np.zeros((60, 2, 2), np.int32))
    again = bodies.walk(ground, bodies.walkers_of(stored, 20), radius, 40, 0.1)
    np.testing.assert_allclose(again.positions, walked.positions[20:], atol=1e-9)
    heights = [KINDS[kind].height / 2 for kind in kinds]
    np.testing.assert_allclose(stored.body2world[:, :, 2, 3], np.tile(heights, (60, 1)))
    moved = np.diff(stored.body2world[:, 1, :2, 3], axis=0)
    along = (moved * stored.velocity[:-1, 1, :2]).sum(-1)
    assert np.median(along / np.linalg.norm(moved, axis=-1)) == pytest.approx(0.8, abs=1e-6)


def test_sight_from_above_against_points_along_the_way():
    ground = room([[2.5, 1.0], [3.5, 3.0]])
    ground = Ground(ground.blocks, np.ones(5, bool))
    rng = np.random.default_rng(1)
    eyes, points = rng.uniform(0.05, ROOM - 0.05, (2, 500, 2))
    outside = ground.is_free(eyes, 0.01) & ground.is_free(points, 0.01)
    eyes, points = eyes[outside], points[outside]
    way = eyes[:, None] + np.linspace(0, 1, 400)[:, None] * (points - eyes)[:, None]
    clear = ground.is_free(way, 0.0).all(1)
    seen = ground.sees(eyes, points)
    assert (seen == clear).mean() > 0.99 and 0.2 < clear.mean() < 0.9
    pose = np.eye(4)
    pose[:3, :3] = np.array([[0, 0, 1], [-1, 0, 0], [0, -1, 0]])  # looks along +x
    pose[:3, 3] = [1.0, 2.0, 1.1]
    places = np.array([[[2.0, 2.0], [0.5, 2.0], [1.5, 3.5], [4.5, 2.0], [2.4, 2.2]]])
    found = bodies.visible_from(ground, pose[None], places, np.pi / 4, 3.0)
    assert found.tolist() == [[True, False, False, False, True]]


def test_looks_differ_and_look_alikes_share_colour_or_pattern():
    paints = {look: part_colours(look) for look in LOOKS}
    for look, paint in paints.items():
        others = look_alikes(look)
        assert look not in others and len(others) == 5
        assert all(np.abs(paint - paints[other]).max() > 0.3 for other in others)
    with pytest.raises(ValueError, match="look: found 'pink plain', expected one of red plain"):
        part_colours("pink plain")
    for kind in KINDS.values():
        assert kind.height == pytest.approx(2 * sum(part.half[2] for part in kind.parts))
