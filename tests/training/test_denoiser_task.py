import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from helpers import memory_by_hand, tiny_world
from helpers.tiny_world import CHANNELS, CHUNK, GRID, SIZE, Plain
from mirage_jax import geometry, memory, trajectories
from mirage_jax.geometry import Camera
from mirage_jax.nn.denoiser import Denoiser
from mirage_jax.training import denoiser_task
from mirage_jax.training.denoiser_task import (
    DenoiserTask,
    Perturbation,
    Preview,
    Readout,
    draw_history,
    jitter_poses,
    sample_inputs,
    write_history,
)
from mirage_jax.training.latent_cache import FIELDS
from mirage_jax.training.memory_view import UNSEEN
from mirage_jax.world import scenarios as histories
from mirage_jax.world.conditioners import context_channels
from mirage_jax.world.latent_encoder import to_uint8

POSES = trajectories.make("look_and_walk", 9, angle=60, distance=0.7)
LONG = trajectories.make("look_away", 17)
"""Two chunks of three latents."""
KEY = jax.random.key(3, impl="rbg")  # compiles faster than the default
READOUT = Readout(reads=2, fine=1)
TABLE = histories.scenarios(2, 2)
see = jax.jit(functools.partial(memory.read, grid=GRID))


def write_of(clip, keyframes, size, **options):
    return write_history(draw_history(clip, keyframes, size, **options), clip.static)


write = jax.jit(write_of, static_argnames=("size", "perturbation"))


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


@pytest.fixture(scope="module")
def spoilt():
    """The whole history of a clip at 2 m, written with depth errors and token noise, often."""
    clip = one_clip(depth=2.0)

    def one(key):
        spoil = Perturbation(depth=0.1, tokens=0.5)
        return write_of(clip, jnp.ones(3, bool), SIZE, key=key, perturbation=spoil)

    return clip, jax.jit(jax.vmap(one))(jax.random.split(KEY, 300))


def test_depth_errors_are_told_by_their_confidence(spoilt):
    _, banks = spoilt
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


