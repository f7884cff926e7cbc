"""Moving bodies in memory, against loops, closed forms and scipy."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.ndimage import label
from scipy.optimize import linear_sum_assignment

from mirage_jax import memory
from mirage_jax.geometry import Camera
from mirage_jax.memory import movers
from mirage_jax.memory.movers import association, motion, observation, views
from mirage_jax.memory.movers.state import GIVEN

SIZE = 32
FOCAL = 16.0
EYE = 1.5
UP = np.array([0.0, 0.0, 1.0], np.float32)
C = 2
OPTIONS = movers.MoverOptions(
    slots=3, detections=2, views=2, view_cells=2, least_pixels=4, birth_pixels=4, depth_error=0.05
)
LASTING = dataclasses.replace(OPTIONS, persistence=1e6)  # velocities do not die away
STOPPING = dataclasses.replace(OPTIONS, contact="stop")
PLANE = np.array([[0.0, 0, 1], [-1, 0, 0], [0, -1, 0]], np.float32)  # looks along +x, z is up

plan_of = jax.jit(movers.obstacles, static_argnames="options")
components = jax.jit(movers.components, static_argnums=(1, 2, 4))
detect = jax.jit(movers.detect, static_argnames="options")
bring = jax.jit(movers.observe, static_argnames="options")
advance = jax.jit(movers.advance, static_argnames="options")
read = jax.jit(movers.read, static_argnums=2)
predict_one = jax.jit(motion.predict, static_argnames="options")
assign = jax.jit(association.assign)


def camera(x=0.0, y=0.0, turned=0.0):
    """At eye height, looking along +x, turned about the vertical by radians."""
    pose = np.eye(4, dtype=np.float32)
    c, s = np.cos(turned), np.sin(turned)
    pose[:3, :3] = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]]) @ PLANE
    pose[:3, 3] = x, y, EYE
    return Camera(np.array([FOCAL, FOCAL, SIZE / 2, SIZE / 2], np.float32), pose, (SIZE, SIZE))


def table(**changes):
    return movers.create(C, UP, OPTIONS, floor=0.0).replace(**changes)


def scene(*screens, far=9.0):
    """Mask of numbers and depth of upright screens at (x, y), of width and height, on a floor."""
    v, u = np.mgrid[:SIZE, :SIZE] + 0.5
    side, down = (u - SIZE / 2) / FOCAL, (v - SIZE / 2) / FOCAL
    with np.errstate(divide="ignore"):
        floor = np.where(down > 0, EYE / down, np.inf)
    depth, mask = np.minimum(floor, far), np.zeros((SIZE, SIZE), np.int32)
    for number, (x, y, width, height) in enumerate(screens, 1):
        z, right = EYE - down * x, side * x
        hit = (np.abs(right + y) < width / 2) & (z < height) & (z >= 0) & (x < depth)
        depth, mask = np.where(hit, x, depth), np.where(hit, number, mask)
    return mask, depth.astype(np.float32)


def found(*rows, tokens=None):
    """Detections at (x, y), whole, half a metre wide and one high."""
    count, kept = OPTIONS.detections, len(rows)
    position = np.zeros((count, 3), np.float32)
    position[:kept, :2] = np.reshape(rows, (kept, 2))
    direction = np.tile(np.array([-1.0, 0, 0], np.float32), (count, 1))
    looks = np.zeros((count, 2, 2, C), np.float32)
    if tokens is not None:
        looks[:kept] = np.asarray(tokens, np.float32)[:, None, None, None]
    rows = {
        "valid": np.arange(count) < kept,
        "position": position,
        "covariance": np.tile(np.eye(3, dtype=np.float32) * 0.01, (count, 1, 1)),
        "extent": np.tile(np.array([0.5, 1.0], np.float32), (count, 1)),
        "cut": np.zeros((count, 3), np.float32),
        "whole": np.ones(count, bool),
        "pixels": np.full(count, 40, np.int32),
        "direction": direction,
        "box": np.ones((count, 3), np.float32),
        "size": np.ones(count, np.float32),
        "alpha": np.ones((count, 2, 2), np.float32),
        "tokens": looks,
        "dropped": np.int32(0),
    }
    return movers.Detections(**jax.tree.map(jnp.asarray, rows))


BLIND = np.zeros((SIZE, SIZE), np.float32)  # unknown depth: no evidence of anything


def see(state, time, *rows, tokens=None, depth=BLIND, moving=None, at=None, options=OPTIONS):
    moving = np.zeros((SIZE, SIZE), bool) if moving is None else moving
    detections = found(*rows, tokens=tokens)
    return bring(
        state, detections, depth, moving, camera() if at is None else at, time, options=options
    )


def counts(report):
    return {name: int(value) for name, value in vars(report).items()}


# -- finding -------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(8))
def test_components_are_those_of_scipy(seed):
    rng = np.random.default_rng(seed)
    mask = (rng.random((12, 17)) < 0.45) * rng.integers(1, 3, (12, 17))
    got = components(mask.astype(np.int32), 6, 3)
    parts = []
    for number in (1, 2):
        labels, count = label(mask == number, structure=np.ones((3, 3)))
        parts += [labels == n for n in range(1, count + 1)]
    parts = [part for part in parts if part.sum() >= 3]
    parts.sort(key=lambda part: (-part.sum(), np.flatnonzero(part)[0]))
    assert int(got.dropped) == max(len(parts) - 6, 0)
    for place, part in enumerate(parts[:6]):
        np.testing.assert_array_equal(got.masks[place], part)
        assert int(got.pixels[place]) == part.sum()
    assert not got.masks[len(parts) :].any()


def test_a_long_winding_part_is_one():
    mask = np.ones((15, 15), bool)
    mask[1::4, :-1] = mask[3::4, 1:] = False
    assert int(components(mask, 4, 1).pixels[0]) == mask.sum()


def test_bodies_at_different_distances_are_told_apart_where_they_touch():
    mask = np.zeros((12, 17), bool)
    mask[2:10, 2:6] = mask[4:9, 6:14] = True
    depth = np.full(mask.shape, 9.0, np.float32)
    depth[2:10, 2:6] = 3.0
    for further, parts in ((4.5, [40, 32]), (3.4, [72]), (0.0, [72])):
        depth[4:9, 6:14] = further
        pixels = np.asarray(components(mask, 4, 1, depth).pixels)
        assert list(pixels[pixels > 0]) == parts, further
    behind = np.where(depth == 0, 4.5, depth)  # by a logarithm of .41
    for step, parts in ((0.4, [40, 32]), (0.42, [72])):
        pixels = np.asarray(components(mask, 4, 1, behind, step).pixels)
        assert list(pixels[pixels > 0]) == parts, step
    with jax.debug_nans(True):  # the last depth is unknown
        movers.components(jnp.asarray(mask), 4, 1, jnp.asarray(depth))
    slanted = np.geomspace(2.0, 8.0, 17, dtype=np.float32) * np.ones((12, 1), np.float32)
    assert int(components(mask, 4, 1, slanted).pixels[0]) == 72  # a long one, seen from its end


def test_a_body_is_measured_where_it_stands():
    mask, depth = scene((4.0, 0.6, 0.5, 1.2))
    got = detect(table(), mask, depth, camera(), OPTIONS)
    assert bool(got.valid[0]) and not bool(got.valid[1]) and bool(got.whole[0])
    # Its middle lies behind the screen that is seen of it.
    np.testing.assert_allclose(got.position[0], [4.2, 0.63, 0.0], atol=0.15)
    np.testing.assert_allclose(got.extent[0], [0.5, 1.2], atol=0.2)
    deviation = np.sqrt(np.diag(got.covariance[0]))
    assert (np.abs(got.position[0] - np.array([4.2, 0.63, 0.0])) < 3 * deviation).all()


def test_what_is_higher_than_any_body_is_none():
    mask, depth = scene((6.0, 0.0, 3.0, 4.0))
    for most, valid in ((6.0, True), (3.0, False)):
        options = dataclasses.replace(OPTIONS, most_height=most)
        assert bool(detect(table(), mask, depth, camera(), options).valid[0]) == valid


def test_the_floor_corrects_the_depth_of_a_body():
    mask, depth = scene((4.0, 0.0, 0.5, 1.2))
    options = dataclasses.replace(OPTIONS, depth_error=0.5)
    wrong = np.where(mask > 0, depth * 1.5, depth).astype(np.float32)
    with_floor = detect(table(), mask, wrong, camera(), options).position[0, 0]
    without = detect(table(floor_weight=jnp.zeros(())), mask, wrong, camera(), options)
    assert abs(with_floor - 4.2) < 0.35 < 1.7 < abs(without.position[0, 0] - 4.2)


def test_a_body_whose_foot_is_hidden_is_where_its_own_depth_says():
    mask, depth = scene((4.0, 0.0, 0.8, 1.4))
    bottom = np.flatnonzero(mask.any(1))[-1]
    mask[bottom - 1 :], depth[bottom - 1 :] = 0, 1.0  # a crate in front
    got = detect(table(), mask, depth, camera(), OPTIONS)
    np.testing.assert_allclose(got.position[0, 0], 4.3, atol=0.25)
    assert float(got.position[0, 2]) > 0.05  # what shows of it ends above the floor


@pytest.mark.parametrize("nearer, stands", [(0.8, True), (0.5, False)])
def test_depth_that_is_not_given_has_to_be_much_nearer_to_hide_a_foot(nearer, stands):
    """A head's depth of the floor under a foot is a fifth off as often as not."""
    mask, depth = scene((4.0, 0.0, 0.8, 1.4))
    below = np.arange(SIZE)[:, None] > np.flatnonzero(mask.any(1))[-1]
    wrong = np.where(mask > 0, 1.5 * depth, np.where(below, nearer * depth, depth))
    options = dataclasses.replace(OPTIONS, depth_error=0.35)
    got = detect(table(), mask, wrong.astype(np.float32), camera(), options)
    assert (abs(float(got.position[0, 0]) - 4.3) < 0.4) == stands
    given = dataclasses.replace(options, hiding_depth=options.given_hiding_depth)
    got = detect(table(), mask, wrong.astype(np.float32), camera(), given)
    assert float(got.position[0, 0]) > 5.5


