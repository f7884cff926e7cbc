"""What a training sample is made of: the memory of a history, with noise or true, and a chunk."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import memory_by_hand, tiny_world
from helpers.tiny_world import CHANNELS, CHUNK, GRID, READOUT, SIZE
from mirage_jax import geometry, memory, trajectories
from mirage_jax.geometry import Camera
from mirage_jax.memory.movers import MoverOptions
from mirage_jax.world import scenarios
from mirage_jax.world.history import (
    NoiseAugmentation,
    draw_history,
    jitter_poses,
    make_sample,
    situations,
    write_history,
)

POSES = trajectories.make("look_and_walk", 9, angle=60, distance=0.7)
KEY = jax.random.key(3, impl="rbg")  # compiles faster than the default
TABLE = scenarios.scenarios(2, 2)
see = jax.jit(functools.partial(memory.read, grid=GRID))


def write_of(clip, keyframes, size, **options):
    return write_history(READOUT, draw_history(clip, keyframes, size, **options))


write = jax.jit(write_of, static_argnames=("size", "noise"))


def one_clip(**options):
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf[0]), tiny_world.latent_clips(1, POSES, **options)
    )


def only(keyframe):
    return jnp.arange(3) == keyframe


def camera_at(clip, frame):
    return Camera(clip.intrinsics, clip.cam2world[frame], SIZE)


def test_a_fused_history_holds_what_was_seen_twice_once():
    clip = one_clip()
    still = jnp.broadcast_to(clip.cam2world[0], clip.cam2world.shape)
    clip = clip.replace(cam2world=still, depth=jnp.full_like(clip.depth, 2.0))
    history = draw_history(clip, jnp.ones(3, bool), SIZE)
    fused = functools.partial(write_history, READOUT)
    cells = GRID[0] * GRID[1]
    assert int(fused(history).valid.sum()) == 3 * cells
    assert int(fused(history, fusion=memory.fusion.FusionOptions()).valid.sum()) == cells


@pytest.mark.parametrize("keyframe", [0, 1, 2])
def test_a_true_history_reads_back_exactly_from_where_it_was_seen(keyframe):
    clip = one_clip()
    depth = clip.depth.at[keyframe, 0, 2].set(0.0)
    static = clip.static.at[keyframe, 1, 1].set(0.4)
    clip = clip.replace(depth=depth, static=static)
    bank = write(clip, only(keyframe), SIZE)
    seen = see(bank, camera_at(clip, 4 * keyframe))
    known = np.ones(GRID)
    known[0, 2] = known[1, 1] = 0  # unknown depth; something that moves
    np.testing.assert_array_equal(seen.visible, known)
    tokens = np.asarray(clip.tokens[keyframe]) * known[..., None]
    np.testing.assert_array_equal(seen.tokens, tokens)
    np.testing.assert_allclose(seen.depth, clip.depth[keyframe] * known, rtol=1e-5)


@pytest.mark.parametrize("kept", [False, True])
def test_where_bodies_are_kept_cells_that_they_touch_are_left_out(kept):
    """As rollouts leave them out, see test_looking.py."""
    clip = one_clip()
    static = clip.static.at[0, 0, 0].set(0.85).at[0, 1, 1].set(0.95).at[0, 1, 2].set(0.2)
    history = draw_history(clip.replace(static=static), only(0), SIZE)
    bank = write_history(READOUT, history, movers=MoverOptions() if kept else None)
    expected = np.ones(GRID)
    expected[1, 2] = 0
    expected[0, 0] = not kept
    np.testing.assert_array_equal(see(bank, camera_at(clip, 0)).visible, expected)


def test_what_is_known_for_certain_has_confidence_one():
    clip = one_clip()
    bank = write(clip, jnp.array([True, False, True]), SIZE)
    valid = np.asarray(bank.valid)
    assert valid.sum() == int(bank.count) == 12
    assert (np.asarray(bank.confidence)[valid] == 1).all()
    np.testing.assert_array_equal(np.asarray(bank.time)[valid], [0] * 6 + [2] * 6)


@pytest.fixture(scope="module")
def noisy():
    """The whole history of a clip at 2 m, written with depth errors and token noise, often."""
    clip = one_clip(depth=2.0)

    def one(key):
        noise = NoiseAugmentation(depth=0.1, tokens=0.5)
        return write_of(clip, jnp.ones(3, bool), SIZE, key=key, noise=noise)

    return clip, jax.jit(jax.vmap(one))(jax.random.split(KEY, 300))


def test_depth_errors_are_told_by_their_confidence(noisy):
    _, banks = noisy
    confidence = np.asarray(banks.confidence).reshape(-1, 6)  # by written frame
    assert (confidence == confidence[:, :1]).all() and (confidence <= 1).all()
    error = -np.log(confidence[:, 0]) / 5
    assert error.min() >= 0 and error.max() <= 0.1 + 1e-6
    # Half of the frames are right, the others wrong by up to 10 %.
    assert (error == 0).mean() == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(900))
    assert np.mean(error) == pytest.approx(0.025, abs=0.004)
    # The element lies on its ray at the perturbed depth: its distance from the eye says how far.
    distance = np.linalg.norm(banks.xyz - banks.origin, axis=-1).reshape(-1, 6)
    ratio = np.log(distance / distance[error == 0][0])
    np.testing.assert_allclose(ratio[error == 0], 0, atol=1e-5)
    wrong = error > 0.05
    assert np.std(ratio[wrong] / error[wrong, None]) == pytest.approx(1.0, abs=0.1)


def test_token_noise_has_the_asked_deviation(noisy):
    clip, banks = noisy
    noise = np.asarray(banks.tokens) - np.asarray(clip.tokens).reshape(18, CHANNELS)
    assert np.std(noise) == pytest.approx(0.5, rel=0.02)
    assert np.mean(noise) == pytest.approx(0, abs=0.02)


@pytest.mark.parametrize("scale", [0.0, 0.01, 0.05])
def test_jittered_poses_stay_rigid_and_move_as_much_as_asked(scale):
    count = 3000
    poses = jnp.asarray(np.tile(POSES[2], (count, 1, 1)), jnp.float32)
    moved = np.asarray(jitter_poses(jax.random.key(0), poses, scale), np.float64)
    rotation = moved[:, :3, :3]
    gram = rotation @ rotation.transpose(0, 2, 1)
    # Exact to third order: what is left is the fourth power of at most four deviations.
    left = 100 * scale**4 + 1e-5
    np.testing.assert_allclose(gram, np.tile(np.eye(3), (count, 1, 1)), atol=left)
    assert (np.linalg.det(rotation) > 0).all()
    geometry.check_cam2world(moved)
    true = np.tile(POSES[2], (count, 1, 1))
    shift = moved[:, :3, 3] - true[:, :3, 3]
    angle = np.deg2rad(geometry.pose_angle_deg(true, moved))
    if scale == 0:
        np.testing.assert_allclose(moved, true, atol=1e-6)
    else:
        np.testing.assert_allclose(shift.std(axis=0), scale, rtol=0.06)
        # Three independent components of a small rotation vector.
        assert np.sqrt(np.mean(angle**2)) == pytest.approx(scale * np.sqrt(3), rel=0.04)


# -- samples -------------------------------------------------------------------------------------


SAMPLED = ("folded", "visibility", "rgb", "none")


@pytest.fixture(scope="module")
def samples_of():
    """`make_sample` by kind of conditioner, compiled once for all situations."""

    def of(kind):
        conditioner = tiny_world.conditioner(kind)
        options = {"size": SIZE, "table": TABLE, "conditioner": conditioner}
        return jax.jit(functools.partial(make_sample, **options))

    return {kind: of(kind) for kind in SAMPLED}


@pytest.mark.parametrize("scenario", [scenarios.FIRST, scenarios.RETURN, scenarios.REVERSED])
@pytest.mark.parametrize("kind", SAMPLED)
def test_samples_are_those_of_the_chunk_to_be_generated(kind, scenario, samples_of):
    clip = one_clip()
    keyframes = jnp.asarray(TABLE.keyframes[scenario])
    target, rays, context, frames = samples_of[kind](clip, jnp.asarray(scenario), keyframes)
    first = 4 if scenario == scenarios.RETURN else 0
    assert not frames
    np.testing.assert_array_equal(target, clip.chunks[first // 4])
    poses = np.asarray(clip.cam2world, np.float64)
    np.testing.assert_allclose(rays, rays_by_hand(poses[first : first + CHUNK]), atol=1e-5)
    if kind == "none":
        assert context is None
    elif kind == "rgb":
        np.testing.assert_array_equal(context[..., :CHANNELS], clip.rgb_chunks[scenario])
        np.testing.assert_array_equal(context[..., CHANNELS:], clip.rgb_hits[scenario])
    else:
        held = {scenarios.FIRST: [0], scenarios.RETURN: [0, 1], scenarios.REVERSED: [1, 2]}
        # The first latent covers one frame, the second four, of which folded reads show two.
        seen = [[0, 0], [2, 4]] if kind == "folded" else [[0], [4]]
        expected = context_by_hand(clip, held[scenario], poses[first + np.array(seen)])
        if kind == "visibility":
            expected = expected[..., : CHANNELS + 1]
        np.testing.assert_allclose(context, expected, atol=1e-4)
        assert expected.any()


def test_a_clip_with_latents_of_its_last_chunk_alone_gives_the_same_returns(samples_of):
    clip = one_clip()
    last = clip.replace(chunks=clip.chunks[1:])
    table = situations(jax.tree.map(lambda leaf: leaf[None], last))
    back = jnp.asarray(scenarios.RETURN)
    np.testing.assert_array_equal(table.keyframes[back], TABLE.keyframes[back])
    # A sample of clips whose own first picture is remembered, not that of the whole clip.
    np.testing.assert_array_equal(table.keyframes[scenarios.FIRST], [False, True, False])
    options = {"conditioner": READOUT, "size": SIZE, "table": table}
    found = jax.jit(functools.partial(make_sample, **options))(last, back, table.keyframes[back])
    expected = samples_of["folded"](clip, back, jnp.asarray(TABLE.keyframes[back]))
    for part, whole in zip(found[:3], expected[:3], strict=True):
        np.testing.assert_array_equal(part, whole)


def rays_by_hand(poses):
    frames = [
        memory_by_hand.pluecker(tiny_world.INTRINSICS, pose, poses[0], SIZE, GRID) for pose in poses
    ]
    return np.stack([np.concatenate(four, axis=-1) for four in ([frames[0]] * 4, frames[1:])])


def context_by_hand(clip, keyframes, reads):
    """Tokens, visibility, confidence and inverse depth where the keyframes show anything."""
    lens = tiny_world.INTRINSICS
    depth, tokens = np.asarray(clip.depth, np.float64), np.asarray(clip.tokens)
    held = [
        memory_by_hand.points(depth[k], lens, np.asarray(clip.cam2world[4 * k]), SIZE)
        for k in keyframes
    ]
    xyz, stored = np.stack(held).reshape(-1, 3), tokens[keyframes].reshape(-1, CHANNELS)

    def read(pose):
        seen, depth = memory_by_hand.shown(xyz, stored, lens, pose, SIZE, GRID)
        hit = depth > 0
        inverse = np.divide(1, depth, out=np.zeros_like(depth), where=hit)
        # Nothing is known but for certain: confidence is 1.
        return np.concatenate([seen, np.stack([hit, hit, inverse], axis=-1)], axis=-1)

    return np.stack([np.concatenate([read(pose) for pose in latent], axis=-1) for latent in reads])
