"""The branch trained beside a frozen backbone, against the same task with everything trained."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict

from helpers import tiny_world
from helpers.tiny_world import CHANNELS, GRID, READOUT, SIZE
from mirage_jax import parallel, trajectories
from mirage_jax.nn.lora import LoRA
from mirage_jax.training import guard
from mirage_jax.training import state as states
from mirage_jax.training.branch_task import ADAPTER, ADDED, freeze_backbone, starting_params
from mirage_jax.training.denoiser_task import DenoiserTask
from mirage_jax.world.latent_clip import FIELDS

KEY = jax.random.key(3, impl="rbg")
POSES = trajectories.make("look_away", 17)


@pytest.fixture(scope="module")
def whole():
    """The task that trains everything, its parameters and a batch."""
    network = tiny_world.denoiser(READOUT.channels)
    task = DenoiserTask(
        denoiser=network,
        conditioner=READOUT,
        size=SIZE,
        chunks=2,
        chunk_latents=3,
    )
    latents = jnp.zeros((1, 3, *GRID, CHANNELS))
    params = tiny_world.random_params(network, 0, latents, jnp.zeros((1, 3)))
    clips = tiny_world.latent_clips(2, POSES)
    return task, params, {name: jnp.asarray(getattr(clips, name)) for name in FIELDS}


@pytest.fixture(scope="module")
def of_whole(whole):
    """Loss and gradient of parameters of the whole denoiser, in training."""
    task, _, batch = whole

    @jax.jit
    @jax.value_and_grad
    def run(params):
        return task.loss(params, batch, KEY, train=True)[0]

    return run


@pytest.fixture(scope="module")
def branch(whole):
    task, params, _ = whole
    return freeze_backbone(task, params)


def test_only_what_was_added_is_trained(whole, branch):
    _, params, _ = whole
    added = {name: params[name] for name in ADDED}
    trained = jax.eval_shape(lambda: nn.unbox(branch.init(KEY)))
    assert jax.tree.map(jnp.shape, trained) == jax.tree.map(jnp.shape, added)
    frozen = parallel.unboxed(branch.frozen)
    assert sorted((*trained, *frozen)) == sorted(params)
    for name, part in frozen.items():
        jax.tree.map(np.testing.assert_array_equal, part, params[name])


def test_loss_and_gradient_are_those_of_the_whole_denoiser(whole, branch, of_whole):
    _, params, batch = whole
    added = {name: params[name] for name in ADDED}
    frozen = parallel.unboxed(branch.frozen)

    @jax.jit
    @jax.value_and_grad
    def of_branch(added, frozen):
        return branch.loss(added, batch, KEY, train=True, frozen=frozen)[0]

    loss, gradient = of_whole(params)
    branch_loss, branch_gradient = of_branch(added, frozen)
    assert float(loss) == pytest.approx(float(branch_loss), rel=1e-6)
    for name in ADDED:
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-7),
            branch_gradient[name],
            gradient[name],
        )
    assert any(np.asarray(leaf).any() for leaf in jax.tree.leaves(branch_gradient["branch"]))


def test_an_adapter_trains_beside_the_branch(whole, of_whole):
    task, params, batch = whole
    lora = LoRA(rank=2, alpha=1.0)
    joint = freeze_backbone(task, params, lora)
    frozen = parallel.unboxed(joint.frozen)
    trained = jax.tree.map(np.asarray, jax.jit(lambda: nn.unbox(joint.init(KEY)))())
    added = {name: params[name] for name in ADDED}
    assert sorted(trained) == sorted((*ADDED, ADAPTER))
    rng = np.random.default_rng(0)
    adapter = jax.tree.map(
        lambda leaf: 0.3 * rng.normal(size=leaf.shape).astype(np.float32), trained[ADAPTER]
    )

    @jax.jit
    @jax.value_and_grad
    def of_adapter(adapter, frozen):
        own = {**added, ADAPTER: adapter}
        return joint.loss(own, batch, KEY, train=True, frozen=frozen)[0]

    new, _ = of_adapter(trained[ADAPTER], frozen)
    adapted, gradient = of_adapter(adapter, frozen)
    plain, _ = of_whole(params)
    of_merged, _ = of_whole(jax.jit(joint.whole)(frozen, {**added, ADAPTER: adapter}))
    # A new adapter changes nothing, a trained one what it changes once merged.
    assert float(new) == pytest.approx(float(plain), rel=1e-6)
    assert float(adapted) == pytest.approx(float(of_merged), rel=1e-4)
    assert abs(float(adapted) - float(plain)) > 1e-3 * float(plain)
    assert all(np.asarray(leaf).any() for leaf in jax.tree.leaves(gradient))


def test_dropout_of_the_adapter_is_of_the_steps_key_and_of_training_alone(whole):
    task, params, batch = whole
    lora = LoRA(rank=2, alpha=1.0)
    plain, joint = (freeze_backbone(task, params, lora, share) for share in (0.0, 0.3))
    frozen = parallel.unboxed(joint.frozen)
    optimizer = optax.sgd(0.1)
    rng = np.random.default_rng(0)
    adapted = jax.tree.map(
        lambda leaf: jnp.asarray(0.3 * rng.normal(size=leaf.shape), jnp.float32),
        jax.eval_shape(lambda: nn.unbox(joint.init(KEY))),
    )
    start = states.TrainState(
        jnp.zeros((), jnp.int32),
        params=adapted,
        opt_state=optimizer.init(adapted),
        ema=None,
        key=jax.random.key(1),
        guard=guard.begin(),
    )

    def bits(state):
        return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state.params)]

    # A run broken off after its first step and gone on with does what an unbroken one does.
    step = jax.jit(states.make_step(joint, optimizer))
    first, _ = step(start, batch, frozen)
    unbroken, _ = step(first, batch, frozen)
    kept = jax.device_get(dataclasses.replace(first, key=jax.random.key_data(first.key)))
    resumed = dataclasses.replace(kept, key=jax.random.wrap_key_data(kept.key))
    assert bits(step(resumed, batch, frozen)[0]) == bits(unbroken)

    def program(task, train):
        def loss(params, frozen, key):
            return task.loss(params, batch, key, train=train, frozen=frozen)[0]

        return re.sub("0x[0-9a-f]+", "", str(jax.make_jaxpr(loss)(adapted, frozen, KEY)))

    assert program(joint, False) == program(plain, False)
    draws = [program(task, True).count("random_bits") for task in (plain, joint)]
    assert draws[1] > draws[0]
    with pytest.raises(ValueError, match=r"lora_dropout: found 1\.0"):
        dataclasses.replace(joint, lora_dropout=1.0)


def test_kernels_of_the_backbone_are_kept_as_they_are_multiplied(whole):
    task, params, _ = whole
    half = dataclasses.replace(task, denoiser=task.denoiser.clone(dtype=jnp.bfloat16))
    kept = flatten_dict(parallel.unboxed(freeze_backbone(half, params).frozen), sep="/")
    for name, leaf in kept.items():
        in_blocks = name.startswith("blocks/") and name.endswith("/kernel")
        assert leaf.dtype == (jnp.bfloat16 if in_blocks else jnp.float32), name
    abstract = flatten_dict(parallel.unboxed(freeze_backbone(half).frozen), sep="/")
    described = {name: (leaf.shape, leaf.dtype) for name, leaf in kept.items()}
    assert {name: (leaf.shape, leaf.dtype) for name, leaf in abstract.items()} == described


def test_a_new_branch_starts_as_a_copy_of_the_blocks_beside_it(whole):
    _, params, _ = whole
    backbone = {name: part for name, part in params.items() if name not in ADDED}
    start = starting_params(backbone, (1,))
    copies = flatten_dict(start["branch"]["blocks"]["block"])
    blocks = flatten_dict(params["blocks"]["block"])
    beside = flatten_dict(params["branch"]["blocks"]["block"])
    assert copies.keys() == blocks.keys() == beside.keys()
    for name, leaf in copies.items():
        np.testing.assert_array_equal(leaf, blocks[name][1:2])
    assert starting_params(backbone, ()) is None
    # One that was trained before is gone on from.
    start = starting_params(params, (0,))
    assert sorted(start) == sorted(ADDED)
    jax.tree.map(np.testing.assert_array_equal, start, {name: params[name] for name in ADDED})


@pytest.mark.parametrize("lora", [None, LoRA(rank=2, alpha=1.0)], ids=["branch", "branch_lora"])
def test_the_state_of_a_run_holds_nothing_of_the_backbone(whole, lora):
    task, params, _ = whole
    task = freeze_backbone(task, params, lora)
    mesh = parallel.make_mesh()
    build = states.StateBuilder(
        task, optax.adam(1e-3), mesh, parallel.preset("fsdp"), seed=0, with_ema=True
    )
    sizes = {name: sum(leaf.size for leaf in jax.tree.leaves(params[name])) for name in ADDED}
    if lora is not None:  # two matrices for each of four projections of the two blocks
        width = task.denoiser.width
        sizes[ADAPTER] = 2 * 4 * 2 * (2 * width)
    for tree in (build.abstract.params, build.abstract.ema):
        held = nn.unbox(tree)
        assert {n: sum(x.size for x in jax.tree.leaves(held[n])) for n in held} == sizes
    # Two moments and Adam's own counter.
    moments = sum(leaf.size for leaf in jax.tree.leaves(build.abstract.opt_state))
    assert moments == 2 * sum(sizes.values()) + 1


def test_a_backbone_of_another_shape_is_refused(whole):
    task, params, _ = whole
    other = params | {"head": params["head"] | {"kernel": jnp.zeros((12, 5))}}
    with pytest.raises(ValueError, match=r"'head/kernel': found \(12, 5\), expected \(12, 4\)"):
        freeze_backbone(task, other)
    without = {name: part for name, part in params.items() if name != "time_in"}
    with pytest.raises(ValueError, match=r"'time_in/bias': found none, expected \(12,\)"):
        freeze_backbone(task, without)
