"""Samplers: from noise to latents along the learned velocity field, in a loop inside jit.

The schedule is known before the loop starts. Every coefficient is therefore computed once in
float64 on the host, where the logarithms of UniPC lose nothing, and the loop only combines arrays.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PRNGKeyArray

from mirage_jax.diffusion.flow import TIMESTEPS, shift_sigma

METHODS = ("euler", "heun", "unipc", "consistency")
KINDS = ("uniform", "flow_euler", "flow_unipc", "wan_unipc")

VelocityFn = Callable[[Float[Array, "b t h w c"], Float[Array, "b t"]], Float[Array, "b t h w c"]]
"""(latents, timestep of every frame, 0..TIMESTEPS) -> velocity."""

_ALMOST_ONE = 1.0 - 1e-6


class Schedule(NamedTuple):
    """Noise levels of a sampling run.

    Attributes:
      sigmas: [steps + 1] or [steps + 1, frames], falling to 0.
      timesteps: input of the model at each step, TIMESTEPS sigma, [steps] or [steps, frames].
    """

    sigmas: np.ndarray
    timesteps: np.ndarray


def make_schedule(steps: int, shift: float = 1.0, kind: str = "uniform") -> Schedule:
    """Noise levels and timesteps of one of the schedules in use.

    Args:
      steps: solver steps.
      shift: see `flow.shift_sigma`.
      kind: "uniform" is ours, evenly spaced from 1 to 0 before the shift. The others repeat
        published schedules, which differ by up to 3.5e-3: "flow_euler" is diffusers'
        FlowMatchEulerDiscrete (ends at sigma_min, shifted twice), "flow_unipc" diffusers' UniPC
        with flow sigmas, and "wan_unipc" the FlowUniPC of Wan and Mirage, whose timesteps are
        whole numbers.

    Raises:
      ValueError: if there are no steps, the shift is not positive or the kind is unknown.
    """
    if steps < 1:
        raise ValueError(f"sampling steps: found {steps}, expected at least 1")
    if not shift > 0:
        raise ValueError(f"schedule shift: found {shift}, expected a positive number")
    low = 1e-3  # 1 / TIMESTEPS, the lowest level of training
    if kind == "uniform":
        levels = shift_sigma(np.linspace(1.0, 0.0, steps + 1)[:-1], shift)
    elif kind == "flow_euler":
        levels = shift_sigma(np.linspace(1.0, shift_sigma(low, shift), steps), shift)
    elif kind == "flow_unipc":
        levels = shift_sigma(np.linspace(1.0, low, steps + 1)[:-1], shift)
        levels[0] = _ALMOST_ONE
    elif kind == "wan_unipc":
        levels = shift_sigma(np.linspace(1.0 - low, 0.0, steps + 1)[:-1], shift)
    else:
        raise ValueError(f"schedule: found {kind!r}, expected one of {', '.join(KINDS)}")
    timesteps = levels * TIMESTEPS
    if kind in ("flow_unipc", "wan_unipc"):
        timesteps = np.trunc(timesteps)
    sigmas = np.append(levels, 0.0).astype(np.float32)
    return Schedule(sigmas, timesteps.astype(np.float32))


def staggered_schedule(
    steps: int, frames: int, *, shift: float = 1.0, delay: int = 1, given: int = 0
) -> Schedule:
    """Each frame starts to be denoised `delay` steps after the one before it.

    For models trained with `flow.sample_sigma(per_frame=True)`, which have seen frames at unequal
    levels (diffusion forcing, arXiv 2407.01392). Has steps + delay (frames - given - 1) steps.

    Args:
      steps: in which each frame is denoised.
      frames: how many there are.
      shift: see `make_schedule`.
      delay: steps between the starts of two frames.
      given: frames at the beginning that are pinned, clean from the start.

    Raises:
      ValueError: see `make_schedule`; if the delay is negative, or all frames are given.
    """
    if delay < 0:
        raise ValueError(f"schedule delay: found {delay}, expected 0 or more")
    if not 0 <= given < frames:
        raise ValueError(f"schedule: found {given} given frames, expected 0 to {frames - 1}")
    levels = make_schedule(steps, shift).sigmas
    late = np.arange(frames - given)
    index = np.arange(steps + delay * late[-1] + 1)[:, None] - delay * late
    sigmas = np.pad(levels[np.clip(index, 0, steps)], ((0, 0), (given, 0)))
    return Schedule(sigmas, (sigmas[:-1] * TIMESTEPS).astype(np.float32))


def guided(
    conditional: VelocityFn, unconditional: VelocityFn, cfg_scale: float | Float[Array, ""]
) -> VelocityFn:
    """Classifier-free guidance: v_u + cfg_scale (v_c - v_u) (Ho and Salimans, arXiv 2207.12598).

    The condition is the text, see `sampling.sample_chunk`; networks without text, trained to follow
    their memory, are sampled without.
    """

    def velocity(latents: Array, timestep: Array) -> Array:
        without = unconditional(latents, timestep)
        return without + cfg_scale * (conditional(latents, timestep) - without)

    return velocity


def sample(
    velocity_fn: VelocityFn,
    noise: Float[Array, "b t h w c"],
    *,
    steps: int = 4,
    shift: float = 1.0,
    method: str = "euler",
    pin: tuple[Float[Array, "b t h w c"], Float[Array, "b t"]] | None = None,
    schedule: Schedule | None = None,
    trajectory: bool = False,
    key: PRNGKeyArray | None = None,
) -> Float[Array, "b t h w c"] | Float[Array, "n b t h w c"]:
    """Solves dx / dsigma = v(x, sigma) from noise at sigma = 1 to latents at 0.

    Args:
      velocity_fn: the model, given latents and the timestep of every frame.
      noise: standard normal noise of the shape of the latents.
      steps: solver steps; "heun" calls the model twice in each but the last.
      shift: see `flow.shift_sigma`.
      method: "euler" (order 1), "heun" (order 2) or "unipc" (order 2 with corrector, bh2 variant,
        arXiv 2302.04867), or "consistency" for students of `consistency.consistency_loss`: the end
        of the path is taken at once, and fresh noise added to it for the next level.
      pin: clean latents and a mask [b, t], 1 for the frames that are given. They are put back
        before every model call and at the end, and their timestep is 0.
      schedule: replaces `steps` and `shift`; levels per frame work with "euler" only.
      trajectory: return the state before every step and after the last, [steps + 1, ...].
      key: of the noise that "consistency" adds between steps.

    Raises:
      ValueError: if the method is unknown or does not take levels per frame, a schedule per
        frame has another number of frames than the latents, or a key is missing.
    """
    if method not in METHODS:
        raise ValueError(f"sampler: found {method!r}, expected one of {', '.join(METHODS)}")
    schedule = make_schedule(steps, shift) if schedule is None else schedule
    if schedule.sigmas.ndim > 1:
        if method != "euler":
            raise ValueError(f"sampler: found {method!r} with levels per frame, expected 'euler'")
        if schedule.sigmas.shape[1] != noise.shape[1]:
            raise ValueError(
                f"schedule: found {schedule.sigmas.shape[1]} frames, expected {noise.shape[1]}"
            )

    def put_back(x: Array) -> Array:
        if pin is None:
            return x
        clean, mask = pin
        return jnp.where(mask[:, :, None, None, None] > 0, clean.astype(x.dtype), x)

    def model(x: Array, timestep: Array) -> Array:
        level = jnp.broadcast_to(timestep.astype(jnp.float32), noise.shape[:2])
        if pin is not None:
            level = jnp.where(pin[1] > 0, 0.0, level)
        return velocity_fn(x, level).astype(x.dtype)

    if method == "consistency":
        if key is None:
            raise ValueError("sampler: found no key, expected one for the noise of 'consistency'")
        last, states = _consistency(model, put_back, put_back(noise), schedule, key)
    else:
        solver = {"euler": _euler, "heun": _heun, "unipc": _unipc}[method]
        last, states = solver(model, put_back, put_back(noise), schedule)
    if trajectory:
        return jnp.concatenate([states, last[None]])
    return last


Model = Callable[[Array, Array], Array]
PutBack = Callable[[Array], Array]


def _euler(model: Model, put_back: PutBack, x: Array, schedule: Schedule) -> tuple[Array, Array]:
    steps = jnp.asarray(np.diff(schedule.sigmas.astype(np.float64), axis=0), jnp.float32)

    def step(x: Array, row: tuple[Array, Array]) -> tuple[Array, Array]:
        timestep, width = row
        width = width[None, :, None, None, None] if width.ndim else width
        return put_back(x + width * model(x, timestep)), x

    return jax.lax.scan(step, x, (jnp.asarray(schedule.timesteps), steps))


def _consistency(
    model: Model, put_back: PutBack, x: Array, schedule: Schedule, key: PRNGKeyArray
) -> tuple[Array, Array]:
    levels = jnp.asarray(schedule.sigmas)

    def step(x: Array, row: tuple[Array, ...]) -> tuple[Array, Array]:
        timestep, sigma, following, key = row
        end = x - sigma * model(x, timestep)
        noise = jax.random.normal(key, x.shape, x.dtype)
        return put_back((1.0 - following) * end + following * noise), x

    keys = jax.random.split(key, len(schedule.timesteps))
    rows = (jnp.asarray(schedule.timesteps), levels[:-1], levels[1:], keys)
    return jax.lax.scan(step, x, rows)


def _heun(model: Model, put_back: PutBack, x: Array, schedule: Schedule) -> tuple[Array, Array]:
    widths = np.diff(schedule.sigmas.astype(np.float64)).astype(np.float32)
    timesteps = schedule.timesteps

    def step(x: Array, row: tuple[Array, ...]) -> tuple[Array, Array]:
        timestep, following, width = row
        slope = model(x, timestep)
        guess = put_back(x + width * slope)
        slope = 0.5 * (slope + model(guess, following))
        return put_back(x + width * slope), x

    rows = tuple(jnp.asarray(a) for a in (timesteps[:-1], timesteps[1:], widths[:-1]))
    before_last, states = jax.lax.scan(step, x, rows)
    # The last step ends at sigma 0, where the velocity is not defined: an Euler step.
    last = put_back(before_last + widths[-1] * model(before_last, jnp.asarray(timesteps[-1])))
    return last, jnp.concatenate([states, before_last[None]])


def _unipc_coefficients(sigmas: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rows of linear combinations that UniPC-2 (bh2, x0 prediction) applies in each step.

    Returns:
      corrector [n, 4]: weights of (state before the previous step, x0 now, x0 one step ago, x0 two
        steps ago); the row of the first step is not used.
      predictor [n, 3]: weights of (corrected state, x0 now, x0 one step ago).
    """
    sigmas = sigmas.astype(np.float64)
    sigmas[0] = min(sigmas[0], _ALMOST_ONE)  # at exactly 1 the log-SNR is minus infinity
    alphas = 1.0 - sigmas
    steps = len(sigmas) - 1
    with np.errstate(divide="ignore"):
        log_snr = np.log(alphas) - np.log(sigmas)

    corrector, predictor = np.zeros((steps, 4)), np.zeros((steps, 3))
    order = 0
    for i in range(steps):
        if i:
            # From i - 1 to i with the order of the previous step; bh2 has B(h) = exp(-h) - 1.
            h = log_snr[i] - log_snr[i - 1]
            phi = np.expm1(-h)
            gain = -alphas[i] * phi
            ratio = (log_snr[i - 2] - log_snr[i - 1]) / h if order == 2 else 1.0
            if order == 2:
                g2 = phi / -h - 1.0
                g3 = g2 / -h - 0.5
                rows = np.array([[1.0, 1.0], [ratio, 1.0]])
                old, new = np.linalg.solve(rows, np.array([g2 / phi, 2.0 * g3 / phi]))
            else:
                old, new = 0.0, 0.5
            corrector[i] = (
                sigmas[i] / sigmas[i - 1],
                gain * new,
                gain * (1.0 - new - old / ratio),
                gain * old / ratio,
            )
        order = min(2, i + 1, steps - i)
        h = log_snr[i + 1] - log_snr[i]
        gain = -alphas[i + 1] * np.expm1(-h)
        slope = 0.5 / ((log_snr[i - 1] - log_snr[i]) / h) if order == 2 else 0.0
        predictor[i] = (sigmas[i + 1] / sigmas[i], gain * (1.0 - slope), gain * slope)
    return corrector, predictor