@pytest.mark.parametrize("shift", [-2.0, 2.0])
def test_a_body_at_the_border_is_not_whole_and_less_sure_sideways(shift):
    mask, depth = scene((2.0, shift, 0.5, 1.0))
    got = detect(table(), mask, depth, camera(), OPTIONS)
    inside = detect(table(), *scene((2.0, 0.0, 0.5, 1.0)), camera(), OPTIONS)
    assert not bool(got.whole[0]) and bool(inside.whole[0])
    assert float(jnp.trace(got.covariance[0])) > 2 * float(jnp.trace(inside.covariance[0]))


def test_the_floor_is_found_and_gives_the_scale_of_a_frame():
    mask, depth = scene((4.0, 0.0, 0.8, 1.4))
    start = movers.create(C, UP, OPTIONS)
    update = jax.jit(movers.update_floor)
    state, scale = update(start, depth, mask > 0, camera())
    np.testing.assert_allclose([state.floor, scale], [0.0, 1.0], atol=0.02)
    _, scale = update(
        state.replace(floor_weight=jnp.float32(GIVEN)), 0.8 * depth, mask > 0, camera()
    )
    np.testing.assert_allclose(scale, 1 / 0.8, atol=0.03)
    wall = np.full_like(depth, 3.0)
    state, scale = update(start, wall, mask > 9, camera())
    assert float(state.floor_weight) == 0.0 and float(scale) == 1.0


