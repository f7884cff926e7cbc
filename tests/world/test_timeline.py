"""Undo, redo, marks and branches give the very bits that were there, and take what they say."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.tiny_world import CHANNELS, GRID, INTRINSICS, SIZE
from mirage_jax import memory
from mirage_jax.memory import edit, regions
from mirage_jax.world import World, context_frames
from mirage_jax.world.branches import at_branch, with_branch, without_branch
from mirage_jax.world.patches import Rows, apply_patch, compose, make_patch
from mirage_jax.world.timeline import Timeline, TimelineOptions
from mirage_jax.world.world_file import (
    Branch,
    CameraPath,
    WorldFile,
    read_world_file,
    write_world_file,
)

SLOTS = 40


def bits(world):
    leaves = jax.tree_util.tree_flatten_with_path(world)[0]
    return {
        jax.tree_util.keystr(path): (np.asarray(leaf).dtype, np.asarray(leaf).tobytes())
        for path, leaf in leaves
    }


def first_world(with_context=True):
    rng = np.random.default_rng(7)
    kept = context_frames.create(3, GRID, CHANNELS, 5) if with_context else None
    return World(
        bank=memory.create(SLOTS, CHANNELS, jnp.bfloat16),
        latent=jnp.asarray(rng.normal(size=(*GRID, CHANNELS)), jnp.float32),
        cam2world=jnp.eye(4),
        intrinsics=jnp.asarray(INTRINSICS),
        frames=jnp.int32(1),
        context_frames=kept,
    )


def later(world, seed, rows=3):
    """Some rows of the memory changed, one with -0 in it, and the preceding latents grown."""
    rng = np.random.default_rng(seed)
    slots = rng.choice(SLOTS, rows, replace=False)
    tokens = jnp.asarray(rng.normal(size=(rows, CHANNELS)), jnp.bfloat16)
    tokens = tokens.at[0, 0].set(-0.0)
    bank = world.bank.replace(
        xyz=world.bank.xyz.at[slots].set(rng.normal(size=(rows, 3))),
        tokens=world.bank.tokens.at[slots].set(tokens),
        valid=world.bank.valid.at[slots].set(True),
        count=jnp.int32(SLOTS),
    )
    kept = world.context_frames
    if kept is not None:
        recent = jnp.concatenate([kept.recent[:2], world.latent[None]])
        context = jnp.full((len(recent), *GRID, 5), float(seed))
        kept = kept.replace(recent=recent, context=context)
    return world.replace(bank=bank, frames=world.frames + 4, context_frames=kept)


def filled(count, **options):
    """A timeline of so many chunks, and its states."""
    timeline = Timeline(first_world(), TimelineOptions(**options))
    states = [timeline.world]
    for seed in range(count):
        states.append(later(states[-1], seed))
        timeline.record(states[-1])
    return timeline, states


# -- patches ---------------------------------------------------------------------------------------


def test_a_patch_makes_the_very_bits_and_holds_only_rows_that_differ():
    one = first_world(with_context=False)
    other = later(one, 0)
    patch = make_patch(one, other)
    assert bits(apply_patch(patch, one)) == bits(other)
    tokens = patch.changes[".bank.tokens"]
    assert isinstance(tokens, Rows) and len(tokens.rows) == 3
    assert patch.changes[".latent"] is None and patch.changes[".bank.time"] is None
    rows = 3 * (8 + 12) + 3 * (8 + 2 * CHANNELS) + 3 * (8 + 1)  # positions, tokens, valid
    assert patch.nbytes == rows + 2 * 4  # and two counters


@pytest.mark.parametrize("contexts", [(True, False, True), (False, True, False), (True,) * 3])
def test_patches_of_worlds_of_another_structure_compose(contexts):
    states = [first_world(contexts[0])]
    for seed, context in enumerate(contexts[1:]):
        kept = first_world(context).context_frames
        if context and states[-1].context_frames is not None:
            kept = states[-1].context_frames
        states.append(later(states[-1].replace(context_frames=kept), seed))
    one, two, three = states
    for path in ((one, two, three), (three, two, one), (one, two, one)):
        patch = compose(make_patch(*path[:2]), make_patch(*path[1:]))
        assert bits(apply_patch(patch, path[0])) == bits(path[2])


def test_arrays_without_rows_are_the_same():
    """As preceding latents are after two edits."""
    one = {"x": np.zeros((0, 2, 3)), "y": jnp.zeros((3, 0))}
    other = {"x": np.zeros((0, 2, 3)), "y": jnp.zeros((3, 0))}
    patch = make_patch(one, other)
    assert patch.nbytes == 0 and bits(apply_patch(patch, one)) == bits(other)


def test_arrays_of_numpy_stay_what_they_are():
    one = {"x": np.zeros((3, 2)), "y": jnp.zeros(3)}
    other = {"x": np.eye(3, 2), "y": jnp.ones(3)}
    made = apply_patch(make_patch(one, other), one)
    assert made["x"].dtype == np.float64 and isinstance(made["y"], jax.Array)
    np.testing.assert_array_equal(made["x"], other["x"])


# -- undo ------------------------------------------------------------------------------------------


def test_what_is_undone_is_forgotten_once_another_way_is_taken():
    timeline, states = filled(4)
    timeline.undo(2)
    assert (timeline.undoable, timeline.redoable) == (2, 2)
    timeline.record(later(states[2], 99), "an edit")
    assert (timeline.undoable, timeline.redoable, timeline.forgotten) == (3, 0, 0)
    assert bits(timeline.undo()) == bits(states[2])
    with pytest.raises(ValueError, match="undo: found 3 steps, expected 1 to 2"):
        timeline.undo(3)
    with pytest.raises(ValueError, match="redo: found 2 steps, expected 1 to 1"):
        timeline.redo(2)
    assert bits(timeline.world) == bits(states[2])


def test_only_so_many_steps_can_be_undone_and_marks_lie_beyond():
    timeline, states = filled(2, steps=3)
    timeline.mark("door")
    for seed in range(20, 30):
        states.append(later(states[-1], seed))
        timeline.record(states[-1])
    assert bits(timeline.at("door")) == bits(states[2])
    assert timeline.undoable == 4  # three steps, and the mark
    assert timeline.forgotten == 2 + 10 - 4
    assert bits(timeline.world) == bits(states[-1])
    assert bits(timeline.undo(3)) == bits(states[-4])
    assert bits(timeline.return_to("door")) == bits(states[2])
    assert bits(timeline.redo(4)) == bits(states[-1])


def test_a_mark_is_found_again_from_another_branch():
    timeline, states = filled(3)
    timeline.mark("left")
    timeline.undo(2)
    timeline.record(later(states[1], 50))
    timeline.record(later(timeline.world, 51))
    right = timeline.world
    timeline.mark("right")
    assert timeline.marks == {"left": 13, "right": 13}
    assert bits(timeline.return_to("left")) == bits(states[3])
    assert bits(timeline.undo()) == bits(states[2])
    assert bits(timeline.return_to("right")) == bits(right)
    assert bits(timeline.at("left")) == bits(states[3])
    timeline.unmark("left")
    timeline.record(later(right, 52))
    with pytest.raises(ValueError, match=r"found 'left', expected one of .*: right"):
        timeline.return_to("left")
    with pytest.raises(ValueError, match="mark: found 'right' twice"):
        timeline.mark("right")


@pytest.mark.parametrize("seed", range(4))
def test_any_course_of_steps_gives_the_states_that_were_there(seed):
    """Against lists of whole states: those before the present one, and those undone."""
    rng = np.random.default_rng(seed)
    timeline = Timeline(first_world(), TimelineOptions(steps=100))
    line, ahead, marks = [timeline.world], [], {}
    for number in range(40):
        act = rng.choice(["record", "record", "undo", "redo", "mark", "at", "return"])
        if act == "record":
            line, ahead = [*line, later(line[-1], number + 1000 * seed)], []
            timeline.record(line[-1])
        elif act == "undo" and len(line) > 1:
            line, ahead = line[:-1], [line[-1], *ahead]
            timeline.undo()
        elif act == "redo" and ahead:
            line, ahead = [*line, ahead[0]], ahead[1:]
            timeline.redo()
        elif act == "mark" and len(marks) < 5:
            marks[str(number)] = list(line)
            timeline.mark(str(number))
        elif act in ("at", "return") and marks:
            name = str(rng.choice(list(marks)))
            assert bits(timeline.at(name)) == bits(marks[name][-1])
            if act == "return":
                line, ahead = marks[name], []
                timeline.return_to(name)
                ahead = redone(timeline, name)
        assert bits(timeline.world) == bits(line[-1])
        assert (timeline.undoable, timeline.redoable) == (len(line) - 1, len(ahead))
    while timeline.undoable:
        line = line[:-1]
        assert bits(timeline.undo()) == bits(line[-1])
    assert len(line) == 1 and timeline.forgotten == 0


def redone(timeline, name):
    """The states that can be redone from a mark, at which it is left again."""
    found = [timeline.redo() for _ in range(timeline.redoable)]
    timeline.return_to(name)
    return found


# -- bytes -----------------------------------------------------------------------------------------


def test_bytes_are_bounded_and_what_had_to_go_is_counted():
    limit = filled(10)[0].nbytes
    timeline, states = filled(2, max_bytes=limit)
    timeline.mark("early")
    for seed in range(30, 50):
        states.append(later(states[-1], seed))
        timeline.record(states[-1])
        assert timeline.nbytes <= limit
    assert bits(timeline.at("early")) == bits(states[2])  # a mark goes after all others
    assert timeline.forgotten + timeline.undoable == 22
    assert bits(timeline.undo()) == bits(states[-2])
    timeline, states = filled(2, max_bytes=0)
    assert (timeline.undoable, timeline.forgotten, timeline.nbytes) == (0, 2, 0)
    timeline.mark("here")
    timeline.record(later(states[-1], 5))
    assert timeline.forgotten_marks == ["here"] and timeline.marks == {}


# -- files -----------------------------------------------------------------------------------------


def camera_path(frames):
    poses = np.tile(np.eye(4), (frames, 1, 1))
    return CameraPath(poses, np.tile(INTRINSICS, (frames, 1)), np.arange(frames) / 8, SIZE)


def test_marks_are_branches_of_the_file(tmp_path):
    timeline, states = filled(3)
    timeline.undo(2)
    timeline.mark("a")
    timeline.redo()
    timeline.mark("b")
    timeline.redo()
    note = Branch("only a name", 2)
    file = WorldFile(timeline.world, camera_path=camera_path(13), branches=(note,))
    write_world_file(tmp_path / "x.world", timeline.to_file(file))
    read = read_world_file(tmp_path / "x.world")
    assert bits(read.world) == bits(states[3])
    found = {branch.name: branch for branch in read.branches}
    assert {n: (b.frame, b.parent) for n, b in found.items()} == {
        "only a name": (2, None), "a": (4, None), "b": (8, "a")
    }  # fmt: skip
    assert bits(found["a"].world) == bits(states[1]) and bits(found["b"].world) == bits(states[2])
    assert [len(found[name].camera_path.times) for name in "ab"] == [5, 9]
    again = Timeline.from_file(read)
    assert bits(again.return_to("a")) == bits(states[1])
    assert bits(again.undo()) == bits(states[3])
    rewritten = again.to_file(read)
    assert {b.name: (b.frame, b.parent) for b in rewritten.branches} == {
        n: (b.frame, b.parent) for n, b in found.items()
    }


def test_branches_of_a_file_are_added_taken_and_removed(tmp_path):
    one = first_world()
    other = later(one, 3)
    file = with_branch(WorldFile(one, camera_path=camera_path(1)), "start", "a test")
    file = dataclasses.replace(file, world=other, camera_path=camera_path(5))
    file = with_branch(file, "later", parent="start")
    write_world_file(tmp_path / "x.world", file)
    file = read_world_file(tmp_path / "x.world")
    back = at_branch(file, "start")
    assert bits(back.world) == bits(one) and len(back.camera_path.times) == 1
    assert bits(at_branch(back, "later").world) == bits(other)
    fewer = without_branch(file, "start")
    assert [(b.name, b.parent) for b in fewer.branches] == [("later", None)]
    for wrong, message in (
        (lambda: with_branch(file, "later"), "found 'later' twice"),
        (lambda: with_branch(file, "x", parent="y"), "found 'y', expected one of .*start, later"),
        (lambda: at_branch(file, "y"), "found 'y', expected one of"),
        (lambda: at_branch(WorldFile(one, branches=(Branch("m", 0),)), "m"), "found a mark"),
    ):
        with pytest.raises(ValueError, match=message):
            wrong()


def test_an_edit_can_be_undone_like_a_chunk():
    timeline, states = filled(2)
    bank, number = edit.delete(timeline.world.bank, regions.Sphere((0, 0, 0), 1.0))
    assert number > 0
    timeline.record(timeline.world.replace(bank=bank), "deleted a ball")
    assert edit.diff(states[2].bank, timeline.world.bank).counts()["removed"] == number
    assert bits(timeline.undo()) == bits(states[2])
