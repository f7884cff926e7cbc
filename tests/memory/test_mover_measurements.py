"""Where bodies are measured to stand, and what is drawn of them, against solids traced by hand."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax import geometry, memory
from mirage_jax.geometry import Camera
from mirage_jax.memory import movers
from mirage_jax.memory.movers import detections, readout
from mirage_jax.world import moving

SIZE, FOCAL, EYE = 96, 48.0, 1.5
UP = np.array([0.0, 0.0, 1.0], np.float32)
RADIUS, HEIGHT = 0.35, 1.6
OPTIONS = movers.MoverOptions(
    slots=2, detections=1, views=1, view_cells=2, least_pixels=4, birth_pixels=4, depth_error=0.02
)
POSE = np.eye(4, dtype=np.float32)  # at eye height, looking along +x, z is up
POSE[:3, :3] = [[0, 0, 1], [-1, 0, 0], [0, -1, 0]]
POSE[2, 3] = EYE
CAMERA = Camera(np.array([FOCAL, FOCAL, SIZE / 2, SIZE / 2], np.float32), POSE, (SIZE, SIZE))
TABLE = movers.create(1, UP, OPTIONS, floor=0.0)

detect = jax.jit(movers.detect, static_argnames="options")


def traced(solid, x, y, radius=RADIUS):
    """Mask and z-depth of an upright cylinder, or a ball on the floor, at (x, y)."""
    v, u = np.mgrid[:SIZE, :SIZE] + 0.5
    side, down = -(u - SIZE / 2) / FOCAL, (v - SIZE / 2) / FOCAL  # of a ray one metre ahead
    level = 1 + side**2
    if solid == "cylinder":
        a, b, c = level, x + side * y, x**2 + y**2 - radius**2
    else:
        a, b = level + down**2, x + side * y + down * (EYE - radius)
        c = x**2 + y**2 + (EYE - radius) ** 2 - radius**2
    inside = b**2 - a * c
    z = (b - np.sqrt(np.maximum(inside, 0))) / a
    above = EYE - down * z
    hit = (inside > 0) & (z > 0)
    if solid == "cylinder":
        hit &= (above > 0) & (above < HEIGHT)
    with np.errstate(divide="ignore"):
        floor = np.where(down > 0, EYE / down, np.inf)
    return hit, np.where(hit, z, np.minimum(floor, 9.0)).astype(np.float32)


@pytest.mark.parametrize("distance", [2.0, 3.5])
def test_the_ray_through_the_foot_tells_where_the_middle_of_round_bodies_is(distance):
    """The two kinds lie to either side: neither end of the range that bodies have is preferred."""
    blind = dataclasses.replace(OPTIONS, depth_error=5.0)  # the floor alone counts
    errors = {}
    for solid in ("cylinder", "ball"):
        got = detect(TABLE, *traced(solid, distance, 0.0), CAMERA, blind)
        errors[solid] = float(got.position[0, 0]) - distance
        assert abs(errors[solid]) < 2 * float(jnp.sqrt(got.covariance[0, 0, 0]))
    assert errors["cylinder"] < 0 < errors["ball"]
    assert max(map(abs, errors.values())) < 0.22 * 2 * RADIUS + 0.02


@pytest.mark.parametrize("solid", ["cylinder", "ball"])
def test_measured_depth_tells_the_middle_of_round_bodies(solid):
    got = detect(TABLE, *traced(solid, 3.0, 0.4), CAMERA, OPTIONS)
    np.testing.assert_allclose(got.position[0, :2], [3.0, 0.4], atol=0.12)


@pytest.mark.parametrize("side", [-1, 1])
def test_what_the_edge_of_the_picture_cuts_is_completed(side):
    x, edge = 2.5, 2.5  # a view of 90 degrees
    for out in (-0.2, 0.0, 0.2):
        mask, depth = traced("cylinder", x, side * (edge + out))
        got = detect(TABLE, mask, depth, CAMERA, OPTIONS)
        ahead = np.array([1.0, side]) / np.sqrt(2)
        across = np.array([-side, 1.0]) / np.sqrt(2)
        true = np.array([x, side * (edge + out)])
        error = np.asarray(got.position[0, :2]) - true
        deviation = np.sqrt(across @ np.asarray(got.covariance[0, :2, :2]) @ across)
        assert abs(error @ across) < 2.5 * deviation < 0.5 and abs(error @ ahead) < 0.15
        # The middle of what shows is farther from the truth the more is cut.
        u = np.nonzero(mask)[1]
        shown = -(u.min() + u.max() + 1 - SIZE) / 2 / FOCAL * depth[mask].mean()
        assert abs(error @ across) < abs(shown - true[1]) or out < 0
        assert not bool(got.whole[0])
        np.testing.assert_allclose(got.cut[0], [-np.sqrt(0.5), side * np.sqrt(0.5), 0], atol=0.2)


def test_a_body_of_known_width_is_measured_by_it():
    """One broader than the least that is assumed of what the picture's edge cuts."""
    x, radius = 2.5, 0.5
    for y in (2.5, 2.7):
        got = detect(TABLE, *traced("cylinder", x, y, radius), CAMERA, OPTIONS)
        known = detections.measured_as(got, jnp.array([2 * radius]), TABLE.up)
        across = np.array([-1.0, 1.0, 0.0]) / np.sqrt(2)
        told, corrected = ((p[0] - np.array([x, y, 0])) @ across for p in (got.position, known))
        assert abs(corrected) < 0.5 * abs(told)
        same = detections.measured_as(got, got.extent[:, 0], TABLE.up)
        np.testing.assert_array_equal(same, got.position)