def test_up_is_found_from_cameras_that_look_down():
    poses = []
    for turn in (0.0, 1.0, 2.5):
        c, s = np.cos(turn), np.sin(turn)
        about = np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
        a, b = np.cos(0.4), np.sin(0.4)
        down = np.array([[1, 0, 0], [0, a, -b], [0, b, a]])
        pose = np.eye(4)
        pose[:3, :3] = about @ PLANE @ down
        poses.append(pose)
    np.testing.assert_allclose(jax.jit(movers.estimate_up)(np.stack(poses)), UP, atol=1e-3)


def test_crops_show_the_body_on_neutral_ground():
    mask, depth = scene((3.0, 0.0, 1.0, 1.0))
    got = detect(table(), mask, depth, camera(), OPTIONS)
    picture = np.where(mask[..., None] > 0, 0.5, -1.0) * np.ones((SIZE, SIZE, 3), np.float32)
    crop = np.asarray(jax.jit(movers.crops, static_argnums=3)(picture, mask, got, 16)[0])
    values = np.unique(np.round(crop, 3))
    assert 0.5 in values and values.min() > -0.6 and abs(crop.mean() - 0.5) < 0.2
    with pytest.raises(ValueError, match="tokens of crops have shape"):
        movers.with_views(got, jnp.zeros((2, 3, 3, C)))


# -- assigning and filtering ---------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(10))
def test_the_assignment_is_the_cheapest(seed):
    rng = np.random.default_rng(seed)
    cost = rng.uniform(0, 30, (2, 3)).astype(np.float32)
    slots = np.asarray(assign(cost, 18.0))

    def total(choice):
        return sum(18.0 if s < 0 else cost[d, s] for d, s in enumerate(choice))

    allowed = [c for c in itertools.product((-1, 0, 1, 2), repeat=2) if c[0] < 0 or c[0] != c[1]]
    assert tuple(slots) in allowed
    np.testing.assert_allclose(total(slots), min(map(total, allowed)), rtol=1e-6)
    own = np.concatenate([cost, np.full((2, 2), 18.0)], 1)
    rows, columns = linear_sum_assignment(own)
    np.testing.assert_allclose(total(slots), own[rows, columns].sum(), rtol=1e-6)


