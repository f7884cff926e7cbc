"""The memory branch of a frozen denoiser in a plain JAX script: no loop of ours, no config."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import linen as nn

from mirage_jax import memory, parallel, trajectories
from mirage_jax.diffusion import flow
from mirage_jax.geometry import Camera
from mirage_jax.nn.denoiser import Denoiser
from mirage_jax.world.conditioners import Folded

CHANNELS, GRID = 4, (4, 6)
CONDITIONER = Folded(token_channels=CHANNELS, stride=8, reads=1, fine=1)
POSES = np.float32(trajectories.make("hold", 5))  # of five frames, which two latents cover
CAMERA = Camera(np.float32([[28, 28, 24, 16]] * 5), POSES, size=(32, 48))
MODEL = Denoiser(width=24, depth=2, heads=2, mlp_width=48, patch=(1, 1, 1), zero_head=False,
                 in_channels=CHANNELS, out_channels=CHANNELS, branch_layers=(0, 1),
                 memory_channels=CONDITIONER.channels)  # fmt: skip


def remembered(latents):
    """What a memory that has seen a place shows there: clips of noise are known from it alone."""
    bank = CONDITIONER.create(GRID[0] * GRID[1])
    bank, _ = memory.write(bank, latents[:1], jnp.full((1, *GRID), 3.0), CAMERA[:1])
    return CONDITIONER(bank, CAMERA)


def loss_fn(branch, backbone, latents, key):
    sigma = flow.sample_sigma(key, *latents.shape[:2])
    noise = jax.random.normal(jax.random.fold_in(key, 1), latents.shape)
    noisy, context = flow.add_noise(latents, noise, sigma), jax.vmap(remembered)(latents)
    params = {"params": {**backbone["params"], **branch}}
    return flow.flow_loss(MODEL.apply(params, noisy, 1000 * sigma, memory=context), latents, noise)


def main(steps: int = 200) -> list[float]:
    mesh, rules, optimizer = parallel.make_mesh(), parallel.preset("fsdp"), optax.adam(3e-3)
    with jax.set_mesh(mesh), nn.logical_axis_rules(rules):  # the mesh of a laptop is (1, 1, 1, 1)
        inputs = jnp.zeros((1, 2, *GRID, CHANNELS)), jnp.zeros((1, 2))
        boxed = jax.jit(MODEL.init)(jax.random.key(0), *inputs)
        backbone = jax.device_put(parallel.unboxed(boxed), parallel.shardings(boxed, mesh, rules))
        branch = {name: backbone["params"].pop(name) for name in ("branch", "memory_hint")}
        gradient, update = jax.jit(jax.value_and_grad(loss_fn)), jax.jit(optimizer.update)
        state, losses = optimizer.init(branch), []
        for number in range(steps):
            place = np.random.default_rng(number).normal(size=(8, 1, *GRID, CHANNELS))
            clips = jax.device_put(np.float32(place.repeat(2, 1)), parallel.batch_sharding(mesh))
            loss, grads = gradient(branch, backbone, clips, jax.random.key(number))
            updates, state = update(grads, state)
            branch, losses = optax.apply_updates(branch, updates), [*losses, float(loss)]
    print(f"loss {np.mean(losses[:10]):.3f} -> {np.mean(losses[-10:]):.3f}")
    return losses


if __name__ == "__main__":
    main()
