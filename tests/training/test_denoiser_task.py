"""The loss of the denoiser, what it is given for it, and sample sheets."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from helpers import tiny_world
from helpers.tiny_world import CHANNELS, GRID, SIZE, Plain
from mirage_jax import trajectories
from mirage_jax.nn.denoiser import Denoiser
from mirage_jax.training import denoiser_task
from mirage_jax.training.denoiser_task import DenoiserTask, Preview
from mirage_jax.training.memory_view import UNSEEN
from mirage_jax.world.conditioners import KINDS, RAY_CHANNELS
from mirage_jax.world.history import NoiseAugmentation
from mirage_jax.world.latent_clip import FIELDS
from mirage_jax.world.latent_encoder import to_uint8
from mirage_jax.world.options import SamplerOptions
from mirage_jax.world.predicted_clip import HistoryHead

POSES = trajectories.make("look_and_walk", 9, angle=60, distance=0.7)
LONG = trajectories.make("look_away", 17)
"""Two chunks of three latents."""
KEY = jax.random.key(3, impl="rbg")  # compiles faster than the default


class Spy(tiny_world.stand_in(Denoiser)):
    """Stands for the denoiser: shows what it was given and answers as told."""

    ray_channels = RAY_CHANNELS

    def __init__(self, answer, memory_channels):
        self.answer, self.memory_channels, self.calls = answer, memory_channels, []

    def apply(self, variables, latents, timestep, *, memory, rays, text):
        seen = {"x": latents, "t": timestep, "memory": memory, "rays": rays, "text": text}
        self.calls.append(seen)
        return self.answer(variables["params"], latents, timestep)


def task_with(answer=lambda params, x, t: params + 0 * x, kind="none", **options):
    conditioner = tiny_world.conditioner(kind)
    spy = Spy(answer, conditioner.channels)
    options = {"drop_memory": 0.0, "size": SIZE, "chunks": 2, "chunk_latents": 2, **options}
    return DenoiserTask(denoiser=spy, conditioner=conditioner, **options), spy


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
        task, spy = task_with(kind="folded", **options)

        def run(batch):
            task.loss(jnp.zeros(()), batch, KEY, train=False)
            return spy.calls[-1]["memory"]

        return np.asarray(jax.jit(run)(batch))

    noise = NoiseAugmentation(depth=0.5, pose=0.5, tokens=3.0)
    with_noise = context(drop_memory=1.0, noise=noise)
    assert with_noise.any(axis=(1, 2, 3, 4)).all()
    np.testing.assert_array_equal(with_noise, context())


def test_a_share_of_the_histories_is_as_the_head_sees_them():
    model = tiny_world.world_model()
    clips = jax.tree.map(jnp.asarray, tiny_world.latent_clips(60, POSES))
    head = HistoryHead(model.head_params, model.head)

    def contexts(share, train=True):
        task, _ = task_with(kind="folded", head=head, predicted=share)
        sample = jax.jit(functools.partial(task.sample, train=train))
        return np.asarray(sample(clips, KEY).context)

    # Evaluation sees what is true. Nothing else is random than what is drawn for both.
    true, predicted, mixed = contexts(1.0, train=False), contexts(1.0), contexts(0.3)
    is_true, is_predicted = ((mixed == other).all(axis=(1, 2, 3, 4)) for other in (true, predicted))
    assert (is_true ^ is_predicted).all()
    assert np.mean(is_predicted) == pytest.approx(0.3, abs=4 * np.sqrt(0.3 * 0.7 / 60))


@pytest.mark.parametrize("kind", ["folded", "rgb", "none"])
def test_parameters_fit_their_inputs(kind):
    channels = {"folded": 2 * (CHANNELS + 3), "rgb": CHANNELS + 4, "none": 0}
    network = tiny_world.denoiser(channels[kind])
    task = DenoiserTask(network, tiny_world.conditioner(kind), SIZE, chunks=2, chunk_latents=2)
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
    held = {"folded": "tokens", "rgb": "rgb_chunks"}
    for other, field in held.items():
        changed = float(run(batch | {field: batch[field] + 1}))
        assert (changed != loss) == (kind == other), field


def test_a_denoiser_of_another_conditioner_is_refused():
    expected = rf"found {CHANNELS + 4} memory channels, expected {CHANNELS + 1} .*'visibility'"
    with pytest.raises(ValueError, match=expected):
        DenoiserTask(
            tiny_world.denoiser(CHANNELS + 4), tiny_world.conditioner("visibility"), SIZE, 2, 2
        )


@pytest.mark.parametrize("kind", KINDS)
def test_samples_show_the_memory_and_are_made_as_generation_is(kind, monkeypatch):
    seen, sheets = [], []

    def sample(denoiser, params, first, context, rays, key, options):
        seen.append(options)
        return jnp.broadcast_to(-first[:, None], (*rays.shape[:2], *first.shape[1:]))

    def sheet(rows):
        sheets.append(rows)
        return np.zeros((4, 4, 3), np.uint8)

    monkeypatch.setattr(denoiser_task, "sample_chunk", sample)
    monkeypatch.setattr(denoiser_task, "contact_sheet", sheet)
    how = SamplerOptions(steps=7, shift=3.0, method="heun")
    clips = tiny_world.latent_clips(2, POSES)
    clips.depth[1] = 0  # no place is known, and nothing remembered
    clips.rgb_hits[1] = 0
    preview = Preview(Plain(), clips, how, fps=3.0)
    conditioner = tiny_world.conditioner(kind)
    network = tiny_world.denoiser(conditioner.channels)
    encoder = tiny_world.encoder() if conditioner.encodes else None
    task = DenoiserTask(network, conditioner, SIZE, 2, 2, encoder=encoder, preview=preview)
    samples = task.samples({}, 1)
    task.samples({}, 2)  # samples without being traced again
    assert samples.sheet.shape == (4, 4, 3) and seen == [how]
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


def test_a_denoiser_without_rays_is_trained_without():
    """As released ones are: they have no adapter for camera rays."""
    conditioner = tiny_world.conditioner("visibility")
    task = DenoiserTask(
        tiny_world.denoiser(conditioner.channels, ray_channels=0),
        conditioner,
        SIZE,
        chunks=2,
        chunk_latents=3,
    )
    params = jax.eval_shape(lambda: nn.unbox(task.init(KEY)))
    assert "ray_adapter" not in params and "branch" in params
    loss = lambda params: task.loss(params, batch_of(1), KEY, train=True)[0]  # noqa: E731
    assert jax.tree.map(jnp.shape, jax.eval_shape(jax.grad(loss), params)) == jax.tree.map(
        jnp.shape, params
    )


def test_chunks_may_be_shorter_than_the_longest():
    """Eight chunks of two latents: the chunk drawn is one of those, given with its own rays."""
    task, spy = task_with(lengths=2, chunks=2, chunk_latents=5)
    clips = tiny_world.latent_clips(3, trajectories.make("look_away", 33))
    batch = {name: jnp.asarray(getattr(clips, name)) for name in FIELDS}
    batch["chunks"] = jnp.repeat(batch["chunks"][:, :1, :2], 8, axis=1)
    batch |= {name: batch[name][:, :, :2] for name in ("rgb_chunks", "rgb_hits")}
    jax.eval_shape(lambda b: task.loss(jnp.zeros(()), b, KEY, train=True), batch)
    assert spy.calls[0]["x"].shape[:2] == spy.calls[0]["rays"].shape[:2] == (3, 2)
    with pytest.raises(ValueError, match="chunk_lengths: found 2 with the conditioner 'score'"):
        task_with(lengths=2, kind="score")


@pytest.mark.parametrize("kind", ["score", "rgb"])
def test_batches_of_two_picture_shapes_have_contexts_of_their_own(kind):
    wide, tall = batch_of(2), GRID[::-1]
    turned = wide | {name: jnp.swapaxes(wide[name], *axes) for name, axes in ROWS_COLUMNS.items()}
    constants = {}
    if kind == "score":
        grids = enumerate((GRID, tall), 1)
        constants = {grid: jnp.full((3, *grid, CHANNELS), float(n)) for n, grid in grids}
    task, spy = task_with(kind=kind, sizes=2, constants=constants, chunk_latents=3)
    assert task.batch_shapes == 2
    for grid, batch in ((GRID, wide), (tall, turned)):
        assert batch["chunks"].shape[3:5] == grid
        (loss, call), _ = loss_and_call(task, spy)(jnp.zeros(()), batch)
        assert np.isfinite(loss) and call["memory"].shape[:4] == (2, 3, *grid)
        if kind == "score":
            for shown in call["memory"][..., CHANNELS:]:
                np.testing.assert_array_equal(shown, constants[grid])


def test_a_picture_shape_without_constants_is_refused_where_others_have_them():
    known = {GRID[::-1]: jnp.ones((3, *GRID[::-1], CHANNELS))}
    task, _ = task_with(kind="score", constants=known, chunk_latents=3)
    message = r"constants: found none for pictures of (\d+)x(\d+) .*, expected pictures of \2x\1"
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda: task.loss(jnp.zeros(()), batch_of(2), KEY, train=True))


ROWS_COLUMNS = {
    **dict.fromkeys(("depth", "static", "tokens", "preceding"), (2, 3)),
    **dict.fromkeys(("chunks", "rgb_chunks", "rgb_hits"), (3, 4)),
}
"""Axes of the arrays of a batch."""