@pytest.mark.parametrize("persistence", [1e6, 1.5])
@pytest.mark.parametrize("rate", [0.7, -1e-4, 0.0])
def test_motion_is_a_spiral_of_small_steps(rate, persistence):
    """A circle or a line, where a velocity lasts; one long step is many short ones."""
    state = jnp.array([1.0, 2.0, 0.0, 0.8, -0.3, 0.0, rate])
    move = jax.jit(motion.turned, static_argnums=3)
    got = np.asarray(move(state, jnp.float32(2.0), jnp.asarray(UP), persistence))
    position, velocity, dt = np.array([1.0, 2.0]), np.array([0.8, -0.3]), 1e-4
    for _ in range(20000):
        position = position + dt * velocity
        turning = rate * np.array([-velocity[1], velocity[0]])
        velocity = velocity + dt * (turning - velocity / persistence)
    np.testing.assert_allclose(got[:2], position, atol=1e-3)
    np.testing.assert_allclose(got[3:5], velocity, atol=1e-3)
    for _ in range(20):
        state = move(state, jnp.float32(0.1), jnp.asarray(UP), persistence)
    np.testing.assert_allclose(state, got, atol=1e-5)


def test_noise_over_two_halves_is_that_over_the_whole():
    """Without turning, while velocities last."""
    state = jnp.array([1.0, 2.0, 0.0, 0.8, -0.3, 0.0, 0.0])
    zero = jnp.zeros((7, 7))
    predict = functools.partial(predict_one, up=jnp.asarray(UP), options=LASTING)
    one, half = jnp.float32(1.0), jnp.float32(0.5)
    whole = predict(state, zero, one)[1]
    half = predict(*predict(state, zero, half), half)[1]
    keep = np.arange(7) != 6  # a turn rate that drifts bends the way, to second order
    np.testing.assert_allclose(whole[keep][:, keep][2:, 2:], half[keep][:, keep][2:, 2:], atol=0.02)


def test_correction_is_bayes_rule():
    rng = np.random.default_rng(3)
    root = rng.normal(size=(7, 7))
    prior, error = root @ root.T + np.eye(7), np.diag([0.1, 0.2, 0.3])
    mean, measured = rng.normal(size=7), rng.normal(size=3)
    state, covariance = jax.jit(motion.correct)(
        *(jnp.asarray(x, jnp.float32) for x in (mean, prior, measured, error))
    )
    pick = np.eye(3, 7)
    information = np.linalg.inv(prior) + pick.T @ np.linalg.inv(error) @ pick
    expected = np.linalg.inv(information)
    seen = expected @ (np.linalg.inv(prior) @ mean + pick.T @ np.linalg.inv(error) @ measured)
    np.testing.assert_allclose(covariance, expected, atol=2e-3)
    np.testing.assert_allclose(state, seen, atol=2e-3)
    spread = prior[:3, :3] + error
    gap = measured - mean[:3]
    by_hand = gap @ np.linalg.solve(spread, gap) + np.log(
        np.linalg.det(spread) / np.linalg.det(error)
    )
    given = (jnp.asarray(x, jnp.float32) for x in (mean[:3], prior[:3, :3], measured, error))
    np.testing.assert_allclose(jax.jit(motion.distance)(*given), by_hand, rtol=1e-3)


def walked(frames=6, step=0.1, tokens=None):
    """A body that goes along +y at 1 m/s, seen ten times a second."""
    state = table()
    for frame in range(frames):
        state, _ = see(state, frame * step, (4.0, frame * step), tokens=tokens)
    return state


def test_a_body_keeps_its_slot_and_its_velocity_is_found():
    state = walked()
    assert list(np.asarray(state.status)) == [movers.CONFIRMED, movers.FREE, movers.FREE]
    assert list(np.asarray(state.id)) == [0, -1, -1] and int(state.next_id) == 1
    # The prior of a velocity of 0 still counts a little.
    np.testing.assert_allclose(state.velocity[0], [0.0, 1.0, 0.0], atol=0.35)
    np.testing.assert_allclose(state.position[0, :2], [4.0, 0.5], atol=0.08)
    later = advance(state, 2.5, None, OPTIONS)
    assert float(later.uncertainty[0]) > 2 * float(state.uncertainty[0])
    np.testing.assert_allclose(later.time, 2.5, rtol=1e-6)
    moved = later.position[0] - state.position[0]
    assert float(moved[1]) > 1.0 and float(later.last_seen[0]) == float(state.last_seen[0])


