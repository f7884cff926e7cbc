"""One training step of the denoiser against stored numbers, and against numpy in float64.

The stored numbers guard everything that a step is made of: the draws and their order, the memory,
the network, the loss. The rest of this file computes by hand what they could not explain if they
changed: the loss from noise levels to its mean, and the step from gradients to parameters.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from helpers import tiny_world
from mirage_jax import training, trajectories
from mirage_jax.training import state
from mirage_jax.training.denoiser_task import DenoiserTask
from mirage_jax.world.history import NoiseAugmentation
from mirage_jax.world.latent_clip import FIELDS, LatentClip

SHIFT = 3.0
RATE, DECAY, CLIP, B1, B2, EPS = 1e-2, 0.1, 0.5, 0.9, 0.99, 1e-8
CLIPS = 3

LOSS = 4.00611
GRAD_NORM = 6.92152
FIRST_MOMENT = {
    "blocks": 0.0127421,
    "branch": 0.0277448,
    "head": 0.0211794,
    "head_modulation": 0.00871636,
    "memory_hint": 0.0143178,
    "patch_embedding": 0.00946277,
    "ray_adapter": 0.011677,
    "time_in": 0.0128881,
    "time_out": 0.0161604,
    "time_projection": 0.0136073,
}
"""Norm of Adam's first moment after the step, by module: a tenth of the clipped gradient's."""
DESCENT = {
    "blocks": 22.1709,
    "branch": 53.3172,
    "head": 11.7623,
    "head_modulation": 3.57721,
    "memory_hint": 13.8828,
    "patch_embedding": 5.23892,
    "ray_adapter": 11.6535,
    "time_in": 9.68114,
    "time_out": 12.5201,
    "time_projection": 14.8926,
}
"""Inner product of what the step adds to a module's parameters with that moment, times -1e4."""


def make_task() -> DenoiserTask:
    """Two layers that read a memory, as the quickstart has them: noise, dropped memories."""
    return DenoiserTask(
        tiny_world.denoiser(tiny_world.READOUT.channels),
        tiny_world.READOUT,
        tiny_world.SIZE,
        chunks=2,
        chunk_latents=2,
        noise=NoiseAugmentation(depth=0.03, pose=0.01, tokens=0.05),
        shift=SHIFT,
        drop_memory=0.3,
    )


def make_batch():
    poses = trajectories.make("look_and_walk", 9, angle=60)
    clips = tiny_world.latent_clips(CLIPS, poses)
    return {name: getattr(clips, name) for name in FIELDS}


def random_params(task):
    """Nothing is zero, the output projection included, so that every part has a gradient."""
    latents = jnp.zeros((1, task.chunk_latents, *tiny_world.GRID, tiny_world.CHANNELS))
    return tiny_world.random_params(task.denoiser, 7, latents, jnp.zeros(latents.shape[:2]))


@functools.cache
def one_step():
    """The state before a step, the one after it, and the metrics of the step."""
    task = make_task()
    optimizer = training.adamw(RATE, weight_decay=DECAY, clip_norm=CLIP, b1=B1, b2=B2, eps=EPS)
    before = state.unboxed(task, optimizer, seed=0, with_ema=False)
    before = before.replace(params=random_params(task))
    after, metrics = jax.jit(state.make_step(task, optimizer))(before, make_batch(), None)
    return before, after, metrics


def adam_state(found):
    is_adam = lambda leaf: isinstance(leaf, optax.ScaleByAdamState)  # noqa: E731
    return next(filter(is_adam, jax.tree.leaves(found.opt_state, is_leaf=is_adam)))


def norm(tree):
    leaves = [np.asarray(leaf, np.float64) for leaf in jax.tree.leaves(tree)]
    return np.sqrt(sum(np.square(leaf).sum() for leaf in leaves))


def descent(before, after):
    def one(old, new, moment):
        return -1e4 * np.sum((np.float64(new) - np.float64(old)) * np.float64(moment))

    found = jax.tree.map(one, before.params, after.params, adam_state(after).mu)
    return {name: sum(jax.tree.leaves(part)) for name, part in found.items()}


