import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tiny_world
from tiny_world import CHANNELS, CHUNK, GRID, SIZE

from mirage_jax import geometry, memory, trajectories
from mirage_jax.conditioning import camera_rays, context_channels, memory_context
from mirage_jax.geometry import Camera
from mirage_jax.nn.denoiser import Denoiser
from mirage_jax.training import denoiser_task, histories
from mirage_jax.training.denoiser_task import (
    DenoiserTask,
    Perturbation,
    Readout,
    jitter_poses,
    sample_inputs,
    write_history,
)
from mirage_jax.training.latent_cache import FIELDS

POSES = trajectories.make("look_and_walk", 9, angle=60, distance=0.7)
READOUT = Readout(reads=2, fine=1)
TABLE = histories.scenarios(2, 2)
write = jax.jit(write_history, static_argnames=("size", "perturbation"))
rays_of = jax.jit(camera_rays, static_argnums=1)
context_of = jax.jit(functools.partial(memory_context, grid=GRID, **dataclasses.asdict(READOUT)))
see = jax.jit(functools.partial(memory.read, grid=GRID))


def one_clip(**options):
    return jax.tree.map(
        lambda leaf: jnp.asarray(leaf[0]), tiny_world.latent_clips(1, POSES, **options)
    )


def only(keyframe):
    return jnp.arange(3) == keyframe


def camera_at(clip, frame):
    return Camera(clip.intrinsics, clip.cam2world[frame], SIZE)


# -- the history ---------------------------------------------------------------------------------


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


def test_what_is_known_for_certain_has_confidence_one():
    clip = one_clip()
    bank = write(clip, jnp.array([True, False, True]), SIZE)
    valid = np.asarray(bank.valid)
    assert valid.sum() == int(bank.count) == 12
    assert (np.asarray(bank.confidence)[valid] == 1).all()
    np.testing.assert_array_equal(np.asarray(bank.time)[valid], [0] * 6 + [2] * 6)


def test_depth_errors_are_told_by_their_confidence():
    clip = one_clip(depth=2.0)
    spoil = Perturbation(depth=0.1)
    banks = jax.jit(jax.vmap(lambda key: write_history(
        clip, jnp.ones(3, bool), SIZE, key=key, perturbation=spoil
    )))(jax.random.split(jax.random.key(0), 300))  # fmt: skip
    confidence = np.asarray(banks.confidence).reshape(-1, 6)  # by written frame
    assert (confidence == confidence[:, :1]).all() and (confidence <= 1).all()
    error = -np.log(confidence[:, 0]) / 5
    assert error.min() >= 0 and error.max() <= 0.1 + 1e-6
    # Half of the frames are right, the others wrong by up to 10 %.
    assert (error == 0).mean() == pytest.approx(0.5, abs=4 * 0.5 / np.sqrt(900))
    assert np.mean(error) == pytest.approx(0.025, abs=0.004)
    # The element lies on its ray at the perturbed depth: its distance from the eye says how far.
    distance = np.linalg.norm(banks.xyz - banks.origin, axis=-1).reshape(-1, 6)
    true = np.linalg.norm(banks.xyz - banks.origin, axis=-1).reshape(-1, 6)[error == 0][0]
    ratio = np.log(distance / true)
    np.testing.assert_allclose(ratio[error == 0], 0, atol=1e-5)
    wrong = error > 0.05
    scale = ratio[wrong] / error[wrong, None]
    assert np.std(scale) == pytest.approx(1.0, abs=0.1)


def test_token_noise_has_the_asked_deviation_and_moves_nothing():
    clip = one_clip()
    spoil = Perturbation(tokens=0.5)
    clean = write(clip, jnp.ones(3, bool), SIZE)
    noise = []
    for seed in range(8):
        key = jax.random.key(seed)
        bank = write(clip, jnp.ones(3, bool), SIZE, key=key, perturbation=spoil)
        np.testing.assert_allclose(bank.xyz, clean.xyz, atol=1e-6)
        np.testing.assert_array_equal(bank.confidence, clean.confidence)
        noise.append(bank.tokens - clean.tokens)
    assert np.std(noise) == pytest.approx(0.5, rel=0.15)


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


# -- inputs --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def inputs_of():
    """`sample_inputs` by kind of memory, compiled once for all situations."""
    options = {"size": SIZE, "table": TABLE, "readout": READOUT}
    return {
        kind: jax.jit(functools.partial(sample_inputs, kind=kind, **options))
        for kind in denoiser_task.MEMORY_KINDS
    }