def test_looks_tell_bodies_apart_that_cross():
    state = table()
    for frame in range(5):
        state, _ = see(state, frame * 0.1, (4.0, -0.5), (4.0, 0.5), tokens=(-1.0, 1.0))
    before = {float(state.view_tokens[k, 0].mean()): int(state.id[k]) for k in (0, 1)}
    # Both were away for so long that either might be either.
    state, report = see(state, 3.0, (4.0, 0.4), (4.0, -0.4), tokens=(-1.0, 1.0))
    assert int(report.matched) == 2
    place = {int(state.id[k]): float(state.position[k, 1]) for k in (0, 1)}
    assert place[before[-1.0]] > 0.2 and place[before[1.0]] < -0.2


def test_the_order_of_detections_does_not_matter():
    state = table()
    for frame in range(3):
        state, _ = see(state, frame * 0.1, (4.0, 0.0), tokens=(1.0,))
    one, first = see(state, 0.3, (4.0, 0.1), (3.0, -2.0), tokens=(1.0, 2.0))
    two, second = see(state, 0.3, (3.0, -2.0), (4.0, 0.1), tokens=(2.0, 1.0))
    assert counts(first) == counts(second) and counts(first)["born"] == 1
    jax.tree.map(np.testing.assert_array_equal, one, two)


def test_a_full_table_evicts_who_was_unseen_for_longest_and_says_so():
    state = table()
    for time, y in ((0.0, -3.0), (0.1, 0.0), (0.2, 3.0)):
        for again in (0.0, 0.02):  # confirmed
            state, _ = see(state, time + again, (4.0, y))
    assert bool((state.status == movers.CONFIRMED).all())
    state, report = see(state, 0.4, (1.0, 0.0))
    assert counts(report)["evicted"] == counts(report)["born"] == 1 == int(state.evicted)
    assert sorted(np.asarray(state.id)) == [1, 2, 3]
    ys = sorted(float(y) for y in state.position[:, 1])
    np.testing.assert_allclose(ys, [0.0, 0.0, 3.0], atol=0.05)


@pytest.mark.parametrize("seed", range(6))
def test_every_detection_is_accounted_for(seed):
    rng, state = np.random.default_rng(seed), table()
    for frame in range(6):
        rows = rng.uniform([1.0, -2.0], [5.0, 2.0], (rng.integers(0, 3), 2))
        options = dataclasses.replace(OPTIONS, birth_pixels=int(rng.choice([4, 60])))
        state, report = see(state, frame * 0.5, *rows, options=options)
        c = counts(report)
        assert (
            c["found"]
            == len(rows)
            == sum(c[name] for name in ("matched", "born", "faint", "merged", "refused"))
        )
        present = np.asarray(state.present)
        assert len(set(np.asarray(state.id)[present])) == present.sum()
        assert all(np.isfinite(leaf).all() for leaf in map(np.asarray, jax.tree.leaves(state))
                   if leaf.dtype.kind == "f" and leaf.size > 1)  # fmt: skip


def test_two_parts_of_one_body_are_not_two_bodies():
    state = walked()
    state, report = see(state, 0.6, (4.0, 0.6), (4.05, 0.75))
    assert counts(report)["merged"] == 1 and int(state.present.sum()) == 1


def test_what_is_seen_once_is_not_believed_and_goes():
    state, _ = see(table(), 0.0, (4.0, 0.0))
    assert not bool(state.shown.any()) and bool(state.present[0])
    state, report = see(state, 1.0)
    assert bool(state.present[0])
    state, report = see(state, 2.5)
    assert counts(report)["gone"] == 1 and not bool(state.present.any())


def test_what_is_faint_shows_a_known_body_and_no_new_one():
    """Detections here have 40 pixels."""
    picky = dataclasses.replace(OPTIONS, birth_pixels=41)
    state, report = see(table(), 0.0, (4.0, 0.0), options=picky)
    assert counts(report)["faint"] == 1 and not bool(state.present.any())
    state = walked()
    known = state.position[0, :2] + 0.1 * state.velocity[0, :2]
    again, report = see(state, 0.6, tuple(known), (1.5, -1.5), options=picky)
    assert (counts(report)["matched"], counts(report)["faint"]) == (1, 1)
    assert int(again.hits[0]) == int(state.hits[0]) + 1 and int(again.present.sum()) == 1


# -- negative evidence ---------------------------------------------------------------------------


def test_a_body_that_is_due_and_not_there_is_lost_and_can_be_found_again():
    state = walked(tokens=(1.0,))
    wide, lost = float(state.uncertainty[0]), 0
    for frame in range(3):
        state, report = see(state, 0.51 + 0.01 * frame, depth=scene()[1])
        assert counts(report)["missed"] == 1
        lost += counts(report)["lost"]
    assert lost == 1 and int(state.status[0]) == movers.LOST and not bool(state.shown[0])
    assert float(state.uncertainty[0]) > wide + 0.5
    state, report = see(state, 0.6, (4.0, 1.5), tokens=(1.0,))
    assert counts(report)["matched"] == 1 and int(state.status[0]) == movers.CONFIRMED


