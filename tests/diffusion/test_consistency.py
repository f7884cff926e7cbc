"""Consistency distillation where every map is known: normally distributed data, affine networks."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from mirage_jax.diffusion import consistency, flow, samplers

MEAN, STD = 0.7, 0.5


def spread(sigma):
    """Standard deviation of noisy data."""
    return jnp.sqrt(((1.0 - sigma) * STD) ** 2 + sigma**2)


def levels(timestep):
    return (timestep / flow.TIMESTEPS)[:, :, None, None, None]


def teacher(x, timestep):
    """E[noise - x0 | x] of data from N(MEAN, STD^2)."""
    sigma = levels(timestep)
    off = (x - (1.0 - sigma) * MEAN) / spread(sigma) ** 2
    return sigma * off - (MEAN + (1.0 - sigma) * STD**2 * off)


def perfect_student(x, timestep):
    """The velocity that points to where the exact path through x ends: quantiles are kept."""
    sigma = levels(timestep)
    end = MEAN + STD * (x - (1.0 - sigma) * MEAN) / spread(sigma)
    return (x - end) / jnp.maximum(sigma, 1e-6)


def drawn(batch=4096):
    x0, noise = jax.random.normal(jax.random.key(0), (2, batch, 2, 1, 1, 1))
    return MEAN + STD * x0, noise


def test_the_perfect_student_has_no_loss_and_the_teacher_as_student_has_one():
    x0, noise = drawn()
    sigma = jnp.broadcast_to(jnp.linspace(0.01, 1.0, len(x0))[:, None], x0.shape[:2])
    mask = jnp.ones(x0.shape[:2])

    def loss(student, width):
        arguments = x0, noise, sigma, sigma - width, mask
        return float(consistency.consistency_loss(student, student, teacher, *arguments))

    # The teacher's Euler step is off by the square of its width, so the loss by the fourth power.
    assert loss(perfect_student, 0.01) < 1e-7
    assert loss(teacher, 0.01) > 10 * loss(perfect_student, 0.01)
    assert loss(perfect_student, 0.01) > 8 * loss(perfect_student, 0.005)


def test_given_latents_do_not_count():
    x0, noise = drawn(8)
    sigma = jnp.ones(x0.shape[:2]).at[:, 0].set(0.0)
    mask = (sigma > 0).astype(jnp.float32)
    spoilt = x0.at[:, 0].add(100.0)
    found = [
        consistency.consistency_loss(teacher, teacher, teacher, x, noise, sigma, sigma * 0.5, mask)
        for x in (x0, spoilt)
    ]
    assert float(found[0]) > 0 and found[0] == found[1]


def test_training_finds_the_composition_of_the_teachers_steps():
    """An affine student of a row per level, against the steps multiplied out in float64."""
    count, shift = 4, 3.0
    sigmas = samplers.make_schedule(count, shift).sigmas.astype(np.float64)
    gain, offset = np.ones(count + 1), np.zeros(count + 1)  # of the way from level i to the end
    for i in reversed(range(count)):
        low, high = sigmas[i + 1], sigmas[i]
        slope = (high - (1 - high) * STD**2) / (((1 - high) * STD) ** 2 + high**2)
        constant = -MEAN - slope * (1 - high) * MEAN
        gain[i] = gain[i + 1] * (1 - (high - low) * slope)
        offset[i] = offset[i + 1] - gain[i + 1] * (high - low) * constant

    table = jnp.asarray(sigmas, jnp.float32)

    def network(rows):
        def velocity(x, timestep):
            row = jnp.argmin(jnp.abs(levels(timestep) - table), axis=-1)[..., None]
            return rows[row, 0] * x + rows[row, 1]

        return velocity

    @jax.jit
    def train(rows):
        def step(carry, number):
            rows, average = carry
            key = jax.random.fold_in(jax.random.key(1), number)
            x_key, noise_key, level_key = jax.random.split(key, 3)
            x0 = MEAN + STD * jax.random.normal(x_key, (256, 1, 1, 1, 1))
            noise = jax.random.normal(noise_key, x0.shape)
            pair = consistency.draw_neighbours(level_key, len(x0), count, shift)
            sigma, following = (level[:, None] for level in pair)

            def loss(rows):
                return consistency.consistency_loss(
                    network(rows),
                    network(average),
                    teacher,
                    x0,
                    noise,
                    sigma,
                    following,
                    jnp.ones_like(sigma),
                )

            rows = rows - 1.0 * jax.grad(loss)(rows)
            return (rows, 0.9 * average + 0.1 * rows), None

        return jax.lax.scan(step, (rows, rows), jnp.arange(1500))[0][1]

    rows = np.asarray(train(jnp.zeros((count + 1, 2))), np.float64)[:count]
    # x - sigma (a x + b) is the end: gain 1 - sigma a, offset -sigma b.
    found = 1.0 - sigmas[:count] * rows[:, 0], -sigmas[:count] * rows[:, 1]
    np.testing.assert_allclose(found[0], gain[:count], atol=0.02)
    np.testing.assert_allclose(found[1], offset[:count], atol=0.02)


@pytest.mark.parametrize("shift", [1.0, 5.0])
def test_neighbours_are_next_to_each_other_and_all_are_drawn(shift):
    above, below = consistency.draw_neighbours(jax.random.key(0), 2000, 48, shift)
    pairs = set(zip(np.asarray(above).tolist(), np.asarray(below).tolist(), strict=True))
    expected = [5.0 * u / (1 + 4.0 * u) if shift == 5.0 else u for u in np.linspace(1, 0, 49)]
    np.testing.assert_allclose(sorted(a for a, _ in pairs), sorted(expected)[1:], atol=1e-6)
    np.testing.assert_allclose(sorted(b for _, b in pairs), sorted(expected)[:-1], atol=1e-6)


@pytest.mark.parametrize("steps", [1, 2, 4])
def test_students_sample_the_data_in_any_number_of_steps(steps):
    """The Euler solver on the teacher does not, in so few."""
    noise = jax.random.normal(jax.random.key(3), (40_000, 1, 1, 1, 1))
    found = samplers.sample(
        perfect_student, noise, steps=steps, method="consistency", key=jax.random.key(4)
    )
    assert float(found.mean()) == pytest.approx(MEAN, abs=0.01)
    assert float(found.std()) == pytest.approx(STD, abs=0.01)
    euler = samplers.sample(teacher, noise, steps=steps)
    assert abs(float(euler.std()) - STD) > 0.02


def test_noise_is_added_anew_and_given_frames_stay():
    x0, noise = drawn(4)
    pin = (x0, jnp.asarray([[1.0, 0.0]] * 4))

    def run(key, steps=3):
        return samplers.sample(
            perfect_student, noise, steps=steps, method="consistency", pin=pin, key=key
        )

    first, other = run(jax.random.key(0)), run(jax.random.key(1))
    np.testing.assert_array_equal(first[:, 0], x0[:, 0])
    assert not np.allclose(first[:, 1], other[:, 1])
    np.testing.assert_array_equal(run(jax.random.key(0), 1), run(jax.random.key(1), 1))
    with pytest.raises(ValueError, match="found no key, expected one"):
        run(None)
