"""The student's loss against velocities of its networks, one at a time.

The network is affine and remembers nothing, so that nothing is worth compiling.
"""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn

from helpers import tiny_world
from helpers.affine_denoiser import TEXT, Affine
from helpers.tiny_world import CHANNELS, SIZE
from mirage_jax import parallel, trajectories
from mirage_jax.training.branch_task import freeze_backbone
from mirage_jax.training.denoiser_task import DenoiserTask
from mirage_jax.training.distill_task import distilled
from mirage_jax.world import conditioners
from mirage_jax.world.conditioners import RAY_CHANNELS
from mirage_jax.world.latent_clip import FIELDS, from_fields

KEY = jax.random.key(3, impl="rbg")


@pytest.fixture(scope="module")
def made():
    """The teacher's task, parameters of teacher and student, and a batch with text."""
    told = conditioners.make("none", "conditioner", token_channels=CHANNELS, stride=8)
    network = Affine(8, 1, 1, 8, CHANNELS, CHANNELS, memory_channels=0, ray_channels=RAY_CHANNELS)
    task = DenoiserTask(denoiser=network, conditioner=told, size=SIZE, chunks=2, chunk_latents=3)
    teacher, student = (nn.unbox(task.init(jax.random.key(seed))) for seed in (0, 1))
    clips = tiny_world.latent_clips(2, trajectories.make("look_away", 17))
    batch = {name: jnp.asarray(getattr(clips, name)) for name in FIELDS}
    return task, teacher, student, batch | {"text": jax.random.normal(KEY, (2, 3, TEXT))}


def from_noise(task, batch):
    """What the loss sees where there is one level: the sample, pure noise and its timesteps."""
    sample_key, _, noise_key = jax.random.split(KEY, 3)
    sample = task.sample(from_fields(batch), sample_key, train=False)
    noise = jax.random.normal(noise_key, sample.target.shape, jnp.float32)
    x = noise.at[:, 0].set(sample.target[:, 0])
    return sample, x, jnp.full(x.shape[:2], 1000.0).at[:, 0].set(0.0)


def loss_of(task, batch):
    """(student, average) -> loss."""
    frozen = parallel.unboxed(task.frozen)

    @jax.jit
    def run(params, ema):
        return task.loss(params, batch, KEY, train=False, frozen=frozen, ema=ema)[0]

    return run


@pytest.mark.long
def test_with_one_level_the_loss_is_that_of_the_velocities(made):
    """From pure noise to data in one step: the goal is where the teacher's own step ends."""
    task, teacher, student, batch = made
    run = loss_of(distilled(task, teacher, levels=1), batch)
    np.testing.assert_allclose(run(teacher, student), 0.0, atol=1e-10)
    sample, x, timestep = from_noise(task, batch)
    velocities = [
        task.velocity_fn(p, sample, batch["text"])(x, timestep) for p in (teacher, student)
    ]
    expected = np.square(velocities[0] - velocities[1])[:, 1:].mean()
    np.testing.assert_allclose(run(student, teacher), expected, rtol=1e-4)


def test_guidance_is_in_the_goal(made):
    task, teacher, _, batch = made
    sample, x, timestep = from_noise(task, batch)
    told, untold = (
        task.velocity_fn(teacher, sample, text)(x, timestep)
        for text in (batch["text"], 0.0 * batch["text"])
    )
    # v_u + 3 (v_c - v_u) - v_c = 2 (v_c - v_u)
    expected = np.square(2.0 * (told - untold))[:, 1:].mean()
    assert expected > 1e-3
    found = loss_of(distilled(task, teacher, levels=1, cfg_scale=3.0), batch)(teacher, teacher)
    np.testing.assert_allclose(found, expected, rtol=1e-3)


def test_the_average_is_the_goal_and_has_no_gradient(made):
    task, teacher, student, batch = made
    run = loss_of(distilled(task, teacher, levels=4), batch)
    towards_teacher, towards_student = run(student, teacher), run(student, student)
    assert abs(float(towards_teacher) - float(towards_student)) > 1e-4
    gradient = jax.grad(run, argnums=(0, 1))(student, teacher)
    norms = [float(optax.global_norm(g)) for g in gradient]
    assert norms[0] > 0 and norms[1] == 0.0


def test_a_branch_beside_its_backbone_has_the_loss_of_the_whole_denoiser(made):
    task, teacher, student, batch = made
    added = {"ray_adapter": student["ray_adapter"]}
    branch = distilled(freeze_backbone(task, teacher), teacher, levels=4)
    assert sorted(branch.frozen["teacher"]) == sorted(added)
    assert sorted(branch.init(KEY)) == sorted(added)
    both = {**teacher, **added}
    expected = loss_of(distilled(task, teacher, levels=4), batch)(both, both)
    assert float(expected) > 0
    np.testing.assert_allclose(loss_of(branch, batch)(added, added), expected, rtol=1e-5)


def test_another_teacher_is_refused(made):
    task, teacher, _, _ = made
    missing = {name: part for name, part in teacher.items() if name != "text_in"}
    with pytest.raises(ValueError, match=r"teacher tensor 'text_in/kernel': found none, expected"):
        distilled(task, missing)