@pytest.mark.parametrize("case", ["hidden", "behind", "beside", "unknown", "another body"])
def test_what_cannot_be_seen_is_no_evidence(case):
    state = walked()
    depth, at, moving = scene()[1], camera(), np.zeros((SIZE, SIZE), bool)
    if case == "hidden":
        depth = np.full_like(depth, 2.0)
    elif case == "behind":
        at = camera(turned=np.pi)
    elif case == "beside":
        at = camera(turned=-1.2)
    elif case == "unknown":
        depth = np.zeros_like(depth)
    else:
        moving = ~moving
    after, report = see(state, 0.51, depth=depth, at=at, moving=moving)
    assert counts(report)["missed"] == 0 == int(after.misses[0])
    seen_at = jax.jit(observation.seen_at)
    assert float(seen_at(state, depth, moving, at)[0][0]) < 0.5
    assert float(seen_at(state, scene()[1], np.zeros_like(moving), camera())[0][0]) == 1.0


def test_what_is_overlooked_as_often_as_it_is_found_is_not_believed():
    """A wall stands where the body was, so that nothing behind is seen: it may be part of it."""
    state, wall = walked(frames=2), np.full((SIZE, SIZE), 4.0, np.float32)
    assert bool(state.shown[0]) and int(state.hits[0]) == 2
    hidden, _ = see(state, 0.15, depth=np.full_like(wall, 2.0))
    assert bool(hidden.shown[0]) and int(hidden.overlooked[0]) == 0
    for frame, shown in enumerate((True, False, False)):
        state, report = see(state, 0.2 + 0.1 * frame, depth=wall)
        assert counts(report)["missed"] == 0 and int(state.misses[0]) == 0
        assert int(state.overlooked[0]) == frame + 1 and bool(state.shown[0]) == shown
    for frame, shown in enumerate((False, True)):  # found for the third time, and the fourth
        state, report = see(state, 0.5 + 0.1 * frame, tuple(state.position[0, :2]), depth=wall)
        assert counts(report)["matched"] == 1 and bool(state.shown[0]) == shown
    state, report = see(state.replace(overlooked=state.overlooked + 9), 0.7, depth=wall)
    state, report = see(state, 3.0)
    assert counts(report)["gone"] == 1 and not bool(state.present[0])


# -- going on ------------------------------------------------------------------------------------


def wall_at(y):
    """A plan in which everything from y on is taken."""
    plan = plan_of(table(), memory.create(64, 1), np.zeros(3, np.float32), OPTIONS)
    n, m = np.mgrid[:160, :160]
    middle = np.asarray(plan.corner) + 0.2 * (
        (n[..., None] + 0.5) * np.asarray(plan.first)
        + (m[..., None] + 0.5) * np.asarray(plan.second)
    )
    return plan.replace(taken=jnp.asarray(middle[..., 1] > y))


def going(velocity):
    state = walked()
    velocity = jnp.asarray([velocity, [0, 0, 0], [0, 0, 0]], jnp.float32)
    return state.replace(
        position=state.position.at[0].set(jnp.array([0.0, 0.0, 0.0])),
        velocity=velocity, turn_rate=jnp.zeros(3), time=jnp.zeros(()),
    )  # fmt: skip


@pytest.mark.parametrize("contact", ["bounce", "slide", "stop"])
def test_a_body_meets_a_wall(contact):
    options = dataclasses.replace(LASTING, contact=contact)
    start, radius = going([0.5, 1.0, 0.0]), 0.25
    end = advance(start, 4.0, wall_at(2.0), options)
    expected = {
        # It touches after 1.75 s, give or take a square of the plan and a step.
        "bounce": ([2.0, 2 * (2.0 - radius) - 4.0, 0.0], [0.5, -1.0, 0.0]),
        "slide": ([2.0, 2.0 - radius, 0.0], [0.5, 0.0, 0.0]),
        "stop": ([0.875, 2.0 - radius, 0.0], [0.0, 0.0, 0.0]),
    }[contact]
    np.testing.assert_allclose(end.position[0], expected[0], atol=0.35)
    np.testing.assert_allclose(end.velocity[0], expected[1], atol=0.05)
    free = advance(start, 4.0, None, options)
    np.testing.assert_allclose(free.position[0], [2.0, 4.0, 0.0], atol=1e-3)
    # Nothing else in the table is touched, and the covariance stays one.
    assert not np.asarray(end.position[1:]).any()
    assert np.linalg.eigvalsh(np.asarray(end.covariance[0])).min() > -1e-4


