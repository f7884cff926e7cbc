"""Samplers against the released and diffusers schedulers, and fields with known solutions."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from helpers import paths
from mirage_jax.diffusion import samplers

GOLDEN = paths.GOLDEN / "schedulers" / "io.npz"
KEY = jax.random.key(0)
STEPS = (1, 2, 4, 10, 20, 50)
REFERENCES = {
    "official_flow_unipc": ("wan_unipc", "unipc"),
    "diffusers_unipc": ("flow_unipc", "unipc"),
    "diffusers_fm_euler": ("flow_euler", "euler"),
}


@pytest.fixture(scope="module")
def golden():
    with np.load(GOLDEN) as arrays:
        return dict(arrays)


def channels_last(x):
    """[..., b, c, t, h, w] -> [..., b, t, h, w, c]."""
    return np.moveaxis(x, -4, -1)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("reference", REFERENCES)
def test_schedule_equals_reference(golden, reference, steps):
    schedule = samplers.make_schedule(steps, 5.0, REFERENCES[reference][0])
    np.testing.assert_allclose(
        schedule.sigmas, golden[f"{reference}/sigmas_{steps}"], rtol=0, atol=2e-7
    )
    expected = golden[f"{reference}/timesteps_{steps}"].astype(np.float32)
    np.testing.assert_allclose(schedule.timesteps, expected, rtol=0, atol=2e-4)


@pytest.mark.parametrize("steps", STEPS)
@pytest.mark.parametrize("reference", REFERENCES)
def test_trajectory_equals_reference(golden, reference, steps):
    kind, method = REFERENCES[reference]
    states = channels_last(golden[f"{reference}/traj_{steps}"])
    velocities = jnp.asarray(channels_last(golden[f"{reference}/velocity_{steps}"]))
    schedule = samplers.make_schedule(steps, 5.0, kind)
    timesteps = jnp.asarray(schedule.timesteps)

    def recorded(latents, timestep):
        return velocities[jnp.argmin(jnp.abs(timesteps - timestep[0, 0]))]

    ours = samplers.sample(
        recorded, jnp.asarray(states[0]), method=method, schedule=schedule, trajectory=True
    )
    np.testing.assert_allclose(ours, states, rtol=0, atol=1e-5)


def gaussian_field(latents, timestep, *, mean=0.7, std=0.5):
    """Exact velocity when the data are independent normal (mean, std): the solution is affine."""
    sigma = timestep[:, :, None, None, None] / 1000.0
    variance = ((1 - sigma) * std) ** 2 + sigma**2
    centre = (1 - sigma) * mean
    x0 = mean + (1 - sigma) * std**2 / variance * (latents - centre)
    noise = sigma / variance * (latents - centre)
    return noise - x0


NOISE = jnp.asarray(np.random.default_rng(0).normal(size=(2, 3, 2, 2, 4)), jnp.float32)


def error(method, steps):
    found = samplers.sample(gaussian_field, NOISE, steps=steps, method=method)
    return float(jnp.abs(found - (0.7 + 0.5 * NOISE)).max())


@pytest.mark.parametrize(("method", "order"), [("euler", 1), ("heun", 2), ("unipc", 2)])
def test_converges_to_the_exact_flow_with_its_order(method, order):
    coarse, fine = error(method, 16), error(method, 64)
    assert fine < coarse / 4**order * 2
    assert fine < 0.03


@pytest.mark.parametrize("method", [m for m in samplers.METHODS if m != "consistency"])
def test_straight_field_is_exact_in_any_number_of_steps(method):
    clean = jnp.asarray(np.random.default_rng(1).normal(size=NOISE.shape), jnp.float32)
    field = lambda latents, timestep: NOISE - clean  # noqa: E731
    for steps in (1, 3):
        found = samplers.sample(field, NOISE, steps=steps, shift=3.0, method=method)
        np.testing.assert_allclose(found, clean, atol=2e-5)


@pytest.mark.parametrize("method", samplers.METHODS)
def test_pinned_frames_stay_and_are_announced_as_clean(method):
    clean = jnp.full_like(NOISE, 3.0)
    mask = jnp.asarray([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])

    def field(latents, timestep):
        pinned = mask[:, :, None, None, None] > 0
        seen = jnp.where(pinned, latents == 3.0, True).all()
        announced = ((timestep == 0.0) == (mask > 0)).all()
        return jnp.where(seen & announced, gaussian_field(latents, timestep), jnp.nan)

    states = samplers.sample(
        field, NOISE, steps=4, method=method, pin=(clean, mask), trajectory=True, key=KEY
    )
    assert states.shape == (5, *NOISE.shape)
    assert np.isfinite(states).all()
    np.testing.assert_array_equal(states[:, 0, 0], np.full_like(states[:, 0, 0], 3.0))
    np.testing.assert_array_equal(states[:, 1, 2], np.full_like(states[:, 1, 2], 3.0))
    free = samplers.sample(gaussian_field, NOISE, steps=4, method=method, key=KEY)
    np.testing.assert_allclose(states[-1][0, 1:], free[0, 1:], atol=1e-6)


def test_staggered_levels():
    schedule = samplers.staggered_schedule(4, 3, shift=2.0, delay=2)
    plain = samplers.make_schedule(4, 2.0).sigmas
    assert schedule.sigmas.shape == (9, 3)
    for frame in range(3):
        np.testing.assert_array_equal(schedule.sigmas[2 * frame : 2 * frame + 5, frame], plain)
    assert (np.diff(schedule.sigmas, axis=0) <= 0).all()
    assert (schedule.sigmas[-1] == 0).all()
    # Frames do not interact in this field, so delays change nothing.
    staggered = samplers.sample(gaussian_field, NOISE, schedule=schedule)
    together = samplers.sample(gaussian_field, NOISE, steps=4, shift=2.0)
    np.testing.assert_allclose(staggered, together, atol=1e-6)


def test_staggered_frames_after_those_that_are_given():
    free = samplers.staggered_schedule(4, 2, shift=2.0)
    found = samplers.staggered_schedule(4, 3, shift=2.0, given=1)
    # No step is spent on waiting for the given frame.
    np.testing.assert_array_equal(found.sigmas[:, 1:], free.sigmas)
    assert not found.sigmas[:, 0].any() and not found.timesteps[:, 0].any()
    with pytest.raises(ValueError, match="found 3 given frames, expected 0 to 2"):
        samplers.staggered_schedule(4, 3, given=3)


def test_guidance():
    one = lambda latents, timestep: latents * 0 + 1.0  # noqa: E731
    three = lambda latents, timestep: latents * 0 + 3.0  # noqa: E731
    found = samplers.guided(three, one, 2.5)(NOISE, jnp.zeros((2, 3)))
    np.testing.assert_array_equal(found, np.full(NOISE.shape, 6.0))


def test_compiles_and_differentiates():
    grad = jax.jit(
        jax.grad(lambda n: samplers.sample(gaussian_field, n, steps=3, method="unipc").sum())
    )(NOISE)
    assert np.isfinite(grad).all()
    assert float(jnp.abs(grad).min()) > 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ({"method": "ddim"}, "ddim.*euler, heun, unipc"),
        ({"steps": 0}, "steps: found 0"),
        ({"shift": -1.0}, "shift: found -1.0"),
        ({"method": "heun", "schedule": samplers.staggered_schedule(2, 3)}, "levels per frame"),
        ({"schedule": samplers.staggered_schedule(2, 5)}, "found 5 frames, expected 3"),
    ],
)
def test_refuses(arguments, words):
    with pytest.raises(ValueError, match=words):
        samplers.sample(gaussian_field, NOISE, **arguments)


def test_refuses_unknown_schedule():
    with pytest.raises(ValueError, match=r"cosine.*uniform"):
        samplers.make_schedule(4, 1.0, "cosine")
