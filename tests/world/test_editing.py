"""After an edit of a world nothing in its state shows what was there before."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers.tiny_world import INTRINSICS
from mirage_jax import memory, trajectories
from mirage_jax.geometry import Camera
from mirage_jax.memory import edit, regions
from mirage_jax.world import World, context_frames
from mirage_jax.world.editing import compact_world, edit_world, merge_worlds

GRID, SIZE, CHANNELS = (2, 3), (16, 24), 4
AHEAD = np.eye(4, dtype=np.float32)
BEHIND = trajectories.make("orbit_right", 2, angle=180, distance=2)[-1].astype(np.float32)
BEHIND[:3, 3] = 0
choose = jax.jit(context_frames.choose, static_argnums=(3, 4))
write = jax.jit(memory.write)
add = jax.jit(context_frames.add)
EVERYTHING_NEAR = regions.Box((-9, -9, 0), (9, 9, 2.5))


def looked_at(depths, poses, recent=1):
    """A world that looked ahead and behind, at depths of its own each time."""
    frames = len(poses)
    rng = np.random.default_rng(0)
    tokens = jnp.asarray(rng.normal(size=(frames, *GRID, CHANNELS)), jnp.float32)
    camera = Camera(np.tile(INTRINSICS, (frames, 1)), np.stack(poses), SIZE)
    depth = jnp.broadcast_to(jnp.array(depths)[:, None, None], (frames, *GRID))
    bank = memory.create(40, CHANNELS)
    kept = context_frames.create(4, GRID, CHANNELS, 5)
    for number in range(frames):
        one = slice(number, number + 1)
        bank, _ = write(bank, tokens[one], depth[one], camera[one])
        kept = add(kept, tokens[one], depth[one], camera[one], jnp.array([number]), bank)
    kept = kept.replace(recent=tokens[frames - recent :], context=jnp.ones((recent, *GRID, 5)))
    return World(
        bank, tokens[-1], poses[-1], jnp.asarray(INTRINSICS), jnp.int32(frames), kept
    ), tokens


def delete(region):
    return lambda mem: edit.delete(mem, region)


def test_frames_that_show_what_was_deleted_are_not_chosen_again():
    world, tokens = looked_at([2.0, 4.0, 4.0], [AHEAD, BEHIND, BEHIND])
    edited, outcome = edit_world(world, delete(EVERYTHING_NEAR), SIZE)
    assert outcome.memory == {"added": 0, "removed": 6, "changed": 0}
    assert (outcome.reference_frames, outcome.preceding_latents) == (1, 0)
    assert (outcome.last_frame_cells, outcome.last_frame_mended) == (0, 0)
    kept = edited.context_frames
    ahead = Camera(INTRINSICS[None], AHEAD[None], SIZE)
    assert 0 in choose(world.context_frames, world.bank, ahead, 3, "coverage")
    assert 0 not in choose(kept, edited.bank, ahead, 3, "coverage")
    assert kept.elements[:3].tolist() == [0, 12, 18]  # 0: never chosen by voxels either
    assert not np.asarray(kept.latents[0]).any()
    np.testing.assert_array_equal(kept.latents[1:3], tokens[1:])
    np.testing.assert_array_equal(kept.recent, world.context_frames.recent)
    np.testing.assert_array_equal(edited.latent, world.latent)


def test_the_last_frame_takes_what_the_memory_shows_behind_what_was_deleted():
    world, tokens = looked_at([4.0, 2.0], [AHEAD, AHEAD])
    edited, outcome = edit_world(world, delete(EVERYTHING_NEAR), SIZE)
    np.testing.assert_array_equal(edited.latent, tokens[0])
    assert (outcome.last_frame_cells, outcome.last_frame_mended) == (6, 6)
    assert outcome.preceding_latents == 1
    assert edited.context_frames.recent.shape == (0, *GRID, CHANNELS)
    unmended, outcome = edit_world(world, delete(EVERYTHING_NEAR), SIZE, mend=False)
    np.testing.assert_array_equal(unmended.latent, tokens[1])
    assert (outcome.last_frame_cells, outcome.last_frame_mended) == (6, 0)


def test_where_nobody_ever_looked_the_last_frame_stays():
    world, tokens = looked_at([2.0], [AHEAD])
    edited, outcome = edit_world(world, delete(EVERYTHING_NEAR), SIZE)
    np.testing.assert_array_equal(edited.latent, tokens[0])
    assert (outcome.last_frame_cells, outcome.last_frame_mended) == (6, 0)


def test_an_edit_that_changes_nothing_leaves_every_frame():
    world, _ = looked_at([4.0, 4.0], [AHEAD, BEHIND], recent=2)
    edited, outcome = edit_world(world, delete(EVERYTHING_NEAR), SIZE)
    assert outcome.memory == {"added": 0, "removed": 0, "changed": 0}
    assert (outcome.reference_frames, outcome.preceding_latents) == (0, 0)
    np.testing.assert_array_equal(edited.context_frames.recent, world.context_frames.recent)


@pytest.mark.parametrize("gone", [0, 1])
def test_frames_still_cover_their_own_elements_in_a_compact_world(gone):
    world, _ = looked_at([2.0, 4.0], [AHEAD, BEHIND])
    of_frame = world.bank.frame == gone
    bank, _ = edit.delete(world.bank, np.asarray(of_frame))
    compact = compact_world(world.replace(bank=bank))
    assert int(compact.bank.count) == 6
    assert compact.context_frames.elements[:2].tolist() == [[0, 6], [6, 6]][gone]


def test_merged_worlds_remember_and_choose_frames_of_both():
    one, _ = looked_at([4.0], [AHEAD])
    other, tokens = looked_at([3.0, 2.0], [AHEAD, AHEAD])
    merged, report = merge_worlds(one, other, BEHIND)
    assert (int(report.added), int(report.dropped)) == (12, 0)
    assert int(merged.frames) == 1 and merged.bank.valid.sum() == 18
    np.testing.assert_array_equal(merged.latent, one.latent)
    behind = Camera(INTRINSICS[None], BEHIND[None], SIZE)
    shown = jax.jit(memory.read, static_argnums=2)(merged.bank, behind, GRID)
    np.testing.assert_allclose(shown.depth, 2.0, atol=1e-5)
    np.testing.assert_array_equal(shown.tokens[0], tokens[1])
    slots = choose(merged.context_frames, merged.bank, behind, 3, "coverage")
    assert {int(n) for n in slots if n >= 0} <= {1, 2} and slots[0] > 0
    assert merged.context_frames.elements[:3].tolist() == [6, 18, 18]
    assert int(merged.context_frames.keyframes.count) == 3
    kept = merged.context_frames
    np.testing.assert_array_equal(kept.latents[1:3], tokens)
    assert kept.keyframes.frame[:3].tolist() == [0, 1, 2]
    assert float(jnp.max(merged.bank.time)) == 0.0  # both end now


def test_a_merged_world_has_room_for_all_of_both():
    one, _ = looked_at([4.0], [AHEAD])
    other, _ = looked_at([4.0], [BEHIND])
    tight = one.replace(bank=edit.with_capacity(one.bank, 7))
    merged, report = merge_worlds(tight, other, np.eye(4, dtype=np.float32))
    assert merged.bank.capacity == 12 and int(report.dropped) == 0