def test_a_plan_shows_walls_and_not_the_floor():
    n, m = np.mgrid[:8, :8] - 3.5  # a wall 3 m ahead, seen in cells of 8 x 8
    xyz = np.stack([np.full(n.shape, 3.0), 0.75 * n, EYE + 0.75 * m], -1).reshape(64, 3)
    bank = memory.create(64, 1).replace(
        xyz=jnp.asarray(xyz, jnp.float32), valid=jnp.ones(64, bool), size=jnp.full(64, 0.75),
        origin=jnp.tile(jnp.array([0.0, 0.0, EYE]), (64, 1)),
    )  # fmt: skip
    plan = plan_of(table(), bank, np.zeros(3, np.float32), OPTIONS)
    on_wall = np.array([[3.0, y, 0.0] for y in np.linspace(-2.5, 2.5, 9)], np.float32)
    assert np.asarray(plan.at(on_wall)).mean() > 0.4
    # What holes there are, between coarse cells, no body goes through.
    start = shown((1.0, -1.3, 1.0), (1.0, 0.1, 1.0), (1.0, 0.9, 1.0))
    start = start.replace(velocity=jnp.tile(jnp.array([1.0, 0, 0]), (3, 1)))
    end = np.asarray(advance(start, 4.0, plan, STOPPING).position[:, 0])
    assert ((end > 2.0) & (end < 2.7)).all()
    before = on_wall - np.array([0.5, 0, 0], np.float32)
    assert not np.asarray(plan.at(before)).any()
    high = plan_of(table(floor=jnp.float32(-9.0)), bank, np.zeros(3, np.float32), OPTIONS)
    assert not bool(high.taken.any())  # all of it is far above the floor
    assert not bool(plan.at(np.array([[99.0, 0, 0]], np.float32)).any())


# -- reading -------------------------------------------------------------------------------------


def shown(*bodies):
    """Confirmed bodies at (x, y, token), one metre wide and high, seen from the front."""
    state = table()
    for slot, (x, y, token) in enumerate(bodies):
        rows = {
            "status": movers.CONFIRMED, "position": jnp.array([x, y, 0.0]),
            "extent": jnp.ones(3), "heading": jnp.array([-1.0, 0, 0]), "id": slot,
        }  # fmt: skip
        state = state.replace(
            **{name: getattr(state, name).at[slot].set(value) for name, value in rows.items()},
            view_valid=state.view_valid.at[slot, 0].set(True),
            view_tokens=state.view_tokens.at[slot, 0].set(token),
            view_alpha=state.view_alpha.at[slot, 0].set(1.0),
            view_direction=state.view_direction.at[slot, 0].set(jnp.array([1.0, 0, 0])),
            view_size=state.view_size.at[slot, 0].set(1.0),
        )
    return state