def test_one_step_gives_the_stored_numbers():
    before, after, metrics = one_step()
    # Float32 over a two-layer network: summation order moves the loss by 1e-7, gradients by 1e-6.
    assert float(metrics["loss"]) == pytest.approx(LOSS, rel=1e-5)
    assert float(metrics["grad_norm"]) == pytest.approx(GRAD_NORM, rel=1e-4)
    moment = {name: norm(part) for name, part in adam_state(after).mu.items()}
    assert moment == pytest.approx(FIRST_MOMENT, rel=1e-4)
    # The first update of Adam is nearly the sign of the gradient; where that is rounding, its
    # weight here is none.
    assert descent(before, after) == pytest.approx(DESCENT, rel=1e-3)


def test_the_loss_is_the_same_where_jax_counts_in_64_bits():
    """The draws, too: those of float64 would be others."""
    before, _, _ = one_step()
    task = make_task()
    with jax.enable_x64(True):
        loss, _ = jax.jit(functools.partial(task.loss, train=True))(
            before.params, make_batch(), jax.random.fold_in(before.key, 0)
        )
    assert loss.dtype == np.float32
    assert float(loss) == pytest.approx(LOSS, rel=1e-5)


def draws(key, clips):
    """Keys for the samples, noise levels before the shift [B, 1] and noise of a step."""
    sample_key, sigma_key, noise_key = jax.random.split(jax.random.fold_in(key, 0), 3)
    shape = (CLIPS, 2, *tiny_world.GRID, tiny_world.CHANNELS)
    level = np.asarray(jax.random.uniform(sigma_key, (CLIPS, 1)), np.float64)
    return sample_key, level, np.asarray(jax.random.normal(noise_key, shape), np.float64)


def mean_of_later_latents(squares):
    """A chunk's first latent is given, so only the second counts."""
    return squares[:, 1].mean()


def test_the_loss_is_the_mean_squared_velocity_error_at_shifted_noise_levels():
    before, _, metrics = one_step()
    task, batch = make_task(), make_batch()
    sample_key, level, noise = draws(before.key, CLIPS)
    sample = jax.jit(task.sample)(LatentClip(**batch), sample_key)
    clean = np.asarray(sample.target, np.float64)
    sigma = SHIFT * level / (1 + (SHIFT - 1) * level) * [0, 1]
    noisy = clean + sigma[:, :, None, None, None] * (noise - clean)
    predicted = jax.jit(task.denoiser.apply)(
        {"params": before.params},
        jnp.float32(noisy),
        jnp.float32(1000 * sigma),
        memory=sample.context,
        rays=sample.rays,
    )
    error = np.asarray(predicted, np.float64) - (noise - clean)
    # The network alone is float32 here.
    assert float(metrics["loss"]) == pytest.approx(mean_of_later_latents(error**2), rel=1e-5)


def test_an_untrained_denoiser_predicts_no_velocity():
    task, batch = make_task(), make_batch()
    key = jax.random.key(5)
    loss, _ = jax.jit(functools.partial(task.loss, train=True))(
        state.unboxed(task, optax.sgd(1.0), seed=0, with_ema=False).params,
        batch,
        jax.random.fold_in(key, 0),
    )
    sample_key, _, noise = draws(key, CLIPS)
    clean = np.asarray(jax.jit(task.sample)(LatentClip(**batch), sample_key).target, np.float64)
    assert float(loss) == pytest.approx(mean_of_later_latents((noise - clean) ** 2), rel=1e-6)


NOT_DECAYED = ("bias", "norm", "modulation")
"""What the names of this network's parameters hold that are not decayed, beside vectors."""


def test_the_update_is_adamw_of_the_clipped_gradient():
    before, after, metrics = one_step()
    adam = adam_state(after)
    assert float(metrics["grad_norm"]) > 2 * CLIP  # else nothing is clipped
    assert norm(adam.mu) == pytest.approx((1 - B1) * CLIP, rel=1e-5)
    decayed = set()

    def check(path, value, updated, mu, nu):
        value, updated, mu, nu = (np.float64(x) for x in (value, updated, mu, nu))
        gradient = mu / (1 - B1)
        np.testing.assert_allclose(nu, (1 - B2) * gradient**2, rtol=1e-5, atol=1e-15)
        step = gradient / (np.abs(gradient) + EPS)
        name = path[-1].key
        if value.ndim > 1 and not any(word in name for word in NOT_DECAYED):
            step = step + DECAY * value
            decayed.add(name)
        # Parameters of about 1 are known to 1e-7, and near EPS Adam's root of `nu` to some 1e-4.
        np.testing.assert_allclose(updated - value, -RATE * step, atol=2e-6)

    jax.tree_util.tree_map_with_path(check, before.params, after.params, adam.mu, adam.nu)
    assert decayed == {"kernel"}