def _unipc(model: Model, put_back: PutBack, x: Array, schedule: Schedule) -> tuple[Array, Array]:
    corrector, predictor = _unipc_coefficients(schedule.sigmas)
    rows: tuple[Array, ...] = (
        jnp.asarray(schedule.timesteps),
        jnp.asarray(schedule.sigmas[:-1]),
        jnp.asarray(corrector, jnp.float32),
        jnp.asarray(predictor, jnp.float32),
        jnp.arange(len(schedule.timesteps), dtype=jnp.int32),
    )

    def step(carry: tuple[Array, ...], row: tuple[Array, ...]) -> tuple[tuple[Array, ...], Array]:
        x, before, ago1, ago2 = carry
        timestep, sigma, correct, predict, index = row
        clean = x - sigma * model(x, timestep)
        corrected = correct[0] * before + correct[1] * clean + correct[2] * ago1 + correct[3] * ago2
        corrected = put_back(jnp.where(index > 0, corrected, x))
        following = predict[0] * corrected + predict[1] * clean + predict[2] * ago1
        return (put_back(following), corrected, clean, ago1), x

    zeros = jnp.zeros_like(x)
    start: tuple[Array, ...] = (x, zeros, zeros, zeros)
    (last, *_), states = jax.lax.scan(step, start, rows)
    return last, states