def test_outlines_run_between_the_middles_of_cells():
    rng = np.random.default_rng(0)
    alpha = rng.random((2, 4, 4)).astype(np.float32)
    row, column = rng.random((2, 2, 5, 6)).astype(np.float32)
    found = jax.jit(jax.vmap(readout._covered))(alpha, row, column)
    middles = (np.arange(4) + 0.5) / 4
    for k, i, j in np.ndindex(found.shape):
        along = [np.interp(column[k, i, j], middles, line) for line in alpha[k]]
        expected = np.interp(row[k, i, j], middles, along)
        np.testing.assert_allclose(found[k, i, j], expected, atol=1e-5)


def test_no_wall_stands_where_a_body_is_seen():
    rng = np.random.default_rng(1)
    plan = movers.Obstacles(
        jnp.asarray(rng.random((160, 160)) < 0.5), jnp.array([-16.0, -16.0, 0.0]),
        jnp.array([1.0, 0, 0]), jnp.array([0.0, 1, 0]),
    )  # fmt: skip
    points = rng.uniform(-15, 15, (3, 3)).astype(np.float32)
    radius, counted = np.array([0.5, 1.0, 2.0], np.float32), np.array([True, True, False])
    found = np.asarray(jax.jit(movers.Obstacles.without)(plan, points, radius, counted).taken)
    middles = np.mgrid[:160, :160].transpose(1, 2, 0)[:, :, None] * 0.2 + 0.1 - 16.0
    gaps = np.linalg.norm(points[:, :2] - middles, axis=-1)
    cleared = (gaps < radius)[..., counted].any(-1)
    clear_cut = np.abs(gaps - radius).min(-1) > 1e-4
    np.testing.assert_array_equal(found[clear_cut], (plan.taken & ~cleared)[clear_cut])
    assert cleared.sum() > 60 and found[~cleared].sum() > 1000


@functools.cache
def watched(measured):
    """What two frames make of a table: a body 3 m ahead walks left, and is out of view by then.

    The memory holds a wall two metres to the left; the floor is not known before these frames.
    """
    seen = [traced("cylinder", 3.0, 0.0), traced("cylinder", 3.0, 0.5), traced("cylinder", 3.0, 99)]
    mask, depth = (np.stack(part) for part in zip(*seen, strict=True))
    x, z = (part.reshape(-1) for part in np.mgrid[1:5:0.1, 0.4:1.4:0.3])
    wall = np.stack([x, np.full(x.shape, 2.0), z], -1).astype(np.float32)
    count = len(wall)
    bank = memory.create(count, 1).replace(
        xyz=jnp.asarray(wall), valid=jnp.ones(count, bool), size=jnp.full(count, 0.2),
        origin=jnp.tile(jnp.array([3.0, 0.0, EYE]), (count, 1)),
    )  # fmt: skip
    cameras = jax.tree.map(lambda leaf: jnp.stack([leaf] * 3), CAMERA)
    pictures = jnp.zeros((3, SIZE, SIZE, 3))
    hidden = jnp.where(jnp.arange(3)[:, None, None] == 2, 0.0, depth)

    @jax.jit
    def run():
        options = dataclasses.replace(OPTIONS, fps=2.0, depth_error=0.2, given_depth_error=0.02)
        return moving.observe(
            movers.create(1, UP, options), bank, pictures, jnp.asarray(mask), hidden, cameras,
            jnp.array([0.0, 1.0, 6.0]), encode=lambda crops: jnp.zeros((len(crops), 2, 2, 1)),
            stride=8, options=options, measured=measured,
        )[0]  # fmt: skip

    return run()


def test_walls_turn_bodies_back_in_the_frames_that_tell_of_the_floor():
    table = watched(True)
    assert int(table.hits[0]) == 2 and float(table.time) == 3.0
    # A metre a second: it touches at 2 - RADIUS, 1.15 s after its last sight, and comes back.
    assert -0.6 < float(table.position[0, 1]) < 1.2 and float(table.velocity[0, 1]) < -0.4


@pytest.mark.long
def test_measured_depth_is_believed_more_than_estimated():
    """Along the line of sight; the floor tells a body's distance too, and it has moved on since."""
    sure, unsure = (float(watched(measured).covariance[0, 0, 0]) for measured in (True, False))
    assert sure < 0.9 * unsure


@pytest.mark.long
def test_the_head_s_depth_does_not_take_a_body_apart_where_given_depth_does():
    mask, depth = np.ones((16, 8), bool), np.full((16, 8), 3.0, np.float32)
    mask, depth = np.pad(mask, 8), np.pad(depth, 8, constant_values=6.0)
    depth[8:, 12:] *= 1.4
    camera = geometry.resize_camera(CAMERA, mask.shape)
    options, found = dataclasses.replace(OPTIONS, detections=2), {}
    for measured in (True, False):
        found[measured] = moving.observe(
            movers.create(1, UP, options), memory.create(1, 1), jnp.zeros((1, *mask.shape, 3)),
            jnp.asarray(mask)[None], jnp.asarray(depth)[None],
            jax.tree.map(lambda leaf: jnp.asarray(leaf)[None], camera), jnp.zeros(1),
            encode=lambda crops: jnp.zeros((len(crops), 2, 2, 1)), stride=8, options=options,
            measured=measured,
        )[1].found  # fmt: skip
    assert found == {True: 2, False: 1}