def by_hand(bodies, at, static):
    """Slot at each of the 32 x 32 points of a grid of 8 x 8 cells, point by point."""
    winner = np.full((32, 32), -1)
    rotation, eye = at.cam2world[:3, :3], at.cam2world[:3, 3]
    for row, column in itertools.product(range(32), range(32)):
        ray = rotation @ [(column + 0.5 - 16) / FOCAL, (row + 0.5 - 16) / FOCAL, 1.0]
        nearest = np.inf
        for slot, (x, y, _) in enumerate(bodies):
            facing = (eye - [x, y, 0])[:2] / np.linalg.norm((eye - [x, y, 0])[:2])
            along = ray[:2] @ facing
            if along >= 0:
                continue
            z = ((np.array([x, y]) - eye[:2]) @ facing) / along
            point = eye + z * ray
            sideways = (point[:2] - [x, y]) @ [-facing[1], facing[0]]
            if not (abs(sideways) < 0.5 and 0 < point[2] < 1) or z >= nearest:
                continue
            behind = static[row // 4, column // 4]
            lowest = rotation @ [0, (row // 4 * 4 + 3.5 - 16) / FOCAL, 1.0]
            if 0 < behind < z and eye[2] + behind * lowest[2] > 0.15:
                continue
            winner[row, column], nearest = slot, z
    return winner


@pytest.mark.parametrize("seed", range(4))
def test_read_is_what_a_loop_over_points_and_bodies_shows(seed):
    rng = np.random.default_rng(seed)
    bodies = [(*rng.uniform([2, -1.5], [5, 1.5]), token) for token in (1.0, 2.0, 3.0)]
    at = camera(*rng.uniform(-0.5, 0.5, 2), turned=rng.uniform(-0.2, 0.2))
    static = rng.choice([0.0, 2.5, 9.0], (8, 8)).astype(np.float32)
    got = read(shown(*bodies), at, (8, 8), static)
    winner = by_hand(bodies, at, static)
    cells = winner.reshape(8, 4, 8, 4).transpose(0, 2, 1, 3).reshape(8, 8, 16)
    points = np.stack([(cells == slot).sum(-1) for slot in range(3)])
    most = points.max(0)
    # Edges may fall on the other side of a point by rounding.
    np.testing.assert_allclose(got.alpha * 16, most, atol=1.01)
    assert (np.abs(np.asarray(got.alpha) * 16 - most) > 0.01).mean() < 0.05
    clear = (most >= 2) & (np.sort(points, 0)[1] < most - 1)
    np.testing.assert_array_equal(np.asarray(got.source)[clear], points.argmax(0)[clear])
    np.testing.assert_array_equal(
        np.asarray(got.tokens)[clear][:, 0], points.argmax(0)[clear] + 1.0
    )
    assert most.max() >= 8
    empty = np.asarray(got.source) < 0
    assert not np.asarray(got.depth)[empty].any() and not np.asarray(got.tokens)[empty].any()


def test_only_what_stands_in_front_hides_a_body():
    state = shown((4.0, 0.0, 1.0))
    alone = read(state, camera(), (8, 8), np.zeros((8, 8), np.float32))
    assert float(alone.alpha.max()) > 0.2
    for depth, visible in ((2.0, False), (8.0, True)):
        got = read(state, camera(), (8, 8), np.full((8, 8), depth, np.float32))
        np.testing.assert_array_equal(got.alpha, alone.alpha * visible)
    # The floor it stands on does not, though a cell of it may be nearer than the foot.
    _, floor = scene()
    nearest = floor.reshape(8, 4, 8, 4).min((1, 3))
    on_floor = np.where(nearest < 9.0, nearest, 0.0)
    np.testing.assert_array_equal(read(state, camera(), (8, 8), on_floor).alpha, alone.alpha)
    lost = state.replace(status=state.status.at[0].set(movers.LOST))
    assert not np.asarray(read(lost, camera(), (8, 8), on_floor).alpha).any()


def test_depth_of_blocks_is_that_of_their_cells():
    """A finer grid before depth that is known coarsely; blocks that do not fit are refused."""
    state, rng = shown((4.0, 0.0, 1.0), (3.0, 0.6, 2.0)), np.random.default_rng(0)
    static = rng.choice([0.0, 3.5, 9.0], (8, 8)).astype(np.float32)
    pixels = movers.read(state, camera(), (32, 32), jnp.asarray(static), samples=1)
    cells = read(state, camera(), (8, 8), static)
    shares = np.asarray(pixels.alpha).reshape(8, 4, 8, 4).mean((1, 3))
    alone = np.asarray(pixels.source).reshape(8, 4, 8, 4).swapaxes(1, 2).reshape(8, 8, 16)
    of_one = [len(set(cell[cell >= 0].tolist())) == 1 for cell in alone.reshape(64, 16)]
    chosen = np.array(of_one).reshape(8, 8)
    assert chosen.sum() >= 3
    np.testing.assert_allclose(shares[chosen], np.asarray(cells.alpha)[chosen], atol=1e-6)
    with pytest.raises(ValueError, match=r"static_depth: found \(5, 8\) blocks, expected"):
        movers.read(state, camera(), (8, 8), jnp.zeros((5, 8)))


def test_the_view_most_like_the_current_one_is_read():
    state = walked(tokens=(1.0,))  # goes along +y, seen from -x
    back = found((4.0, 0.6), tokens=(2.0,))
    back = back.replace(direction=-back.direction)
    depth, moving = BLIND, np.zeros((SIZE, SIZE), bool)
    state, _ = bring(state, back, depth, moving, camera(), 0.6, options=OPTIONS)
    assert int(state.view_valid[0].sum()) == 2
    front = read(state, camera(), (8, 8), np.zeros((8, 8), np.float32))
    behind = read(state, camera(x=8.0, turned=np.pi), (8, 8), np.zeros((8, 8), np.float32))
    assert float(front.tokens.max()) == 1.0 and float(behind.tokens.max()) == 2.0
    # Seen from its left, as it goes along +y and the camera stands at smaller x.
    left = views.own_direction(state, jnp.tile(jnp.array([-1.0, 0, 0]), (3, 1)))[0]
    np.testing.assert_allclose(left, [0.0, 1.0, 0.0], atol=0.3)


def test_what_is_kept_costs_the_same_however_much_it_is():
    fresh = jax.jit(functools.partial(movers.observe, options=OPTIONS))
    state, depth, moving = table(), BLIND, np.zeros((SIZE, SIZE), bool)
    for frame, rows in enumerate([(), ((4.0, 0.0),), ((4.0, 0.0), (3.0, 2.0))]):
        state, _ = fresh(state, found(*rows), depth, moving, camera(), frame * 1.0)
    assert fresh._cache_size() == 1
