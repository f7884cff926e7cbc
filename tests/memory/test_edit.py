"""Edits of a memory against the same in numpy, element by element."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from helpers import points
from helpers.points import GRID, SIZE, bank, coordinate, point
from mirage_jax import memory
from mirage_jax.geometry import Camera
from mirage_jax.memory import edit, regions
from mirage_jax.memory.bank import COUNTERS, ELEMENT_FIELDS

LOW, HIGH = np.float32([-1, -2, 0]), np.float32([2, 1, 2])
TURN = np.eye(4, dtype=np.float32)
TURN[:3] = [[0, 0, 1, 0.5], [0, 1, 0, -1], [-1, 0, 0, 2]]
"""A quarter turn and a shift, which float32 does without rounding."""
CAMERA = Camera(np.float32([[16, 16, 16, 12]]), np.eye(4, dtype=np.float32)[None], SIZE)

read = jax.jit(memory.read, static_argnums=2)
several = settings(max_examples=25, deadline=None)
elements = st.lists(point, min_size=1, max_size=points.SLOTS)
truths = st.lists(st.booleans(), min_size=points.SLOTS, max_size=points.SLOTS)


def made(xyz, holes):
    """A memory of which some slots below `count` are free."""
    rng = np.random.default_rng(len(xyz))
    mem = bank(xyz, origin=rng.integers(-4, 4, (len(xyz), 3)) / 2)
    return mem.replace(
        tangents=jnp.asarray(rng.integers(-4, 4, mem.tangents.shape) / 2, jnp.float32),
        valid=mem.valid & ~jnp.asarray(holes),
        frame=jnp.asarray(rng.integers(0, 9, mem.capacity), jnp.int32),
        frames=jnp.int32(9),
    )


def held(mem):
    """The elements that there are, each as its bytes, sorted; slots do not matter."""
    valid = np.asarray(mem.valid)
    columns = [np.asarray(getattr(mem, name))[valid] for name in ELEMENT_FIELDS]
    return sorted(b"".join(np.ascontiguousarray(row).tobytes() for row in rows)
                  for rows in zip(*columns, strict=True))  # fmt: skip


def rows(mem, name):
    return np.asarray(getattr(mem, name))


def assert_free_slots_are_empty(mem):
    for name in ELEMENT_FIELDS:
        assert not rows(mem, name)[~rows(mem, "valid")].any(), name


def in_box(xyz):
    return np.array([all(place >= LOW) and all(place <= HIGH) for place in np.asarray(xyz)])


# -- regions ---------------------------------------------------------------------------------------


@several
@given(elements, truths)
def test_a_box_holds_what_lies_between_its_faces(xyz, holes):
    mem = made(xyz, holes)
    found = edit.select(mem, regions.Box(LOW, HIGH))
    assert (np.asarray(found) == in_box(mem.xyz) & rows(mem, "valid")).all()


@several
@given(elements, st.sampled_from([0.5, 1.0, 2.5]))
def test_a_sphere_holds_what_is_near_its_centre(xyz, radius):
    mem = made(xyz, False)
    found = edit.select(mem, regions.Sphere(LOW, radius))
    distance = np.linalg.norm(rows(mem, "xyz").astype(np.float64) - LOW, axis=1)
    assert (np.asarray(found) == (distance <= radius) & rows(mem, "valid")).all()


@several
@given(elements)
def test_an_oriented_box_is_a_box_in_its_own_axes(xyz):
    mem = made(xyz, False)
    size = np.float32([2, 3, 1.5])
    found = edit.select(mem, regions.OrientedBox(TURN, size))
    own = (rows(mem, "xyz") - TURN[:3, 3]) @ TURN[:3, :3]
    assert (np.asarray(found) == (np.abs(own) <= size / 2).all(1) & rows(mem, "valid")).all()


def test_a_mask_of_another_length_is_refused():
    with pytest.raises(ValueError, match=r"found a mask of shape \(3,\), expected \(12,\)"):
        edit.delete(made([(0, 0, 1)], False), np.ones(3, bool))


SPACES = {
    "box": regions.Box(LOW, HIGH),
    "sphere": regions.Sphere(0.5 * (LOW + HIGH), 1.5),
    "oriented": regions.OrientedBox(TURN, np.float32([2, 3, 1.5])),
}


@pytest.mark.parametrize("space", SPACES.values(), ids=SPACES)
@several
@given(st.lists(st.tuples(point, point), min_size=1, max_size=points.SLOTS))
def test_segments_cross_what_one_of_their_points_lies_in(space, ends):
    """Against points along each; those that touch it by a hair may fall either way."""
    start, end = (jnp.asarray(side, jnp.float32) for side in zip(*ends, strict=True))
    steps = jnp.linspace(0.0, 1.0, 2001)[:, None, None]
    along = start + steps * (end - start)

    def grown(by):
        if isinstance(space, regions.Box):
            return regions.Box(space.low - by, space.high + by)
        if isinstance(space, regions.Sphere):
            return regions.Sphere(space.centre, space.radius + by)
        return regions.OrientedBox(space.pose, space.size + 2 * by)

    for near in (0.0, 0.7):
        crossed = np.asarray(space.crossed(start, end, jnp.full(len(start), near)))
        inner, outer = (
            np.asarray(grown(near + hair).contains(along).any(axis=0)) for hair in (-0.01, 0.01)
        )
        assert (crossed[inner]).all() and outer[crossed].all()


def test_what_was_seen_past_an_edge_shows_what_it_passed():
    """A thing in front of a wall: cells of the wall beside the thing, and behind it, are meant."""
    places = [(0, 0, 2), (0, 0, 8), (0.5, 0, 8), (3, 0, 8), (0, 0, 1)]
    mem = made(places, False).replace(size=jnp.full(points.SLOTS, 1.0))
    mem = mem.replace(origin=jnp.zeros_like(mem.origin))
    thing = regions.Box(np.float32([-0.3, -0.3, 2]), np.float32([0.3, 0.3, 2.2]))
    # Half a cell at the thing: a quarter of that at the wall, four times as far away.
    found = np.flatnonzero(regions.showing(mem, thing)).tolist()
    assert found == [0, 1, 2]


# -- delete ----------------------------------------------------------------------------------------


@several
@given(elements, truths)
def test_deleted_elements_are_gone_and_all_others_as_they_were(xyz, holes):
    mem = made(xyz, holes)
    chosen = in_box(mem.xyz) & rows(mem, "valid")
    after, number = edit.delete(mem, regions.Box(LOW, HIGH))
    assert int(number) == chosen.sum()
    for name in ELEMENT_FIELDS:
        expected = rows(mem, name).copy()
        expected[chosen] = 0
        assert (rows(after, name) == expected).all(), name
    assert all(rows(after, name) == rows(mem, name) for name in COUNTERS)


def pillar_before_wall():
    """A wall of cells 4 m away, of which a pillar 2 m away hides the second column."""
    v, u = np.mgrid[: GRID[0], : GRID[1]]
    rays = np.stack([(u * 8 + 4 - 16) / 16, (v * 8 + 4 - 12) / 16, np.ones(GRID)], -1)
    wall, pillar = 4 * rays.reshape(-1, 3), 2 * rays[:, 1]
    return bank(np.concatenate([wall, pillar])), regions.Box((-9, -9, 1.5), (9, 9, 2.5))


def test_behind_a_deleted_pillar_the_memory_shows_the_wall():
    mem, pillar = pillar_before_wall()
    before = read(mem, CAMERA, GRID)
    expected = np.full(GRID, 4.0)
    expected[:, 1] = 2.0
    assert (np.asarray(before.depth[0]) == expected).all()
    after = read(edit.delete(mem, pillar)[0], CAMERA, GRID)
    assert (np.asarray(after.depth[0]) == 4.0).all()
    assert (np.asarray(after.tokens[0]) == rows(mem, "tokens")[:12].reshape(*GRID, 2)).all()


def test_a_moved_pillar_stands_in_its_new_place():
    mem, pillar = pillar_before_wall()
    step = regions.translation((1, 0, 0))  # one cell: 16 pixels a metre at 1 m, 8 a cell, at 2 m
    after, number = edit.move(mem, pillar, step)
    assert int(number) == GRID[0]
    seen = read(after, CAMERA, GRID)
    expected = np.full(GRID, 4.0)
    expected[:, 2] = 2.0
    assert (np.asarray(seen.depth[0]) == expected).all()
    assert (np.asarray(seen.tokens[0, :, 2]) == rows(mem, "tokens")[12:]).all()
    assert (np.asarray(seen.tokens[0, :, 1]) == rows(mem, "tokens")[1:12:4]).all()


# -- move, swap ------------------------------------------------------------------------------------


@several
@given(elements, truths)
def test_moved_elements_and_their_origins_go_the_same_way(xyz, holes):
    mem = made(xyz, holes)
    chosen = in_box(mem.xyz) & rows(mem, "valid")
    after, number = edit.move(mem, regions.Box(LOW, HIGH), TURN)
    assert int(number) == chosen.sum()
    for name in ELEMENT_FIELDS:
        expected = rows(mem, name).copy()
        if name in ("xyz", "origin"):
            expected[chosen] = expected[chosen] @ TURN[:3, :3].T + TURN[:3, 3]
        if name == "tangents":
            expected[chosen] = expected[chosen] @ TURN[:3, :3].T
        assert (rows(after, name) == expected).all(), name


def test_a_turn_keeps_lengths_far_from_the_origin():
    rng = np.random.default_rng(3)
    mem = bank(rng.normal(size=(12, 3)) + 100, origin=rng.normal(size=(12, 3)) + 100)
    pose = np.eye(4, dtype=np.float32)
    pose[:3, :3] = Rotation.random(rng=rng).as_matrix()
    after, _ = edit.move(mem, mem.valid, pose)
    lengths = [np.linalg.norm(rows(m, "xyz") - rows(m, "origin"), axis=1) for m in (mem, after)]
    np.testing.assert_allclose(*lengths, atol=1e-4)


@several
@given(elements, truths, coordinate)
def test_a_swap_twice_is_none(xyz, holes, shift):
    mem = made(xyz, holes)
    one = regions.Box((-1, -1, 0), (0, 0, 2))
    other = regions.Box((shift, 0.25, 1), (shift + 1, 1.25, 3))
    once, number = edit.swap(mem, one, other)
    again, _ = edit.swap(once, one, other)
    for name in (*ELEMENT_FIELDS, *COUNTERS):
        assert (rows(again, name) == rows(mem, name)).all(), name
    by = np.float32([shift + 1, 1.25, 1])
    inside = [
        ((rows(mem, "xyz") >= np.float32(box.low)) & (rows(mem, "xyz") <= np.float32(box.high)))
        .all(1) & rows(mem, "valid") for box in (one, other)
    ]  # fmt: skip
    expected = rows(mem, "xyz") + np.outer(inside[0], by) - np.outer(inside[1], by)
    assert (rows(once, "xyz") == expected).all()
    assert int(number) == (inside[0] != inside[1]).sum()


def test_a_swap_of_turned_boxes_turns_what_is_in_them():
    mem = bank([(0.25, 0, 0), (5, 5.5, 5)])
    there = np.array(TURN)
    there[:3, 3] = 5
    boxes = [regions.OrientedBox(pose, (2, 2, 2)) for pose in (np.eye(4, dtype=np.float32), there)]
    after, _ = edit.swap(mem, *boxes)
    np.testing.assert_array_equal(rows(after, "xyz")[:2], [(5, 5, 4.75), (0, 0.5, 0)])
    with pytest.raises(ValueError, match="swap: found a mask"):
        edit.swap(mem, boxes[0], mem.valid)


# -- copies ----------------------------------------------------------------------------------------


def inserted(mem, new):
    """`mem` with rows put into its free slots one after the other; what does not fit."""
    fields = {name: rows(mem, name).copy() for name in ELEMENT_FIELDS}
    left, count = list(new), int(mem.count)
    for slot in np.flatnonzero(~rows(mem, "valid")):
        if left:
            row = left.pop(0)
            count = max(count, slot + 1)
            for name in ELEMENT_FIELDS:
                fields[name][slot] = row[name]
    return fields, count, len(left)


@several
@given(elements, truths)
def test_copies_take_the_lowest_free_slots_and_what_does_not_fit_is_counted(xyz, holes):
    mem = made(xyz, holes)
    chosen = in_box(mem.xyz) & rows(mem, "valid")
    new = []
    for slot in np.flatnonzero(chosen):
        row = {name: rows(mem, name)[slot] for name in ELEMENT_FIELDS}
        for name in ("xyz", "origin"):
            row[name] = TURN[:3, :3] @ row[name] + TURN[:3, 3]
        row["tangents"] = row["tangents"] @ TURN[:3, :3].T
        new.append(row)
    fields, count, dropped = inserted(mem, new)
    after, report = edit.duplicate(mem, regions.Box(LOW, HIGH), TURN)
    for name in ELEMENT_FIELDS:
        assert (rows(after, name) == fields[name]).all(), name
    assert (int(after.count), int(after.dropped)) == (count, int(mem.dropped) + dropped)
    assert [int(n) for n in (report.added, report.known, report.dropped)] == [
        chosen.sum() - dropped, 0, dropped
    ]  # fmt: skip


@several
@given(elements, elements, truths)
def test_merged_memories_have_the_elements_of_both(xyz, others, holes):
    mem, other = made(xyz, holes), made(others, False)
    voxel = 0.5
    cells = {tuple(np.floor(p / voxel)) for p in rows(mem, "xyz")[rows(mem, "valid")]}
    new, known = [], 0
    for slot in np.flatnonzero(rows(other, "valid")):
        row = {name: rows(other, name)[slot] for name in ELEMENT_FIELDS}
        for name in ("xyz", "origin"):
            row[name] = TURN[:3, :3] @ row[name] + TURN[:3, 3]
        row["tangents"] = row["tangents"] @ TURN[:3, :3].T
        row |= {"frame": row["frame"] + 9, "time": row["time"] + 2}
        if tuple(np.floor(row["xyz"] / voxel)) in cells:
            known += 1
        else:
            new.append(row)
    fields, count, dropped = inserted(mem, new)
    after, report = edit.merge(mem, other, TURN, time=2.0, voxel=voxel)
    for name in ELEMENT_FIELDS:
        assert (rows(after, name) == fields[name]).all(), name
    assert (int(after.count), int(after.frames)) == (count, 18)
    assert [int(n) for n in (report.added, report.known, report.dropped)] == [
        len(new) - dropped, known, dropped
    ]  # fmt: skip
    assert int(edit.merge(mem, other, TURN)[1].known) == 0


def test_memories_of_other_tokens_are_not_merged():
    with pytest.raises(ValueError, match="merge: found tokens float32 of 3 channels, expected"):
        edit.merge(memory.create(4, 2), memory.create(4, 3), TURN)


# -- compact, diff ---------------------------------------------------------------------------------


@several
@given(elements, truths)
def test_a_compact_memory_begins_with_its_elements_in_their_order(xyz, holes):
    mem = edit.delete(made(xyz, holes), regions.Box(LOW, HIGH))[0]
    after = edit.compact(mem)
    valid = rows(mem, "valid")
    assert int(after.count) == valid.sum()
    for name in ELEMENT_FIELDS:
        assert (rows(after, name)[: valid.sum()] == rows(mem, name)[valid]).all(), name
    assert_free_slots_are_empty(after)
    assert held(after) == held(mem)


@several
@given(elements, truths, truths)
def test_a_diff_says_which_slots_an_edit_changed(xyz, holes, chosen):
    mem = made(xyz, holes)
    chosen = np.array(chosen)
    touched = chosen & rows(mem, "valid")
    moved = edit.diff(mem, edit.move(mem, chosen, TURN)[0])
    still = (rows(mem, "xyz") @ TURN[:3, :3].T + TURN[:3, 3] == rows(mem, "xyz")).all(1)
    assert (np.asarray(moved.changed) >= touched & ~still).all()
    assert moved.counts() == {"added": 0, "removed": 0, "changed": int(moved.changed.sum())}
    deleted = edit.delete(mem, chosen)[0]
    assert (np.asarray(edit.diff(mem, deleted).removed) == touched).all()
    assert (np.asarray(edit.diff(deleted, mem).added) == touched).all()
    assert edit.diff(mem, mem).counts() == {"added": 0, "removed": 0, "changed": 0}


def test_a_diff_sees_every_field_and_every_bit():
    mem = made([(0, 0, 1), (1, 0, 1)], False)
    for name in set(ELEMENT_FIELDS) - {"valid"}:
        leaf = rows(mem, name).copy()
        leaf[1] = ~leaf[1] if leaf.dtype == bool else leaf[1] + 1
        assert np.flatnonzero(edit.diff(mem, mem.replace(**{name: leaf})).changed) == [1], name
    zero, minus = (mem.replace(tokens=jnp.zeros_like(mem.tokens) * sign) for sign in (1, -1))
    assert edit.diff(zero, minus).counts()["changed"] == 2
    with pytest.raises(ValueError, match="diff: xyz: found"):
        edit.diff(mem, memory.create(3, 2))


@several
@given(elements, truths)
def test_what_is_pinned_can_be_freed_again(xyz, holes):
    mem = made(xyz, holes)
    chosen = in_box(mem.xyz) & rows(mem, "valid")
    pinned, number = edit.pin(mem, regions.Box(LOW, HIGH))
    assert int(number) == chosen.sum()
    assert (rows(pinned, "pinned") == chosen).all()
    everything, _ = edit.pin(mem, mem.valid)
    freed, _ = edit.pin(everything, regions.Box(LOW, HIGH), False)
    assert (rows(freed, "pinned") == rows(mem, "valid") & ~chosen).all()
    assert edit.diff(mem, pinned).counts()["changed"] == chosen.sum()


def test_a_memory_of_more_or_fewer_slots_has_the_same_elements():
    mem = made([(0, 0, 1), (1, 0, 2), (0, 1, 1)], False)
    for capacity in (3, 12, 20):
        other = edit.with_capacity(mem, capacity)
        assert other.capacity == capacity and held(other) == held(mem)
        assert not any(rows(other, name)[12:].any() for name in ELEMENT_FIELDS)
    with pytest.raises(ValueError, match="capacity: found 2, expected at least 3"):
        edit.with_capacity(mem, 2)
