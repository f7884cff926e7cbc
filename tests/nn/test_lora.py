"""Adapters of a tiny denoiser: what merging means, what gradients reach, what is refused."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from mirage_jax.nn.attention import Linear
from mirage_jax.nn.denoiser import Denoiser
from mirage_jax.nn.lora import EVERY_PROJECTION, SELF_ATTENTION, LoRA

FIELDS = {
    "width": 24,
    "depth": 2,
    "heads": 1,
    "mlp_width": 32,
    "in_channels": 3,
    "out_channels": 3,
    "freq_width": 8,
    "text_width": 5,
}
# Several tokens: with one alone, queries and keys would not matter.
LATENTS = jnp.asarray(np.random.default_rng(7).normal(size=(1, 1, 4, 4, 3)), jnp.float32)
TIMESTEP = jnp.full((1, 1), 400.0)


def noise(tree, seed=0):
    leaves, treedef = jax.tree.flatten(tree)
    rng = np.random.default_rng(seed)
    made = [jnp.asarray(0.2 * rng.normal(size=leaf.shape), jnp.float32) for leaf in leaves]
    return treedef.unflatten(made)


def drawn(lora, params):
    """An adapter with no zero in it."""
    return noise(jax.eval_shape(lora.init, jax.random.key(1), params), 1)


@pytest.fixture(scope="module")
def params():
    made = jax.eval_shape(Denoiser(**FIELDS).init, jax.random.key(0), LATENTS, TIMESTEP)
    return noise(nn.unbox(made)["params"])


@pytest.mark.parametrize("targets", [SELF_ATTENTION, EVERY_PROJECTION])
def test_merging_adds_the_explicit_product_and_nothing_else(params, targets):
    lora = LoRA(rank=4, alpha=6.0, targets=targets)
    adapter = drawn(lora, params)
    merged = flatten_dict(jax.jit(lora.merge)(params, adapter), sep="/")
    pairs = flatten_dict(jax.tree.map(np.asarray, adapter), sep="/")
    assert len(pairs) == 2 * len(targets)
    for path, before in flatten_dict(params, sep="/").items():
        expected = np.array(before, np.float64)
        stem = path.removesuffix("/kernel")
        if f"{stem}/a" in pairs:
            for layer in range(2):
                for i in range(4):
                    rows = np.outer(pairs[f"{stem}/a"][layer, :, i], pairs[f"{stem}/b"][layer, i])
                    expected[layer] += 6.0 / 4 * rows
            assert np.abs(expected - before).max() > 1e-2
        np.testing.assert_allclose(merged[path], expected, atol=1e-6, err_msg=path)


def test_a_merged_projection_is_the_projection_beside_the_pair(params):
    """y = x W + b + alpha / rank (x A) B, as an adapted layer would compute it."""
    lora = LoRA(rank=2, alpha=2.0, targets=("mlp_in",))
    adapter = drawn(lora, params)
    x = np.random.default_rng(2).normal(size=(5, 24)).astype(np.float32)
    own = params["blocks"]["block"]["mlp_in"]
    pair = adapter["blocks"]["block"]["mlp_in"]
    merged = jax.jit(lora.merge)(params, adapter)["blocks"]["block"]["mlp_in"]
    expected = x @ own["kernel"][1] + own["bias"][1] + (x @ pair["a"][1]) @ pair["b"][1]
    found = x @ merged["kernel"][1] + merged["bias"][1]
    np.testing.assert_allclose(found, expected, atol=1e-5)


def test_a_new_adapter_changes_nothing_and_learns(params):
    lora = LoRA(rank=3, alpha=3.0)
    adapter = jax.jit(lora.init)(jax.random.key(0), params)
    jax.tree.map(np.testing.assert_array_equal, jax.jit(lora.merge)(params, adapter), params)
    down = adapter["blocks"]["block"]["self_attn"]["q"]["a"]
    assert down.shape == (2, 24, 3) and 0.9 < float(jnp.abs(down).max()) * 24**0.5 <= 1
    assert float(jnp.abs(down[0] - down[1]).max()) > 0

    def loss(adapter):
        model = Denoiser(**FIELDS)
        out = model.apply({"params": lora.merge(params, adapter)}, LATENTS, TIMESTEP)
        return jnp.square(out - 1).mean()

    gradient = flatten_dict(jax.jit(jax.grad(loss))(adapter), sep="/")
    for path, array in gradient.items():
        # One step: B moves, A follows once B is not zero.
        assert (float(jnp.abs(array).max()) > 0) == path.endswith("/b"), path


@pytest.mark.parametrize("targets", [SELF_ATTENTION, EVERY_PROJECTION])
def test_beside_the_kernels_it_does_what_it_does_merged(params, targets):
    lora = LoRA(rank=3, alpha=6.0, targets=targets)
    adapter = drawn(lora, params)
    model = Denoiser(**FIELDS)
    text = jnp.asarray(np.random.default_rng(5).normal(size=(1, 3, 5)), jnp.float32)

    @jax.jit
    def run(params):
        return model.apply({"params": params}, LATENTS, TIMESTEP, text=text)

    beside, merged = run(lora.beside(params, adapter)), run(lora.merge(params, adapter))
    np.testing.assert_allclose(beside, merged, atol=2e-5)
    assert np.abs(merged - run(params)).max() > 1e-2


def test_an_update_below_the_rounding_of_a_kernel_counts_beside_it(params):
    lora = LoRA(rank=1, alpha=1.0, targets=("mlp_out",))
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
    # Far below half the distance between neighbouring numbers, for kernels of about 0.2.
    small = jax.tree.map(lambda a: jnp.full_like(a, 0.006), drawn(lora, params))
    kernel = half["blocks"]["block"]["mlp_out"]["kernel"]
    merged = lora.merge(half, small)["blocks"]["block"]["mlp_out"]["kernel"]
    assert float(jnp.mean(merged == kernel)) > 0.8
    run = jax.jit(lambda params: Denoiser(**FIELDS).apply({"params": params}, LATENTS, TIMESTEP))
    assert np.abs(run(lora.beside(half, small)) - run(half)).max() > 1e-6


def test_draws_do_not_depend_on_the_other_targets(params):
    key = jax.random.key(3)
    every = jax.jit(LoRA(2, 2.0, EVERY_PROJECTION).init)(key, params)
    some = jax.jit(LoRA(2, 2.0, ("mlp_out", "self_attn/v")).init)(key, params)
    for path, array in flatten_dict(some, sep="/").items():
        np.testing.assert_array_equal(array, flatten_dict(every, sep="/")[path])


def test_half_precision_parameters_are_merged_in_float32_and_rounded_once(params):
    half = jax.tree.map(lambda a: a.astype(jnp.bfloat16), params)
    lora = LoRA(2, 2.0)
    adapter = drawn(lora, half)
    merged = jax.jit(lora.merge)(half, adapter)
    pairs = flatten_dict(jax.tree.map(np.asarray, adapter), sep="/")
    kernels = flatten_dict(half, sep="/")
    for path, found in flatten_dict(merged, sep="/").items():
        assert found.dtype == jnp.bfloat16
        exact, stem = np.asarray(kernels[path], np.float64), path.removesuffix("/kernel")
        if f"{stem}/a" in pairs:
            exact = exact + np.float64(pairs[f"{stem}/a"]) @ np.float64(pairs[f"{stem}/b"])
        # All but the few that a sum in float32 takes across the middle between two neighbours.
        assert np.mean(found == exact.astype(jnp.bfloat16)) > 0.999, path


def test_pairs_carry_the_axis_names_of_their_kernels():
    boxed = jax.eval_shape(Denoiser(**FIELDS).init, jax.random.key(0), LATENTS, TIMESTEP)
    lora = LoRA(2, 2.0, ("mlp_in",))
    pair = jax.eval_shape(lambda p: lora.init(jax.random.key(0), p), boxed["params"])
    pair = pair["blocks"]["block"]["mlp_in"]
    assert pair["a"].names == ("layers", "embed", None)
    assert pair["b"].names == ("layers", None, "mlp")


def test_refuses(params):
    lora = LoRA(2, 2.0, ("self_attn/w",))
    with pytest.raises(ValueError, match=r"targets: found 'self_attn/w'.*self_attn/w/kernel"):
        lora.init(jax.random.key(0), params)
    known = dataclasses.replace(lora, targets=("mlp_in",))
    adapter = known.init(jax.random.key(0), params)
    with pytest.raises(ValueError, match=r"adapter: parameter blocks/block/mlp_out/a is missing"):
        dataclasses.replace(lora, targets=("mlp_in", "mlp_out")).merge(params, adapter)


# -- dropout -------------------------------------------------------------------------------------


def test_without_dropout_or_key_nothing_is_added(params):
    lora = LoRA(2, 2.0)
    adapter = drawn(lora, params)
    plain = flatten_dict(lora.beside(params, adapter), sep="/")
    for options in ({"dropout": 0.0, "key": jax.random.key(0)}, {"dropout": 0.5, "key": None}):
        found = flatten_dict(lora.beside(params, adapter, **options), sep="/")
        assert found.keys() == plain.keys()
        for path, leaf in found.items():
            np.testing.assert_array_equal(leaf, plain[path])


def test_dropout_drops_what_the_adapter_sees_and_nothing_else(params):
    """x W + b + alpha / rank (x mask / keep_prob) A B, with the mask of its target and layer."""
    lora = LoRA(2, 3.0, ("mlp_in", "mlp_out"))
    adapter = drawn(lora, params)
    pair = adapter["blocks"]["block"]["mlp_in"]
    whole = lora.beside(params, adapter, dropout=0.25, key=jax.random.key(4))
    stack = whole["blocks"]["block"]
    x = jnp.asarray(np.random.default_rng(2).uniform(1, 2, (50, 24)), jnp.float32)
    masks = []
    for layer in range(2):
        own = jax.tree.map(lambda leaf: leaf[layer], stack["mlp_in"])  # noqa: B023
        linear = Linear(24, 32)
        found = linear.apply({"params": own}, x)
        mask = np.asarray(jax.random.bernoulli(own["lora_key"], 0.75, x.shape))
        update = 3.0 / 2 * (x * mask / 0.75) @ pair["a"][layer] @ pair["b"][layer]
        expected = x @ own["kernel"] + own["bias"] + update
        np.testing.assert_allclose(found, expected, atol=1e-5)
        masks.append(mask)
    assert 0.7 < np.mean(masks) < 0.8
    keys = np.concatenate([jax.random.key_data(stack[t]["lora_key"]) for t in lora.targets])
    assert len(np.unique(keys, axis=0)) == 4


def test_dropout_has_the_output_without_it_as_its_mean(params):
    lora = LoRA(2, 2.0, ("mlp_in",))
    adapter = drawn(lora, params)

    def first(**options):
        whole = lora.beside(params, adapter, **options)
        return jax.tree.map(lambda leaf: leaf[0], whole["blocks"]["block"]["mlp_in"])

    dropping = first(dropout=0.25, key=jax.random.key(0))
    x = jnp.asarray(np.random.default_rng(2).normal(size=(3, 24)), jnp.float32)

    @jax.jit
    def dropped(key):
        return Linear(24, 32).apply({"params": {**dropping, "lora_key": key}}, x)

    runs = np.asarray(jax.vmap(dropped)(jax.random.split(jax.random.key(0), 4000)))
    plain = Linear(24, 32).apply({"params": first()}, x)
    error = runs.std(axis=0) / 4000**0.5
    assert error.min() > 0
    assert (np.abs(runs.mean(axis=0) - plain) < 5 * error).all()


def test_the_same_key_drops_the_same(params):
    """However layers are run, and also in a backward pass that runs them again."""
    lora = LoRA(2, 2.0, ("self_attn/v",))
    adapter, key = drawn(lora, params), jax.random.key(1)

    @jax.jit
    def both_ways(adapter, key):
        def loss(adapter, **options):
            whole = lora.beside(params, adapter, dropout=0.25, key=key)
            out = Denoiser(**FIELDS, **options).apply({"params": whole}, LATENTS, TIMESTEP)
            return jnp.square(out).mean()

        unrolled = functools.partial(loss, scan=False)
        rerun = functools.partial(loss, remat="full")
        return [jax.value_and_grad(f)(adapter) for f in (unrolled, rerun)]

    one, other = both_ways(adapter, key)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6), one, other)
    value = float(both_ways(adapter, jax.random.key(2))[0][0])
    assert abs(value - float(one[0])) > 1e-4 * value