def test_token_noise_has_the_asked_deviation(spoilt):
    clip, banks = spoilt
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
    target, rays, context, clean = inputs_of[kind](clip, jnp.asarray(scenario), keyframes)
    first = 4 if scenario == histories.RETURN else 0
    assert not clean
    np.testing.assert_array_equal(target, clip.chunks[first // 4])
    poses = np.asarray(clip.cam2world, np.float64)
    np.testing.assert_allclose(rays, rays_by_hand(poses[first : first + CHUNK]), atol=1e-5)
    if kind == "none":
        assert context is None
    elif kind == "rgb":
        np.testing.assert_array_equal(context[..., :CHANNELS], clip.rgb_chunks[scenario])
        np.testing.assert_array_equal(context[..., CHANNELS:], clip.rgb_hits[scenario])
    else:
        held = {histories.FIRST: [0], histories.RETURN: [0, 1], histories.REVERSED: [1, 2]}
        # Read twice for each latent: the first covers one frame, the second four.
        reads = poses[first + np.array([[0, 0], [2, 4]])]
        expected = context_by_hand(clip, held[scenario], reads)
        np.testing.assert_allclose(context, expected, atol=1e-4)
        assert expected.any()


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


# -- the loss ------------------------------------------------------------------------------------


class Spy(tiny_world.stand_in(Denoiser)):
    """Stands for the denoiser: shows what it was given and answers as told."""

    def __init__(self, answer):
        self.answer, self.calls = answer, []

    def apply(self, variables, latents, timestep, *, memory, rays, text):
        seen = {"x": latents, "t": timestep, "memory": memory, "rays": rays, "text": text}
        self.calls.append(seen)
        return self.answer(variables["params"], latents, timestep)


def task_with(answer=lambda params, x, t: params + 0 * x, kind="none", **options):
    spy = Spy(answer)
    options = {"drop_memory": 0.0, "readout": READOUT, **options}
    task = DenoiserTask(denoiser=spy, kind=kind, size=SIZE, chunks=2, chunk_latents=2, **options)
    return task, spy


def batch_of(count=6):
    clips = tiny_world.latent_clips(count, LONG)
    # Both chunks alike: the target is known whichever is drawn.
    clips.chunks[:] = clips.chunks[:, :1]
    return {name: jnp.asarray(getattr(clips, name)) for name in FIELDS}


def loss_and_call(task, spy):
    """The loss of some parameters with its gradient, and what the denoiser was given for it."""

    def run(params, batch):
        loss, _ = task.loss(params, batch, KEY, train=True)
        return loss, spy.calls[-1]

    return jax.jit(jax.value_and_grad(run, has_aux=True))


@pytest.fixture(scope="module")
def known():
    """A batch, and the loss of a part `oracle` of the true velocity plus a `bias`.

    noisy = (1 - s) x0 + s noise, so noise - x0 = (noisy - x0) / s.
    """
    batch = batch_of()
    x0 = batch["chunks"][:, 0]

    def answer(params, noisy, timestep):
        level = jnp.maximum(timestep / 1000, 1e-6)[..., None, None, None]
        return params["oracle"] * (noisy - x0) / level + params["bias"]

    run = loss_and_call(*task_with(answer))
    zeros = {"oracle": jnp.zeros(()), "bias": jnp.zeros((3, *GRID, CHANNELS))}
    return batch, zeros, run


def test_the_first_latent_is_given_clean(known):
    batch, zeros, run = known
    (_, call), _ = run(zeros, batch)
    x0 = batch["chunks"][:, 0]
    np.testing.assert_array_equal(call["x"][:, 0], x0[:, 0])
    np.testing.assert_array_equal(call["t"][:, 0], 0)
    level = np.asarray(call["t"])[:, 1:]
    assert (level > 0).all() and (level <= 1000).all()
    assert (level[:, 0] == level[:, 1]).all() and len(np.unique(level[:, 0])) == 6
    assert (np.asarray(call["x"][:, 1:]) != np.asarray(x0[:, 1:])).any()


def test_the_loss_is_the_error_of_the_velocity_after_the_first_latent(known):
    batch, zeros, run = known
    (loss, _), gradient = run(zeros, batch)
    # A velocity of zero is wrong by the noise and the latents, which are independent.
    expected = 1 + float(jnp.mean(jnp.square(batch["chunks"][:, 0, 1:])))
    assert float(loss) == pytest.approx(expected, rel=0.2)
    assert not np.asarray(gradient["bias"][0]).any() and np.asarray(gradient["bias"][1:]).all()
    wrong_first = {"oracle": jnp.ones(()), "bias": zeros["bias"].at[0].set(1e4)}
    (loss, _), _ = run(wrong_first, batch)
    assert float(loss) < 1e-6


def test_latents_can_have_noise_and_samples_lack_memory_of_their_own():
    task, spy = task_with(per_frame=True, kind="rgb", drop_memory=0.3)
    batch = batch_of(200)
    (_, call), _ = loss_and_call(task, spy)(jnp.zeros(()), batch)
    level = np.asarray(call["t"])
    assert (level[:, 0] == 0).all() and (level[:, 1] != level[:, 2]).all()
    hits = np.asarray(call["memory"])[..., CHANNELS:]
    kept = hits.any(axis=(1, 2, 3, 4))
    assert np.mean(kept) == pytest.approx(0.7, abs=4 * np.sqrt(0.3 * 0.7 / 200))
    assert (hits[kept] > 0).all() and not np.asarray(call["memory"])[~kept].any()


def test_text_reaches_the_denoiser_and_some_samples_go_without():
    task, spy = task_with(drop_text=0.3)
    batch = batch_of(200) | {"text": jnp.ones((200, 3, 5))}
    (_, call), _ = loss_and_call(task, spy)(jnp.zeros(()), batch)
    text = np.asarray(call["text"])
    kept = text.all(axis=(1, 2))
    assert text.shape == (200, 3, 5) and not text[~kept].any()
    assert np.mean(kept) == pytest.approx(0.7, abs=4 * np.sqrt(0.3 * 0.7 / 200))
    chance = np.corrcoef(kept, np.asarray(call["t"])[:, 1])[0, 1]
    assert abs(chance) < 4 / np.sqrt(200)  # at any noise level


def test_evaluation_sees_a_true_history_and_never_drops_it():
    clips = tiny_world.latent_clips(3, POSES)
    batch = {name: jnp.asarray(getattr(clips, name)) for name in FIELDS}

    def context(**options):
        task, spy = task_with(kind="latent", **options)

        def run(batch):
            task.loss(jnp.zeros(()), batch, KEY, train=False)
            return spy.calls[-1]["memory"]

        return np.asarray(jax.jit(run)(batch))

    spoilt = context(drop_memory=1.0, perturbation=Perturbation(depth=0.5, pose=0.5, tokens=3.0))
    assert spoilt.any(axis=(1, 2, 3, 4)).all()
    np.testing.assert_array_equal(spoilt, context())


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
    clips = tiny_world.latent_clips(2, POSES)
    batch = {name: jnp.asarray(getattr(clips, name)) for name in FIELDS}
    started = nn.unbox(jax.eval_shape(task.init, KEY))
    latents = jnp.zeros((1, 2, *GRID, CHANNELS))
    params = tiny_world.random_params(network, 0, latents, jnp.zeros((1, 2)))
    assert jax.tree.map(jnp.shape, params) == jax.tree.map(jnp.shape, started)
    run = jax.jit(lambda batch: task.loss(params, batch, KEY, train=True)[0])
    loss = float(run(batch))
    assert np.isfinite(loss) and loss > 0
    # The denoiser sees the memory it was made for, and no other.
    held = {"latent": "tokens", "rgb": "rgb_chunks"}
    for other, field in held.items():
        changed = float(run(batch | {field: batch[field] + 1}))
        assert (changed != loss) == (kind == other), field


def test_an_unknown_kind_of_memory_is_refused():
    with pytest.raises(ValueError, match=r"found 'colour', expected one of .*latent.*rgb.*none"):
        task_with(kind="colour")


@pytest.mark.parametrize("kind", denoiser_task.MEMORY_KINDS)
def test_samples_show_the_memory_and_are_made_as_generation_is(kind, monkeypatch):
    seen, sheets = {}, []

    def sample(denoiser, params, first, context, rays, key, **options):
        seen.update(options)
        return jnp.broadcast_to(-first[:, None], (*rays.shape[:2], *first.shape[1:]))

    def sheet(rows):
        sheets.append(rows)
        return np.zeros((4, 4, 3), np.uint8)

    monkeypatch.setattr(denoiser_task, "sample_chunk", sample)
    monkeypatch.setattr(denoiser_task, "contact_sheet", sheet)
    how = {"steps": 7, "shift": 3.0, "method": "heun"}
    clips = tiny_world.latent_clips(2, POSES)
    clips.depth[1] = 0  # no place is known, and nothing remembered
    clips.rgb_hits[1] = 0
    preview = Preview(Plain(), clips, **how, fps=3.0)
    network = tiny_world.denoiser(context_channels(CHANNELS, reads=2, fine=1))
    task = DenoiserTask(network, kind, SIZE, 2, 2, readout=READOUT, shift=1.0, preview=preview)
    samples = task.samples({}, 1)
    assert samples.sheet.shape == (4, 4, 3) and seen == how
    rows = sheets[0]
    names = ["decoded", "generated"] if kind == "none" else ["decoded", "memory", "generated"]
    assert list(rows) == [f"clip {number}, {name}" for number in (1, 2) for name in names]
    if kind != "none":
        grey = to_uint8(np.full(3, UNSEEN))
        unseen = [(rows[f"clip {number}, memory"] == grey).all(axis=-1) for number in (1, 2)]
        assert not unseen[0].all() and unseen[1].all()
    # Each clip beside what was generated of it.
    pairs = [[rows[f"clip {n}, {name}"] for name in ("decoded", "generated")] for n in (1, 2)]
    expected = np.concatenate([np.concatenate(pair, axis=2) for pair in pairs], axis=1)
    np.testing.assert_array_equal(samples.video, expected)
    assert samples.fps == 3 and (pairs[0][0] != pairs[0][1]).any()
