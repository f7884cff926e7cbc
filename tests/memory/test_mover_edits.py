"""Edits of bodies: equal to the same edit of where they will be later."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from mirage_jax.memory import movers
from mirage_jax.memory.movers import MoverOptions, edits
from mirage_jax.memory.movers.state import SLOT_FIELDS, with_rows

OPTIONS = MoverOptions(slots=4, views=2, view_cells=1)
LATER = 1.5
UP = np.array([0.0, -1.0, 0.0], np.float32)


@pytest.fixture(scope="module")
def table():
    """Three bodies that walk in bows, and a free slot."""
    rng = np.random.default_rng(0)
    made = movers.create(3, UP, OPTIONS, floor=0.0)
    flat = np.array([1.0, 0.0, 1.0], np.float32)
    velocity = rng.normal(size=(4, 3)).astype(np.float32) * flat
    root = rng.normal(size=(4, 7, 7)).astype(np.float32)
    values = {
        "id": np.arange(4),
        "status": movers.CONFIRMED,
        "position": rng.normal(size=(4, 3)) * flat,
        "velocity": velocity,
        "turn_rate": rng.normal(size=4) * 0.3,
        "covariance": root @ root.transpose(0, 2, 1) * 0.01,
        "heading": velocity / np.linalg.norm(velocity, axis=-1, keepdims=True),
        "oriented": True,
        "extent": rng.uniform(0.3, 1, (4, 3)),
        "view_tokens": rng.normal(size=(4, 2, 1, 1, 3)),
    }
    return with_rows(made, jnp.arange(4) < 3, values)


@pytest.fixture(scope="module")
def advance():
    return jax.jit(lambda table: movers.advance(table, LATER, None, OPTIONS))


def only(*slots):
    return jnp.isin(jnp.arange(4), jnp.array(slots))


def rows(table, slot):
    return {name: np.asarray(getattr(table, name))[slot] for name in SLOT_FIELDS}


def assert_same_rows(one, other, slots):
    for slot in slots:
        ours, theirs = rows(one, slot), rows(other, slot)
        for name in SLOT_FIELDS:
            np.testing.assert_array_equal(ours[name], theirs[name], err_msg=name)


def test_a_deleted_body_is_gone_and_the_others_are_as_they_were(table):
    left = edits.delete(table, only(1))
    assert np.asarray(left.present).tolist() == [True, False, True, False]
    assert not np.asarray(left.view_tokens[1]).any()
    assert_same_rows(left, table, (0, 2, 3))


def test_bodies_that_are_exchanged_go_on_as_the_other_did(table, advance):
    swapped, later = advance(edits.swap(table, 0, 2)), advance(table)
    for here, there in ((0, 2), (2, 0)):
        for name in edits.STATE_FIELDS:
            np.testing.assert_array_equal(getattr(swapped, name)[here], getattr(later, name)[there])
    for name in set(SLOT_FIELDS) - set(edits.STATE_FIELDS):
        np.testing.assert_array_equal(getattr(swapped, name), getattr(later, name))
    assert_same_rows(swapped, later, (1, 3))
    assert_same_rows(edits.swap(edits.swap(table, 0, 2), 0, 2), table, range(4))


def test_a_moved_body_goes_on_from_there_turned_with_the_move(table, advance):
    turn = Rotation.from_rotvec(0.7 * UP).as_matrix()
    by = np.eye(4, dtype=np.float32)
    by[:3, :3], by[:3, 3] = turn, [2.0, 0.0, -1.0]
    moved, later = advance(edits.move(table, only(1), by)), advance(table)
    body = rows(later, 1)
    np.testing.assert_allclose(moved.position[1], turn @ body["position"] + by[:3, 3], atol=1e-4)
    for name in ("velocity", "heading"):
        np.testing.assert_allclose(getattr(moved, name)[1], turn @ body[name], atol=1e-4)
    covariance = np.asarray(edits.move(table, only(1), by).covariance[1])
    whole = np.eye(7)
    whole[:3, :3] = whole[3:6, 3:6] = turn
    expected = whole @ np.asarray(table.covariance[1]) @ whole.T
    np.testing.assert_allclose(covariance, expected, rtol=1e-4, atol=1e-6)
    assert_same_rows(moved, later, (0, 2, 3))


def test_a_halted_body_stays(table, advance):
    halted, later = advance(edits.halt(table, only(0, 1))), advance(table)
    np.testing.assert_allclose(halted.position[:2], table.position[:2], atol=1e-6)
    assert (np.asarray(later.position[:2]) != np.asarray(table.position[:2])).any()
    assert_same_rows(halted, later, (2, 3))