@pytest.mark.parametrize("scenario", [histories.FIRST, histories.RETURN, histories.REVERSED])
@pytest.mark.parametrize("kind", denoiser_task.MEMORY_KINDS)
def test_inputs_are_those_of_the_chunk_to_be_generated(kind, scenario, inputs_of):
    clip = one_clip()
    keyframes = jnp.asarray(TABLE.keyframes[scenario])
    target, rays, context = inputs_of[kind](clip, jnp.asarray(scenario), keyframes)
    first = 4 if scenario == histories.RETURN else 0
    chunk = Camera(
        jnp.tile(clip.intrinsics, (CHUNK, 1)), clip.cam2world[first : first + CHUNK], SIZE
    )
    np.testing.assert_array_equal(target, clip.chunks[first // 4])
    np.testing.assert_allclose(rays, rays_of(chunk, GRID), atol=1e-6)
    if kind == "none":
        assert context is None
    elif kind == "rgb":
        np.testing.assert_array_equal(context[..., :CHANNELS], clip.rgb_chunks[scenario])
        np.testing.assert_array_equal(context[..., CHANNELS:], clip.rgb_hits[scenario])
    else:
        bank = write(clip, keyframes, SIZE)
        np.testing.assert_allclose(context, context_of(bank, chunk), atol=1e-6)
        assert np.asarray(context).any()


# -- the loss ------------------------------------------------------------------------------------


class Spy(tiny_world.stand_in(Denoiser)):
    """Stands for the denoiser: shows what it was given and answers as told."""

    def __init__(self, answer):
        self.answer, self.calls = answer, []

    def apply(self, variables, latents, timestep, *, memory, rays):
        self.calls.append({"x": latents, "t": timestep, "memory": memory, "rays": rays})
        return self.answer(variables["params"], latents, timestep)


def task_with(answer=lambda params, x, t: jnp.zeros_like(x), kind="none", **options):
    spy = Spy(answer)
    options = {"drop_memory": 0.0, "readout": READOUT, **options}
    task = DenoiserTask(denoiser=spy, kind=kind, size=SIZE, chunks=2, chunk_latents=2, **options)
    return task, spy


def loss_and_call(*arguments, batch, **options):
    """The loss, and what the denoiser was given for it."""
    task, spy = task_with(*arguments, **options)

    @jax.jit
    def run(batch):
        loss, _ = task.loss(None, batch, KEY, train=True)
        return loss, spy.calls[-1]

    return run(batch)


def batch_of(count=6, same_chunks=False):
    clips = tiny_world.latent_clips(count, POSES)
    if same_chunks:
        clips.chunks[:] = clips.chunks[:, :1]
    return {name: jnp.asarray(getattr(clips, name)) for name in FIELDS}


KEY = jax.random.key(3)


def test_the_first_latent_is_given_clean_and_nothing_costs_the_variance():
    batch = batch_of(same_chunks=True)
    loss, call = loss_and_call(batch=batch)
    np.testing.assert_array_equal(call["x"][:, 0], batch["chunks"][:, 0, 0])
    np.testing.assert_array_equal(call["t"][:, 0], 0)
    assert (np.asarray(call["t"][:, 1]) > 0).all() and (np.asarray(call["t"]) <= 1000).all()
    assert len(np.unique(call["t"][:, 1])) == 6
    assert (np.asarray(call["x"][:, 1]) != np.asarray(batch["chunks"][:, 0, 1])).any()
    # A velocity of zero is wrong by the noise and the latents, which are independent.
    expected = 1 + float(jnp.mean(jnp.square(batch["chunks"][:, 0, 1])))
    assert float(loss) == pytest.approx(expected, rel=0.25)


def test_an_oracle_has_no_loss_and_the_first_latent_does_not_count():
    """noisy = (1 - s) x0 + s noise, so noise - x0 = (noisy - x0) / s."""
    batch = batch_of(same_chunks=True)
    x0 = batch["chunks"][:, 0]

    def oracle(params, noisy, timestep):
        level = jnp.maximum(timestep / 1000, 1e-6)[..., None, None, None]
        velocity = (noisy - x0) / level
        return velocity.at[:, 0].set(1e4)

    loss, _ = loss_and_call(oracle, batch=batch)
    assert float(loss) < 1e-6


def test_no_gradient_comes_from_the_first_latent():
    task, _ = task_with(lambda params, x, t: jnp.broadcast_to(params, x.shape))
    params, batch = jnp.zeros((2, *GRID, CHANNELS)), batch_of()
    gradient = jax.jit(jax.grad(lambda p: task.loss(p, batch, KEY, train=True)[0]))(params)
    assert not np.asarray(gradient[0]).any() and np.asarray(gradient[1]).all()


def test_every_latent_can_have_its_own_noise():
    batch = {name: jnp.concatenate([f] * 3) for name, f in batch_of().items()}
    for per_frame, distinct in ((False, 1), (True, 2)):
        clips = {**batch, "chunks": jnp.concatenate([batch["chunks"]] * 2, axis=2)}
        levels = loss_and_call(batch=clips, per_frame=per_frame)[1]["t"][:, 1:]
        assert levels.shape == (18, 3)
        assert all(len(np.unique(row)) >= distinct for row in levels)
        assert per_frame or all(len(np.unique(row)) == 1 for row in levels)


@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_memory_is_dropped_as_often_as_asked(share):
    _, call = loss_and_call(batch=batch_of(40), kind="rgb", drop_memory=share)
    kept = np.asarray(call["memory"]).any(axis=(1, 2, 3, 4)).sum()
    assert {0.0: kept == 40, 0.5: 8 <= kept <= 32, 1.0: kept == 0}[share]


@pytest.mark.parametrize("kind", denoiser_task.MEMORY_KINDS)
def test_parameters_fit_their_inputs(kind):
    channels = {
        "latent": context_channels(CHANNELS, reads=2, fine=1),
        "rgb": CHANNELS + 4,
        "none": 0,
    }
    network = tiny_world.denoiser(channels[kind])
    task = DenoiserTask(
        denoiser=network, kind=kind, size=SIZE, chunks=2, chunk_latents=2, readout=READOUT
    )
    params = jax.eval_shape(task.init, KEY)
    assert ("branch" in params) == (kind != "none")
    loss, metrics = jax.eval_shape(
        lambda p, b: task.loss(p, b, KEY, train=True), params, batch_of()
    )
    assert loss.shape == () and metrics == {}


def test_an_unknown_kind_of_memory_is_refused():
    with pytest.raises(ValueError, match=r"found 'colour', expected one of .*latent.*rgb.*none"):
        task_with(kind="colour")
