"""Distribution matching where every estimate is known: normal data, affine students."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.diffusion import consistency, distribution_matching, flow, samplers

MEAN, STD = 0.7, 0.5
SHIFT = 3.0


def levels(timestep):
    return (timestep / flow.TIMESTEPS)[:, :, None, None, None]


def of_normal(mean, std):
    """E[noise - x0 | x] of data from N(mean, std^2)."""

    def velocity(x, timestep):
        sigma = levels(timestep)
        off = (x - (1.0 - sigma) * mean) / (((1.0 - sigma) * std) ** 2 + sigma**2)
        return sigma * off - (mean + (1.0 - sigma) * std**2 * off)

    return velocity


teacher = of_normal(MEAN, STD)


def affine(rows, sigmas):
    """x - sigma v(x) = gain x + offset, with a row for each noise level."""

    def velocity(x, timestep):
        sigma = levels(timestep)
        row = rows[jnp.argmin(jnp.abs(sigma - jnp.asarray(sigmas[:-1])), axis=-1)[..., None]]
        end = row[..., 0] * x + row[..., 1]
        return (x - end) / jnp.maximum(sigma, 1e-6)

    return velocity


def descended(loss, params, steps, rate):
    """Parameters after plain gradient descent, the rate falling to nothing."""

    def step(params, number):
        gradient = jax.grad(loss)(params, jax.random.fold_in(jax.random.key(1), number))
        width = rate * (1.0 - number / steps)
        return jax.tree.map(lambda p, g: p - width * g, params, gradient), None

    return jax.jit(lambda params: jax.lax.scan(step, params, jnp.arange(steps))[0])(params)


@pytest.mark.parametrize("steps", [pytest.param(1, marks=pytest.mark.long), 2])
def test_a_student_reaches_the_mean_and_the_spread_of_the_data(steps):
    sigmas = samplers.make_schedule(steps, SHIFT).sigmas
    batch, shape = 16, (16, 1, 4, 4, 1)  # of a sample many values, whose mean difference is no 0

    def sampled(rows, noise, key):
        options = {"steps": steps, "shift": SHIFT, "method": "consistency", "key": key}
        return samplers.sample(affine(rows, sigmas), noise, **options)

    def loss(params, key):
        draw_key, step_key, match_key, critic_key, noise_key = jax.random.split(key, 5)
        x0 = sampled(params["student"], jax.random.normal(draw_key, shape), step_key)
        noises = jax.random.normal(noise_key, (2, *shape))
        pair = [
            distribution_matching.draw_levels(k, batch, 1.0)[:, None]
            for k in (match_key, critic_key)
        ]
        mask = jnp.ones((batch, 1))
        spread = params["mean"], jnp.exp(params["log_std"])
        critic, held = of_normal(*spread), of_normal(*jax.lax.stop_gradient(spread))
        noisy = flow.add_noise(jax.lax.stop_gradient(x0), noises[0], pair[0])
        real, fake = (consistency.end_of_path(v, noisy, pair[0]) for v in (teacher, held))
        student = distribution_matching.matching_loss(x0, real, fake, mask)
        fit = distribution_matching.critic_loss(critic, x0, noises[1], pair[1], mask)
        return student + 5.0 * fit

    # It starts almost as the student of one regression step does: all noises end at one point.
    rows = jnp.stack([jnp.full(steps, 0.05), jnp.zeros(steps)], axis=-1)
    start = {"student": rows, "mean": jnp.zeros(()), "log_std": jnp.log(0.3)}
    found = descended(loss, start, 2500, 0.03)
    keys = jax.random.split(jax.random.key(3))
    many = sampled(found["student"], jax.random.normal(keys[0], (20_000, 1, 1, 1, 1)), keys[1])
    assert float(many.mean()) == pytest.approx(MEAN, abs=0.03)
    assert float(many.std()) == pytest.approx(STD, abs=0.03)
    # The gradient reached every step.
    assert (np.asarray(found["student"]) != np.asarray(rows)).all()


def test_a_student_of_one_consistency_step_knows_the_mean_alone():
    """Why matching comes after: regression towards one end leaves nothing of the spread."""
    sigmas, batch = samplers.make_schedule(1).sigmas, 256

    def loss(rows, key):
        keys = jax.random.split(key)
        x0 = MEAN + STD * jax.random.normal(keys[0], (batch, 1, 1, 1, 1))
        noise, one = jax.random.normal(keys[1], x0.shape), jnp.ones((batch, 1))
        student = affine(rows, sigmas)
        return consistency.consistency_loss(
            student, student, teacher, x0, noise, one, 0.0 * one, one
        )

    gain, offset = np.asarray(descended(loss, jnp.ones((1, 2)), 300, 0.3))[0]
    assert abs(gain) < 0.02 and offset == pytest.approx(MEAN, abs=0.02)


def test_the_gradient_vanishes_where_critic_and_teacher_agree_and_is_theirs_elsewhere():
    keys = jax.random.split(jax.random.key(0), 3)
    x0, real, fake = (jax.random.normal(k, (3, 2, 2, 1, 4)) for k in keys)
    mask = jnp.asarray([[0.0, 1.0]] * 3)

    def gradient(fake):
        return jax.grad(distribution_matching.matching_loss)(x0, real, fake, mask)

    np.testing.assert_array_equal(gradient(real), 0.0)
    found = np.asarray(gradient(fake))
    np.testing.assert_array_equal(found[:, 0], 0.0)
    counted = 3 * 2 * 4
    for sample in range(3):
        off = np.abs(x0 - real)[sample, 1].mean()
        expected = (fake - real)[sample, 1] / off / counted
        np.testing.assert_allclose(found[sample, 1], expected, rtol=1e-5, atol=1e-8)


def test_the_critics_loss_is_least_for_the_samples_velocity_and_moves_no_sample():
    x0 = MEAN + STD * jax.random.normal(jax.random.key(0), (4096, 1, 1, 1, 1))
    noise = jax.random.normal(jax.random.key(1), x0.shape)
    sigma = distribution_matching.draw_levels(jax.random.key(2), len(x0), 1.0)[:, None]

    def loss(mean, std, x0=x0):
        arguments = x0, noise, sigma, jnp.ones_like(sigma)
        return distribution_matching.critic_loss(of_normal(mean, std), *arguments)

    best = float(loss(MEAN, STD))
    assert best < min(float(loss(MEAN, 0.3)), float(loss(MEAN, 0.8)), float(loss(0.4, STD)))
    np.testing.assert_array_equal(jax.grad(lambda x: loss(MEAN, STD, x))(x0), 0.0)


def test_levels_stay_within_the_range():
    found = np.asarray(distribution_matching.draw_levels(jax.random.key(0), 4000, 5.0))
    assert found.min() >= np.float32(0.02) and found.max() == np.float32(0.98)
    # P(sigma < s) = u(s), of s = 5 u / (1 + 4 u).
    assert np.mean(found < 0.5) == pytest.approx(1 / 6, abs=0.02)
