"""Every column of the rule table trains the same denoiser on eight fake devices as on one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from rich.console import Console

from helpers import tiny_world
from mirage_jax import parallel, training
from mirage_jax.diffusion import flow
from mirage_jax.training.accumulation import accumulated

STEPS = 3
MESHES = {
    "data": {"data": 8},
    "fsdp": {"data": 2, "fsdp": 4},
    "fsdp_context": {"data": 1, "fsdp": 2, "context": 4},
    "full": {"data": 1, "fsdp": 2, "context": 2, "tensor": 2},
}
NETWORK = tiny_world.denoiser(
    0, width=24, heads=4, mlp_width=32, depth=1, ray_channels=0, zero_head=False
)


class VelocityTask(training.Task):
    """Flow matching on latents of two frames of 2x4 cells, of which the first is clean."""

    def init(self, key):
        latents = jnp.zeros((1, 2, 2, 4, tiny_world.CHANNELS))
        return tiny_world.drawn_params(NETWORK, key, latents, jnp.zeros((1, 2)))

    def loss(self, params, batch, key, *, train, frozen=None):
        x = batch["latents"]
        sigma = jnp.tile(jnp.array([0.0, 0.6]), (x.shape[0], 1))
        noise = jax.random.normal(key, x.shape)
        noisy = flow.add_noise(x, noise, sigma)
        velocity = NETWORK.apply({"params": params}, noisy, 1000 * sigma)
        return flow.flow_loss(velocity, x, noise, jnp.tile(jnp.array([0.0, 1.0]), (len(x), 1))), {}


def batches(start):
    for number in range(start, start + STEPS + 1):
        shape = (8, 2, 2, 4, tiny_world.CHANNELS)
        yield {"latents": np.random.default_rng(number).normal(size=shape).astype(np.float32)}


def train(workdir, mesh, rules):
    """Loss and gradient norm of every step, and the final state."""
    curve = []
    state = training.fit(
        VelocityTask(),
        batches,
        workdir=workdir,
        settings=training.LoopSettings(steps=STEPS),
        optimizer=training.adamw(lambda _: 1e-2),
        mesh=mesh,
        rules=rules,
        console=Console(quiet=True),
        on_step=lambda _, values: curve.append((values["loss"], values["grad_norm"])),
    )
    return np.array(curve), state


@pytest.mark.devices(8)
def test_presets_give_the_loss_curve_of_one_device(tmp_path):
    one = parallel.make_mesh(devices=jax.devices()[:1])
    expected, _ = train(tmp_path / "one", one, parallel.preset("data"))
    assert expected.shape == (STEPS, 2) and np.ptp(expected[:, 0]) > 1e-3
    for preset, sizes in MESHES.items():
        mesh, rules = parallel.make_mesh(**sizes), parallel.preset(preset)
        curve, state = train(tmp_path / preset, mesh, rules)
        # Sums in another order; Adam turns gradients of about nothing into steps of full size.
        np.testing.assert_allclose(curve, expected, rtol=1e-4, err_msg=preset)
        kernel = state.params["blocks"]["block"]["mlp_in"]["kernel"]
        parts = {"data": 1, "fsdp": 4, "fsdp_context": 2, "full": 4}[preset]
        assert kernel.addressable_shards[0].data.size * parts == kernel.size, preset


def constraints(run, *inputs):
    """Sharding constraints in a program, those in loops and calls included."""

    def count(jaxpr):
        values = [v for eqn in jaxpr.eqns for v in jax.tree.leaves(tuple(eqn.params.values()))]
        inner = [getattr(value, "jaxpr", value) for value in values]
        own = sum(eqn.primitive.name == "sharding_constraint" for eqn in jaxpr.eqns)
        return own + sum(count(sub) for sub in inner if hasattr(sub, "eqns"))

    return count(jax.make_jaxpr(run)(*inputs).jaxpr)


@pytest.mark.devices(8)
def test_no_logical_constraint_is_lost():
    latents, timestep = jnp.zeros((8, 2, 2, 4, tiny_world.CHANNELS)), jnp.zeros((8, 2))
    params = tiny_world.random_params(NETWORK, 0, latents, timestep)

    def forward(params, latents):
        return NETWORK.apply({"params": params}, latents, timestep)

    mesh, rules = parallel.make_mesh(**MESHES["fsdp_context"]), parallel.preset("fsdp_context")
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules):
        assert constraints(forward, params, latents) == 2  # timesteps, blocks
    # Without `jax.set_mesh` Flax drops them without a word.
    assert constraints(forward, params, latents) == 0
    with nn.logical_axis_rules(rules):
        assert constraints(forward, params, latents) == 0


@pytest.mark.devices(8)
def test_parts_of_a_split_batch_stay_where_they_are():
    """Every device works on its own samples in every part: nothing of a batch is moved."""
    mesh = parallel.make_mesh()
    split, whole = parallel.batch_sharding(mesh), parallel.replicated(mesh)
    params, batch = {"kernel": jnp.ones((4, 4))}, {"x": jnp.ones((16, 4))}

    def gradient(params, batch, key):
        loss = lambda p: jnp.square(jnp.tanh(batch["x"] @ p["kernel"])).mean()  # noqa: E731
        value, gradients = jax.value_and_grad(loss)(params)
        return (value, {}), gradients

    with jax.set_mesh(mesh), nn.logical_axis_rules(parallel.preset("data")):
        run = jax.jit(accumulated(gradient, 2), in_shardings=(whole, split, whole))
        text = run.lower(params, batch, jax.random.key(0)).compile().as_text()
    assert "all-reduce" in text
    for moves in ("all-gather", "all-to-all", "collective-permute"):
        assert f"{moves}(" not in text and f"{moves}-start(" not in text
